"""Prompts read behind what they all begin with, in batches that fit the memory.

Each way of reading is compared with the model asked plainly before it is used. Knows `verified.VerifiedLM`; nothing of what
is asked.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from harness_ext.backend import batches, selfcheck
from harness_ext.backend.engine import PrefixReader, Row
from harness_ext.backend.verified import CANNOT
from harness_ext.model.lengths import window_below
from harness_ext.task.prompts import common_prefix

WRITTEN_AHEAD = 1024  # tokens a row is expected to write at the most when batches are planned; a longer one is rare


class NotCovered(Exception):  # noqa: N818  it is no mistake: there is another way
    """Requests cannot be run this way; says why."""


class SharedPrefix:
    """Runs a model's prompts behind their common prefix; the last one is kept for further prompts that it fits."""

    def __init__(self, lm: Any) -> None:
        self._lm = lm
        self._reader: PrefixReader | None = None
        self._equal_lengths = False

    def run(
        self,
        prompts: list[list[int]],
        run: Callable[[PrefixReader, list[Row]], None],  # with rows numbered as the prompts are
        *,
        limit: int = 0,  # tokens that may be written after each
        leave: int = 1,  # tokens of its own that each row keeps at least
    ) -> list[Row]:
        """Run prompts in batches, and add to the model's account how; `NotCovered` if the model cannot read so."""
        reader, account = self._reader_of(prompts, limit, leave), self._lm.account
        if reader is None:
            raise NotCovered("the model cannot read a shared prefix")
        rows = [Row(number, ids[len(reader.prefix) :]) for number, ids in enumerate(prompts)]
        shapes, shortages = batches.run_in_batches(
            rows,
            partial(run, reader),
            length=len,
            rows=self._room(reader, min(limit, WRITTEN_AHEAD)),
            equal_lengths=self._equal_lengths,
        )
        account.batches += shapes
        account.path |= {
            "path": "shared prefix",
            "prefix_tokens": len(reader.prefix),
            "batches": "equal lengths" if self._equal_lengths else "padded",
            "halved_for_memory": account.path.get("halved_for_memory", 0) + shortages,
        }
        return rows

    def _reader_of(self, prompts: list[list[int]], limit: int, leave: int) -> PrefixReader | None:
        """Return a reader of the prompts' common prefix, the last one if it fits; None if the model cannot do it."""
        lm, prefix = self._lm, common_prefix(prompts, leave)
        last = self._reader.prefix if self._reader else None
        # Padding could push tokens out of an attention window.
        needs_equal = window_below(lm.model.config, max(map(len, prompts)) + limit) is not None
        if last and len(last) >= len(prefix) // 2 and prefix[: len(last)] == last and needs_equal <= self._equal_lengths:
            return self._reader
        extremes = [min(prompts, key=len), max(prompts, key=len)]
        pad = lm.tokenizer.pad_token_id or 0
        self._reader = None
        try:
            for self._equal_lengths in (True,) if needs_equal else (False, True):
                way = partial(selfcheck.shared_way, lm.model, lm.device, prefix, pad)
                if lm.examine(extremes, selfcheck.one_by_one(way) if self._equal_lengths else way):
                    self._reader = PrefixReader(lm.model, lm.device, prefix, pad)
                    break
        except CANNOT:
            pass  # an architecture with a cache of its own, or none
        except RuntimeError as error:
            if batches.is_out_of_memory(error):
                raise
        return self._reader

    def _room(self, reader: PrefixReader, ahead: int) -> Callable[[int], int]:
        """Return from a batch's width to its rows, by the memory that the device has beside the weights."""
        lm = self._lm
        config = lm.model.config.get_text_config()
        hidden = getattr(config, "hidden_size", 0) or 1024
        widest = max(getattr(config, "intermediate_size", 0) or 4 * hidden, hidden)
        return partial(
            batches.most_rows,
            device=lm.device,
            room=batches.room_bytes(lm.device, lm.model),
            bytes_per_token=reader.cache_bytes + 8 * (widest + hidden) * lm.model.dtype.itemsize,
            held=len(reader.prefix) + ahead,
            limit=None if lm.batch_size == "auto" else int(lm.batch_size),
        )
