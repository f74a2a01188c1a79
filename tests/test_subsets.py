"""Which rows are trained on: half of each class, nested, never those held out."""

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness_ext.errors import UserError
from harness_ext.task.subsets import HELD_OUT, draw, labels_of

LABELS = st.lists(st.integers(0, 1), min_size=60, max_size=300).filter(lambda labels: 25 <= sum(labels) <= len(labels) - 25)


@given(LABELS, st.integers(0, 2**32 - 1))
def test_draw_is_balanced_nested_and_disjoint_from_the_rows_held_out(labels, seed):
    small, large, everything = (draw(labels, samples, seed) for samples in ("4", "10", "all"))
    assert set(small.rows) < set(large.rows) < set(everything.rows)
    assert small.held_out == large.held_out == everything.held_out
    assert not set(everything.rows) & set(everything.held_out)
    assert len(everything.rows) + len(everything.held_out) == len(labels)
    for rows in (small.rows, large.rows, large.held_out):
        assert sum(labels[row] for row in rows) * 2 == len(rows) == len(set(rows))


def test_draw_of_another_seed_takes_other_rows():
    labels = [0, 1] * 100
    assert draw(labels, "16", 0).rows != draw(labels, "16", 1).rows
    assert draw(labels, "16", 0) == draw(labels, "16", 0)


def test_draw_holds_out_at_most_500_of_a_large_split():
    assert len(draw([0, 1] * 5000, "16", 0).held_out) == HELD_OUT == 500


def test_hash_is_of_the_row_indices():
    subset = draw([0, 1] * 100, "2", 0)
    text = f"{subset.rows[0]} {subset.rows[1]}"
    assert subset.hash == hashlib.sha256(text.encode()).hexdigest()[:16]


@pytest.mark.parametrize("samples", ["15", "0", "-2", "2.5", "", "many", "٤", "ALL"])
def test_draw_of_no_even_number_is_refused(samples):
    with pytest.raises(UserError, match="even number above 0"):
        draw([0, 1] * 100, samples, 0)


def test_draw_of_more_than_there_are_says_how_many_there_are():
    with pytest.raises(UserError, match="102 is more than the 100 balanced rows"):
        draw([0, 1] * 60, "102", 0)  # 120 rows, 20 held out


def test_draw_from_too_few_rows_is_refused():
    with pytest.raises(UserError, match="too few"):
        draw([0, 1], "2", 0)


def test_subsets_of_sentences_and_their_held_out_rows_have_ten_words_and_the_smaller_is_in_the_larger():
    texts = [("word " * (1 + row % 20)).strip() for row in range(400)]
    train: dict[str, Any] = {"sentence": texts, "label": [row // 7 % 2 for row in range(400)]}
    small, large = (draw(labels_of(train, "sentences"), samples, 3) for samples in ("8", "64"))
    assert set(small.rows) < set(large.rows)
    assert min(len(texts[row].split()) for row in (*large.rows, *large.held_out)) >= 10
    everything = draw(labels_of(train, "sentences"), "all", 3)
    assert len(everything.rows) + len(everything.held_out) == sum(len(text.split()) >= 10 for text in texts)
    assert draw(labels_of(train), "8", 3) == draw(train["label"], "8", 3)
