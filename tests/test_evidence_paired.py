"""Two runs on the same documents, against scipy, statsmodels, a search over likelihoods and a published example."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import binom, binomtest, norm
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar

from harness_ext.evidence.paired import compare, mcnemar, tango

COUNTS = st.integers(0, 60)


def runs(both, only_a, only_b, neither):
    a = np.repeat([True, True, False, False], [both, only_a, only_b, neither])
    b = np.repeat([True, False, True, False], [both, only_a, only_b, neither])
    return a, b


def score_statistic(only_a, only_b, n, delta):
    """Tango's: the distance from `delta` over its s.e. at the most likely P(only B right), found by search."""

    def surprise(share_b):
        share_a = share_b + delta
        shares = np.array([share_a, share_b, 1 - share_a - share_b])
        counts = np.array([only_a, only_b, n - only_a - only_b])
        return -float(np.sum(counts[counts > 0] * np.log(np.maximum(shares[counts > 0], 1e-300))))

    lowest, highest = max(0.0, -delta), (1 - delta) / 2
    found = minimize_scalar(surprise, bounds=(lowest, highest), method="bounded", options={"xatol": 1e-12})
    share_b = min((found.x, lowest, highest), key=surprise)
    return (only_a - only_b - n * delta) / np.sqrt(n * (2 * share_b + delta * (1 - delta)))


@given(COUNTS, COUNTS)
def test_exact_mcnemar_agrees_with_scipy_and_statsmodels(only_a, only_b):
    exact, _ = mcnemar(only_a, only_b)
    reference = binomtest(only_a, only_a + only_b, 0.5).pvalue if only_a + only_b else 1.0
    assert exact == pytest.approx(reference, rel=1e-9)
    assert exact == pytest.approx(statsmodels_mcnemar([[5, only_a], [only_b, 5]], exact=True).pvalue, rel=1e-9)


@given(COUNTS, COUNTS)
def test_mid_p_is_the_exact_p_less_the_probability_of_what_was_seen(only_a, only_b):
    exact, mid = mcnemar(only_a, only_b)
    if only_a == only_b:
        assert mid == 1
    else:
        assert mid == pytest.approx(exact - binom.pmf(only_a, only_a + only_b, 0.5), abs=1e-12)


def test_many_counts_at_once_have_the_p_of_each():
    only_a, only_b = np.array([0, 0, 3, 40]), np.array([0, 7, 3, 12])
    each = [mcnemar(int(x), int(y)) for x, y in zip(only_a, only_b, strict=True)]
    assert np.array_equal(np.stack(mcnemar(only_a, only_b), axis=1), each)


def test_a_published_example_comes_out():
    # Complete response before and after therapy (Cavo 2012), as R's package contingencytables 3.0.0 has it.
    assert tango(6, 16, 161) == pytest.approx((-0.1240, -0.0054), abs=5e-5)
    assert mcnemar(6, 16) == pytest.approx((0.052479, 0.034690), abs=5e-7)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 80).flatmap(lambda n: st.tuples(st.integers(0, n), st.integers(0, n), st.just(n))))
def test_tango_ends_where_the_score_statistic_reaches_its_critical_value(counts):
    only_a, only_b, n = counts[0], min(counts[1], counts[2] - counts[0]), counts[2]
    low, high = tango(only_a, only_b, n)
    z = norm.ppf(0.975)
    assert -1 <= low <= (only_a - only_b) / n <= high <= 1
    for end, critical in ((low, z), (high, -z)):
        if abs(end) < 1 - 1e-9:
            assert score_statistic(only_a, only_b, n, end) == pytest.approx(critical, abs=2e-3)


@pytest.mark.parametrize("n", [1, 2, 10, 872])
def test_tango_without_discordant_documents_is_as_wide_as_the_score_allows(n):
    # T² = n δ / (1 - δ) there, so that the end is z² / (n + z²).
    z2 = norm.ppf(0.975) ** 2
    assert tango(0, 0, n) == pytest.approx((-z2 / (n + z2), z2 / (n + z2)), abs=1e-12)


@pytest.mark.parametrize("n", [1, 5, 100])
def test_tango_where_one_run_has_all_and_the_other_nothing_ends_at_1(n):
    low, high = tango(n, 0, n)
    assert high == 1
    # T² = n (1 - δ) / (1 + δ)
    assert low == pytest.approx(brentq(lambda d: n * (1 - d) / (1 + d) - norm.ppf(0.975) ** 2, -0.99, 1), abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.tuples(COUNTS, COUNTS, COUNTS, COUNTS).filter(any), st.randoms())
def test_compare_turns_with_its_runs_and_does_not_mind_the_order_of_documents(counts, random):
    a, b = runs(*counts)
    order = list(range(a.size))
    random.shuffle(order)
    one, other, mixed = compare(a, b), compare(b, a), compare(a[order], b[order])
    assert mixed == one
    assert (other.difference, other.p_mid, other.visible) == (-one.difference, one.p_mid, one.visible)
    assert (other.low, other.high) == pytest.approx((-one.high, -one.low), abs=1e-9)
    assert (one.only_a, one.only_b) == counts[1:3]
    assert one.difference == pytest.approx(a.mean() - b.mean())
    assert -1 <= one.low <= one.difference <= one.high <= 1


@pytest.mark.parametrize(
    ("discordant", "needed"),
    # By hand: of 10, 1:9 has mid-p (1 + 1 + 10) / 1024, 2:8 (2 (1 + 10) + 45) / 1024 = 0.065. Four documents cannot show
    # anything (1/16), five can (1/32).
    [(10, 8), (5, 5), (4, 5), (0, 5)],
)
def test_visible_is_the_smallest_difference_that_the_discordant_documents_could_show(discordant, needed):
    a, b = runs(100, discordant, 0, 100 - discordant)
    assert compare(a, b).visible == pytest.approx(needed / 200)


def test_visible_is_never_more_than_all_documents():
    assert compare(*runs(2, 1, 0, 0)).visible == 1


@given(st.integers(5, 200))
def test_visible_is_told_and_one_document_less_is_not(discordant):
    visible = round(compare(*runs(0, discordant, 0, 0)).visible * discordant)
    fewer = (discordant - visible) // 2
    assert mcnemar(fewer, discordant - fewer)[1] < 0.05
    assert mcnemar(fewer + 1, discordant - fewer - 1)[1] >= 0.05


@pytest.mark.parametrize(("a", "b"), [([True], [True, False]), ([], []), ([[True]], [[True]])])
def test_runs_that_are_no_pair_are_an_error(a, b):
    with pytest.raises(ValueError, match="no pair"):
        compare(np.array(a, bool), np.array(b, bool))


def test_right_and_wrong_other_than_booleans_are_an_error():
    with pytest.raises(ValueError, match="booleans"):
        compare(np.array([1, 2]), np.array([0, 1]))
