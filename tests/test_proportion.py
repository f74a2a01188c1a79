import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from statsmodels.stats.proportion import confint_proportions_2indep, proportions_ztest

from harness_ext.evidence.proportion import newcombe, unpaired_p, wilson

COUNTS = st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_agrees_with_scipy(counts):
    reference = binomtest(*counts).proportion_ci(0.95, method="wilson")
    assert wilson(*counts) == pytest.approx((reference.low, reference.high), abs=1e-12)


def test_wilson_of_256_samples_is_the_interval_that_the_design_names():
    low, high = wilson(460, 872)
    assert (round(low, 3), round(high, 3)) == (0.494, 0.560)


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_impossible_counts_are_an_error(successes, trials):
    with pytest.raises(ValueError, match="not a proportion"):
        wilson(successes, trials)


@given(COUNTS, COUNTS)
def test_newcombe_agrees_with_statsmodels(one, other):
    reference = confint_proportions_2indep(*one, *other, method="newcomb", compare="diff", alpha=0.05)
    assert newcombe(*one, *other) == pytest.approx(reference, abs=1e-9)


def test_newcombe_is_what_his_paper_has():
    # R. G. Newcombe (1998), table II, method 10.
    assert newcombe(56, 70, 48, 80) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert newcombe(9, 10, 3, 10) == pytest.approx((0.1705, 0.8090), abs=5e-5)
    assert newcombe(10, 10, 0, 10) == pytest.approx((0.6075, 1.0), abs=5e-5)


@given(COUNTS, COUNTS)
def test_unpaired_p_agrees_with_statsmodels(one, other):
    successes, trials = (one[0], other[0]), (one[1], other[1])
    if 0 < sum(successes) < sum(trials):
        assert unpaired_p(*one, *other) == pytest.approx(proportions_ztest(successes, trials)[1], abs=1e-9)
    else:
        assert unpaired_p(*one, *other) == 1


@given(COUNTS, COUNTS)
def test_a_difference_turns_with_its_shares_and_stays_within_1(one, other):
    low, high = newcombe(*one, *other)
    assert newcombe(*other, *one) == pytest.approx((-high, -low))
    assert -1 - 1e-12 <= low <= one[0] / one[1] - other[0] / other[1] <= high <= 1 + 1e-12
    assert unpaired_p(*one, *other) == pytest.approx(unpaired_p(*other, *one))
