"""The evidence's intervals and tests hold where the truth is known; docs/evidence.md has the tables."""

import pytest
from simulation import coverage_over_seeds, false_claims_among_equals, single_runs, two_runs

pytestmark = pytest.mark.slow


def test_intervals_over_seeds_cover_the_truth_as_often_as_they_say():
    for cell in coverage_over_seeds(5000):
        # With three seeds they are a little wider than they need be (97.9% in the long run).
        assert 0.925 <= cell.share <= (0.985 if cell.k == 3 else 0.975), cell
        if cell.what != "one method":  # the truth is no difference, so that what does not cover it is a false claim
            assert 1 - cell.share <= 0.055 + 0.005, cell  # of 5,000 tables, the share has a standard error of 0.3%


def test_eight_equal_methods_are_seldom_told_apart():
    for cell in false_claims_among_equals(500):
        assert cell.share <= 0.055 + 0.02, cell  # standard error 1%


def test_two_runs_are_told_apart_no_more_often_than_chance_allows():
    for n, share, exact, mid, tango in two_runs(2000):
        assert exact <= mid <= 0.05, (n, share)
        assert tango >= 0.94, (n, share)


def test_single_runs_hold_what_they_promise():
    for n, score, wilson, newcombe, unpaired in single_runs():
        assert 0.94 <= wilson <= 0.97, (n, score)
        assert 0.94 <= newcombe <= 0.97, (n, score)
        assert unpaired <= 0.056, (n, score)
