"""Shares of documents, of one run or of two that are not paired."""

import math

from scipy.special import ndtri


def wilson(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a proportion, its bounds in 0-1; unlike p ± 1.96 s.e. it is no point at 0% or 100%.

    Written out because `scipy.stats`, which the tests compare it with, takes a second to import, and a table of results
    should not. Source: E. B. Wilson (1927), Probable inference, the law of succession, and statistical inference.
    """
    z = float(ndtri((1 + level) / 2))
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"{successes} of {trials} is not a proportion.")
    share = successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    # At 0% and 100% one bound is exact; rounding would leave 1e-17 there.
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == trials else centre + half)
