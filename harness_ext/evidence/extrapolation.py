"""How many labels more until a score: three learning curves, each fitted to the mean scores by number of labels.

A power law, a logit that is linear in log n, and an exponential, by least squares on the scores: three common shapes that
leave what was measured in different directions (Viering & Loog 2022, The shape of learning curves, arXiv:2103.10948). The
answer is what lies between them, and none is given far beyond what was measured. The first has a ceiling and rises slowly,
the second has none, the third's is soon reached.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

FARTHEST = 4  # times the largest number of labels that was measured
FEWEST = 3  # sizes: the power law and the exponential have three parameters, the logit two
CLOSE = 0.03  # a curve that misses a measured mean by more does not fit; a mean of few seeds may be so far off
_Curve = Callable[[Any], Any]  # the score with so many labels


@dataclass(frozen=True)
class Range:
    """Numbers of labels with which the curves reach a score."""

    low: float
    high: float | None  # None: at least one curve does not get there within `FARTHEST` times what was measured


@dataclass(frozen=True)
class BackTest:
    """What the curves would have said of the largest size, without it."""

    known: int  # the largest number of labels that they were fitted to
    at: int
    low: float
    high: float
    measured: float


def labels_for(sizes: Sequence[int], scores: Sequence[float], target: float) -> Range | str:
    """Find with how many labels a target score is reached, or say why that is not answered.

    Args:
        sizes: Numbers of labels, increasing.
        scores: Mean score over the seeds at each, in 0-1.
        target: The score that is wanted, in 0-1.
    """
    if scores and scores[-1] >= target:
        return f"{100 * target:.1f}% is reached with the {sizes[-1]:,} labels that were measured"
    curves = _fitted(sizes, scores)
    if isinstance(curves, str):
        return curves
    most = FARTHEST * sizes[-1]
    found = [labels for curve in curves if (labels := _reached(curve, target, sizes[-1], most)) is not None]
    if not found:
        return f"no curve reaches {100 * target:.1f}% within {most:,} labels, {FARTHEST} times what was measured"
    return Range(min(found), max(found) if len(found) == len(curves) else None)


def predicted(sizes: Sequence[int], scores: Sequence[float], at: int) -> tuple[float, float] | str:
    """Return the lowest and highest score of the curves with so many labels, or say why that is not answered."""
    curves = _fitted(sizes, scores)
    if isinstance(curves, str):
        return curves
    if at > FARTHEST * sizes[-1]:
        return f"{at:,} labels are more than {FARTHEST} times the {sizes[-1]:,} that were measured"
    found = [float(curve(at)) for curve in curves]
    return min(found), max(found)


def back_test(sizes: Sequence[int], scores: Sequence[float]) -> BackTest | str:
    """Leave the largest size out, predict its score and set what was measured beside it, or say why that cannot be done."""
    if len(sizes) <= FEWEST:
        return f"a back-test needs {FEWEST + 1} sizes"
    found = predicted(sizes[:-1], scores[:-1], sizes[-1])
    return found if isinstance(found, str) else BackTest(sizes[-2], sizes[-1], *found, scores[-1])


def _reached(curve: _Curve, target: float, first: int, most: int) -> float | None:
    """Find where a rising curve reaches a score, not before `first`, where it was not measured; None beyond `most`."""
    from scipy.optimize import brentq

    if curve(first) >= target:  # a curve may pass above the last mean
        return float(first)
    return float(brentq(lambda n: curve(n) - target, first, most)) if curve(most) >= target else None


def _fitted(sizes: Sequence[int], scores: Sequence[float]) -> list[_Curve] | str:
    """Fit the curves and keep those that come close to every mean; at the first size b is the rise that is left."""
    if len(sizes) < FEWEST:
        return f"a curve needs at least {FEWEST} sizes"
    x, y = np.array(sizes, float), np.array(scores, float)
    first, last, top, ceiling = x[0], x[-1], y.max(), min(y.max() + 0.05, 1.0)
    odds = logit(np.clip(y[0], 0.01, 0.99))
    shapes: list[Any] = [
        (lambda n, a, b, c: a - b * (n / first) ** -c, (ceiling, ceiling - y[0], 0.5), ([0, 0, 0.01], [1, 1, 5])),
        (lambda n, a, b: expit(a + b * np.log(n / first)), (odds, 0.1), ([-np.inf, 0], [np.inf, np.inf])),
        (
            lambda n, a, b, c: a - b * np.exp((first - n) / c),
            (top, top - y[0], last / 4),
            ([0, 0, first / 10], [1, 1, 100 * last]),
        ),
    ]
    curves = [_fit(x, y, *shape) for shape in shapes]
    curves = [curve for curve in curves if np.abs(curve(x) - y).max() <= CLOSE]
    if len(curves) < 2:  # one alone would be a range without width
        return f"fewer than two of the three curves come within {100 * CLOSE:.0f} points of what was measured"
    return curves


def _fit(x: NDArray[Any], y: NDArray[Any], shape: Callable[..., Any], start: Sequence[float], bounds: Any) -> _Curve:
    from scipy.optimize import least_squares

    found = least_squares(lambda parameters: shape(x, *parameters) - y, np.clip(start, *bounds), bounds=bounds).x
    return lambda n: shape(n, *found)
