"""The original experiment's scores with the intervals and groups that single runs allow, and ours of the same models."""

from collections.abc import Iterable

from harness_ext.evidence.proportion import wilson
from harness_ext.evidence.ranks import rank_ranges_of_counts
from harness_ext.results import reported
from harness_ext.results.standings import Entry
from harness_ext.results.tables import markdown_table
from harness_ext.results.words import hundredths, ranks, span

EXPLAINED = """\
Single runs, unpaired: scores of 872 sentences as the original experiment reports them, each with Wilson's 95% interval.
What was answered to which sentence is not known, so pairs are compared as if on different sentences (with Holm's
correction), which tells fewer apart; and no interval says anything of other seeds."""
NOTE_N = """\
The original write-up names 1,872 test sentences; its scores are fractions of 872, the SST-2 validation split."""
HEADS = ["group", "model", "labels", "score %", "95% interval", "correct", "not following"]


def beside(entries: Iterable[Entry]) -> list[str]:
    """Render a table of our entries whose model, question, labels and data the original has too; nothing without any."""
    scores = reported.scores()
    heads = ["name", "reported %", "95% interval", "reproduced %", "95% interval", "seeds"]
    rows = []
    for entry in entries:
        if (score := reported.score_of(entry.record, scores)) is not None:
            theirs = [hundredths(score), span(wilson(round(score * reported.N), reported.N))]
            ours = [hundredths(entry.score.mean), span(entry.interval), str(entry.seeds or "")]
            rows.append([entry.name, *theirs, *ours])
    return markdown_table(heads, rows) if rows else []


def alone() -> list[str]:
    """Render a table of all reported scores, best first."""
    return markdown_table(HEADS, rows())


def rows() -> list[list[str]]:
    """Write every reported score as a row under `HEADS`, best first."""
    lines = sorted(reported.table(), key=lambda line: -int(line["correct_of_872"]))
    counts = [int(line["correct_of_872"]) for line in lines]
    found = []
    for line, count, possible in zip(lines, counts, rank_ranges_of_counts(counts, reported.N), strict=True):
        batch = f", batch {line['batch_size']}" if line["batch_size"] else ""
        how = f"{line['model']}, {line['base_or_method']}{batch}"
        shown = [hundredths(count / reported.N), span(wilson(count, reported.N))]
        found.append([ranks(*possible), how, line["train_samples"], *shown, str(count), line["not_following"]])
    return found
