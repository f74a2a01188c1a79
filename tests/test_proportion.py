import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from harness_ext.evidence.proportion import wilson


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
