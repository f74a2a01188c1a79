"""What is wrong with labelled rows of a table, and what should be known of them before anything runs."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

from harness_ext.errors import DataError
from harness_ext.task.columns import Columns
from harness_ext.task.split import Row, bare
from harness_ext.task.table import Table

FEW = 20  # rows of a class
MOST_IDS = 0.9  # share of the texts
REPEATS = 10  # rows whose value stands in another row too: that they all agree with the label is then no accident
_WORD = re.compile(r"(?<!\S)[A-Za-z]{2,}")


def check_texts(table: Table, column: str) -> None:
    """Check that a column holds texts: none is empty, and few of them are numbers or ids."""
    texts = table.columns[column]
    if empty := [row for row, text in enumerate(texts) if not text.strip()]:
        raise DataError(f"{table.name}: no text (column {column!r}) in {table.named(empty)}: fill in or leave out.")
    ids = list(filter(_is_id, texts))
    if len(ids) > MOST_IDS * len(texts):
        raise DataError(
            f"{table.name}: column {column!r} holds numbers or ids, such as {ids[0][:40]!r}, and no texts. Name another "
            f"with TEXT=: {', '.join(table.columns)}."
        )


def check_classes(train: Sequence[Row], test: Sequence[Row], names: Sequence[str]) -> None:
    """Check that both classes are in both parts."""
    for part, rows in (("train", train), ("test", test)):
        counts = Counter(label for _, label in rows)
        if absent := [name for number, name in enumerate(names) if not counts[number]]:
            raise DataError(
                f"The {part} part has {len(rows)} rows and none of them is {absent[0]!r}: give more rows, or another TEST=."
            )


def notes(table: Table, columns: Columns) -> list[str]:
    """Say what should be known of a table."""
    labels = columns.labels(table)
    counts = Counter(labels)
    few = [f"{counts[n]} of {name!r}" for n, name in enumerate(columns.names) if counts[n] < FEW]
    said = [f"{table.name} has only {' and '.join(few)}: scores of so few rows say little"] if few else []
    return said + [note for find in (_repeated, _conflicting, _telling) for note in find(table, columns, labels)]


def balance(source: str, test: Sequence[Row], names: Sequence[str]) -> str:
    """Say how the classes of the test part are balanced, and what always giving the commoner one scores."""
    ones = sum(label for _, label in test)
    most = max(ones, len(test) - ones)
    return (
        f"{source}: {ones} of them are {names[1]!r}; always saying {names[2 * ones > len(test)]!r} scores "
        f"{100 * most / len(test):.1f}"
    )


def _is_id(text: str) -> bool:
    return text.isascii() and any(map(str.isdigit, text)) and not _WORD.search(text)


def _repeated(table: Table, columns: Columns, labels: list[int]) -> list[str]:
    seen: set[Row] = set()
    again = []
    for number, row in enumerate(zip(map(str.strip, table.columns[columns.text]), labels, strict=True)):
        if row in seen:
            again.append(number)
        seen.add(row)
    return [f"{table.name}: an earlier text and label stand again in {table.named(again)}: they count once"] if again else []


def _conflicting(table: Table, columns: Columns, labels: list[int]) -> list[str]:
    found = defaultdict(list)
    for row, text in enumerate(table.columns[columns.text]):
        found[bare(text)].append(row)
    mixed = [row for rows in found.values() if len({labels[row] for row in rows}) > 1 for row in rows]
    return [f"{table.name}: the same text has both labels in {table.named(mixed)}"] if mixed else []


def _telling(table: Table, columns: Columns, labels: list[int]) -> list[str]:
    """Find columns that determine the label though their values repeat: they may hold it by another name."""
    said = []
    for name, values in table.columns.items():
        pairs = set(zip(values, labels, strict=True))
        determines = len(pairs) == len({value for value, _ in pairs})
        if name not in (columns.text, columns.label) and determines and len(values) - len(pairs) >= REPEATS:
            said.append(f"{table.name}: column {name!r} gives the label away; no model is shown it")
    return said
