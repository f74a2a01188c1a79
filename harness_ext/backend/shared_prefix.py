"""Prompts read behind what they all begin with, in batches that fit the memory.

This is compared with the model asked plainly before it is used. Knows `verified.VerifiedLM`; nothing of what is asked.
"""

from functools import partial
from typing import Any

from harness_ext.backend import batches, selfcheck
from harness_ext.backend.engine import PrefixReader
from harness_ext.backend.verified import CANNOT
from harness_ext.model.lengths import window_below
from harness_ext.task.prompts import common_prefix


class NotCovered(Exception):  # noqa: N818  it is no mistake: there is another way
    """Requests cannot be run this way; says why."""


class SharedPrefix:
    """Reads a model's prompts behind their common prefix; the last one is kept for further prompts that it fits."""

    def __init__(self, lm: Any) -> None:
        self._lm = lm
        self._reader: PrefixReader | None = None

    def reader(self, prompts: list[list[int]], *, leave: int = 1, ahead: int = 0) -> PrefixReader:
        """Return a reader of the prompts' common prefix, the last one if it fits.

        Args:
            prompts: Tokens.
            leave: Tokens of its own that each prompt keeps at least.
            ahead: Tokens that may be written after each.

        Raises:
            NotCovered: The model does not answer right so.
        """
        prefix = common_prefix(prompts, leave)
        last = self._reader.prefix if self._reader else None
        if not (last and len(last) >= len(prefix) // 2 and prefix[: len(last)] == last):
            self._reader = self._verified([min(prompts, key=len), max(prompts, key=len)], prefix)
        if self._reader is None:
            raise NotCovered("the model cannot read a shared prefix")
        window = window_below(self._lm.model.config, max(map(len, prompts)) + ahead)
        if window is not None and not self._reader.has_windows:
            raise NotCovered(f"the model looks back {window} tokens in a way of its own")
        return self._reader

    def room(self, reader: PrefixReader) -> batches.Room:
        """Return how many rows go together, by the memory that the device has beside the weights."""
        lm = self._lm
        config = lm.model.config.get_text_config()
        hidden = getattr(config, "hidden_size", 0) or 1024
        widest = max(getattr(config, "intermediate_size", 0) or 4 * hidden, hidden)
        per_token = 8 * (widest + hidden) * lm.model.dtype.itemsize
        # Of a row's last token: as computed, in float32, and what is made of them.
        logits = 16 * getattr(config, "vocab_size", 0)
        return batches.Room(
            lm.device,
            lm.model,
            lambda width: width * per_token + logits,
            kept_bytes=reader.cache_bytes,
            limit=None if lm.batch_size == "auto" else int(lm.batch_size),
        )

    def note(self, reader: PrefixReader, room: batches.Room) -> None:
        """Add to the model's account how prompts were read."""
        account = self._lm.account
        account.batches += room.shapes
        account.path |= {
            "path": "shared prefix",
            "prefix_tokens": len(reader.prefix),
            "halved_for_memory": account.path.get("halved_for_memory", 0) + room.shortages,
        }

    def _verified(self, rows: list[list[int]], prefix: list[int]) -> PrefixReader | None:
        """Return a reader, if the model answers a few prompts right with it."""
        lm, pad = self._lm, self._lm.tokenizer.pad_token_id or 0
        try:
            if lm.examine(rows, partial(selfcheck.shared_way, lm.model, lm.device, prefix, pad)):
                return PrefixReader(lm.model, lm.device, prefix, pad)
        except CANNOT:
            pass  # an architecture with a cache or an attention of its own
        except RuntimeError as error:
            if batches.is_out_of_memory(error):
                raise
        return None
