"""Learning curves against exact ones whose parameters are known, and scipy's curve_fit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import curve_fit
from scipy.special import expit, logit

from harness_ext.evidence.extrapolation import Range, back_test, labels_for, predicted

SIZES = (16, 64, 256, 1024)


def _power_law(n, a=0.9, b=1.2, c=0.5):
    return a - b * np.power(n, -c)


def _logit(n, a=-0.2, b=0.3):
    return expit(a + b * np.log(n))


def _exponential(n, a=0.85, b=0.2, c=120.0):
    return a - b * np.exp(-np.asarray(n) / c)


def _scores(curve, sizes=SIZES):
    return [float(curve(size)) for size in sizes]


@pytest.mark.parametrize("curve", [_power_law, _logit, _exponential])
@pytest.mark.parametrize("at", [1500, 4096])
def test_exact_curve_is_among_those_that_predict(curve, at):
    found = predicted(SIZES, _scores(curve), at)
    assert not isinstance(found, str)
    assert found[0] - 1e-4 <= curve(at) <= found[1] + 1e-4


@pytest.mark.parametrize("curve", [_power_law, _logit, _exponential])
def test_exact_curve_is_among_those_that_reach_a_score(curve):
    found = labels_for(SIZES, _scores(curve), float(curve(1500)))
    assert isinstance(found, Range)
    assert found.low <= 1500 * 1.01
    assert found.high is None or found.high >= 1500 * 0.99


@settings(max_examples=30, deadline=None)
@given(st.floats(0.7, 0.95), st.floats(0.1, 0.3), st.floats(0.2, 1.0), st.integers(0, 10**6))
def test_prediction_spans_what_curve_fit_finds(a, b, c, seed):
    x = np.array(SIZES, float)
    y = a - b * (x / 16) ** -c + np.random.default_rng(seed).normal(0, 0.004, 4)
    found = predicted(SIZES, y.tolist(), 2048)
    assert not isinstance(found, str)
    bounds = ([0, 0, 0.01], [1, 1, 5])
    fitted = curve_fit(lambda n, a, b, c: a - b * (n / 16) ** -c, x, y, (a, b, c), bounds=bounds)[0]
    assert found[0] - 2e-3 <= fitted[0] - fitted[1] * 128 ** -fitted[2] <= found[1] + 2e-3


def test_logit_reaches_its_score_where_the_closed_form_says():
    # With a logit that rises so fast the others have met their ceiling: the sizes differ, its is the fewest.
    scores = _scores(_logit)
    found = labels_for(SIZES, scores, 0.88)
    assert isinstance(found, Range)
    assert found.low == pytest.approx(float(np.exp((logit(0.88) + 0.2) / 0.3)), rel=0.02)


def test_what_some_curves_never_reach_has_no_upper_end():
    found = labels_for(SIZES, _scores(_power_law), 0.875)
    assert isinstance(found, Range)
    assert 1024 <= found.low <= 4096
    assert found.high is None


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=3, max_size=5), st.floats(0.01, 0.99))
def test_whatever_the_scores_answers_lie_within_their_bounds(scores, target):
    sizes = [4 ** (number + 2) for number in range(len(scores))]
    reached, said = labels_for(sizes, scores, target), predicted(sizes, scores, 4 * sizes[-1])
    if isinstance(reached, Range):
        assert sizes[-1] <= reached.low <= (reached.high or 4 * sizes[-1]) <= 4 * sizes[-1]
    if not isinstance(said, str):
        assert 0 <= said[0] <= said[1] <= 1


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (labels_for([16, 64], [0.6, 0.7], 0.8), "at least 3 sizes"),
        (predicted([], [], 64), "at least 3 sizes"),
        (labels_for(SIZES, _scores(_power_law), 0.6), "is reached with the 1,024 labels that were measured"),
        (labels_for(SIZES, _scores(_power_law), 0.999), "within 4,096 labels"),
        (labels_for(SIZES, [0.6, 0.9, 0.6, 0.9], 0.95), "fewer than two of the three curves come within 3 points"),
        (labels_for(SIZES, [0.9, 0.8, 0.7, 0.6], 0.95), "fewer than two of the three curves come within 3 points"),
        (labels_for(SIZES, [0.566, 0.608, 0.722, 0.840], 0.845), "fewer than two"),  # the exponential alone
        (predicted(SIZES, _scores(_power_law), 4097), "more than 4 times the 1,024"),
        (back_test(SIZES[:3], [0.6, 0.7, 0.75]), "needs 4 sizes"),
        (back_test((16, 64, 256, 2048), [0.6, 0.7, 0.75, 0.8]), "more than 4 times the 256"),
    ],
)
def test_refusal_says_why(found, reason):
    assert reason in found


def test_constant_scores_are_reached_by_no_curve():
    assert "no curve reaches" in str(labels_for(SIZES, [0.5] * 4, 0.6))
    assert predicted(SIZES, [0.5] * 4, 4096) == pytest.approx((0.5, 0.5), abs=1e-3)


@pytest.mark.parametrize("curve", [_power_law, _logit, _exponential])
def test_back_test_leaves_the_largest_size_out(curve):
    scores = _scores(curve)
    found = back_test(SIZES, scores)
    assert not isinstance(found, str)
    assert (found.known, found.at, found.measured) == (256, 1024, scores[-1])
    assert (found.low, found.high) == predicted(SIZES[:3], scores[:3], 1024)
    assert found.low - 1e-3 <= found.measured <= found.high + 1e-3
