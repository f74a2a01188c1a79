"""Break-even against counts by hand, statsmodels' analysis of variance, and what must hold of any curves."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtri
from scipy.stats import nct
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from harness_ext.evidence.break_even import BreakEven, Crossing, break_even, text

HALF = np.repeat([[True, False]], 50, axis=1)  # a prompted method that is right on 50 of 100


def _seeds(right: int, seeds: int = 3) -> np.ndarray:
    """So many of 100 documents right, the same for every seed, those first that the prompted method has right."""
    order = np.argsort(~HALF[0], kind="stable")
    return np.tile(np.isin(np.arange(100), order[:right]), (seeds, 1))


def _place(crossing: Crossing) -> float:
    return {"within": crossing.labels, "below": 0.0, "above": math.inf}[crossing.side]


def _places(found: BreakEven | None) -> list[float]:
    assert found
    return [_place(getattr(found, name)) for name in ("mean_low", "mean", "mean_high", "most_low", "most", "most_high")]


@st.composite
def _tables(draw):
    """Draw sizes, tables of three or four seeds, and a prompted run on the same documents."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    n, seeds = draw(st.integers(5, 40)), draw(st.integers(3, 4))
    scores = draw(st.lists(st.floats(0.1, 0.9), min_size=2, max_size=5))
    sizes = [4 ** (number + 2) for number in range(len(scores))]
    return sizes, [rng.random((seeds, n)) < score for score in scores], rng.random((1, n)) < draw(st.floats(0.1, 0.9))


@pytest.mark.parametrize(
    ("right", "labels"),
    [([40, 60], 32), ([40, 45, 55], 128), ([45, 60, 48, 50], 1024), ([45, 65, 40, 60], 512)],
)
def test_mean_crosses_where_a_line_in_log_labels_does_and_for_good(right, labels):
    found = break_even([16, 64, 256, 1024][: len(right)], [_seeds(each) for each in right], HALF)
    assert found
    assert found.mean.side == "within"
    assert found.mean.labels == pytest.approx(labels)
    # The seeds do not differ: 95% of them are where their mean is.
    assert found.most == found.mean


@pytest.mark.parametrize(("right", "side", "said"), [([50, 55], "below", "< 16"), ([30, 49], "above", "> 1,024")])
def test_outside_what_was_run_is_said(right, side, said):
    found = break_even([16, 1024], [_seeds(each) for each in right], HALF)
    assert found
    assert found.mean.side == side
    assert text(found.mean) == said


def test_sizes_with_fewer_than_three_seeds_do_not_count():
    tables = [_seeds(70, 2), _seeds(40), _seeds(60, 4), _seeds(10, 1)]
    found = break_even([4, 16, 64, 256], tables, HALF)
    assert found
    assert found.mean.labels == pytest.approx(32)
    assert break_even([4, 16], tables[:2], HALF) is None


def test_one_document_says_nothing_of_where_it_is():
    found = break_even([16, 64], [np.zeros((3, 1)), np.ones((3, 1))], np.zeros((1, 1)))
    assert found
    assert [found.mean.side, found.mean_low.side, found.mean_high.side] == ["below", "below", "above"]


def test_most_is_the_mean_less_deviations_that_an_analysis_of_variance_finds():
    rng = np.random.default_rng(3)
    difficulty = rng.random(120)
    prompted = difficulty[None] < 0.62
    tables = [rng.random((6, 120)) < mean + rng.normal(0, 0.1, (6, 1)) - difficulty / 4 for mean in (0.6, 1.05)]
    curve = []
    for table in tables:
        differences = table.astype(float) - prompted
        seed, document = np.indices(table.shape)
        data = {"y": differences.ravel(), "seed": seed.ravel(), "document": document.ravel()}
        squares = anova_lm(ols("y ~ C(seed) + C(document)", data).fit())["mean_sq"]
        curve.append(differences.mean() - ndtri(0.95) * math.sqrt((squares["C(seed)"] - squares["Residual"]) / 120))
    found = break_even([16, 64], tables, prompted)
    assert found
    assert curve[0] < 0 < curve[1]
    assert found.most.labels == pytest.approx(16 * 4 ** (curve[0] / (curve[0] - curve[1])))


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_upper_end_of_most_is_that_of_a_normal_tolerance_limit_where_sentences_are_no_noise(seeds):
    """The bound on what 95% of normal seeds exceed, by scipy's noncentral t."""
    n, rng = 10_000, np.random.default_rng(seeds)
    tables = [rng.random((seeds, n)) < mean + 0.06 * rng.standard_normal((seeds, 1)) for mean in (0.3, 0.9)]
    factor = nct.ppf(0.95, seeds - 1, ndtri(0.95) * math.sqrt(seeds)) / math.sqrt(seeds)
    bounds = [table.mean() - factor * table.mean(1).std(ddof=1) - 0.5 for table in tables]
    found = break_even([16, 1024], tables, np.tile([[True, False]], n // 2))
    assert found
    if bounds[1] < 0:
        assert found.most_high.side == "above"
    else:
        assert found.most_high.labels == pytest.approx(16 * 64 ** (bounds[0] / (bounds[0] - bounds[1])), rel=0.1)


@settings(max_examples=60)
@given(_tables())
def test_intervals_hold_their_crossing_and_95_percent_of_seeds_come_no_sooner_than_their_mean(drawn):
    low, mean, high, most_low, most, most_high = _places(break_even(*drawn))
    assert low <= mean <= high
    assert most_low <= most <= most_high
    assert mean <= most
    wider = _places(break_even(drawn[0], drawn[1], drawn[2], 0.99))
    assert wider[0] <= low
    assert high <= wider[2]


@settings(max_examples=60)
@given(_tables(), st.randoms())
def test_order_of_documents_and_of_seeds_does_not_matter(drawn, random):
    sizes, tables, prompted = drawn
    documents, seeds = list(range(prompted.size)), list(range(len(tables[0])))
    random.shuffle(documents)
    random.shuffle(seeds)
    moved = break_even(sizes, [table[seeds][:, documents] for table in tables], prompted[:, documents])
    assert _places(moved) == pytest.approx(_places(break_even(*drawn)))


@pytest.mark.parametrize(
    ("labels", "said"),
    [(40.4, "about 40"), (16.2, "about 16"), (7.7, "about 8"), (136.0, "about 140"), (1023.0, "about 1,000")],
)
def test_crossing_is_said_with_two_digits(labels, said):
    assert text(Crossing(labels, "within")) == said
