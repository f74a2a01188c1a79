"""Any two methods: which comparison their runs allow, and what it shows."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness_ext.evidence.paired import Paired, compare
from harness_ext.evidence.proportion import wilson
from harness_ext.evidence.seeds import FEWEST_SEEDS, Estimate, Spread, estimate, spread_apart, spread_of, two_way_score

MARGIN = 0.02  # what counts as no worse


@dataclass(frozen=True, eq=False)
class Method:
    """What a method got right.

    Attributes:
        correct: ``(runs, n)`` of 0 and 1.
        seeds: That of each row; None for a method without seeds, as a prompted model is, which has one row. The same seed
            means that the same was drawn.
    """

    correct: NDArray
    seeds: tuple[int | str, ...] | None

    def __post_init__(self) -> None:
        if self.correct.ndim != 2 or not self.correct.size:
            raise ValueError(f"A table of {self.correct.shape} has no runs and documents.")
        if not np.isin(self.correct, (0, 1)).all():
            raise ValueError("A table of right and wrong has other values than 0 and 1.")
        if len(self.correct) != (1 if self.seeds is None else len(set(self.seeds))):
            raise ValueError(f"{len(self.correct)} runs do not fit the seeds {self.seeds}.")

    @cached_property
    def score(self) -> Estimate:
        """The mean score; the interval of a single run is of that run and says nothing of other seeds."""
        k, n = self.correct.shape
        if k > 1:
            return two_way_score(self.correct)
        right = int(self.correct.sum())
        return Estimate(right / n, *wilson(right, n), k, n)


@dataclass(frozen=True)
class Contrast:
    """Method A minus method B.

    Attributes:
        basis: "runs": two methods without seeds, by McNemar's mid-p and Tango's interval. "seeds": the mean over common
            seeds, by `seeds.two_way`. "seeds apart": the means over each method's own, by `seeds.spread_apart`. "few seeds":
            no interval and no p.
        seeds: How many seeds were compared; of seeds apart the fewer.
        paired: The two runs, where each method has but one.
        visible: The smallest difference that would have been told from none, in 0-1.
    """

    difference: float
    low: float | None
    high: float | None
    p: float | None
    basis: Literal["runs", "seeds", "seeds apart", "few seeds"]
    seeds: int
    paired: Paired | None = None
    visible: float | None = None


def contrast(a: Method, b: Method, level: float = 0.95) -> Contrast:
    """Compare two methods as well as their runs allow; both were asked the same documents in the same order."""
    if a.correct.shape[1] != b.correct.shape[1]:
        raise ValueError(f"Methods with {a.correct.shape[1]} and {b.correct.shape[1]} documents cannot be compared.")
    paired = None
    if len(a.correct) == len(b.correct) == 1:
        paired = compare(a.correct[0].astype(bool), b.correct[0].astype(bool), level)
    if paired and a.seeds is None and b.seeds is None:
        return Contrast(paired.difference, paired.low, paired.high, paired.p_mid, "runs", 1, paired, paired.visible)
    seeds = common_seeds(a, b) or ()
    fewer = min(len(a.correct), len(b.correct))
    if len(seeds) >= FEWEST_SEEDS:
        table = rows(a, seeds) - rows(b, seeds)
        return _over_seeds(float(table.mean()), spread_of(table), "seeds", len(seeds), table.shape[1], level)
    if fewer >= FEWEST_SEEDS:
        spread = spread_apart(a.correct, b.correct)
        return _over_seeds(a.score.mean - b.score.mean, spread, "seeds apart", fewer, a.correct.shape[1], level)
    return Contrast(a.score.mean - b.score.mean, None, None, None, "few seeds", len(seeds), paired)


def _over_seeds(
    difference: float, spread: Spread, basis: Literal["seeds", "seeds apart"], seeds: int, n: int, level: float
) -> Contrast:
    found = estimate(difference, spread, seeds, n, level)
    p, visible = float(spread.p(difference)), min(1.0, float(spread.half(1 - level)))
    return Contrast(difference, found.low, found.high, p, basis, seeds, None, visible)


def no_worse(a: Method, b: Method, margin: float = MARGIN) -> bool | None:
    """Return whether A is at most `margin` below B: the 90% interval lies above it, a test at 5%; None without interval."""
    low = contrast(a, b, level=0.90).low
    return None if low is None else low > -margin


def common_seeds(a: Method, b: Method) -> tuple[int | str, ...] | None:
    """Return the seeds that both have, in order; a method without seeds goes with every seed; None where neither has any."""
    if a.seeds is None or b.seeds is None:
        seeds = b.seeds if a.seeds is None else a.seeds
        return None if seeds is None else tuple(sorted(seeds))
    return tuple(sorted(set(a.seeds) & set(b.seeds)))


def rows(method: Method, seeds: tuple[int | str, ...]) -> NDArray[np.float64]:
    """Return ``(seeds, n)``: the rows of these seeds, or the only one as often."""
    which = [0] * len(seeds) if method.seeds is None else [method.seeds.index(seed) for seed in seeds]
    return method.correct[which].astype(float)
