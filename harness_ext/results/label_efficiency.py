"""How many labels does it take? Score by number of labels, a row for each method, the models that need none above them."""

from collections.abc import Iterable

from harness_ext.results.contest import Contest, asked, contests, model_of
from harness_ext.results.standings import Entry
from harness_ext.results.tables import markdown_table

EXPLAINED = """\
Mean in percent, in brackets the 95% interval and the number of seeds; of models without labels the best of the ways they
were asked, chosen on these documents."""


def markdown(entries: Iterable[Entry]) -> list[str]:
    """Render a table for each data set that methods with labels were asked on."""
    text = []
    for contest in contests(entries):
        if contest.curves:
            text += [f"{contest.data}, {contest.n:,} documents:", "", *_table(contest)]
    return text


def _table(contest: Contest) -> list[str]:
    found = {entry.samples for curve in contest.curves for entry in curve.entries}
    sizes = sorted(found, key=lambda size: (not isinstance(size, int), size))
    free = [[f"{model_of(entry)} ({asked(entry)})", _cell(entry), *[""] * len(sizes)] for entry in contest.prompted]
    rows = [[each.name, "", *(_cell(each.by_labels.get(size)) for size in sizes)] for each in contest.curves]
    return markdown_table(
        ["method", "no labels", *(f"{size:,}" if isinstance(size, int) else size for size in sizes)], free + rows
    )


def _cell(entry: Entry | None) -> str:
    if entry is None:
        return ""
    seeds = f"{entry.seeds} seed{'s' * (entry.seeds > 1)}" if entry.seeds else ""
    said = [f"{100 * entry.interval[0]:.1f}-{100 * entry.interval[1]:.1f}" if entry.interval else "", seeds]
    return f"{100 * entry.score.mean:.1f} ({', '.join(each for each in said if each)})"
