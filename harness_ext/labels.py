"""Response text to label: the one place that decides what a model answered.

Pure functions over strings; knows nothing of models, tasks or lm-eval. Two rules stand side by side:

* ``lenient`` (the original experiment's): the first character ``0`` or ``1`` outside any thinking block.
* ``strict``: the stripped answer is the digit alone, at most followed by punctuation.

Reading left to right, a label once found never changes, whatever the model writes afterwards; only
``strict`` has to see the end of the answer.

Try it: ``python -c "from harness_ext.labels import read; print(read('<think>0?</think> 1.', 'strict'))"``
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

RULES = ("lenient", "strict")
KINDS = ("label", "empty", "word", "unfinished_thinking", "other")  # all but "label" are not following

# Tags that models are known to wrap their thinking in; matched without regard to case.
THINKING_TAGS = (
    ("<think>", "</think>"),  # Qwen3, DeepSeek-R1, QwQ, SmolLM3
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),  # EXAONE Deep
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),  # Seed-OSS
    ("[THINK]", "[/THINK]"),  # Magistral
    ("◁think▷", "◁/think▷"),  # Kimi
    ("<|begin_of_thought|>", "<|end_of_thought|>"),  # OpenThinker
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A Reasoning
)
_TAGS = {tag.lower(): (pair, closes) for pair in THINKING_TAGS for tag, closes in zip(pair, (False, True), strict=True)}
_TAG = re.compile("|".join(map(re.escape, _TAGS)), re.IGNORECASE)


class Reading(NamedTuple):
    """What a response says.

    Attributes:
        label: ``"0"``, ``"1"`` or None where the response does not follow the instruction.
        kind: ``"label"``, or why there is none: one of `KINDS`.
    """

    label: str | None
    kind: str


def read(
    text: str, rule: str = "lenient", *, thinking: bool = False, words: Sequence[str] = ("negative", "positive")
) -> Reading:
    """Read the label out of a response.

    Args:
        text: The raw response, thinking included.
        rule: ``"lenient"`` or ``"strict"``.
        thinking: The response may begin inside a thinking block that the prompt opened, so that
            everything before a first, unmatched closing tag is thinking. Otherwise such a tag is plain text.
        words: Names of the classes 0 and 1; a response with one of them but no label is of kind ``word``.

    Returns:
        The label and kind. Digits inside a thinking block, closed or not, are never read.

    Raises:
        ValueError: `rule` is unknown.
    """
    answer, unfinished = split_thinking(text, thinking=thinking)
    if rule == "lenient":
        found = re.search("[01]", answer)
    elif rule == "strict":
        found = _digit_alone(answer.strip()) if not unfinished else None
    else:
        raise ValueError(f"Unknown rule {rule!r}: expected one of {', '.join(RULES)}.")
    if found:
        return Reading(found[0], "label")
    if unfinished:
        return Reading(None, "unfinished_thinking")
    if not answer.strip():
        return Reading(None, "empty")
    if re.search(rf"\b(?:{'|'.join(map(re.escape, words))})\b", answer, re.IGNORECASE):
        return Reading(None, "word")
    return Reading(None, "other")


def split_thinking(text: str, *, thinking: bool = False) -> tuple[str, bool]:
    """Take the thinking blocks out of a response, in time linear in its length.

    Inside a block only tags of its own family count, and they nest: the block ends where the last
    one opened is closed.

    Args:
        text: The raw response.
        thinking: As for `read`.

    Returns:
        The text outside all blocks, and whether a block was opened and never closed.
    """
    outside: list[str] = []
    start, depth, family = 0, 0, None
    for number, match in enumerate(_TAG.finditer(text)):
        pair, closes = _TAGS[match[0].lower()]
        if depth == 0 and not closes:
            outside.append(text[start : match.start()])
            depth, family = 1, pair
        elif depth == 0 and thinking and number == 0:
            start = match.end()
        elif depth > 0 and pair == family:
            depth += -1 if closes else 1
            start = match.end()
    if depth == 0:
        outside.append(text[start:])
    return "".join(outside), depth > 0


def ends_open(prompt: str) -> str:
    """Return the opening thinking tag, with the space around it, that a prompt ends in; else ``""``."""
    pattern = rf"(?:{'|'.join(re.escape(opening) for opening, _ in THINKING_TAGS)})\s*\Z"
    found = re.search(pattern, prompt[-64:], re.IGNORECASE)  # the longest tag has 20 characters
    return found[0] if found else ""


def _digit_alone(answer: str) -> re.Match[str] | None:
    """Match ``0`` or ``1`` followed by nothing but punctuation (Unicode category P)."""
    if all(unicodedata.category(char).startswith("P") for char in answer[1:]):
        return re.match("[01]", answer)
    return None
