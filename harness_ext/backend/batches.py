"""Batches by memory and tokens rather than by rows; halved when memory runs out, and nothing done is lost.

Knows torch; nothing of models, prompts or answers.
"""

import gc
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import psutil
import torch

from harness_ext.model import memory

Item = TypeVar("Item")

# Padded tokens that one forward pass reads at the most. On a CPU more only pushes activations out of the cache (measured:
# `make bench`); a GPU wants more to do, and this many is what a 7B model fills its units with (not measured here).
MOST_TOKENS = {"cpu": 1024, "cuda": 16384, "mps": 2048}
# Of the memory that a device has beside the weights; the rest is for what cannot be foreseen. Not of what is free just
# then: in 16 bits a batch's shape decides roundings, and with them answers; the same request is to make the same batches.
SHARE = 0.6


@dataclass(frozen=True)
class Ran:
    """How items were run: how often in each `shape` of a batch, and how often memory ran out."""

    shapes: Counter[str]
    shortages: int


def shape(rows: int, tokens: int) -> str:
    """Name the shape of a batch as records do."""
    return f"{rows} x {tokens}"


def free_bytes(device: torch.device) -> int:
    """Return the memory that is free for batches now."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return psutil.virtual_memory().available


def room_bytes(device: torch.device, model: Any) -> int:
    """Return the memory that a device has beside a model's weights, whatever else is in it now."""
    return memory.total(str(device)) - sum(weight.nbytes for weight in model.parameters())


def most_rows(
    width: int, device: torch.device, *, room: int, bytes_per_token: int, held: int = 0, limit: int | None = None
) -> int:
    """Return how many rows go into one batch.

    Args:
        width: Tokens of the longest row, at least 1.
        device: Where the model is.
        room: From `room_bytes`.
        bytes_per_token: What a token of a row needs while it is read, its keys and values included.
        held: Tokens more that each row keeps: a shared prefix, and what will be written.
        limit: The user's own limit of rows.
    """
    by_tokens = MOST_TOKENS.get(device.type, MOST_TOKENS["cpu"]) // width
    by_memory = int(SHARE * room) // (bytes_per_token * (width + held))
    return max(1, min(by_tokens, by_memory, limit or by_tokens))


def run_in_batches(
    items: Sequence[Item],
    run: Callable[[list[Item]], None],
    *,
    length: Callable[[Item], int],
    rows: Callable[[int], int],
    equal_lengths: bool = False,
) -> Ran:
    """Run all items in batches, the longest first, so that a lack of memory shows at once; a single one must fit.

    Args:
        items: What to run.
        run: Runs a batch, and leaves in each item how far it has come; one cut short for memory is run again, in parts.
        length: Tokens of an item; may grow while it runs.
        rows: From the longest length in a batch to how many items may be in it.
        equal_lengths: Never put items of different lengths together.
    """
    waiting = sorted(items, key=length, reverse=True)
    most: int | None = None
    shortages, shapes = 0, Counter[str]()
    while waiting:
        width = max(1, length(waiting[0]))
        size = min(rows(width), most or len(waiting))
        batch = waiting[:size]
        if equal_lengths:
            batch = [item for item in batch if length(item) == length(batch[0])]
        try:
            run(batch)
            shapes[shape(len(batch), width)] += 1
            del waiting[: len(batch)]
        except RuntimeError as error:
            if not is_out_of_memory(error) or len(batch) == 1:
                raise
            waiting.sort(key=length, reverse=True)  # what has been written counts too
            most = len(batch) // 2
            shortages += 1
        if shortages:
            free_memory()  # outside the handler, which would keep the batch's tensors alive
    return Ran(shapes, shortages)


def free_memory() -> None:
    """Give back what tensors that are no longer used have held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that memory ran out, on a GPU or a CPU."""
    said = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in said or "can't allocate memory" in said
