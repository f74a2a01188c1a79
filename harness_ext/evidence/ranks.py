"""Many methods: which can be told apart when all pairs are looked at."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from harness_ext.evidence.contrast import Method, common_seeds, contrast, rows
from harness_ext.evidence.paired import mcnemar
from harness_ext.evidence.proportion import unpaired_p
from harness_ext.evidence.seeds import FEWEST_SEEDS, spread

ALPHA = 0.05


def holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return p adjusted for how many there are, so that one false claim among all has probability 5% at most.

    NaN, a pair without a test, stays NaN and does not count. Source: S. Holm (1979), A simple sequentially rejective
    multiple test procedure.
    """
    order = np.argsort(p)[: np.count_nonzero(~np.isnan(p))]  # NaN sorts last
    adjusted = np.full(p.shape, np.nan)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return adjusted


def rank_ranges(methods: Sequence[Method]) -> list[tuple[int, int] | None]:
    """Return the best and the worst rank that each method may have, given what can be told apart by Holm over all pairs.

    None for a method that no test compares with another (`contrast` says "few seeds").
    """
    first, second = np.triu_indices(len(methods), 1)
    difference, p = _pairs(methods, first, second)
    tested = np.bincount(np.r_[first, second][~np.isnan(np.r_[p, p])], minlength=len(methods)) > 0
    ranges = _ranges(len(methods), first, second, difference, p)
    return [found if some or len(methods) == 1 else None for found, some in zip(ranges, tested, strict=True)]


def rank_ranges_of_counts(correct: Sequence[int], n: int) -> list[tuple[int, int]]:
    """Return the same for scores of which no more is known than how many of n documents were right: not paired."""
    first, second = np.triu_indices(len(correct), 1)
    counts = np.asarray(correct)
    p = np.array([unpaired_p(int(a), n, int(b), n) for a, b in combinations(correct, 2)])
    return _ranges(len(correct), first, second, counts[first] - counts[second], p)


def _ranges(count: int, first: NDArray, second: NDArray, difference: NDArray, p: NDArray) -> list[tuple[int, int]]:
    apart = holm(p) < ALPHA
    wins = np.where(difference > 0, first, second)[apart]
    loses = np.where(difference > 0, second, first)[apart]
    better, worse = np.bincount(loses, minlength=count), np.bincount(wins, minlength=count)
    return [(1 + int(above), count - int(below)) for above, below in zip(better, worse, strict=True)]


def _pairs(methods: Sequence[Method], first: NDArray, second: NDArray) -> tuple[NDArray, NDArray]:
    """Return difference and p of every pair, as `contrast` has them, by a few products of matrices."""
    alike = defaultdict(list)  # which pairs are compared over the same seeds
    for pair, (a, b) in enumerate(zip(first, second, strict=True)):
        alike[common_seeds(methods[a], methods[b])].append(pair)
    difference, p = np.zeros(len(first)), np.full(len(first), np.nan)
    for seeds, pairs in alike.items():
        if seeds is not None and len(seeds) < FEWEST_SEEDS:
            for pair in pairs:  # seldom more than a few
                found = contrast(methods[first[pair]], methods[second[pair]])
                difference[pair], p[pair] = found.difference, np.nan if found.p is None else found.p
            continue
        used = np.unique([first[pairs], second[pairs]])
        a, b = np.searchsorted(used, first[pairs]), np.searchsorted(used, second[pairs])
        tables = np.stack([rows(methods[i], seeds or (0,)) for i in used])  # (methods, seeds, n)
        difference[pairs], p[pairs] = (_by_runs if seeds is None else _by_seeds)(tables, a, b)
    return difference, p


def _by_runs(tables: NDArray, a: NDArray, b: NDArray) -> tuple[NDArray, NDArray]:
    right = tables[:, 0]
    only = np.rint(right @ (1 - right).T).astype(int)
    return (only[a, b] - only[b, a]) / right.shape[1], mcnemar(only[a, b], only[b, a])[1]


def _by_seeds(tables: NDArray, a: NDArray, b: NDArray) -> tuple[NDArray, NDArray]:
    _, k, n = tables.shape
    by_seed, by_document, cells = tables.sum(2), tables.sum(1), tables.reshape(len(tables), -1)
    total = by_seed.sum(1)[a] - by_seed.sum(1)[b]

    def squares(sums: NDArray) -> NDArray:
        """Return the sum of the squares of (A - B), by those of A, of B and of their product."""
        products = sums @ sums.T
        return np.diag(products)[a] + np.diag(products)[b] - 2 * products[a, b]

    difference = total / (k * n)
    return difference, spread(squares(by_seed), squares(by_document), squares(cells), total, k, n).p(difference)
