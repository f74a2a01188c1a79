"""A table of anyone's answers: CSV or TSV with the columns ``id``, ``gold`` and ``prediction``; others are left alone."""

import csv
import io
from pathlib import Path

import numpy as np

from harness_ext.errors import UserError
from harness_ext.report.logs import Log
from harness_ext.report.text_files import read_text
from harness_ext.task.label_values import plain

COLUMNS = ("id", "gold", "prediction")


def read(path: Path) -> Log:
    """Read a table; a prediction that is none of the labels under ``gold`` is an output without a label."""
    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    table = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=separator, strict=True)
    try:
        head = [name.strip().casefold() for name in next(table)]
        rows = [(table.line_num, cells) for cells in table if cells]
    except csv.Error as error:
        raise UserError(f"line {table.line_num} cannot be read ({error}); perhaps it was only half written.") from None
    if missing := [name for name in COLUMNS if name not in head]:
        named = "tabs" if separator == "\t" else "commas"
        raise UserError(
            f"it lacks the column {' and '.join(missing)}; it must have {', '.join(COLUMNS)}, separated by {named}, "
            f"and has {', '.join(head)[:80]}."
        )
    if twice := [name for name in COLUMNS if head.count(name) > 1]:
        raise UserError(f"it has the column {' and '.join(twice)} more than once. Keep one.")
    for line, cells in rows:
        if len(cells) != len(head):
            raise UserError(f"line {line} has {len(cells)} cells instead of {len(head)}; perhaps it was only half written.")
    if not rows:
        raise UserError("it holds no documents.")
    ids, gold, written = zip(*([cells[head.index(name)].strip() for name in COLUMNS] for _, cells in rows), strict=True)
    if "" in gold:
        raise UserError(f"line {rows[gold.index('')][0]} has no gold label.")
    labels = tuple(map(plain, gold))
    said = tuple(label if (label := plain(each)) in labels else "" for each in written)
    if any(written) and not any(said):
        known, first = ", ".join(sorted(set(labels))[:5]), next(filter(None, written))
        raise UserError(f"no prediction is one of the gold labels ({known[:80]!r}); the first is {first[:40]!r}.")
    return Log(ids, labels, said, np.array([each == label for each, label in zip(said, labels, strict=True)]), written)
