"""How many labels does it take? Score by number of labels, a row for each method, the models that need none above them."""

import math
from collections.abc import Iterable

from harness_ext.results.contest import Contest, asked, contests, model_of
from harness_ext.results.standings import Entry
from harness_ext.results.tables import markdown_table

EXPLAINED = """\
Mean in percent, in brackets the 95% interval, the number of seeds, and how many of them gave one answer to everything
(collapsed; they count like the others). Of models without labels the best of the ways they were asked, chosen on these
documents."""


def markdown(entries: Iterable[Entry]) -> list[str]:
    """Render a table for each data set that methods with labels were asked on."""
    text = []
    for contest in contests(entries):
        if contest.curves:
            text += [f"{contest.data}, {contest.n:,} documents:", "", *_table(contest)]
    return text


def _table(contest: Contest) -> list[str]:
    found = {str(entry.samples) for curve in contest.curves for entry in curve.entries}
    sizes = sorted(found, key=lambda size: int(size) if size.isdecimal() else math.inf)
    rows = [[f"{model_of(entry)} ({asked(entry)})", _cell(entry), *[""] * len(sizes)] for entry in contest.prompted]
    for curve in contest.curves:
        cells = {str(entry.samples): _cell(entry) for entry in curve.entries}
        rows.append([curve.name, "", *(cells.get(size, "") for size in sizes)])
    heads = [f"{int(size):,}" if size.isdecimal() else size for size in sizes]
    return markdown_table(["method", "no labels", *heads], rows)


def _cell(entry: Entry) -> str:
    seeds = f"{entry.seeds} seed{'s' * (entry.seeds > 1)}" if entry.seeds else ""
    collapsed = f"{entry.collapsed} collapsed" if entry.collapsed else ""
    said = [f"{100 * entry.interval[0]:.1f}-{100 * entry.interval[1]:.1f}" if entry.interval else "", seeds, collapsed]
    return f"{100 * entry.score.mean:.1f} ({', '.join(each for each in said if each)})"
