"""Finished runs with what they said of each document, in arrays: what evidence and pages are made of.

Knows folders of runs; nothing of how they are compared.
"""

import csv
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness_ext.results import outcomes, records


@dataclass(frozen=True, eq=False)
class Answers:
    """What was said of each document under one rule, in the order of the run; arrays are ``(documents,)``."""

    documents: tuple[str, ...]  # hashes of whole rows, or what else names a document in someone's log
    gold: NDArray[np.int8]
    labels: NDArray[np.int8]  # -1 where there is none
    margins: NDArray[np.float64]  # log p(1) - log p(0); nan where it is not known
    kinds: tuple[str, ...]  # "label", or why there is none
    responses: tuple[str, ...]  # what the model wrote, long ones cut; empty where it wrote nothing or it was not kept
    numbers: tuple[str, ...] = ()  # lm-eval's doc_id

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        """Tell of each document whether its label is right; none is wrong."""
        return np.equal(self.labels, self.gold)


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run."""

    record: dict[str, Any]
    folder: Path
    answers: Answers | None  # under the rule whose score is shown; None of a run made before outcomes were kept

    @property
    def margins(self) -> NDArray[np.float64]:
        """By which the labels were chosen: moved as the run's calibration moved them."""
        moved = self.record.get("calibration") or {"slope": 1, "intercept": 0}
        return moved["slope"] * self.answers.margins + moved["intercept"] if self.answers else np.array([])


def read_all(out: Path) -> list[Run]:
    """Read every finished run under ``OUT/runs`` and ``OUT/published``, as `records.read_folders` does.

    One whose outcomes cannot be read is named on standard error and left out.
    """
    found = []
    for folder, record in records.read_folders(out):
        try:
            found.append(read(folder, record))
        except (OSError, ValueError) as error:
            print(f"Left out {folder / outcomes.FILE}: {error}", file=sys.stderr)
    return found


def read(folder: Path, record: dict[str, Any]) -> Run:
    """Read what the run of a record said of each document, if that was kept.

    Raises ValueError where it was not written by that run, whole.
    """
    path = folder / outcomes.FILE
    try:
        answers = read_answers(path) if path.is_file() else None
    except (OverflowError, csv.Error) as error:
        raise ValueError(str(error)) from None
    if not (answers and answers.documents):
        return Run(record, folder, None)
    _check(answers, record)
    return Run(record, folder, answers)


def _check(answers: Answers, record: dict[str, Any]) -> None:
    """Check that scores from these answers are those of the record; someone may have changed or mixed up either file."""
    if len(set(answers.numbers)) < len(answers.numbers):
        raise ValueError("a document stands in it twice")
    if not (set(answers.gold.tolist()) <= {0, 1} and set(answers.labels.tolist()) <= {-1, 0, 1}):
        raise ValueError("a label is neither 0 nor 1")
    if [label >= 0 for label in answers.labels] != [kind == "label" for kind in answers.kinds]:
        raise ValueError("its labels are not of the kinds that it names")
    right, n, counts = int(answers.correct.sum()), len(answers.documents), outcomes.main_counts(record)
    if counts and (right, n) != (counts["correct"], record["n"]):
        raise ValueError(f"{right} of {n} documents are right in it, {counts['correct']} of {record['n']} in the record")


def read_answers(path: Path) -> Answers:
    """Read an ``outcomes.csv`` by columns, four times as fast as a row at a time: the rule is the first one, as in scores.

    Documents come in the order of their numbers, as our runs write them, so that runs of the same documents line up.

    Raises:
        ValueError: A column is missing, or a cell is not what it should be.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        table = csv.reader(file, strict=True)
        head, lines = next(table, []), list(table)
    rule = next((name for name in head if name not in outcomes.COLUMNS), "a rule")
    if missing := {"doc", "hash", "gold", "kind", "margin", rule} - set(head):
        raise ValueError(f"it lacks {', '.join(sorted(missing))}")
    if short := next((number for number, line in enumerate(lines, start=2) if len(line) != len(head)), None):
        raise ValueError(f"row {short} is not whole")
    lines.sort(key=lambda line: int(line[head.index("doc")]))
    columns = dict(zip(head, zip(*lines, strict=True), strict=True)) if lines else dict.fromkeys(head, ())
    return Answers(
        columns["hash"],
        np.array(columns["gold"], np.int8),
        np.array([label or -1 for label in columns[rule]], np.int8),
        np.array([margin or "nan" for margin in columns["margin"]], np.float64),
        columns["kind"],
        columns.get("response") or ("",) * len(lines),
        columns["doc"],
    )
