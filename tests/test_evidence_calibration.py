"""Calibration, coverage and the two-stage policy against scikit-learn and counts by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, roc_auc_score

from harness_ext.evidence.calibration import auroc, brier, coverage, reliability, two_stage

MARGIN = st.floats(-20, 20).map(lambda margin: round(margin, 2))
ROWS = st.lists(st.tuples(MARGIN, st.integers(0, 1)), min_size=1, max_size=60)
NONE = np.array([])


def _columns(rows):
    return tuple(np.array(column) for column in zip(*rows, strict=True))


def _margins(confidences):
    return np.log(confidences) - np.log1p(-np.array(confidences))


@given(ROWS)
def test_reliability_agrees_with_scikit_learn(rows):
    margins, gold = _columns(rows)
    found = reliability(margins, gold)
    assert found
    confidence, right = expit(np.abs(margins)), (margins > 0) == (gold == 1)
    # Its bins are those of 0 to 1: confidences are stretched, so that they fall into the same.
    share, mean = calibration_curve(right, 2 * confidence - 1, n_bins=10)
    filled = found.counts > 0
    if np.abs(np.round(20 * confidence) - 20 * confidence).min() > 1e-9:  # it puts what lies on an edge below
        assert found.right[filled] == pytest.approx(share)
        assert found.confidence[filled] == pytest.approx((mean + 1) / 2)
        assert found.error == pytest.approx(np.average(abs(share - (mean + 1) / 2), weights=found.counts[filled]))
    assert found.counts.sum() == len(rows)


def test_reliability_by_hand():
    # 0.52 and 0.54 are one right of two, 0.93 and 0.97 both right.
    found = reliability(_margins([0.52, 0.54, 0.93, 0.97]) * [1, -1, 1, -1], np.array([1, 1, 1, 0]))
    assert found
    assert found.counts.tolist() == [2, 0, 0, 0, 0, 0, 0, 0, 1, 1]
    assert found.confidence[[0, 8, 9]] == pytest.approx([0.53, 0.93, 0.97])
    assert found.right[[0, 8, 9]].tolist() == [0.5, 1, 1]
    assert math.isnan(found.right[1])
    assert found.error == pytest.approx((2 * 0.03 + 0.07 + 0.03) / 4)


def test_margin_of_0_says_0_as_a_forced_choice_does():
    for gold, right in ((0, 1.0), (1, 0.0)):
        found = reliability(np.zeros(1), np.array([gold]))
        assert found
        assert found.right[0] == right


def test_sure_and_right_has_no_error_and_sure_and_wrong_has_all():
    for gold, error in ((1, 0.0), (0, 1.0)):
        found = reliability(np.full(5, 800.0), np.full(5, gold))
        assert found
        assert found.error == error
        assert brier(np.full(5, 800.0), np.full(5, gold)) == error


@given(ROWS)
def test_brier_and_auroc_agree_with_scikit_learn(rows):
    margins, gold = _columns(rows)
    assert brier(margins, gold) == pytest.approx(brier_score_loss(gold, expit(margins), labels=[0, 1]))
    if len(set(gold)) == 2:
        assert auroc(margins, gold) == pytest.approx(roc_auc_score(gold, margins))
    else:
        assert auroc(margins, gold) is None


@given(ROWS, st.lists(st.integers(0, 60), max_size=5))
def test_unknown_margins_are_left_out_of_what_needs_a_probability(rows, places):
    margins, gold = _columns(rows)
    more, golds = np.insert(margins, np.minimum(places, len(rows)).astype(int), math.nan), None
    golds = np.insert(gold, np.minimum(places, len(rows)).astype(int), 1)
    assert brier(more, golds) == brier(margins, gold)
    assert auroc(more, golds) == auroc(margins, gold)
    one, other = reliability(more, golds), reliability(margins, gold)
    assert one
    assert other
    assert one.error == other.error


def test_without_margins_nothing_is_said():
    for margins, gold in ((NONE, NONE), (np.array([math.nan]), np.array([1]))):
        assert reliability(margins, gold) is None
        assert brier(margins, gold) is None
        assert auroc(margins, gold) is None


def test_coverage_by_hand_takes_equally_sure_documents_together_and_unknown_ones_last():
    shares, scores = coverage(np.array([3.0, -3.0, 1.0, math.nan, -5.0]), np.array([1, 0, 0, 1, 1]))
    assert shares == pytest.approx([0.2, 0.6, 0.8, 1.0])
    assert scores == pytest.approx([1.0, 2 / 3, 0.5, 0.6])


@given(ROWS)
def test_coverage_ends_at_the_score_of_all(rows):
    margins, correct = _columns(rows)
    shares, scores = coverage(margins, correct)
    assert shares[-1] == 1
    assert scores[-1] == pytest.approx(correct.mean())
    assert (np.diff(shares) > 0).all()
    for share, score in zip(shares, scores, strict=True):
        surest = np.argsort(-np.abs(margins), kind="stable")[: round(share * len(rows))]
        assert score == pytest.approx(correct[surest].mean())


@given(ROWS, st.data())
def test_two_stages_begin_with_the_small_model_and_end_with_the_large_one(rows, data):
    margins, small = _columns(rows)
    large = np.array(data.draw(st.lists(st.integers(0, 1), min_size=len(rows), max_size=len(rows))))
    shares, scores = two_stage(margins, small, large)
    assert (shares[0], scores[0]) == (0, pytest.approx(small.mean()))
    assert (shares[-1], scores[-1]) == (1, pytest.approx(large.mean()))
    assert (np.diff(shares) > 0).all()


def test_two_stages_send_what_the_small_model_is_least_sure_of():
    rng = np.random.default_rng(1)
    margins = rng.permutation(np.arange(1000) + 1.0)
    small = margins > 300  # wrong where it is not sure
    shares, scores = two_stage(margins, small, np.ones(1000))
    wanted = [share / 20 for share in range(21)]
    assert shares == pytest.approx(wanted, abs=0.01)
    assert scores == pytest.approx([min(0.7 + share, 1) for share in wanted], abs=0.01)


def test_two_stages_threshold_of_a_document_is_not_its_own():
    # Two documents, two folds: each is compared with the other alone.
    shares, scores = two_stage(np.array([1.0, 2.0]), np.array([0, 1]), np.array([1, 0]), folds=2)
    assert shares.tolist() == [0, 0.5, 1]
    assert scores.tolist() == [0.5, 1, 0.5]


def test_two_stages_without_differences_in_sureness_send_none_or_all():
    for margins in (np.full(20, 2.0), np.full(20, math.nan), np.tile([2.0, -2.0], 10)):
        shares, scores = two_stage(margins, np.zeros(20), np.ones(20))
        assert (shares.tolist(), scores.tolist()) == ([0, 1], [0, 1])
