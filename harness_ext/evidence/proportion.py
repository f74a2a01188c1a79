"""Shares of documents, of one run or of two that are not paired."""

import math

from scipy.special import ndtr, ndtri


def wilson(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a proportion, its bounds in 0-1; unlike p ± 1.96 s.e. it is no point at 0% or 100%.

    Written out because `scipy.stats`, which the tests compare it with, takes a second to import, and a table of results
    should not. Source: E. B. Wilson (1927), Probable inference, the law of succession, and statistical inference.
    """
    z = float(ndtri((1 + level) / 2))
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"{successes} of {trials} is not a proportion.")
    low, high = score_interval(successes / trials, z * z / trials)
    # At 0% and 100% one bound is exact; rounding would leave 1e-17 there.
    return (0.0 if successes == 0 else low), (1.0 if successes == trials else high)


def score_interval(share: float, unit: float) -> tuple[float, float]:
    """Return all proportions p that lie at most sqrt(`unit` p (1 - p)) from `share`; `unit` is z²/n."""
    centre = (share + unit / 2) / (1 + unit)
    half = math.sqrt(unit * share * (1 - share) + unit * unit / 4) / (1 + unit)
    return centre - half, centre + half


def newcombe(k1: int, n1: int, k2: int, n2: int, level: float = 0.95) -> tuple[float, float]:
    """Return the interval of k1/n1 - k2/n2 where nothing is known of which documents were right.

    Source: R. G. Newcombe (1998), Interval estimation for the difference between independent proportions, method 10.
    """
    (low1, high1), (low2, high2) = wilson(k1, n1, level), wilson(k2, n2, level)
    share1, share2 = k1 / n1, k2 / n2
    below = math.hypot(share1 - low1, high2 - share2)
    above = math.hypot(high1 - share1, share2 - low2)
    return share1 - share2 - below, share1 - share2 + above


def unpaired_p(k1: int, n1: int, k2: int, n2: int) -> float:
    """Return the two-sided p of the score test with pooled variance: Pearson's chi-square of the two-by-two table."""
    pooled = (k1 + k2) / (n1 + n2)
    if pooled in (0, 1):
        return 1.0
    z = (k1 / n1 - k2 / n2) / math.sqrt(pooled * (1 - pooled) * (1 / n1 + 1 / n2))
    return float(2 * ndtr(-abs(z)))
