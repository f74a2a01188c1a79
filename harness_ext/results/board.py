"""How the folded leaderboard is shown: a table for each data set and number of labels, in Markdown and in a terminal.

Knows entries; writes no files.
"""

import math
from collections.abc import Callable, Sequence
from itertools import groupby
from statistics import mean, median

from harness_ext.results.prices import Prices, per_1000
from harness_ext.results.reported import Score, score_of
from harness_ext.results.standings import Entry
from harness_ext.results.tables import Column, markdown_table, show_table, visible
from harness_ext.results.words import hundredths, in_order, ranks, span

EXPLAINED = """\
- Name: what `make compare A=` takes. Its last word is the task where that is not `sst2_01`: `words_choice` stands for
  `sst2_01_words_choice`.
- Score: correct / all; an answer without a label is wrong. Of several seeds the mean, collapsed ones among them.
- 95% interval: over seeds and documents together; over documents (Wilson's) where no seed can change a run. Fewer than
  three seeds have none.
- Group: the ranks that an entry may have in its table. All pairs are compared on the same documents (with Holm's
  correction); `2-4` is surely worse than one entry, and cannot be told from two more. "1 seed": too few to say.
- Not following: answers without a label, of all documents, the mean over seeds. Near ties: answers that rounding could
  turn. Strict: score if an answer must be the label alone. Collapsed: all labels that were given are the same.
- docs/s, memory, training: median, most and median, on the machine that is named. Speeds on different machines cannot be
  compared."""
_ALWAYS = ("labels", "group", "name", "score %", "95% interval", "not following")  # also where they say nothing
_NARROW = ("labels",)  # columns of the terminal alone: in Markdown the heading says it


def tables(entries: Sequence[Entry]) -> list[tuple[str, list[tuple[str, list[Entry]]]]]:
    """Sort entries into tables that can be read from top to bottom: by data set, and there by number of labels.

    Runs on part of the documents, and of older task versions, come behind, each kind by itself.
    """
    by_data = {key: list(same) for key, same in groupby(sorted(entries, key=_data_order), _data_order)}
    heads = [_head(same[0]) for same in by_data.values()]
    found = []
    for (key, same), head in zip(by_data.items(), heads, strict=True):
        title = f"{head} (data {key[-1][:6]})" if heads.count(head) > 1 else head
        by_labels = groupby(sorted(same, key=_labels_order), lambda entry: entry.samples)
        found.append((title, [(labels_text(samples), list(each)) for samples, each in by_labels]))
    return found


def _data_order(entry: Entry) -> tuple[bool, bool, int, str, str]:
    record = entry.record
    return entry.partial, entry.stale, -record["n"], str(record.get("data")), str(record.get("data_fingerprint"))


def _labels_order(entry: Entry) -> tuple[bool, bool, int]:
    return in_order(entry.samples)


def _head(entry: Entry) -> str:
    data, documents = visible(str(entry.record.get("data"))), f"{entry.record['n']:,} documents"
    if entry.partial:
        return f"Part of {data} only, {documents} of {entry.record['n_available']:,} (LIMIT=): for trying out"
    return f"{'Older task versions: ' * entry.stale}{data}, {documents}"


def labels_text(samples: int | str | None) -> str:
    """Say how many labels."""
    return "number of labels unknown" if samples is None else f"{samples or 'no'} labels"


def markdown(entries: Sequence[Entry], reported: list[Score], priced: Prices | None) -> list[str]:
    """Render the tables as lines of Markdown."""
    text = []
    for title, parts in tables(entries):
        text += [f"## {title}", ""]
        for labels, same in parts:
            kept = {each: cell for each, cell in filled(same, reported, priced).items() if each.title not in _NARROW}
            cells = [[cell(entry) for cell in kept.values()] for entry in same]
            text += [f"### {labels.capitalize()}", "", *markdown_table([column.title for column in kept], cells)]
    return text


def show(
    entries: Sequence[Entry], reported: list[Score], priced: Prices | None, more: str, width: int | None = None
) -> None:
    """Print the tables so that they fit the terminal, those of one data set as one."""
    for title, parts in tables(entries):
        same = [entry for _, each in parts for entry in each]
        kept = filled(same, reported, priced)
        print(f"\n{title}")
        show_table(list(kept), [[cell(entry) for cell in kept.values()] for entry in same], more, width)


def filled(entries: Sequence[Entry], reported: list[Score], priced: Prices | None) -> dict[Column, Callable[[Entry], str]]:
    """Return the columns that have anything to say of these entries."""
    columns = dict(_COLUMNS)
    columns[Column("reported %", dropped=1)] = lambda entry: hundredths(score_of(entry.record, reported))
    if priced:
        columns[Column(f"{priced.currency} per 1,000", dropped=7)] = lambda entry: number(price(entry, priced))
    return {
        column: cell
        for column, cell in columns.items()
        if column.title in _ALWAYS or any(cell(entry) not in ("", "0") for entry in entries)
    }


def price(entry: Entry, priced: Prices | None) -> float | None:
    """Return the price of 1,000 decisions, the mean over runs; None where it is not known of one."""
    known = [price for run in entry.runs if (price := per_1000(priced, run.record)) is not None]
    return mean(known) if len(known) == len(entry.runs) else None


def group(entry: Entry) -> str:
    """Say which ranks an entry may have, or why that is not known."""
    return ranks(*entry.rank) if entry.rank else entry.unranked


def number(value: float | None) -> str:
    """Write a number with three digits that mean something, as in ``8,220``, ``20`` and ``0.00123``; nothing for None."""
    if not value:
        return "" if value is None else "0"
    places = max(0, 2 - math.floor(math.log10(value)))
    text = f"{float(f'{value:.3g}'):,.{places}f}"
    return text.rstrip("0").rstrip(".") if places else text


def _seed_range(entry: Entry) -> str:
    return span((min(entry.scores), max(entry.scores))) if (entry.seeds or 0) > 1 else ""


def _notes(entry: Entry) -> str:
    marked = {"collapsed": entry.collapsed, "no better than base": entry.no_better}
    return ", ".join(word if len(entry.runs) == 1 else f"{count} {word}" for word, count in marked.items() if count)


def _kinds(entry: Entry) -> str:
    return ", ".join(f"{count:.3g} {kind.replace('_', ' ')}" for kind, count in entry.not_following.items())


def _machine(entry: Entry) -> str:
    return "; ".join(sorted({str(run.record["hardware"]) for run in entry.runs if run.record.get("hardware")}))


def _memory(entry: Entry) -> str:
    return f"{entry.peak_memory / 1e9:.1f}" if entry.peak_memory else ""


_COLUMNS: dict[Column, Callable[[Entry], str]] = {
    Column("labels", dropped=15): lambda entry: "?" if entry.samples is None else str(entry.samples),
    Column("group"): group,
    Column("name", is_name=True, comfortable=40): lambda entry: entry.name,
    Column("score %"): lambda entry: hundredths(entry.score.mean),
    Column("95% interval"): lambda entry: span(entry.interval),
    Column("seeds"): lambda entry: str(entry.seeds or ""),
    Column("seed range", dropped=9): _seed_range,
    Column("notes", is_left=True, dropped=14): _notes,
    Column("not following"): lambda entry: f"{sum(entry.not_following.values()):.3g}",
    Column("kinds", is_left=True, dropped=6): _kinds,
    Column("near ties", dropped=11): lambda entry: number(entry.over_runs(mean, "near_ties")),
    Column("strict %", dropped=12): lambda entry: hundredths(entry.strict),
    Column("docs/s", dropped=10): lambda entry: number(entry.over_runs(median, "docs_per_s")),
    Column("machine", is_left=True, dropped=4): _machine,
    Column("memory GB", dropped=8): _memory,
    Column("training s", dropped=5): lambda entry: number(entry.over_runs(median, "training.train_s")),
}
