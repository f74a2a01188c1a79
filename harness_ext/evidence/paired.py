"""Two runs on the same documents: only those that one run has right and the other wrong tell them apart."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, ndtri


@dataclass(frozen=True)
class Paired:
    """Run A against run B.

    Attributes:
        difference: Score of A minus score of B.
        low: With `high` Tango's interval of the difference.
        p_mid: McNemar's mid-p, two-sided: the exact test errs so far on the safe side that it misses much.
        visible: The smallest difference that so many discordant documents could show (mid-p below 1 - level), in 0-1;
            where they are too few to show any, the smallest that enough of them would.
    """

    n: int
    only_a: int
    only_b: int
    difference: float
    low: float
    high: float
    p_mid: float
    visible: float


def compare(a: NDArray[np.bool_], b: NDArray[np.bool_], level: float = 0.95) -> Paired:
    """Compare two runs by which documents they have right.

    Args:
        a: ``(n,)``, whether A is right, in the same order of documents as `b`.
        b: ``(n,)``, whether B is right.
        level: Of the interval.
    """
    if a.shape != b.shape or a.ndim != 1 or not a.size:
        raise ValueError(f"Runs of {a.shape} and {b.shape} documents are no pair.")
    if a.dtype != bool or b.dtype != bool:
        raise ValueError(f"Which documents are right is given as booleans, not {a.dtype} and {b.dtype}.")
    n, only_a, only_b = a.size, int((a & ~b).sum()), int((b & ~a).sum())
    low, high = tango(only_a, only_b, n, level)
    p_mid, smallest = float(mcnemar(only_a, only_b)[1]), visible(only_a + only_b, n, 1 - level)
    return Paired(n, only_a, only_b, (only_a - only_b) / n, low, high, p_mid, smallest)


def mcnemar(only_a: ArrayLike, only_b: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return McNemar's two-sided p, exact and mid-p, element by element.

    Under the null hypothesis a discordant document favours either run with probability 1/2. Sources: Q. McNemar (1947);
    M. W. Fagerland, S. Lydersen, P. Laake (2013), The McNemar test for binary matched-pairs data: mid-p and asymptotic are
    better than exact conditional. (They give 1 - P/2 for equal counts, where this gives 1.)
    """
    fewer, total = np.minimum(only_a, only_b), np.add(only_a, only_b)
    at_most = bdtr(fewer, total, 0.5)
    below = np.where(fewer > 0, bdtr(np.maximum(fewer - 1, 0), total, 0.5), 0.0)
    # The exact p less the probability of what was seen: 2 P(X <= x) - P(X = x) = P(X <= x) + P(X < x).
    return np.minimum(1.0, 2 * at_most), np.minimum(1.0, at_most + below)


def tango(only_a: int, only_b: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return the score interval of the difference of two paired proportions: all differences that the test does not refuse.

    It holds for few discordant documents or none, where difference ± 1.96 s.e. does not. Source: T. Tango (1998),
    Equivalence test and confidence interval for the difference in proportions for the paired-sample design.
    """
    z2 = float(ndtri((1 + level) / 2)) ** 2
    difference = (only_a - only_b) / n

    def refused(delta: float) -> bool:
        """Whether the score statistic exceeds z; `share_b` is the restricted maximum-likelihood P(only B right)."""
        linear = (2 * n - only_a + only_b) * delta - only_a - only_b
        root = math.sqrt(max(0.0, linear**2 + 8 * n * only_b * delta * (1 - delta)))
        share_b = max(0.0, (root - linear) / (4 * n))
        return (only_a - only_b - n * delta) ** 2 > z2 * n * (2 * share_b + delta * (1 - delta))

    return _edge(refused, difference, -1.0), _edge(refused, difference, 1.0)


def _edge(refused, inside: float, outside: float) -> float:
    """Bisect between a difference that is not refused and the end of the scale."""
    if not refused(outside):
        return outside
    for _ in range(60):
        middle = (inside + outside) / 2
        inside, outside = (inside, middle) if refused(middle) else (middle, outside)
    return inside


def visible(discordant: int, n: int, alpha: float = 0.05) -> float:
    """Return the smallest difference that so many discordant documents of n could show; see `Paired`."""
    fewer = np.arange(discordant // 2 + 1)
    shown = fewer[mcnemar(fewer, discordant - fewer)[1] < alpha]
    # All on one side has mid-p 2^-discordant.
    fewest = math.floor(-math.log2(alpha)) + 1
    return min(1.0, (discordant - 2 * int(shown[-1]) if shown.size else fewest) / n)
