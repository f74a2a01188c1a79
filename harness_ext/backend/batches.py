"""Batches by memory and tokens rather than by rows; halved when memory runs out, and nothing done is lost.

Knows torch; nothing of models, prompts or answers.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from accelerate.utils import release_memory

from harness_ext.model import memory

Item = TypeVar("Item")

# Padded tokens that one forward pass reads at the most. On a CPU more only pushes activations out of the cache (measured:
# `make bench`); a GPU wants more to do, and this many is what a 7B model fills its units with (not measured here).
MOST_TOKENS = {"cpu": 1024, "cuda": 16384, "mps": 2048}
# Of the memory that a device has beside the weights; the rest is for what cannot be foreseen. Not of what is free just
# then: in 16 bits a batch's shape decides roundings, and with them answers; the same request is to make the same batches.
SHARE = 0.6


def shape(rows: int, tokens: int) -> str:
    """Name the shape of a batch as records do."""
    return f"{rows} x {tokens}"


def free_bytes(device: torch.device) -> int:
    """Return the memory that is free for batches now, what torch keeps for later tensors included."""
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    return memory.available(str(device)) + kept


def room_bytes(device: torch.device, model: Any) -> int:
    """Return the memory that a device has beside a model's weights, whatever else is in it now."""
    return memory.total(str(device)) - sum(weight.nbytes for weight in model.parameters())


def most_rows(
    width: int,  # tokens of the longest row, at least 1
    device: torch.device,
    *,
    room: int,  # from `room_bytes`
    bytes_per_token: int,  # what a token of a row needs while it is read, its keys and values included
    held: int = 0,  # tokens more that each row keeps: a shared prefix, and what will be written
    limit: int | None = None,  # the user's own limit of rows
) -> int:
    """Return how many rows go into one batch."""
    by_tokens = MOST_TOKENS.get(device.type, MOST_TOKENS["cpu"]) // width
    by_memory = int(SHARE * room) // (bytes_per_token * (width + held))
    return max(1, min(by_tokens, by_memory, limit or by_tokens))


def run_in_batches(
    items: Sequence[Item],
    run: Callable[[list[Item]], None],  # leaves in each item how far it has come; cut short for memory it is run again
    *,
    length: Callable[[Item], int],  # tokens of an item; may grow while it runs
    rows: Callable[[int], int],  # from the longest length in a batch to how many items may be in it
    equal_lengths: bool = False,  # never put items of different lengths together
) -> tuple[Counter[str], int]:
    """Run all items in batches, the longest first, so that a lack of memory shows at once; a single one must fit.

    Returns how often each `shape` of a batch was run, and how often memory ran out, which halves the batches.
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
            release_memory()  # outside the handler, which would keep the batch's tensors alive
    return shapes, shortages


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that memory ran out, on a GPU or a CPU."""
    said = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in said or "can't allocate memory" in said
