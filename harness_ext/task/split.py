"""Which rows of a table are set apart to test on, decided by each text alone; identity is content.

A text's letters and digits, hashed, give it a place between 0 and 1. So neither the order of rows nor the name of a file
counts, near duplicates stay together, and rows that are added later never move an old one from test to train. Pure.
"""

import hashlib
from bisect import bisect_left
from collections.abc import Iterable

from harness_ext.errors import DataError

MOST_TESTED = 1000  # rows; those set apart beyond them are left alone, as train rows they could be test rows tomorrow
SET_APART = 0.5  # the share of places

Row = tuple[str, int]  # a text and its label, 0 or 1


def bare(text: str) -> str:
    """Reduce a text to letters and digits in small letters; one of signs alone is compared as it is."""
    return "".join(filter(str.isalnum, text.casefold())) or text


def place(text: str) -> float:
    """Return a text's place in 0-1."""
    return int.from_bytes(hashlib.sha256(bare(text).encode()).digest()[:6]) / 2**48


def read_test(test: str | None) -> float | int | None:
    """Read what the user typed after TEST=, where it is not a file: a share of all rows, or a number of them."""
    try:
        size = float(test or "")
    except ValueError:
        return None  # nothing, or a file
    if 0 < size < 1:
        return size
    if size < 1 or size % 1:  # of NaN and infinity neither is true of the rest
        raise DataError(f"TEST {test!r} is no share between 0 and 1, no whole number of rows, and no file.")
    return int(size)


def split(rows: Iterable[Row], size: float | int | None = None) -> tuple[list[Row], list[Row]]:
    """Part rows, each of which counts once, into those to train on and those to test on.

    Args:
        rows: In any order.
        size: What `read_test` returns.

    Raises:
        DataError: Fewer rows are set apart than are asked for.
    """
    rows = ordered(rows)
    first = bisect_left(rows, size if isinstance(size, float) else SET_APART, key=lambda row: place(row[0]))
    apart, train = rows[:first], rows[first:]
    most = len(apart) if isinstance(size, float) else MOST_TESTED if size is None else size
    if size and most > len(apart):
        raise DataError(
            f"TEST={size} is more than the {len(apart)} rows that are set apart: say a share of all rows instead (TEST=0.7)."
        )
    while 0 < most < len(apart) and bare(apart[most - 1][0]) == bare(apart[most][0]):
        most -= 1  # near duplicates stay together
    return train, apart[:most]


def ordered(rows: Iterable[Row]) -> list[Row]:
    """Put rows in the order of their places, whatever order they come in; each once."""
    return [row for _, row in sorted((place(row[0]), row) for row in set(rows))]
