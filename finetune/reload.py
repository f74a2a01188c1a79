"""The last check of every run: the saved adapter, loaded by a process that never trained, gives the same logits."""

import functools
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch

from harness_ext.loading import quieten_libraries

TOLERANCE = 1e-4
ROWS = 4


def probe(model: Any, examples: list[dict[str, Any]]) -> list[list[float]]:
    """Compute the logits of a few examples, one at a time so that no padding is involved.

    Returns:
        For each, the logits of the classes, or of the whole vocabulary after the prompt.
    """
    model.eval()
    device = next(model.parameters()).device
    rows = []
    with torch.no_grad():
        for example in examples[:ROWS]:
            ids = torch.tensor([example.get("prompt") or example["input_ids"]], device=device)
            logits = model(input_ids=ids).logits
            rows.append(logits.reshape(-1, logits.shape[-1])[-1].float().tolist())
    return rows


@functools.cache
def other_process() -> ProcessPoolExecutor:
    """Return the process that reloads adapters; started once, as its imports take longer than its work."""
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"))


def reloaded(load: tuple[Any, ...], adapter: str, examples: list[dict[str, Any]]) -> list[list[float]]:
    """Load base and adapter from disk and `probe` them; runs in the other process.

    Args:
        load: The arguments of `model.load_base`.
        adapter: The saved adapter's folder.
        examples: As for `probe`.
    """
    quieten_libraries()
    import peft

    from finetune.model import load_base

    base, _ = load_base(*load)
    return probe(peft.PeftModel.from_pretrained(base, adapter), examples)


def difference(ours: list[list[float]], theirs: list[list[float]]) -> float:
    """Return the largest absolute difference."""
    return float((torch.tensor(ours) - torch.tensor(theirs)).abs().max())
