"""What is compared and shown: one run's answers, a row a document, whoever wrote them down; and its runs under one name.

Labels are words here, as other people's logs have any.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness_ext.errors import UserError
from harness_ext.evidence.contrast import Method
from harness_ext.results.runs import Answers, Run

UNTOLD = "?"  # a label that is known to be wrong, and no more


@dataclass(frozen=True, eq=False)
class Log:
    """What one run said of each document; arrays are ``(documents,)``, tuples as long."""

    ids: tuple[str, ...]  # of our runs the numbers of the documents
    gold: tuple[str, ...]
    said: tuple[str, ...]  # the label; empty where there is none
    correct: NDArray[np.bool_]
    responses: tuple[str, ...] = ()  # what was written; empty where nothing was kept
    margins: NDArray[np.float64] | None = None  # log p(1) - log p(0), nan where it is not known
    hashes: tuple[str, ...] = ()  # lm-eval's, over the whole row
    texts: tuple[str, ...] = ()
    tells_following: bool = True  # an empty label means that there was none

    def __post_init__(self) -> None:
        if not self.ids:
            raise UserError("it holds no documents.")
        if len(set(self.ids)) < len(self.ids):
            twice, times = Counter(self.ids).most_common(1)[0]
            raise UserError(
                f"document {twice[:40]!r} stands in it {times} times. Give a log of one run, each document once."
            )

    @property
    def not_following(self) -> int | None:
        """How many outputs have no label; None where the log does not tell."""
        return sum(not label for label in self.said) if self.tells_following else None

    @property
    def one_answer(self) -> bool:
        """Whether all labels are the same, of those that there are."""
        return len(set(self.said) - {""}) == 1 < len(set(self.gold))

    def take(self, order: Sequence[int]) -> "Log":
        """Put the documents into another order, given by their places."""
        tuples = ("ids", "gold", "said", "responses", "hashes", "texts")
        moved: dict[str, Any] = {
            name: tuple(old[n] for n in order) if (old := getattr(self, name)) else () for name in tuples
        }
        margins = None if self.margins is None else self.margins[list(order)]
        return replace(self, **moved, correct=self.correct[list(order)], margins=margins)


@dataclass(frozen=True, eq=False)
class Side:
    """A run, someone's log, or an experiment with its seeds: logs on the same documents in the same order."""

    name: str
    logs: tuple[Log, ...]
    seeds: tuple[int | str, ...] | None = None  # of each log; None of a method without seeds
    runs: tuple[Run, ...] = ()  # ours, as many as there are logs

    def __post_init__(self) -> None:
        assert len({log.hashes or log.ids for log in self.logs}) == 1

    @cached_property
    def method(self) -> Method:
        """Which documents are right, by seed."""
        return Method(np.array([log.correct for log in self.logs]), self.seeds)

    def of_seeds(self, seeds: tuple[int | str, ...]) -> "Side":
        """Keep some of its seeds."""
        which = [(self.seeds or ()).index(seed) for seed in seeds]
        return Side(self.name, tuple(self.logs[n] for n in which), seeds, tuple(self.runs[n] for n in which))


def of_answers(answers: Answers) -> Log:
    """Read one of our runs; where what was written was not kept stands why there is no label, as in lm-eval's log."""
    said = zip(answers.responses, answers.kinds, strict=True)
    return Log(
        ids=answers.numbers,
        gold=tuple(map(str, answers.gold.tolist())),
        said=tuple("" if label < 0 else str(label) for label in answers.labels.tolist()),
        correct=answers.correct,
        responses=tuple(response or ("" if kind == "label" else f"[{kind}]") for response, kind in said),
        margins=answers.margins,
        hashes=answers.documents,
    )
