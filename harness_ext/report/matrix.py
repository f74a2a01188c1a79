"""Which entries of the leaderboard can be told apart: a table of pairs for each number of labels.

A method without labels competes with those of every number. Runs on other documents never meet.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from harness_ext.evidence.contrast import Contrast, Method, contrast
from harness_ext.evidence.ranks import ALPHA, holm
from harness_ext.results.contest import method_of
from harness_ext.results.standings import Entry
from harness_ext.results.words import in_order

MOST = 24  # entries in a table


@dataclass(frozen=True)
class Pair:
    """The entry of a row against that of a column."""

    contrast: Contrast
    apart: bool  # after Holm over the pairs of the table

    @property
    def alone(self) -> bool:
        """Whether the two are told apart if nothing else is asked."""
        return self.contrast.p is not None and self.contrast.p < ALPHA


@dataclass(frozen=True)
class Matrix:
    """The best entries of one data set that use so many labels or none, best first."""

    data: str
    samples: int | str | None  # None: any number
    numbers: list[int]  # of the entries on the leaderboard
    pairs: dict[tuple[int, int], Pair]  # by number, the better entry's first


def matrices(entries: Sequence[Entry]) -> list[Matrix]:
    """Compare the best `MOST` of each data set and number of labels, and of any number; entries come best first."""
    by_data: dict[Any, dict[int, Method]] = defaultdict(dict)
    for number, entry in enumerate(entries):
        if entry.comparable:
            by_data[entry.documents][number] = method_of(entry)
    kept: dict[tuple[int, int], Contrast] = {}
    found = []
    for methods in by_data.values():
        data = str(entries[next(iter(methods))].record.get("data"))
        used = {number: entries[number].samples for number in methods}
        for samples in (None, *sorted({each for each in used.values() if each is not None}, key=in_order)):
            chosen = [number for number, labels in used.items() if samples is None or labels in (0, samples)][:MOST]
            if len(chosen) > 1:
                found.append(Matrix(data, samples, chosen, _pairs(methods, chosen, kept)))
    return found


def _pairs(
    methods: dict[int, Method], chosen: list[int], kept: dict[tuple[int, int], Contrast]
) -> dict[tuple[int, int], Pair]:
    keys = list(combinations(chosen, 2))
    for a, b in keys:
        if (a, b) not in kept:
            kept[a, b] = contrast(methods[a], methods[b])
    p = holm(np.array([kept[key].p for key in keys], float))  # None becomes nan
    return {key: Pair(kept[key], bool(each < ALPHA)) for key, each in zip(keys, p, strict=True)}
