"""The original experiment's scores with the intervals and groups that single runs allow, and ours of the same models."""

from collections.abc import Iterable

from harness_ext.evidence.proportion import wilson
from harness_ext.evidence.ranks import rank_ranges_of_counts
from harness_ext.results import reported
from harness_ext.results.standings import Entry
from harness_ext.results.tables import markdown_table

EXPLAINED = """\
Single runs, unpaired: scores of 872 sentences as the original experiment reports them, each with Wilson's 95% interval.
What was answered to which sentence is not known, so pairs are compared as if on different sentences (with Holm's
correction), which tells fewer apart; and no interval says anything of other seeds."""
NOTE_N = """\
The original write-up names 1,872 test sentences; its scores are fractions of 872, the SST-2 validation split."""
HEADS = ["group", "model", "labels", "score %", "95% interval", "correct", "not following"]
_N = 872


def beside(entries: Iterable[Entry]) -> list[str]:
    """Render a table of our entries whose model, question, labels and data the original has too; nothing without any."""
    scores = reported.scores()
    found = [(entry, reported.score_of(entry.record, scores)) for entry in entries]
    heads = ["name", "reported %", "95% interval", "reproduced %", "95% interval", "seeds"]
    rows = []
    for entry, score in found:
        if score is not None:
            ours = _percent(*entry.interval) if entry.interval else ""
            theirs = _percent(*wilson(round(score * _N), _N))
            rows.append(
                [entry.name, f"{100 * score:.2f}", theirs, f"{100 * entry.score.mean:.2f}", ours, str(entry.seeds or "")]
            )
    return markdown_table(heads, rows) if rows else []


def alone() -> list[str]:
    """Render a table of all reported scores, best first."""
    return markdown_table(HEADS, rows())


def rows() -> list[list[str]]:
    """Write every reported score as a row under `HEADS`, best first."""
    lines = sorted(reported.table(), key=lambda line: -int(line["correct_of_872"]))
    counts = [int(line["correct_of_872"]) for line in lines]
    found = []
    for line, count, (low, high) in zip(lines, counts, rank_ranges_of_counts(counts, _N), strict=True):
        group = str(low) if low == high else f"{low}-{high}"
        batch = f", batch {line['batch_size']}" if line["batch_size"] else ""
        how = f"{line['model']}, {line['base_or_method']}{batch}"
        shown = [f"{100 * count / _N:.2f}", _percent(*wilson(count, _N))]
        found.append([group, how, line["train_samples"], *shown, str(count), line["not_following"]])
    return found


def _percent(low: float, high: float) -> str:
    return f"{100 * low:.1f}-{100 * high:.1f}"
