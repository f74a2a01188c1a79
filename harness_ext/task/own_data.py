"""A table of the user's own as labelled rows to train on and to test on: read, checked, split."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from harness_ext.errors import DataError, UserError
from harness_ext.task import split, table_checks
from harness_ext.task.columns import Columns, choose
from harness_ext.task.label_values import plain
from harness_ext.task.split import Row
from harness_ext.task.table import Table, read_table


@dataclass(frozen=True)
class OwnData:
    """What DATA= and the variables beside it say; None is guessed, or left at its default."""

    data: str  # the table's file
    text: str | None = None  # its columns
    label: str | None = None
    positive: str | None = None  # the value that is 1
    test: str | None = None  # a share of rows, a number, or another file
    question: str | None = None  # what a model is asked; nothing here depends on it


NAMES = tuple(each.name for each in fields(OwnData))
# The flags of all commands that take a table: name, what stands for the value in the help, and the help.
FLAGS = (
    ("data", "<file>", "A table of your own: .csv, .tsv, .jsonl, .json, .parquet or .xlsx; --tasks then names the form"),
    ("text", "<column>", "Its column of texts (default: the only guess)"),
    ("label", "<column>", "Its column of labels (default: the only guess)"),
    ("positive", "<value>", "The label that is 1 (default: yes of yes and no, and the like)"),
    ("test", "<rows>", "What is tested on: a share (0.3), a number, or another file (default: half, at most 1,000)"),
    ("question", "<text>", "What a model is asked of each text"),
)


@dataclass(frozen=True)
class Parts:
    """The rows of a table."""

    columns: Columns
    train: list[Row]
    test: list[Row]
    train_source: str  # what the two parts are called in tables
    test_source: str
    notes: tuple[str, ...]  # what should be known of them


def given(asked: Mapping[str, Any]) -> dict[str, str]:
    """Return what was asked for of all that an `OwnData` may hold; a `UserError` where it does not go together."""
    found = {name: asked[name] for name in NAMES if asked.get(name) is not None}
    if found and "data" not in found:
        raise UserError(f"{next(iter(found)).upper()} is about a table of your own: name that too, with DATA=file.csv.")
    if found and asked.get("data_dir"):
        raise UserError("DATA is a table of your own and DATA_DIR a folder with GLUE's files: leave one of them out.")
    return found


def read(own: OwnData) -> Parts:
    """Read, check and split a table.

    Raises:
        DataError: One line says what is wrong, in which rows, and what to do.
    """
    size = split.read_test(own.test)
    table = read_table("DATA", own.data)
    other = read_table("TEST", own.test) if own.test and size is None else None
    columns = choose(table, own.text, own.label, own.positive)
    parts = _parts(table, columns, size, other)
    return replace(parts, notes=(*table.notes, *columns.notes, *parts.notes))


def of_task(task: Any) -> OwnData | None:
    """Return the table that a built task reads; None where it reads other data."""
    said = task.config.dataset_kwargs or {}
    if "unlabelled" in (task.config.metadata or {}):
        return None
    return OwnData(said["table"], *map(said.get, ("text", "label", "positive", "test"))) if "table" in said else None


@functools.lru_cache(maxsize=4)
def _parts(table: Table, columns: Columns, size: float | int | None, other: Table | None) -> Parts:
    notes = table_checks.notes(table, columns)
    table_checks.check_texts(table, columns.text)
    if other:
        train, test, more = _beside(table, other, columns)
        notes += more
    else:
        train, test = split.split(_rows(table, columns), size)
    table_checks.check_classes(train, test, columns.names)
    train_source = f"{table.name}, {len(train)} to train on"
    test_source = f"{(other or table).name}, {len(test)} of {len((other or table).numbers)}"
    notes.append(table_checks.balance(test_source, test, columns.names))
    return Parts(columns, train, test, train_source, test_source, tuple(notes))


def _rows(table: Table, columns: Columns) -> list[Row]:
    return list(zip(map(str.strip, table.columns[columns.text]), columns.labels(table), strict=True))


def _beside(table: Table, other: Table, columns: Columns) -> tuple[list[Row], list[Row], list[str]]:
    """Test on all of another table; rows whose text stands there too are not trained on."""
    same = choose(other, columns.text, columns.label, columns.names[1])
    if plain(same.names[0]) != plain(columns.names[0]):
        raise DataError(f"{other.name} has a label {same.names[0]!r} where {table.name} has {columns.names[0]!r}.")
    table_checks.check_texts(other, same.text)
    test, rows = split.ordered(_rows(other, same)), split.ordered(_rows(table, columns))
    tested = {split.bare(text) for text, _ in test}
    train = [row for row in rows if split.bare(row[0]) not in tested]
    left_out = len(rows) - len(train)
    notes = [f"{left_out} rows of {table.name} stand in {other.name} too: they are not trained on"] if left_out else []
    return train, test, [*other.notes, *notes, *table_checks.notes(other, same)]
