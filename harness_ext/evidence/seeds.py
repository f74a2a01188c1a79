"""Several seeds on the same documents: how far the mean would move with other seeds and other documents."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

FEWEST_SEEDS = 3  # with two, the spread over seeds is itself unknown by a factor of ten
# Half the width of Wilson's and of Tango's interval where no document differs is z²/(n + z²). No table is taken to be surer.
_Z = 1.959964


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and documents; no interval (None) where there are too few seeds to tell."""

    mean: float
    low: float | None
    high: float | None
    se: float | None
    df: float | None
    seeds: int
    n: int


def two_way(table: NDArray, level: float = 0.95) -> Estimate:
    """Estimate the mean over the population of seeds and documents that a table was drawn from.

    Args:
        table: ``(seeds, n)``, 1 or 0 for right or wrong, or the difference of two such tables.
        level: Of the interval.
    """
    if table.ndim != 2 or not table.size:
        raise ValueError(f"A table of {table.shape} has no seeds and documents.")
    k, n = table.shape
    mean = float(table.mean())
    if k < FEWEST_SEEDS:
        return Estimate(mean, None, None, None, None, k, n)
    se, df = spread(table.mean(1).var(ddof=1), table.mean(0).var(ddof=min(1, n - 1)), table.var(ddof=1), k, n)
    half = float(stdtrit(df, (1 + level) / 2) * se)
    return Estimate(mean, mean - half, mean + half, float(se), float(df), k, n)


def spread(seeds: ArrayLike, documents: ArrayLike, cells: ArrayLike, k: int, n: int) -> tuple[NDArray, NDArray]:
    """Return the standard error of a table's mean and its degrees of freedom, element by element.

    The variance over seeds and that over documents are added; each contains the rest, which is taken off once. Source:
    two-way random effects, F. E. Satterthwaite (1946), An approximate distribution of estimates of variance components.

    Args:
        seeds: The variance of the k means of rows.
        documents: The variance of the n means of columns.
        cells: The variance of all k n cells.
        k: Seeds.
        n: Documents.
    """
    by_seed = np.divide(seeds, k)
    by_document = np.maximum(np.divide(documents, n), (_Z / (n + _Z**2)) ** 2)
    variance = np.maximum(by_seed + by_document - np.divide(cells, k * n), np.maximum(by_seed, by_document))
    df = (by_seed + by_document) ** 2 / (by_seed**2 / (k - 1) + by_document**2 / max(n - 1, 1))
    return np.sqrt(variance), df
