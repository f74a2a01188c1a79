"""What the labels in a data set's column mean: which of its values is 0 and which is 1.

Knows nothing of files or models. A value counts as written whatever its capitals, spaces and ``.0`` (a table program's
whole number); what it does not say is never guessed.
"""

import re
import sys
from collections.abc import Sequence
from typing import Any

from harness_ext.errors import DataError

# Names of the classes that say by themselves which is which.
_MEANINGS = (("0", "neg", "negative", "label_0"), ("1", "pos", "positive", "label_1"))


def plain(value: Any) -> str:
    """Write a label as it is compared: a number without fraction as a whole one, a word in small letters."""
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value).strip()
    return re.sub(r"\.0+\Z", "", text) if re.fullmatch(r"[+-]?\d+\.0+", text) else text.casefold()


def by_value(classes: Sequence, source: str) -> dict[str, int]:
    """Return 0 or 1 for each value of a task's ``classes`` that stands for it, as `plain` writes it."""
    numbers = {plain(value): index for index, value in enumerate(classes)}
    if len(classes) != 2 or len(numbers) != 2:
        raise DataError(f"{source}: 'classes' must name two different values, not {list(classes)}.")
    if _are_numbers(classes):  # a column of true and false says the same
        numbers |= {"false": numbers["0"], "true": numbers["1"]}
    return numbers


def wanted(value: Any, classes: Sequence) -> str:
    """Say what a label should have been, and what to do about one that is not."""
    said = " or ".join(map(str, classes)) + "."
    if any(isinstance(each, bool) for each in classes):
        return f'{said} YAML reads a bare yes, no, on or off so: put the words in quotes, classes: ["no", "yes"].'
    if plain(value) == "-1":
        return f"{said} -1 means that the split is not labelled: name one that is with 'splits' in the task."
    if _are_numbers(classes) and re.search(r"[^\W\d_]", str(value)):
        return f"{said} If the labels are words, name them in the task: dataset_kwargs: {{classes: [that of 0, that of 1]}}."
    return said


def by_name(dataset: str, names: Sequence[str] | None, classes: Sequence) -> dict[Any, Any]:
    """Decide by a Hub data set's own names of its classes 0, 1, ... what its numbers mean.

    Returns:
        What stands for each number: a value of the task's ``classes``; empty where the numbers are taken as they are.
    """
    if not names:
        return {}
    folded = [plain(name) for name in names]
    ours = [plain(value) for value in classes]
    if not _are_numbers(classes):
        return dict(enumerate(names)) if set(ours) <= set(folded) else {}
    if ours != ["0", "1"] or len(names) != 2:  # the task turns the numbers round itself, or there are more
        return {}
    meant = [next((n for n, words in enumerate(_MEANINGS) if name in words), None) for name in folded]
    if meant == [1, 0]:
        print(
            f"Dataset {dataset!r} calls its class 0 {names[0]!r} and 1 {names[1]!r}: they are turned round.", file=sys.stderr
        )
        return {0: 1, 1: 0}
    if meant != [0, 1]:
        print(f"Dataset {dataset!r}: 0 is {names[0]!r}, 1 is {names[1]!r}.", file=sys.stderr)
    return {}


def _are_numbers(classes: Sequence) -> bool:
    return sorted(map(plain, classes)) == ["0", "1"]
