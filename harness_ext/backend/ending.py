"""When an answer that is being written is at its end: at an end token, a stop string, its budget, or settled.

Knows tokenizers, and what a token may be telling; nothing of models or batches.
"""

from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from typing import Any

from lm_eval.models.utils import postprocess_generated_text

from harness_ext.task.labels import ANSWERS, has_marker, said_by, split_thinking

SETTLES_WITHIN = 8  # tokens after an answer in which a row is looked at; one that needs more only stops later
MARKER_TOKENS = 24  # the most that a marker of thinking, and the name of a channel behind it, takes


class Ending:
    """Tells of the tokens written after a prompt whether the answer is complete; of each list it is asked as it grows."""

    def __init__(
        self,
        tokenizer: Any,
        decode: Callable[[Sequence[int]], str],  # to the text that is logged
        *,
        ends: set[int],  # end tokens
        stops: list[str],
        limit: int,  # tokens an answer may have
        settled: Callable[[str], bool] | None = None,  # whether nothing behind this beginning could change how it is read
        answers: Sequence[str] = ANSWERS,  # what is asked for label 0 and for label 1
    ) -> None:
        self.limit = limit
        self._tokenizer, self._decode, self._ends, self._stops, self._settled = tokenizer, decode, ends, stops, settled
        self._tail = max((len(stop.encode()) for stop in stops), default=0) + 1
        self._thinking: dict[int, int] = {}  # tokens of each answer, by its identity, up to which it was all thinking
        self._said = lru_cache(maxsize=None)(lambda token: said_by(tokenizer.decode([token]), answers))

    def is_reached(self, head: list[int], written: list[int]) -> bool:
        """Tell whether an answer is complete; `head` are tokens of the prompt that belong to it."""
        if self.is_plain(written) or self._is_stopped(written):
            return True
        if self._settled is None or not any(map(self._said, written[-SETTLES_WITHIN:])):
            return False
        if self._still_thinks(written):
            return False
        text = self._decode(head + written)
        if split_thinking(text, thinking=True)[1]:
            self._thinking[id(written)] = len(written)
        return self._settled(text[: _begun(text, self._stops)])

    def is_plain(self, written: list[int]) -> bool:
        """Tell whether an answer ends as it would anywhere: at an end token or its budget."""
        return written[-1] in self._ends or len(written) >= self.limit

    def decides(self, token: int) -> Hashable:
        """Return what a token says about the label (`labels.said_by`); itself where labels are unknown."""
        return token if self._settled is None else self._said(token)

    def text(self, head: list[int], written: list[int]) -> str:
        """Return the answer as it is logged."""
        return postprocess_generated_text(self._decode(head + written), stop=self._stops, think_end_token=None)

    def _still_thinks(self, written: list[int]) -> bool:
        """Tell whether an answer that was thinking when last read has no marker since: long ones are full of digits."""
        if (before := self._thinking.get(id(written))) is None:
            return False
        if has_marker(self._decode(written[max(0, before - MARKER_TOKENS) :])):
            return False
        self._thinking[id(written)] = len(written)
        return True

    def _is_stopped(self, written: list[int]) -> bool:
        """Tell whether a stop string stands at the end; the last token may have brought its end only."""
        if not self._stops:
            return False
        text = self._tokenizer.decode(written[-self._tail :])
        return any(stop in text for stop in self._stops)


def _begun(text: str, stops: list[str]) -> int:
    """Return where the longest end of a text begins that may be growing into a stop string."""
    sizes = (size for stop in stops for size in range(1, len(stop)) if text.endswith(stop[:size]))
    return len(text) - max(sizes, default=0)
