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


@dataclass(frozen=True)
class _Curve:
    """A fitted curve: the score with so many labels, and the labels for a score."""

    score: Callable[[Any], Any]
    labels: Callable[[float], float]  # infinity where it is never reached


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
    # A curve may pass above the last mean: it has not been reached there all the same.
    found = sorted(max(curve.labels(target), sizes[-1]) for curve in curves)
    if found[0] > most:
        return f"no curve reaches {100 * target:.1f}% within {most:,} labels, {FARTHEST} times what was measured"
    return Range(float(found[0]), float(found[-1]) if found[-1] <= most else None)


def predicted(sizes: Sequence[int], scores: Sequence[float], at: int) -> tuple[float, float] | str:
    """Return the lowest and highest score of the curves with so many labels, or say why that is not answered."""
    curves = _fitted(sizes, scores)
    if isinstance(curves, str):
        return curves
    if at > FARTHEST * sizes[-1]:
        return f"{at:,} labels are more than {FARTHEST} times the {sizes[-1]:,} that were measured"
    found = [float(curve.score(at)) for curve in curves]
    return min(found), max(found)


def back_test(sizes: Sequence[int], scores: Sequence[float]) -> BackTest | str:
    """Leave the largest size out, predict its score and set what was measured beside it, or say why that cannot be done."""
    if len(sizes) <= FEWEST:
        return f"a back-test needs {FEWEST + 1} sizes"
    found = predicted(sizes[:-1], scores[:-1], sizes[-1])
    return found if isinstance(found, str) else BackTest(sizes[-2], sizes[-1], *found, scores[-1])


def _fitted(sizes: Sequence[int], scores: Sequence[float]) -> list[_Curve] | str:
    """Fit the curves and keep those that come close to every mean."""
    if len(sizes) < FEWEST:
        return f"a curve needs at least {FEWEST} sizes"
    x, y = np.array(sizes, float), np.array(scores, float)
    curves = [fit(x, y) for fit in (_power_law, _logit, _exponential)]
    curves = [curve for curve in curves if np.abs(curve.score(x) - y).max() <= CLOSE]
    if len(curves) < 2:  # one alone would be a range without width
        return f"fewer than two of the three curves come within {100 * CLOSE:.0f} points of what was measured"
    return curves


def _least_squares(
    curve: Callable[..., Any],
    x: NDArray[Any],
    y: NDArray[Any],
    start: Sequence[float],
    bounds: tuple[list[float], list[float]],
) -> list[float]:
    from scipy.optimize import least_squares

    return least_squares(lambda parameters: curve(x, *parameters) - y, np.clip(start, *bounds), bounds=bounds).x.tolist()


def _power_law(x: NDArray[Any], y: NDArray[Any]) -> _Curve:
    """Fit a - b n^-c; b is the rise that is left at the smallest size."""

    def score(n: Any, a: float, b: float, c: float) -> Any:
        return a - b * (n / x[0]) ** -c

    ceiling = min(y.max() + 0.05, 1.0)
    a, b, c = _least_squares(score, x, y, (ceiling, ceiling - y[0], 0.5), ([0, 0, 0.01], [1, 1, 5]))
    return _Curve(
        lambda n: score(n, a, b, c), lambda target: float(x[0] * (b / (a - target)) ** (1 / c)) if a > target else np.inf
    )


def _logit(x: NDArray[Any], y: NDArray[Any]) -> _Curve:
    """Fit logit(score) = a + b log n."""

    def score(n: Any, a: float, b: float) -> Any:
        return expit(a + b * np.log(n / x[0]))

    start = float(logit(np.clip(y[0], 0.01, 0.99)))
    a, b = _least_squares(score, x, y, (start, 0.1), ([-np.inf, 0], [np.inf, np.inf]))

    def labels(target: float) -> float:
        power = (float(logit(target)) - a) / b if b > 0 else np.inf
        return float(x[0] * np.exp(min(power, 700.0))) if power < np.inf else np.inf

    return _Curve(lambda n: score(n, a, b), labels)


def _exponential(x: NDArray[Any], y: NDArray[Any]) -> _Curve:
    """Fit a - b exp(-n/c); b is the rise that is left at the smallest size."""

    def score(n: Any, a: float, b: float, c: float) -> Any:
        return a - b * np.exp(-(n - x[0]) / c)

    ceiling = float(y.max())
    bounds: Any = ([0, 0, x[0] / 10], [1, 1, 100 * x[-1]])
    a, b, c = _least_squares(score, x, y, (ceiling, ceiling - y[0], x[-1] / 4), bounds)
    return _Curve(
        lambda n: score(n, a, b, c),
        lambda target: float(x[0] + c * np.log(b / (a - target))) if a > target and b > 0 else np.inf,
    )
