"""Which columns of a table hold text and label, and which of the two labels is 1: as asked, else the only guess there is."""

import functools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from harness_ext.errors import DataError, did_you_mean
from harness_ext.task.class_words import which_is_one
from harness_ext.task.label_values import plain
from harness_ext.task.table import Table

# What such columns are called, in small letters.
_TEXTS = {"text", "sentence", "body", "message", "content", "comment", "review", "tweet", "question", "description", "email"}
_LABELS = {"label", "labels", "class", "category", "target", "sentiment", "y"}
_MOST_SHOWN, _LONGEST = 6, 30  # values in one line, and characters of each


@dataclass(frozen=True)
class Columns:
    """What was chosen."""

    text: str
    label: str
    names: tuple[str, str]  # of the labels 0 and 1, as they are written most often
    notes: tuple[str, ...] = field(compare=False)  # what was guessed

    def labels(self, table: Table) -> list[int]:
        """Return the label, 0 or 1, of each row."""
        cells = table.columns[self.label]
        ones = {cell for cell in set(cells) if plain(cell) == plain(self.names[1])}
        return [int(cell in ones) for cell in cells]


@functools.lru_cache(maxsize=4)
def choose(table: Table, text: str | None = None, label: str | None = None, positive: str | None = None) -> Columns:
    """Choose columns and labels.

    Raises:
        DataError: What was asked for is not there, or more than one guess is possible, or there are not two labels.
    """
    if len(table.columns) == 1:
        raise DataError(f"{table.name} has one column only ({', '.join(table.columns)}), so there is none for the label.")
    notes = []
    text = text and table.find("TEXT", text)
    chosen_label = table.find("LABEL", label) if label else _guess_label(table, text)
    chosen_text = text or _guess_text(table, chosen_label)
    if not (text and label):
        notes.append(f"{table.name}: texts from {chosen_text!r}, labels from {chosen_label!r} (else say TEXT=, LABEL=)")
    names = _names(table, chosen_label)
    one = _positive(table, chosen_label, names, positive)
    if positive is None:
        notes.append(f"{names[one]!r} is taken for 1, {names[1 - one]!r} for 0 (else say POSITIVE=)")
    return Columns(chosen_text, chosen_label, (names[1 - one], names[one]), (" · ".join(notes),) if notes else ())


def choose_text(table: Table, text: str | None = None, like: str | None = None) -> tuple[str, tuple[str, ...]]:
    """Choose the column of texts where there need not be labels, and say what was guessed.

    Args:
        table: Of the user's own.
        text: As the user named it.
        like: How it is called in another table, of the same kind perhaps.

    Raises:
        DataError: There is no such column, or more than one guess is possible.
    """
    if text:
        return table.find("TEXT", text), ()
    chosen = like if like in table.columns else _guess_text(table)
    return chosen, (f"{table.name}: texts from {chosen!r} (else say TEXT=)",)


def _guess_label(table: Table, text: str | None) -> str:
    others = [name for name in table.columns if name != text]
    called = [name for name in others if name.casefold() in _LABELS]
    two = [name for name in called or others if len(_counts(table, name)) == 2]
    return _only(two if len(called) != 1 else called, table, others, "LABEL", "holds the label")


def _guess_text(table: Table, label: str | None = None) -> str:
    others = [name for name in table.columns if name != label]
    called = [name for name in others if name.casefold() in _TEXTS]
    return _only(called or others, table, others, "TEXT", "holds the text")


def _only(found: Sequence[str], table: Table, others: Iterable[str], variable: str, what: str) -> str:
    if len(found) == 1:
        return found[0]
    shown = ", ".join(f"{name} ({len(_counts(table, name))} values)" for name in found or others)
    like = f"{variable}={next(iter(found or others), 'column')}"
    raise DataError(f"{table.name}: which column {what}? There is {shown or 'no other'}. Say it, as in {like}.")


def _counts(table: Table, column: str) -> Counter[str]:
    """Count the values of a column that are not blank, as `plain` writes them."""
    counts: Counter[str] = Counter()
    for value, count in Counter(table.columns[column]).items():
        counts[plain(value)] += count
    return counts - Counter({"": counts[""]})


def _names(table: Table, label: str) -> tuple[str, str]:
    """Return the two labels as they are written most often, in order of the alphabet."""
    if missing := [row for row, value in enumerate(table.columns[label]) if not value.strip()]:
        raise DataError(f"{table.name}: no label (column {label!r}) in {table.named(missing)}: fill in or leave out.")
    counts = _counts(table, label)
    shown = ", ".join(f"{value[:_LONGEST]!r} ({count})" for value, count in counts.most_common(_MOST_SHOWN))
    if len(counts) != 2:
        more = f" and {len(counts) - _MOST_SHOWN} more" if len(counts) > _MOST_SHOWN else ""
        raise DataError(
            f"{table.name}: column {label!r} holds {len(counts)} label{'s'[: len(counts) > 1]}, {shown}{more}; two are "
            "needed. Leave the rows of others out, merge them, or name another column with LABEL=."
        )
    written = Counter(value.strip() for value in table.columns[label])
    first, second = (
        min((name for name in written if plain(name) == value), key=lambda name: (-written[name], name))
        for value in sorted(counts)
    )
    return first, second


def _positive(table: Table, label: str, names: tuple[str, str], positive: str | None) -> int:
    """Return which of the two is 1."""
    if positive is None:
        if said := which_is_one(*names):
            return said[0]
        raise DataError(
            f"{table.name}: which of {names[0]!r} and {names[1]!r} (column {label!r}) is 1, the one that is looked for? "
            f"Say it, as in POSITIVE={names[1]!r}."
        )
    found = [n for n, name in enumerate(names) if plain(name) == plain(positive)]
    if not found:
        near = did_you_mean(str(positive), names)
        raise DataError(f"POSITIVE={positive} is neither {names[0]!r} nor {names[1]!r} (column {label!r}).{near}")
    return found[0]
