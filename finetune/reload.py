"""The last check of every job: the adapter as saved, put on the base anew, is the one that was trained.

It happens in place, so that both sides compute alike: same weights, same device, same precision. Knows transformers and
peft; nothing of data or Trainer.
"""

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch

from harness_ext.errors import UserError, one_line_errors

ROWS = 4
# Of the largest logit, by the dtype of the products. Weights are compared bit for bit, so that the same kernels on the same
# numbers remain: apart by 0 on CPUs (SmolLM2, MiniLM, nf4; float32 and bfloat16). Half a step of the dtype is left to
# devices that do not always add up in one order; a head that was not saved was apart by more than the largest logit.
TOLERANCE = {"float32": 1e-5, "bfloat16": 2**-8}
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Trained:
    """What is left of a trained adapter when it has been taken off its base.

    Attributes:
        weights: Its own, LoRA and heads, by name.
        logits: What it says of the first examples, ``(ROWS, classes or vocabulary)``.
    """

    weights: dict[str, torch.Tensor]
    logits: torch.Tensor


def remember(model: Any, examples: Sequence[dict[str, Any]], precision: Callable[[], AbstractContextManager]) -> Trained:
    """Keep what `check_saved` compares with.

    Args:
        model: A PEFT model after training, without what accelerate put around its forward.
        examples: Encoded rows.
        precision: Gives the context in which products are computed.
    """
    weights = {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}
    with precision():
        return Trained(weights, _probe(model, examples))


def check_saved(
    folder: Path,
    base: Any,
    trained: Trained,
    examples: Sequence[dict[str, Any]],
    precision: Callable[[], AbstractContextManager],
    products: str,
) -> float:
    """Put a saved adapter on a base and compare it with the one that was trained.

    Args:
        folder: The saved adapter.
        base: The base without adapter, its new heads drawn otherwise than for training; it is left so.
        trained: From `remember`.
        examples: As for `remember`.
        precision: As for `remember`.
        products: ``float32`` or ``bfloat16``: in what products are computed.

    Returns:
        The largest difference of the logits.

    Raises:
        UserError: It does not load, or is not the same.
    """
    with one_line_errors(loading="The adapter as saved does not load, so it is not kept: "), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Found missing adapter keys")  # they are named below
        model = peft.PeftModel.from_pretrained(base, str(folder), torch_device=str(base.device))
    try:
        found = dict(model.named_parameters())
        for name, weight in trained.weights.items():
            if name not in found or not torch.equal(found[name], weight):
                raise UserError(
                    f"The adapter as saved has other weights than the one trained, first {name}: it is not kept."
                )
        with precision():
            apart = float((_probe(model, examples) - trained.logits).abs().max())
        if not apart <= TOLERANCE[products] * float(trained.logits.abs().max()):
            raise UserError(
                f"The adapter as saved gives other logits than the one trained (by up to {apart:.2g}): it is not kept."
            )
        return apart
    finally:
        model.unload()


def checksum(model: Any) -> int:
    """Add up the bits of all weights: another sum after training means that the base itself was changed."""
    total = 0
    for weight in model.parameters():
        bits = weight.detach().reshape(-1).view(_BITS[weight.element_size()])
        total += int(bits.sum(dtype=torch.int64))
    return total


def _probe(model: Any, examples: Sequence[dict[str, Any]]) -> torch.Tensor:
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
            rows.append(logits.reshape(-1, logits.shape[-1])[-1].float())
    return torch.stack(rows)
