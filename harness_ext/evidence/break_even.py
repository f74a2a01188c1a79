"""The number of labels at which a trained method catches a prompted one.

Between sizes that were run a curve is taken as linear in log n. A curve has caught the prompted score at the first size from
which on it stays there: one lucky small size that a larger one takes back is no break-even, and no shape of the curve is
assumed, as an isotonic fit would. Intervals apply the same rule to a curve's lower and upper band. They are closed forms: to
draw anew from three seeds says little about the next one (docs/evidence.md has the simulation).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri, ndtri

from harness_ext.evidence.seeds import FEWEST_SEEDS, chance, two_way

MOST = 0.95  # share of seeds that "most" speaks of


@dataclass(frozen=True)
class Crossing:
    """Where a curve catches the prompted score."""

    labels: float  # the most or the fewest that were run, where it lies outside
    side: Literal["within", "above", "below"]  # above: not with the most labels that were run; below: with the fewest


@dataclass(frozen=True)
class BreakEven:
    """Where the mean over seeds catches the prompted score and where 95% of seeds do, each with its interval."""

    mean: Crossing
    mean_low: Crossing
    mean_high: Crossing
    most: Crossing
    most_low: Crossing
    most_high: Crossing


def break_even(
    sizes: Sequence[int], tables: Sequence[NDArray[Any]], prompted: NDArray[Any], level: float = 0.90
) -> BreakEven | None:
    """Find where a trained method catches a prompted one; None with fewer than two sizes, those with too few seeds left out.

    "Most" is the mean less 1.645 standard deviations of the seeds, without the noise of the sentences.

    Args:
        sizes: Numbers of labels, increasing.
        tables: What is correct, 0 or 1, of shape ``(seeds, n)`` for each size.
        prompted: The same of the prompted method, ``(1, n)``.
        level: Of each interval.
    """
    kept = [(size, np.asarray(table, float) - prompted) for size, table in zip(sizes, tables, strict=True)]
    kept = [(size, differences) for size, differences in kept if len(differences) >= FEWEST_SEEDS]
    if len(kept) < 2:
        return None
    bands = [(*_mean(differences, level), *_most(differences, level)) for _, differences in kept]
    run = [size for size, _ in kept]
    mean, mean_lower, mean_upper, most, most_lower, most_upper = (
        _crossing(run, curve) for curve in zip(*bands, strict=True)
    )
    return BreakEven(mean, mean_upper, mean_lower, most, most_upper, most_lower)


def text(crossing: Crossing) -> str:
    """Say a crossing in a table: ``about 40``, ``< 16`` or ``> 1,024``."""
    if crossing.side != "within":
        return f"{'>' if crossing.side == 'above' else '<'} {crossing.labels:,}"
    digits = 1 - math.floor(math.log10(crossing.labels))
    return f"about {round(crossing.labels, digits):,.0f}"


def _crossing(sizes: Sequence[int], curve: Sequence[float]) -> Crossing:
    """Find where a curve of differences rises to 0 for good."""
    below = [number for number, value in enumerate(curve) if value < 0]
    if not below:
        return Crossing(sizes[0], "below")
    last = below[-1]
    if last == len(sizes) - 1:
        return Crossing(sizes[-1], "above")
    share = curve[last] / (curve[last] - curve[last + 1])
    return Crossing(sizes[last] * (sizes[last + 1] / sizes[last]) ** share, "within")


def _mean(differences: NDArray[Any], level: float) -> tuple[float, float, float]:
    """Return the mean difference and its interval over seeds and documents."""
    found = two_way(differences, level)
    assert found.low is not None  # there are enough seeds
    assert found.high is not None
    return found.mean, found.low, found.high


def _most(differences: NDArray[Any], level: float) -> tuple[float, float, float]:
    """Return the difference that 95% of seeds exceed, and its interval.

    The intervals of mean and deviation are joined by the method of variance estimates recovery (Zou & Donner 2008; Zou 2013
    for limits of agreement, which these are).
    """
    seeds, n = differences.shape
    z = float(ndtri(MOST))
    mean, low, high = _mean(differences, level)
    noise = chance(differences) / n  # of a seed's score, from its own sentences
    squares = float(((differences.mean(axis=1) - mean) ** 2).sum())

    def deviation(variance: float) -> float:
        # Equal but for rounding is equal: the root of 1e-17 would move a crossing from one side to the other.
        return math.sqrt(variance - noise) if variance > noise * (1 + 1e-9) else 0.0

    sd = deviation(squares / (seeds - 1))
    least, largest = (deviation(squares / chdtri(seeds - 1, tail)) for tail in ((1 - level) / 2, (1 + level) / 2))
    worst = mean - z * sd
    return (
        worst,
        worst - math.hypot(mean - low, z * (largest - sd)),
        worst + math.hypot(high - mean, z * (sd - least)),
    )
