"""Response text to label: the one place that decides what a model answered.

Pure functions over strings; knows nothing of models, tasks or lm-eval. Two rules stand side by side:

* ``lenient`` (the original experiment's): the first character ``0`` or ``1`` outside any thinking.
* ``strict``: the stripped answer is the digit alone, at most followed by punctuation.

A task may ask for other answers (`ANSWERS`), such as ``negative`` and ``positive``: words are read whole, whatever their
case. The label is 0 or 1 all the same.

Thinking stands in blocks between tags (`THINKING_TAGS`) or in channels (`CHANNEL_MARKERS`): OpenAI's Harmony format, in
which gpt-oss answers, sends messages such as ``<|channel|>analysis<|message|>…<|end|>``, and only those of the channel
``final``, or of no channel at all, are the answer.

A response that has an answer but is not strict is of kind ``other``, whatever else it says: so both rules are
settled soon after the first answer, and a model need not write on (`is_settled`).

Try it: ``python -c "from harness_ext.task.labels import read; print(read('<think>0?</think> 1.', 'strict'))"``
"""

import functools
import re
import unicodedata
from collections.abc import Container, Sequence
from typing import NamedTuple

RULES = ("lenient", "strict")
ANSWERS = ("0", "1")  # what is asked for label 0 and label 1, unless a task says otherwise
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
    ("<|channel>", "<channel|>"),  # Gemma 4
)
# Harmony's markers; after the first three stands the name of a role, a channel or a type, which is no answer.
_START, _CHANNEL, _CONSTRAIN = "<|start|>", "<|channel|>", "<|constrain|>"
_MESSAGE, _END = "<|message|>", "<|end|>"
CHANNEL_MARKERS = (_START, _CHANNEL, _CONSTRAIN, _MESSAGE, _END, "<|return|>", "<|call|>")
CHANNELS = (_CHANNEL, f"{_CHANNEL}final{_MESSAGE}")  # what thinking in channels begins with, and what ends it
_FINAL = re.compile(r"\s*final\b")
_NAMED = {_START: re.compile(r"\s*assistant\b(?:\s+to=[^\s<]+)?"), _CONSTRAIN: re.compile(r"\s*\w+")}

# What decoders leave of a response when they drop the markers: a first channel's name that runs into the text.
_BARE = re.compile(r"\s*(?:(analysis|commentary)(?=[^\s:;.,!?'*)\-–—]|\s+to=)|(final)(?=[01])|(thought\n))")
_BARE_FINAL = "assistantfinal"

_TAGS = {tag.lower(): (pair, closes) for pair in THINKING_TAGS for tag, closes in zip(pair, (False, True), strict=True)}
_MARKERS = (*_TAGS, *CHANNEL_MARKERS)
_MARKER = re.compile("|".join(map(re.escape, _MARKERS)), re.IGNORECASE)
_BEGUN_MARKER = re.compile(
    "(?:" + "|".join(re.escape(tag[:end]) for tag in _MARKERS for end in range(1, len(tag))) + r")\Z", re.IGNORECASE
)
_LONGEST_MARKER = max(map(len, _MARKERS))
_OPENING = re.compile(  # at the end of a prompt
    "(?:"
    + "|".join(re.escape(opening) for opening, _ in THINKING_TAGS)
    + r"|<\|channel>thought|<\|channel\|>(?:(?:analysis|commentary)(?:<\|message\|>)?)?)\s*\Z",
    re.IGNORECASE,
)
# What keeps a word apart from what is yet to come. A single space may not: decoders that tidy up take it out of " n't".
_APART = re.compile(r"(?! )[\W_]| (?!n(?:'|\Z)).", re.DOTALL)


class Reading(NamedTuple):
    """What a response says."""

    label: str | None  # "0", "1" or None where the response does not follow the instruction
    kind: str  # "label", or why there is none: one of `KINDS`


def read(
    text: str,
    rule: str = "lenient",
    *,
    thinking: bool = False,
    words: Sequence[str] = ("negative", "positive"),
    answers: Sequence[str] = ANSWERS,
) -> Reading:
    """Read the label out of a response.

    Args:
        text: The raw response, thinking included.
        rule: ``"lenient"`` or ``"strict"``.
        thinking: The response may begin inside a thinking block that the prompt opened, so that
            everything before a first, unmatched closing tag is thinking. Otherwise such a tag is plain text.
        words: Names of the classes 0 and 1; a response with one of them instead of an answer is of kind ``word``.
        answers: What was asked for label 0 and for label 1 (`check_answers`).

    Returns:
        The label and kind. What stands inside a thinking block, closed or not, is never read.
    """
    if rule not in RULES:
        raise ValueError(f"Unknown rule {rule!r}: expected one of {', '.join(RULES)}.")
    answer, unfinished = split_thinking(text, thinking=thinking)
    if found := _pattern(tuple(answers)).search(answer):
        before, after = answer[: found.start()].strip(), answer[found.end() :].rstrip()
        alone = not before and not unfinished and all(map(_is_punctuation, after))
        return Reading(_label(found), "label") if rule == "lenient" or alone else Reading(None, "other")
    if unfinished:
        return Reading(None, "unfinished_thinking")
    if not answer.strip():
        return Reading(None, "empty")
    has_word = re.search(rf"\b(?:{'|'.join(map(re.escape, words))})\b", answer, re.IGNORECASE)
    return Reading(None, "word" if has_word else "other")


def is_settled(text: str, rule: str = "lenient", *, thinking: bool = False, answers: Sequence[str] = ANSWERS) -> bool:
    """Tell whether `read` gives the same of the beginning of a response, whatever text follows.

    Its last character may be incomplete (U+FFFD). True only if nothing that follows can change the reading; False may also
    mean that it is not known yet.
    """
    text = _without_pending(text)
    if thinking and not _MARKER.search(_with_markers(text)):
        return False  # a closing tag would turn all of it into thinking
    answer, _ = split_thinking(text, thinking=thinking)
    found = _pattern(tuple(answers)).search(answer)
    if not found or not (_is_digit(found[0]) or _APART.match(answer, found.end())):
        return False  # "positive" may go on to "positively"
    if rule == "lenient" or answer[: found.start()].strip():
        return True
    # Space is not enough: some tokenizers take it out again when punctuation follows.
    return any(not char.isspace() and not _is_punctuation(char) for char in answer[found.end() :])


def said_by(part: str, answers: Sequence[str] = ANSWERS) -> frozenset[int]:
    """Return the labels of which a part of a response, such as a token, may be telling: none of most parts.

    Of digits the first counts; a word is told by itself, by its beginning and by its end.
    """
    if found := _pattern(tuple(answers)).search(part):
        return frozenset({int(_label(found))})
    word = part.strip().casefold()
    whole = (answer.casefold() for answer in answers)
    told = (label for label, answer in enumerate(whole) if word and (answer.startswith(word) or answer.endswith(word)))
    return frozenset(told)


def check_answers(answers: Sequence[str]) -> None:
    """Check that two answers can be told apart as they are written: neither may stand in the other, but at its end.

    Raises:
        ValueError: They cannot.
    """
    if len(answers) != 2 or not all(isinstance(answer, str) and answer.strip() == answer != "" for answer in answers):
        raise ValueError(f"answers {answers!r}: give the texts of label 0 and of label 1, in quotes.")
    first, second = answers
    for one, other in ((first, second), (second, first)):
        found = _pattern((one, one)).search(other)
        if first.casefold() == second.casefold() or (found and found.end() < len(other)):
            raise ValueError(f"answers {one!r} and {other!r} cannot be told apart: one stands in the other.")


def split_thinking(text: str, *, thinking: bool = False) -> tuple[str, bool]:
    """Take the thinking out of a response, in time linear in its length.

    Inside a block only tags of its own family count, and they nest: the block ends where the last one opened is closed.
    Channels do not nest: each ends where its message ends or another begins.

    Returns:
        The text outside all thinking, and whether the response ends within thinking or before its final message.
    """
    text = _with_markers(text)
    outside: list[str] = []
    start, depth, family, marker = 0, 0, None, ""
    for number, match in enumerate(_MARKER.finditer(text)):
        marker = match[0].lower()
        pair, closes = _TAGS.get(marker, (CHANNELS, False))
        if depth > 0 and pair != family:
            continue
        if pair == CHANNELS:
            closes_prompts = thinking and number == 0 and marker in (_START, _CHANNEL, _END)
            if depth == 0 and not closes_prompts:
                outside.append(text[start : match.start()])
            depth, start = _after_marker(text, marker, match.end(), depth)
            family = CHANNELS
        elif depth == 0 and not closes:
            outside.append(text[start : match.start()])
            depth, family = 1, pair
        elif depth > 0:
            depth += -1 if closes else 1
            start = match.end()
        elif thinking and number == 0:
            start = match.end()
    if depth == 0:
        outside.append(text[start:])
    begun = marker in (_START, _CHANNEL, _CONSTRAIN) and not text[start:].strip()
    return "".join(outside), depth > 0 or begun


def has_marker(part: str) -> bool:
    """Tell whether a part of a response has what begins or ends thinking."""
    return bool(_MARKER.search(part)) or _BARE_FINAL in part


def ends_open(prompt: str) -> str:
    """Return what opens thinking at the end of a prompt, a tag or a channel, with the space around it; else ``""``."""
    found = _OPENING.search(prompt[-64:])
    return found[0] if found else ""


def markers_in(vocabulary: Container[str]) -> list[str]:
    """Return the tags and markers that a vocabulary has and that `read` needs to see.

    ``<|end|>`` and its like mean something else to models that do not speak in channels.
    """
    channels = CHANNEL_MARKERS if _CHANNEL in vocabulary else ()
    return [tag for tag in (*(tag for pair in THINKING_TAGS for tag in pair), *channels) if tag in vocabulary]


@functools.cache
def _pattern(answers: tuple[str, ...]) -> re.Pattern[str]:
    """Return what finds either of two answers, the first group being label 0's: a digit anywhere, else a whole word."""
    each = (f"({re.escape(one)})" if _is_digit(one) else rf"(?<![^\W_])({re.escape(one)})(?![^\W_])" for one in answers)
    return re.compile("|".join(each), re.IGNORECASE)


def _label(found: re.Match[str]) -> str:
    return "0" if found[1] is not None else "1"


def _is_digit(answer: str) -> bool:
    return len(answer) == 1 and answer in "0123456789"


def _after_marker(text: str, marker: str, end: int, depth: int) -> tuple[int, int]:
    """Tell whether a channel's thinking goes on behind a marker (1 or 0), and where what it says begins."""
    if marker == _CHANNEL:
        named = _FINAL.match(text, end)
        return (0, named.end()) if named else (1, end)
    if marker in _NAMED and (named := _NAMED[marker].match(text, end)):
        end = named.end()
    return (depth if marker in (_CONSTRAIN, _MESSAGE) else 0), end


def _with_markers(text: str) -> str:
    """Put back the markers of channels that a decoder has dropped, as in ``analysisHm, 0?assistantfinal1``."""
    bare = _BARE.match(text)
    if not bare:
        return text
    said = text[bare.end() :]
    if bare[3]:  # Gemma 4's, whose end cannot be found again
        return f"<|channel>{bare[3]}{said}"
    if bare[2]:
        return f"{CHANNELS[1]}{said}"
    end, marker = said.find(_BARE_FINAL), _MARKER.search(said)
    if end >= 0 and not (marker and marker.start() < end):
        said = f"{said[:end]}{_END}{CHANNELS[1]}{said[end + len(_BARE_FINAL) :]}"
    return f"{_CHANNEL}{bare[1]}{_MESSAGE}{said}"


def _without_pending(text: str) -> str:
    """Cut off an end that more text may turn into another character (U+FFFD) or into a marker."""
    text = text.rstrip("\ufffd")
    begun = _BEGUN_MARKER.search(text, max(0, len(text) - _LONGEST_MARKER))
    return text[: begun.start()] if begun else text


def _is_punctuation(char: str) -> bool:
    return unicodedata.category(char).startswith("P")
