"""The rows of a table without labels: dealt out into chunks, and put together again with what was answered to each.

A chunk is a file of JSON lines, ``{"text": ..., "cells": [...]}``; `task.data.load_splits` reads its texts. Rows are never
all held but while the user's file is read, before a model is there.
"""

import csv
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from harness_ext.errors import UserError
from harness_ext.results import outcomes, records
from harness_ext.task import table
from harness_ext.task.columns import choose_text

ROWS = 1000  # in a chunk: few enough that an interruption costs little, many enough that planning them does not count
ADDED = ("label", "probability", "kind")
NO_TEXT, TOO_LONG = "empty text", "too long"  # the kinds of rows that are not asked


@dataclass(frozen=True)
class Chunk:
    """Some rows of the user's, in order."""

    file: Path
    rows: int
    texts: int  # of its rows, how many have one
    named: str  # as people count them


@dataclass(frozen=True)
class Dealt:
    """All rows."""

    header: list[str]
    separator: str  # of the file that they come from
    chunks: list[Chunk]
    notes: tuple[str, ...]


def deal(source: Path, text: str | None, like: str | None, limit: float | None, folder: Path) -> Dealt:
    """Read a table and write its chunks.

    Args:
        source: The table's file.
        text: Its column of texts, as the user named it.
        like: How that is called where an adapter was trained.
        limit: The first rows alone, or a share of them.
        folder: Takes the chunks.
    """
    first, rows, notes = table.read_rows(source)
    header = list(map(table.as_text, first))
    chosen, guessed = choose_text(table.as_table(source, header, rows, notes), text, like)
    place = [name.strip() for name in header].index(chosen)
    rows = rows[: int(limit if limit >= 1 else len(rows) * limit)] if limit else rows
    chunks = []
    for start in range(0, len(rows), ROWS):
        numbers, cells = zip(*rows[start : start + ROWS], strict=True)
        texts = [table.as_text(row[place]).strip() for row in cells]
        file = folder / f"{start // ROWS:05}.jsonl"
        with file.open("w", encoding="utf-8") as lines:
            for asked, row in zip(texts, cells, strict=True):
                lines.write(json.dumps({"text": asked, "cells": list(row)}, default=table.as_text) + "\n")
        chunks.append(Chunk(file, len(cells), sum(map(bool, texts)), f"rows {numbers[0]} to {numbers[-1]}"))
    return Dealt(header, table.separator_of(source), chunks, (*notes, *guessed))


def pass_over(chunk: Chunk, places: Sequence[int]) -> Chunk:
    """Take those of a chunk's texts, by place among them, that are too long for the model, out of what is asked."""
    with chunk.file.open(encoding="utf-8") as lines:
        rows = list(map(json.loads, lines))
    asked = [row for row in rows if row["text"]]
    for place in places:
        asked[place] |= {"text": "", "kind": TOO_LONG}
    chunk.file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return replace(chunk, texts=chunk.texts - len(places))


def write(out: Path, dealt: Dealt, folders: Sequence[Path | None], names: Sequence[str]) -> Counter[tuple[str | None, str]]:
    """Write all rows with what was answered, so that the file is whole or not there.

    Args:
        out: Its ending says how: CSV, TSV or JSON lines.
        dealt: The rows.
        folders: For each chunk the run that asked it; None where it has no texts.
        names: Of the labels 0 and 1.

    Returns:
        How many rows have which label, if one, and which kind.
    """
    counts: Counter[tuple[str | None, str]] = Counter()
    with records.replacing(out) as temporary, records.on_disk(temporary) as file:
        put = _writer(out, file, dealt)
        for chunk, folder in zip(dealt.chunks, folders, strict=True):
            answers = _answers(folder, names)
            with chunk.file.open(encoding="utf-8") as lines:
                for row in map(json.loads, lines):
                    answer = next(answers, None) if row["text"] else (None, None, row.get("kind", NO_TEXT))
                    if answer is None:
                        raise UserError(f"Answers kept in {folder} are damaged: delete it, and say the same command again.")
                    counts[answer[0], answer[2]] += 1
                    put([*row["cells"], *answer])
    return counts


def _answers(folder: Path | None, names: Sequence[str]) -> Iterator[tuple[str | None, float | None, str]]:
    """Yield label, probability of the label that is 1, and kind of a run's documents, under the rule that comes first."""
    if folder is None:
        return
    with (folder / outcomes.FILE).open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        rule = next((name for name in reader.fieldnames or () if name not in outcomes.COLUMNS), None)
        if rule is None:
            return
        for row in reader:
            margin = float(row["margin"]) if row["margin"] else None
            probability = None if margin is None else float(f"{_probability(margin):.6g}")
            yield names[int(row[rule])] if row[rule] else None, probability, row["kind"]


def _probability(margin: float) -> float:
    """Return 1 / (1 + exp(-margin)), where that overflows too."""
    return 1 / (1 + math.exp(-margin)) if margin >= 0 else math.exp(margin) / (1 + math.exp(margin))


def _writer(out: Path, file: TextIO, dealt: Dealt) -> Callable[[list[Any]], Any]:
    """Write the header, and return what writes a row."""
    there, added = {name.strip().casefold() for name in dealt.header}, list(ADDED)
    while there.intersection(added):  # a column of that name is not overwritten
        added = [f"predicted_{name}" for name in added]
    names = [*dealt.header, *added]
    if out.suffix.lower() == ".jsonl":
        return lambda row: file.write(json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) + "\n")
    form: dict[str, Any] = {
        "delimiter": "\t" if out.suffix.lower() == ".tsv" else dealt.separator,
        "lineterminator": "\n",
    }
    plain, quoting = csv.writer(file, **form), csv.writer(file, **form, quoting=csv.QUOTE_ALL)
    plain.writerow(names)

    def put(row: list[Any]) -> None:
        cells = list(map(table.as_text, row))
        (quoting if any("\r" in cell for cell in cells) else plain).writerow(cells)  # csv does not quote it by itself

    return put
