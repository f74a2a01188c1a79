"""Response text to label: the one place that decides what a model answered.

Pure functions over strings; knows nothing of models, tasks or lm-eval. Two rules stand side by side:

* ``lenient`` (the original experiment's): the first character ``0`` or ``1`` outside any thinking block.
* ``strict``: the stripped answer is the digit alone, at most followed by punctuation.

An answer that has a digit but is not strict is of kind ``other``, whatever else it says: so both rules are
settled soon after the first digit, and a model need not write on (`is_settled`).

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
_BEGUN_TAG = re.compile(
    "(?:" + "|".join(re.escape(tag[:end]) for tag in _TAGS for end in range(1, len(tag))) + r")\Z", re.IGNORECASE
)
_LONGEST_TAG = max(map(len, _TAGS))
_DIGIT = re.compile("[01]")


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
        words: Names of the classes 0 and 1; a response with one of them instead of a digit is of kind ``word``.

    Returns:
        The label and kind. Digits inside a thinking block, closed or not, are never read.

    Raises:
        ValueError: `rule` is unknown.
    """
    if rule not in RULES:
        raise ValueError(f"Unknown rule {rule!r}: expected one of {', '.join(RULES)}.")
    answer, unfinished = split_thinking(text, thinking=thinking)
    if found := _DIGIT.search(answer):
        before, after = answer[: found.start()].strip(), answer[found.end() :].rstrip()
        alone = not before and not unfinished and all(map(_is_punctuation, after))
        return Reading(found[0], "label") if rule == "lenient" or alone else Reading(None, "other")
    if unfinished:
        return Reading(None, "unfinished_thinking")
    if not answer.strip():
        return Reading(None, "empty")
    if re.search(rf"\b(?:{'|'.join(map(re.escape, words))})\b", answer, re.IGNORECASE):
        return Reading(None, "word")
    return Reading(None, "other")


def is_settled(text: str, rule: str = "lenient", *, thinking: bool = False) -> bool:
    """Tell whether `read` gives the same label and kind, whatever text follows.

    Args:
        text: The beginning of a response; its last character may be incomplete (U+FFFD).
        rule: ``"lenient"`` or ``"strict"``.
        thinking: As for `read`.

    Returns:
        True only if nothing that follows can change the reading; False may also mean that it is not known yet.
    """
    if thinking and not _TAG.search(text):
        return False  # a closing tag would turn all of it into thinking
    answer, _ = split_thinking(_without_pending(text), thinking=thinking)
    found = _DIGIT.search(answer)
    if not found:
        return False
    if rule == "lenient" or answer[: found.start()].strip():
        return True
    # Space is not enough: some tokenizers take it out again when punctuation follows.
    return any(not char.isspace() and not _is_punctuation(char) for char in answer[found.end() :])


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
    found = re.search(pattern, prompt[-64:], re.IGNORECASE)
    return found[0] if found else ""


def _without_pending(text: str) -> str:
    """Cut off an end that more text may turn into another character (U+FFFD) or into a tag."""
    text = text.rstrip("\ufffd")
    begun = _BEGUN_TAG.search(text, max(0, len(text) - _LONGEST_TAG))
    return text[: begun.start()] if begun else text


def _is_punctuation(char: str) -> bool:
    return unicodedata.category(char).startswith("P")
