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
        path = folder / outcomes.FILE
        try:
            found.append(Run(record, folder, read_answers(path) if path.is_file() else None))
        except (OSError, ValueError, OverflowError, csv.Error) as error:
            print(f"Left out {path}: {error}", file=sys.stderr)
    return found


def read_answers(path: Path) -> Answers:
    """Read an ``outcomes.csv`` by columns, four times as fast as a row at a time: the rule is the first one, as in scores.

    Raises:
        ValueError: A column is missing, or a cell is not what it should be.
    """
    with path.open(encoding="utf-8", newline="") as file:
        table = csv.reader(file)
        head, lines = next(table, []), list(table)
    columns = dict(zip(head, zip(*lines, strict=True), strict=True)) if lines else dict.fromkeys(head, ())
    rule = next((name for name in head if name not in outcomes.COLUMNS), None)
    if missing := {"doc", "hash", "gold", "kind", "margin", rule} - set(columns):
        raise ValueError(f"{path} lacks {', '.join(sorted(map(str, missing)))}")
    return Answers(
        columns["hash"],
        np.array(columns["gold"], np.int8),
        np.array([label or -1 for label in columns[rule or ""]], np.int8),
        np.array([margin or "nan" for margin in columns["margin"]], np.float64),
        columns["kind"],
        columns.get("response") or ("",) * len(lines),
        columns["doc"],
    )
