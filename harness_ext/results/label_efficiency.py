"""How many labels does it take? Score by number of labels, a row for each method, the models that need none above them."""

from collections.abc import Iterable

from harness_ext.results.contest import Contest, asked, contests, model_of
from harness_ext.results.standings import Entry
from harness_ext.results.tables import markdown_table
from harness_ext.results.words import counted, in_order, labels, span

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
    sizes = sorted({samples for curve in contest.curves for samples in curve.by_labels}, key=in_order)
    rows = [[f"{model_of(entry)} ({asked(entry)})", _cell(entry), *[""] * len(sizes)] for entry in contest.prompted]
    for curve in contest.curves:
        cells = {samples: _cell(entry) for samples, entry in curve.by_labels.items()}
        rows.append([curve.name, "", *(cells.get(size, "") for size in sizes)])
    return markdown_table(["method", "no labels", *map(labels, sizes)], rows)


def _cell(entry: Entry) -> str:
    seeds = counted(entry.seeds, "seed") if entry.seeds else ""
    collapsed = f"{entry.collapsed} collapsed" if entry.collapsed else ""
    return f"{100 * entry.score.mean:.1f} ({', '.join(filter(None, [span(entry.interval), seeds, collapsed]))})"
