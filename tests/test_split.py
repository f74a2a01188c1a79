"""What decides which rows are tested: each text alone, so nothing that is done to the others moves it from test to train."""

import hashlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness_ext.errors import UserError
from harness_ext.task import split as split_module
from harness_ext.task.split import bare, place, read_test, split

ROWS = st.lists(st.tuples(st.text("abAB 1!é😀\n", min_size=1, max_size=6), st.integers(0, 1)), max_size=60)
SIZES = st.one_of(st.none(), st.floats(0.01, 0.99), st.integers(1, 8))


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Let the most that is tested be reached with few rows."""
    monkeypatch.setattr(split_module, "MOST_TESTED", 7)


def parted(rows, size):
    """Split, or None where fewer are set apart than asked for."""
    try:
        return split(rows, size)
    except UserError:
        assert isinstance(size, int)
        return None


@settings(deadline=None)
@given(ROWS, SIZES, st.randoms(use_true_random=False))
def test_order_of_rows_and_copies_of_them_count_for_nothing(rows, size, rng):
    shuffled = [*rows, *rng.sample(rows, len(rows) // 2)]
    rng.shuffle(shuffled)
    assert parted(rows, size) == parted(shuffled, size)


@settings(deadline=None)
@given(ROWS, SIZES)
def test_near_duplicates_are_on_one_side(rows, size):
    if found := parted([*rows, *((f"{text.upper()}!", label) for text, label in rows)], size):
        train, test = ({bare(text) for text, _ in part} for part in found)
        assert not train & test


@settings(deadline=None)
@given(ROWS, ROWS, SIZES)
def test_rows_that_are_added_never_move_an_old_one_between_test_and_train(old, new, size):
    before, after = parted(old, size), parted(old + new, size)
    if before and after:
        assert not set(before[1]) & set(after[0]), "tested before, trained on now"
        assert not set(before[0]) & set(after[1]), "trained on before, tested now"


@settings(deadline=None)
@given(ROWS, st.floats(0.01, 0.99))
def test_share_takes_every_row_and_what_is_tested_is_what_its_hash_says(rows, share):
    train, test = split(rows, share)
    assert sorted(train + test) == sorted(set(rows))
    assert all((place(text) < share) == ((text, label) in test) for text, label in rows)


def test_place_is_the_hash_of_letters_and_digits():
    assert place("Is it 5?!") == int(hashlib.sha256(b"isit5").hexdigest()[:12], 16) / 16**12
    assert place("!?") != place("?!"), "without any, the signs count"
    places = [place(str(number)) for number in range(2000)]
    assert sum(each < 0.5 for each in places) == pytest.approx(1000, abs=90)  # four standard deviations


def test_by_default_half_is_set_apart_and_no_more_than_the_most_of_it_tested():
    rows = [(f"text {number}", number % 2) for number in range(100)]
    train, test = split(rows)
    apart = sorted((text for text, _ in rows if place(text) < 0.5), key=place)
    assert [text for text, _ in test] == apart[:7]
    assert {text for text, _ in train} == {text for text, _ in rows} - set(apart)
    assert split(random.sample(rows, 100), 20)[1] == sorted(test + split(rows, 20)[1][7:], key=lambda row: place(row[0]))


def test_more_than_are_set_apart_is_refused_with_their_number():
    with pytest.raises(UserError, match=r"TEST=9 is more than the [0-8] rows .* \(TEST=0\.7\)"):
        split([(str(number), 0) for number in range(9)], 9)


@pytest.mark.parametrize(
    ("test", "size"), [(None, None), ("0.3", 0.3), (".5", 0.5), ("200", 200), ("1", 1), ("2e2", 200), ("new.csv", None)]
)
def test_share_number_and_file_are_told_apart(test, size):
    assert read_test(test) == size


@pytest.mark.parametrize("test", ["0", "-1", "1.5", "nan", "inf", "0.0"])
def test_number_that_is_neither_is_refused(test):
    with pytest.raises(UserError, match="no share between 0 and 1"):
        read_test(test)
