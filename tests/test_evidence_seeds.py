"""Several seeds on the same documents, against statsmodels' mean squares, scipy's t and a root search."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import brentq
from scipy.stats import norm, t, ttest_1samp, ttest_ind
from statsmodels.stats.anova import anova_lm

from harness_ext.evidence.contrast import Method, contrast, no_worse
from harness_ext.evidence.paired import tango
from harness_ext.evidence.proportion import wilson
from harness_ext.evidence.seeds import spread_of, two_way, two_way_score

SHAPES = st.tuples(st.integers(3, 6), st.integers(1, 12))
DIFFERENCES = SHAPES.flatmap(lambda shape: arrays(np.int8, shape, elements=st.integers(-1, 1)))
ANSWERS = SHAPES.flatmap(lambda shape: arrays(np.int8, shape, elements=st.integers(0, 1)))


def drawn(k=5, n=60, seed=0, better=0.0):
    """Right and wrong with effects of seeds and documents."""
    rng = np.random.default_rng(seed)
    logits = better + 0.5 * rng.normal(size=(k, 1)) + 1.5 * np.random.default_rng(99).normal(size=n)
    return (rng.normal(size=(k, n)) < logits).astype(int)


def sure(found):
    """Return an estimate or a contrast that has an interval."""
    assert found.low is not None
    return found


def by_hand(table):
    """Howe's half width from statsmodels' two-way analysis of variance."""
    k, n = table.shape
    frame = pd.DataFrame(
        {"y": table.ravel().astype(float), "row": np.repeat(range(k), n), "column": np.tile(range(n), k)},
    )
    squares = anova_lm(smf.ols("y ~ C(row) + C(column)", frame).fit())["mean_sq"]
    by_seed = squares["C(row)"] / (k * n)
    by_document = max(0.0, squares["C(column)"] - squares["Residual"]) / (k * n)
    return by_seed, by_document, np.sqrt(t.ppf(0.975, k - 1) ** 2 * by_seed + t.ppf(0.975, n - 1) ** 2 * by_document)


@pytest.mark.parametrize(("k", "n"), [(3, 40), (5, 60), (10, 25)])
def test_two_way_agrees_with_an_analysis_of_variance(k, n):
    table = drawn(k, n, 1, better=0.6) - drawn(k, n, 2)
    by_seed, by_document, half = by_hand(table)
    found = two_way(table)
    assert (found.mean, found.low, found.high) == pytest.approx((table.mean(), table.mean() - half, table.mean() + half))
    assert [part for part, _ in spread_of(table).parts] == pytest.approx([by_seed, by_document])


def test_documents_that_do_not_differ_leave_a_t_test_over_seeds():
    # Every column has the same mean, so that only rows vary.
    table = np.array([[1, 0, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 1]])
    assert len(set(table.mean(0))) == 1
    reference = ttest_1samp(table.mean(1), 0)
    found, interval = two_way(table), reference.confidence_interval()
    assert (found.low, found.high) == pytest.approx((interval.low, min(1.0, interval.high)))
    assert float(spread_of(table).p(found.mean)) == pytest.approx(reference.pvalue, rel=1e-6)


def test_seeds_that_do_not_differ_leave_a_t_test_over_documents():
    table = np.repeat([[1, 0, -1, 1, 1, 0, 0, 1, 0, 1]], 5, axis=0)
    reference = ttest_1samp(table[0], 0)
    found, interval = two_way(table), reference.confidence_interval()
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert float(spread_of(table).p(found.mean)) == pytest.approx(reference.pvalue, rel=1e-6)


@pytest.mark.parametrize("k", [1, 2])
def test_fewer_than_three_seeds_claim_no_spread(k):
    found = two_way(drawn(k))
    assert (found.low, found.high) == (None, None)
    assert found.mean == drawn(k).mean()


@settings(max_examples=50, deadline=None)
@given(DIFFERENCES)
def test_p_is_the_level_at_which_the_interval_ends_at_0(table):
    spread, mean = spread_of(table), abs(table.mean())
    p = float(spread.p(mean))
    assert 0 < p <= 1
    if p > 1e-12:
        reference = brentq(lambda alpha: float(spread.half(alpha)) - mean, 1e-13, 1) if mean else 1
        assert p == pytest.approx(reference, rel=1e-4)


@settings(max_examples=50, deadline=None)
@given(DIFFERENCES, st.randoms(use_true_random=False))
def test_two_way_turns_with_the_difference_and_does_not_mind_any_order(table, random):
    found, turned = sure(two_way(table)), sure(two_way(-table))
    assert (turned.mean, turned.low, turned.high) == pytest.approx((-found.mean, -found.high, -found.low))
    mixed = table[random.sample(range(len(table)), len(table))][:, random.sample(range(table.shape[1]), table.shape[1])]
    assert two_way(mixed) == found
    assert -1 <= found.low <= found.mean <= found.high <= 1
    assert found.low < found.high


@settings(max_examples=50, deadline=None)
@given(ANSWERS)
def test_a_score_has_an_interval_of_some_width_within_0_and_1(table):
    found = sure(two_way_score(table))
    assert -1e-12 <= found.low <= found.mean <= found.high <= 1 + 1e-12
    assert found.high - found.low > 0


@pytest.mark.parametrize("right", [0, 1])
@pytest.mark.parametrize("n", [1, 20, 872])
def test_all_right_or_all_wrong_is_as_sure_as_one_run_of_it(right, n):
    found = two_way_score(np.full((4, n), right))
    assert (found.low, found.high) == pytest.approx(wilson(right * n, n))


def test_the_same_answers_are_about_as_sure_to_be_equal_as_one_run_of_them():
    found = contrast(Method(drawn(5, 872), tuple(range(5))), Method(drawn(5, 872), tuple(range(5))))
    assert (found.low, found.high) == pytest.approx(tango(0, 0, 872), rel=2e-3)
    assert (found.p, found.difference, found.basis) == (1, 0, "seeds")


def test_a_score_far_from_the_ends_has_nearly_the_interval_of_a_difference():
    table = drawn(10, 872)
    assert (two_way_score(table).low, two_way_score(table).high) == pytest.approx(
        (two_way(table).low, two_way(table).high), abs=3e-3
    )


def test_a_score_of_one_run_is_wilsons():
    method = Method(drawn(1, 60), (7,))
    assert (method.score.low, method.score.high) == wilson(int(method.correct.sum()), 60)
    assert (method.score.seeds, method.score.n) == (1, 60)


def test_two_methods_without_seeds_are_compared_by_their_runs():
    a, b = Method(drawn(1, seed=3), None), Method(drawn(1, seed=4), None)
    found = sure(contrast(a, b))
    assert (found.basis, found.seeds) == ("runs", 1)
    assert (found.difference, found.low, found.high) == (found.paired.difference, found.paired.low, found.paired.high)
    assert (found.p, found.visible) == (found.paired.p_mid, found.paired.visible)


def test_methods_are_compared_over_the_seeds_that_both_have():
    a, b = drawn(5, seed=3), drawn(4, seed=4)
    found = contrast(Method(a, (0, 1, 2, 3, 4)), Method(b, (9, 4, 2, 0)))
    reference = two_way(a[[0, 2, 4]] - b[[3, 2, 1]])
    assert (found.difference, found.low, found.high) == (reference.mean, reference.low, reference.high)
    assert (found.basis, found.seeds) == ("seeds", 3)


def test_a_method_without_seeds_is_compared_with_every_seed_of_the_other():
    a, b = drawn(5, seed=3), drawn(1, seed=4)
    trained, prompted = Method(a, tuple(range(5))), Method(b, None)
    found, turned = sure(contrast(trained, prompted)), sure(contrast(prompted, trained))
    reference = two_way(a - b)
    assert (found.low, found.high, found.seeds) == (reference.low, reference.high, 5)
    assert (turned.low, turned.high, turned.p) == pytest.approx((-found.high, -found.low, found.p))


@pytest.mark.parametrize(("a", "b"), [((0, 1), (0, 1)), ((0, 1, 2, 3), (2, 3)), ((0, 1), None), ((0,), (1,)), ((0,), None)])
def test_fewer_than_three_common_seeds_claim_nothing(a, b):
    one, other = (Method(drawn(len(seeds or (0,)), seed=3 + i), seeds) for i, seeds in enumerate((a, b)))
    found = contrast(one, other)
    assert (found.basis, found.low, found.high, found.p, found.visible) == ("few seeds", None, None, None, None)
    assert found.difference == pytest.approx(one.correct.mean() - other.correct.mean())
    assert (found.paired is not None) == (len(one.correct) == len(other.correct) == 1)
    assert no_worse(one, other) is None


@settings(max_examples=50, deadline=None)
@given(DIFFERENCES)
def test_p_is_below_5_percent_just_where_the_interval_leaves_0_out(table):
    found, p = sure(two_way(table)), float(spread_of(table).p(table.mean()))
    if abs(p - 0.05) > 1e-6:
        assert (p < 0.05) == (found.low > 0 or found.high < 0)


def test_no_worse_needs_the_lower_end_of_the_90_percent_interval_above_the_margin():
    a, b = Method(drawn(5, 872, 1, better=0.1), tuple(range(5))), Method(drawn(5, 872, 2), tuple(range(5)))
    low = sure(contrast(a, b, level=0.90)).low
    assert no_worse(a, b, margin=-low + 1e-9)
    assert not no_worse(a, b, margin=-low - 1e-9)
    assert no_worse(a, a)


def test_visible_is_the_difference_at_which_p_is_5_percent():
    a, b = Method(drawn(5, seed=1), tuple(range(5))), Method(drawn(5, seed=2), tuple(range(5)))
    spread = spread_of(a.correct - b.correct)
    assert float(spread.p(sure(contrast(a, b)).visible)) == pytest.approx(0.05, rel=1e-6)


@pytest.mark.parametrize(
    ("correct", "seeds", "reason"),
    [
        (np.zeros((2, 0)), (0, 1), "no runs and documents"),
        (np.zeros(5), (0,), "no runs and documents"),
        (np.full((1, 3), 0.5), None, "other values"),
        (np.full((1, 3), np.nan), None, "other values"),
        (np.zeros((2, 3)), None, "do not fit"),
        (np.zeros((2, 3)), (1, 1), "do not fit"),
        (np.zeros((2, 3)), (0,), "do not fit"),
    ],
)
def test_tables_that_are_none_are_an_error(correct, seeds, reason):
    with pytest.raises(ValueError, match=reason):
        Method(correct, seeds)


def test_methods_on_other_numbers_of_documents_are_an_error():
    with pytest.raises(ValueError, match="60 and 61 documents"):
        contrast(Method(drawn(3, 60), (0, 1, 2)), Method(drawn(3, 61), (0, 1, 2)))


def test_no_documents_are_an_error():
    with pytest.raises(ValueError, match="no seeds and documents"):
        two_way(np.zeros((3, 0)))


def test_the_level_widens_the_interval():
    table = drawn(5) - drawn(5, seed=8)
    halves = [sure(two_way(table, level)).high - table.mean() for level in (0.8, 0.9, 0.95)]
    assert halves == sorted(halves)
    assert halves[0] > norm.ppf(0.9) * np.sqrt(spread_of(table).variance)


def test_seeds_that_are_not_shared_are_one_part_with_welchs_degrees_of_freedom():
    a, b = drawn(5, 60, 1, better=0.6), drawn(3, 60, 2)
    parts = []
    for table in (a, b):
        k, n = table.shape
        frame = pd.DataFrame(
            {"y": table.ravel().astype(float), "row": np.repeat(range(k), n), "column": np.tile(range(n), k)}
        )
        squares = anova_lm(smf.ols("y ~ C(row) + C(column)", frame).fit())["mean_sq"]
        parts.append((squares["C(row)"] / (k * n), squares["Residual"] / (k * n)))
    (by_a, chance_a), (by_b, chance_b) = parts
    alike = (1 / 5 + 1 / 3) ** 2 / ((1 / 5) ** 2 / 4 + (1 / 3) ** 2 / 2)
    df = min(alike, ttest_ind(a.mean(1), b.mean(1), equal_var=False).df)
    by_document = (a.mean(0) - b.mean(0)).var(ddof=1) / 60 - chance_a - chance_b
    half = np.sqrt(t.ppf(0.975, df) ** 2 * (by_a + by_b) + t.ppf(0.975, 59) ** 2 * by_document)
    found = sure(contrast(Method(a, (0, 1, 2, 3, 4)), Method(b, (5, 6, 7))))
    assert (found.basis, found.seeds) == ("seeds apart", 3)
    assert (found.low, found.high) == pytest.approx((found.difference - half, found.difference + half))
    assert found.difference == pytest.approx(a.mean() - b.mean())
    assert sure(contrast(Method(a, (0, 1, 2, 3, 4)), Method(b, (5, 6, 7)), level=1 - found.p)).low == pytest.approx(
        0, abs=1e-6
    )


def test_seeds_drawn_otherwise_are_not_those_of_the_same_number():
    a, b = drawn(4, 60, 1), drawn(4, 60, 2)
    assert contrast(Method(a, (0, 1, 2, 3)), Method(b, ("draw 0", "draw 1", "draw 2", "draw 3"))).basis == "seeds apart"
    assert contrast(Method(a, (0, 1, 2, 3)), Method(b, (0, 1, 7, 8))).basis == "seeds apart"  # two in common are too few
    assert contrast(Method(a[:2], (0, 1)), Method(b, (4, 5, 6, 7))).basis == "few seeds"


def test_seeds_apart_without_any_variance_are_as_unsure_as_one_run():
    ones = np.ones((3, 50), int)
    found = sure(contrast(Method(ones, (0, 1, 2)), Method(ones, (3, 4, 5))))
    low, high = tango(0, 0, 50)
    assert (found.low, found.high) == pytest.approx((low, high), rel=0.05)
    assert found.p == 1


@given(ANSWERS, st.integers(0, 2**32 - 1))
def test_seeds_apart_are_the_mirror_image_of_the_reverse_and_know_no_order(table, seed):
    rng = np.random.default_rng(seed)
    other = rng.integers(0, 2, (3, table.shape[1]))
    a, b = Method(table, tuple(range(len(table)))), Method(other, (10, 11, 12))
    found, back = sure(contrast(a, b)), sure(contrast(b, a))
    assert (found.low, found.high, found.p) == pytest.approx((-back.high, -back.low, back.p))
    moved = rng.permutation(table.shape[1])
    again = sure(contrast(Method(table[:, moved], a.seeds), Method(other[::-1][:, moved], b.seeds)))
    assert (again.low, again.high, again.p) == pytest.approx((found.low, found.high, found.p))
