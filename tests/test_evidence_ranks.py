"""Many methods, against statsmodels and one comparison at a time."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from harness_ext.evidence.contrast import Method, contrast
from harness_ext.evidence.proportion import unpaired_p
from harness_ext.evidence.ranks import holm, rank_ranges, rank_ranges_of_counts


def methods(shapes, n=200, seed=0, step=0.3):
    """One method for each tuple of seeds, each better than the one before."""
    rng = np.random.default_rng(seed)
    difficulty = rng.normal(size=n)
    logits = [
        difficulty + step * place + 0.2 * rng.normal(size=(len(seeds or (0,)), 1)) for place, seeds in enumerate(shapes)
    ]
    drawn = [(rng.normal(size=mean.shape) < mean).astype(int) for mean in logits]
    return [Method(table, seeds) for table, seeds in zip(drawn, shapes, strict=True)]


def one_at_a_time(found):
    """Rank ranges from `contrast` and statsmodels' Holm."""
    pairs = [(i, j, contrast(found[i], found[j])) for i in range(len(found)) for j in range(i)]
    tested = [pair for pair in pairs if pair[2].p is not None]
    apart = multipletests([pair[2].p for pair in tested], 0.05, "holm")[0]
    best, worst = [1] * len(found), [len(found)] * len(found)
    for (i, j, pair), told in zip(tested, apart, strict=True):
        if told:
            better, worse = (i, j) if pair.difference > 0 else (j, i)
            best[worse] += 1
            worst[better] -= 1
    known = {place for pair in tested for place in pair[:2]}
    return [(best[i], worst[i]) if i in known else None for i in range(len(found))]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_holm_agrees_with_statsmodels(p):
    assert holm(np.array(p)) == pytest.approx(multipletests(p, method="holm")[1])


def test_holm_leaves_a_pair_without_a_test_out_of_the_count():
    p = np.array([0.04, np.nan, 0.01, np.nan])
    assert holm(p) == pytest.approx([0.04, np.nan, 0.02, np.nan], nan_ok=True)


@pytest.mark.parametrize(
    "shapes",
    [
        [None] * 6,
        [(0, 1, 2, 3, 4)] * 6,
        [None, (0, 1, 2), (0, 1, 2, 3, 4), None, tuple(range(10)), (7, 3, 5, 9), (0, 1), (4,), (2, 1, 0)],
    ],
)
@pytest.mark.parametrize("step", [0, 0.3])
def test_ranks_are_those_of_one_comparison_at_a_time(shapes, step):
    found = methods(shapes, step=step)
    assert rank_ranges(found) == one_at_a_time(found)


def test_ranks_hold_for_methods_that_never_vary():
    table = np.ones((3, 50), int)
    found = [Method(table, (0, 1, 2)), Method(table, (0, 1, 2)), Method(1 - table, (0, 1, 2)), Method(table[:1], None)]
    assert rank_ranges(found) == [(1, 3), (1, 3), (4, 4), (1, 3)]


def test_ranks_by_hand():
    # 40 documents of 100 that only the first has right; the other two differ in one.
    first, second = np.ones((1, 100), int), np.ones((1, 100), int)
    second[0, :40] = 0
    third = second.copy()
    third[0, 50] = 0
    assert rank_ranges([Method(second, None), Method(first, None), Method(third, None)]) == [(2, 3), (1, 1), (2, 3)]


def test_a_method_with_too_few_seeds_has_no_rank():
    good, bad, few = methods([None, None, (0, 1)], step=2)
    assert rank_ranges([good, bad, few])[2] is None
    assert None not in rank_ranges([good, bad, few])[:2]


def test_one_method_is_first_and_none_are_none():
    assert rank_ranges(methods([(0, 1)])) == [(1, 1)]
    assert rank_ranges([]) == []
    assert rank_ranges_of_counts([5], 10) == [(1, 1)]


def test_ranks_go_with_the_methods_in_any_order():
    found = methods([None, (0, 1, 2), (0, 1, 2, 3), None, (1, 2, 3)])
    order = [3, 0, 4, 1, 2]
    assert rank_ranges([found[i] for i in order]) == [rank_ranges(found)[i] for i in order]


def test_ranks_of_counts_are_those_of_the_unpaired_test():
    # 829 and 826 of 872 are what the original took for a victory.
    counts = [829, 826, 482, 460, 769]
    assert rank_ranges_of_counts(counts, 872) == [(1, 2), (1, 2), (4, 5), (4, 5), (3, 3)]
    assert unpaired_p(829, 872, 826, 872) > 0.5


@pytest.mark.slow
def test_ranks_of_250_methods_take_less_than_three_seconds():
    found = methods([None, (0, 1, 2), (0, 1, 2, 3, 4), tuple(range(10)), None] * 50, n=872, step=0.01)
    start = time.process_time()
    assert len(rank_ranges(found)) == 250
    assert time.process_time() - start < 3
