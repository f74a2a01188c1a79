"""Several seeds on the same documents: how far the mean would move with other seeds and other documents."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri, stdtr, stdtrit

from harness_ext.evidence.proportion import score_interval, wilson

FEWEST_SEEDS = 3  # of two, t with its one degree of freedom is 12.7: no interval that says anything


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and documents.

    Attributes:
        low: With `high` its interval; None where there are too few seeds to tell.
        seeds: How many.
        n: Documents.
    """

    mean: float
    low: float | None
    high: float | None
    seeds: int
    n: int


@dataclass(frozen=True)
class Spread:
    """The variance of a mean in parts that are independent, for one table or element by element for many of one shape.

    Attributes:
        parts: Each with the degrees of freedom from which it is known: what seeds add, chance in single cells with it, and
            last what the choice of documents adds.
    """

    parts: tuple[tuple[NDArray[np.float64], float], ...]

    @property
    def variance(self) -> NDArray[np.float64]:
        """All parts together."""
        return np.sum([part for part, _ in self.parts], axis=0)

    def half(self, alpha: ArrayLike) -> NDArray[np.float64]:
        """Return half the width of the interval at level 1 - `alpha`: each part with the t of its own degrees of freedom.

        Source: W. G. Howe (1974), Approximate confidence limits on the mean of X + Y where X and Y are two tabled
        independent random variables. Satterthwaite's single t claims far too much where three seeds happen to lie close
        together (docs/evidence.md).
        """
        return np.sqrt(np.sum([stdtrit(df, np.divide(alpha, 2)) ** 2 * part for part, df in self.parts], axis=0))

    def p(self, difference: ArrayLike) -> NDArray[np.float64]:
        """Return the two-sided p of a difference from 0: the alpha at which the interval ends there, by bisection."""
        t = -np.abs(difference) / np.sqrt(self.variance)
        tails = [np.log(np.maximum(2 * stdtr(df, t), 1e-300)) for _, df in self.parts]
        low, high = np.min(tails, axis=0), np.max(tails, axis=0)  # p lies between those of the single t
        for _ in range(30):
            middle = (low + high) / 2
            inside = self.half(np.exp(middle)) > np.abs(difference)
            low, high = np.where(inside, middle, low), np.where(inside, high, middle)
        return np.exp(high)


def spread(rows: ArrayLike, columns: ArrayLike, cells: ArrayLike, total: ArrayLike, k: int, n: int) -> Spread:
    """Split the variance of the mean of a table of `k` seeds and `n` documents: two-way random effects without replication.

    Whole numbers come in, so that nothing is lost to rounding. Source: S. R. Searle, G. Casella, C. E. McCulloch (1992),
    Variance Components, chapter 4.

    Args:
        rows: The sum of the squared sums of the k rows; an array where there are many tables.
        columns: The same of the n columns.
        cells: The same of all cells.
        total: The sum of all cells.
        k: At least 2.
        n: At least 1.
    """
    square = np.square(total)
    between_rows = (np.multiply(rows, k) - square) / (k * n)
    between_columns = (np.multiply(columns, n) - square) / (k * n)
    all_cells = (np.multiply(cells, k * n) - square) / (k * n)
    degrees = max(n - 1, 1)  # of one document, whose sum of squares is 0
    rest = (all_cells - between_rows - between_columns) / ((k - 1) * degrees)
    by_seed = between_rows / (k - 1) / (k * n)
    by_document = (between_columns / degrees - rest) / (k * n)
    # Rows that happen to agree would leave nothing. The whole variance of as many independent cells would be the least that
    # is possible, but with three seeds an interval then covers 99%; with half of it no more than without.
    by_document = np.maximum(by_document, np.maximum(0.5 * all_cells / (k * n - 1) / (k * n) - by_seed, 0.0))
    return Spread(((by_seed, k - 1), (np.where(all_cells == 0, _least(n), by_document), degrees)))


def _least(n: int) -> float:
    """Where no cell differs: half the width of Wilson's and of Tango's interval of n such documents is z²/(n + z²)."""
    z = float(ndtri(0.975))
    return (z / (n + z * z)) ** 2


def spread_of(table: NDArray) -> Spread:
    """Return the spread of the mean of a table, ``(seeds, n)``."""
    k, n = table.shape
    rows, columns = (table.sum(axis, dtype=float) for axis in (1, 0))
    return spread(rows @ rows, columns @ columns, np.square(table).sum(dtype=float), rows.sum(), k, n)


def chance(table: NDArray) -> float:
    """Return the mean square of what neither the seed nor the document explains, of a table ``(seeds, n)``."""
    k, n = table.shape
    rest = table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()
    return float(np.square(rest).sum()) / ((k - 1) * max(n - 1, 1))


def spread_apart(a: NDArray, b: NDArray) -> Spread:
    """Return the spread of the difference of the means of two tables whose seeds have nothing to do with each other.

    The seeds of both sides are one part, the documents, which they share, the other. The seeds have the degrees of freedom
    of Welch's test (B. L. Welch, 1947), but never more than they would have if both sides' seeds varied alike: where three
    seeds lie close together by chance, Welch's claim too much.
    """
    n = a.shape[1]
    by_seed, squares, rest, cells = 0.0, 0.0, 0.0, 0.0
    for table in (a, b):
        k = len(table)
        part = float(table.mean(1).var(ddof=1)) / k
        by_seed, squares = by_seed + part, squares + part**2 / (k - 1)
        rest += chance(table) / (k * n)
        cells += float(table.var(ddof=1)) / (k * n)
    by_document = (a.mean(0) - b.mean(0)).var(ddof=min(1, n - 1)) / n - rest
    least = max(0.5 * cells - by_seed, 0.0)  # as in `spread`
    weights = np.array([1 / len(a), 1 / len(b)])
    alike = weights.sum() ** 2 / (weights**2 / np.array([len(a) - 1, len(b) - 1])).sum()
    df = min(alike, by_seed**2 / squares) if squares else alike
    documents = max(float(by_document), least) if cells else _least(n)
    return Spread(((np.asarray(by_seed), df), (np.asarray(documents), max(n - 1, 1))))


def two_way(table: NDArray, level: float = 0.95) -> Estimate:
    """Estimate the mean over all seeds and documents that a table might have been drawn from.

    Args:
        table: ``(seeds, n)``, the difference of two tables of 1 and 0 for right and wrong.
        level: Of the interval.
    """
    if table.ndim != 2 or not table.size:
        raise ValueError(f"A table of {table.shape} has no seeds and documents.")
    k, n = table.shape
    mean = float(table.mean())
    if k < FEWEST_SEEDS:
        return Estimate(mean, None, None, k, n)
    return estimate(mean, spread_of(table), k, n, level)


def estimate(mean: float, found: Spread, seeds: int, n: int, level: float = 0.95) -> Estimate:
    """Return the interval of a mean whose spread is known."""
    half = float(found.half(1 - level))
    return Estimate(mean, max(-1.0, mean - half), min(1.0, mean + half), seeds, n)


def two_way_score(table: NDArray, level: float = 0.95) -> Estimate:
    """Do the same for the score of one method, whose interval must not reach beyond 0 and 1.

    Wilson's interval of as many documents as have the variance that was found. Source: N. Dean, M. Pagano (2015), Evaluating
    confidence interval methods for binomial proportions in clustered surveys.

    Args:
        table: ``(seeds, n)``, 1 for right and 0 for wrong.
        level: Of the interval.
    """
    found = two_way(table, level)
    if found.low is None:
        return found
    if found.mean in (0, 1):
        low, high = wilson(int(table[0].sum()), found.n, level)
    else:
        half = float(spread_of(table).half(1 - level))
        low, high = score_interval(found.mean, half**2 / (found.mean * (1 - found.mean)))
    return replace(found, low=low, high=high)
