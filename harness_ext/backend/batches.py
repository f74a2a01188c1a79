"""Batches by memory and by what is fast, rather than by rows; halved when memory runs out, and nothing done is lost.

Knows torch; nothing of models, prompts or answers.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from accelerate.utils import release_memory

from harness_ext.model import memory

Item = TypeVar("Item")

# Padded tokens that one forward pass reads, and rows that are written at once: more of them share each reading of the
# weights, until activations no longer fit a CPU's caches (`make bench`).
TOKENS = {"cpu": 2048, "cuda": 16384, "mps": 2048}
WRITTEN = {"cpu": 256, "cuda": 512, "mps": 64}
# Of the memory that a device has beside the weights; the rest is for what cannot be foreseen. Not of what is free just
# then: in 16 bits a batch's shape decides roundings, and with them answers; the same request is to make the same batches.
SHARE = 0.6


class Room:
    """How many rows go together on a device; counts what was run in which shapes."""

    def __init__(
        self,
        device: torch.device,
        model: Any,
        row_bytes: Callable[[int], int],  # what reading a row of so many tokens takes
        *,
        kept_bytes: int = 0,  # what a token of a row takes that is kept while the row is written
        limit: int | None = None,  # the user's own limit of rows
    ) -> None:
        self.shapes, self.shortages = Counter[str](), 0
        self._row_bytes, self._kept_bytes, self._limit = row_bytes, kept_bytes, limit
        # The memory that the device has beside the weights, whatever else is in it now.
        beside = memory.total(str(device)) - sum(weight.nbytes for weight in model.parameters())
        self._bytes = SHARE * beside
        self._tokens = TOKENS.get(device.type, TOKENS["cpu"])
        self._written = WRITTEN.get(device.type, WRITTEN["cpu"])

    def to_read(self, width: int) -> int:
        """Return how many rows of so many tokens, at least 1, are read at once."""
        return self._at_most(self._tokens // width, self._row_bytes(width) + self._kept_bytes * width)

    def to_write(self, width: int) -> int:
        """Return how many rows, each with room for so many tokens, are written at once."""
        return self._at_most(self._written, self._row_bytes(1) + self._kept_bytes * width)

    def halve(self) -> None:
        """Make do with half the memory, and let go of what torch keeps."""
        self.shortages += 1
        self._bytes, self._tokens, self._written = self._bytes / 2, self._tokens // 2, self._written // 2
        release_memory()

    def count(self, rows: int, width: int) -> None:
        """Count a batch that has been read."""
        self.shapes[shape(rows, width)] += 1

    def _at_most(self, rows: int, row_bytes: int) -> int:
        return max(1, min(rows, self._limit or rows, int(self._bytes) // max(1, row_bytes)))


def shape(rows: int, tokens: int) -> str:
    """Name the shape of a batch as records do."""
    return f"{rows} x {tokens}"


def free_bytes(device: torch.device) -> int:
    """Return the memory that is free for batches now, what torch keeps for later tensors included."""
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    return memory.available(str(device)) + kept


def run_in_batches(
    items: Sequence[Item],
    run: Callable[[list[Item]], None],  # cut short for memory it is run again
    *,
    length: Callable[[Item], int],  # tokens of an item
    room: Room,
    equal_lengths: bool = False,  # never put items of different lengths together
) -> None:
    """Run all items in batches, the longest first, so that a lack of memory shows at once; a single one must fit."""
    waiting = sorted(items, key=length, reverse=True)
    while waiting:
        width = max(1, length(waiting[0]))
        batch = waiting[: room.to_read(width)]
        if equal_lengths:
            batch = [item for item in batch if length(item) == length(batch[0])]
        short = False
        try:
            run(batch)
            room.count(len(batch), width)
            del waiting[: len(batch)]
        except RuntimeError as error:
            if not is_out_of_memory(error) or len(batch) == 1:
                raise
            short = True
        if short:
            room.halve()  # outside the handler, which would keep the batch's tensors alive


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that memory ran out, on a GPU or a CPU."""
    said = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in said or "can't allocate memory" in said
