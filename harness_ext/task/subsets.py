"""Which labelled sentences are trained on: balanced, seeded, nested, told apart by a hash.

Training and the baselines draw from here, so that the same SAMPLES and SEED mean the same rows. Knows labels
and row numbers; nothing of sentences or models.
"""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness_ext.errors import UserError

HELD_OUT = 500  # rows at most, and a sixth of a small split: enough to see a collapse, few enough to score often
SHARE_HELD_OUT = 6
MOST_SEED = 2**32 - 1  # numpy's
ROWS = ("all", "sentences")  # which rows of a train split subsets are drawn from
# Words that make a row a sentence: SST-2's evaluation is sentences, and 43% of its train rows have at most five words.
SENTENCE = 10


@dataclass(frozen=True)
class Subset:
    """Rows of the train split, as indices in ascending order."""

    rows: list[int]  # to train on
    held_out: list[int]  # that no subset of this seed contains
    name: str  # what the user asked for: "64" or "all"

    @property
    def hash(self) -> str:
        """SHA-256 over the row indices, 16 hex digits."""
        return hashlib.sha256(" ".join(map(str, self.rows)).encode()).hexdigest()[:16]

    @property
    def train_samples(self) -> int | str:
        """For records: a number, or ``"all"``."""
        return int(self.name) if self.name.isdecimal() else self.name


def check_samples(samples: str, name: str = "SAMPLES") -> None:
    """Check what the user typed after SAMPLES= or the like, without any data."""
    if samples != "all" and not (samples.isascii() and samples.isdecimal() and int(samples) > 0 and int(samples) % 2 == 0):
        other = " nor 'all'" if name == "SAMPLES" else ""
        raise UserError(
            f"{name} {samples!r} is {'neither ' if other else 'not '}an even number above 0 (half of it per class){other}."
        )


def read_seed(text: str) -> int:
    """Read one of the values that the user typed after SEED=."""
    if not (text.isascii() and text.isdecimal() and int(text) <= MOST_SEED):
        raise UserError(f"SEED {text!r} is no whole number from 0 to {MOST_SEED}; several are given as 0,1,2.")
    return int(text)


def check_rows(rows: str) -> None:
    """Check what the user typed after ROWS=."""
    if rows not in ROWS:
        raise UserError(f"ROWS {rows!r} is not one of {', '.join(ROWS)} (rows of at least {SENTENCE} words).")


def labels_of(train: Any, rows: str = "all") -> list[int | None]:
    """Return the label of each row of a split with columns ``sentence`` and ``label``; None of those not to be drawn."""
    if rows == "all":
        return train["label"][:]
    texts = zip(train["sentence"][:], train["label"][:], strict=True)
    return [label if len(text.split()) >= SENTENCE else None for text, label in texts]


def draw(labels: Sequence[int | None], samples: str, seed: int, name: str = "SAMPLES") -> Subset:
    """Draw a subset of the train split by the label, 0 or 1, of each of its rows; rows without one are never drawn.

    Each class is shuffled once per seed; the head of both halves is held out, and a subset of n rows takes the next
    n/2 of each. So the rows of a smaller subset are among those of a larger one. ``all`` is every row that is not
    held out, in whatever balance the split has. The `name` is what the user calls the number.
    """
    check_samples(samples, name)
    by_class = [[row for row, label in enumerate(labels) if label == value] for value in (0, 1)]
    for value, rows in enumerate(by_class):
        random.Random(f"{seed} {value}").shuffle(rows)
    half = min(HELD_OUT, sum(map(len, by_class)) // SHARE_HELD_OUT) // 2
    smaller = min(map(len, by_class))
    if half < 1 or smaller <= half:
        raise UserError(f"The train split has {smaller} rows of its rarer class: too few to train on and hold some out.")
    held_out = sorted(row for rows in by_class for row in rows[:half])
    if samples == "all":
        return Subset(sorted(row for rows in by_class for row in rows[half:]), held_out, samples)
    wanted, room = int(samples), 2 * (smaller - half)
    if wanted > room:
        raise UserError(
            f"{name} {samples} is more than the {room} balanced rows of this train split ({2 * half} are held out)."
        )
    chosen = sorted(row for rows in by_class for row in rows[half : half + wanted // 2])
    return Subset(chosen, held_out, str(wanted))
