"""The last check of every job: the adapter as saved is the one that was trained.

It is loaded beside the trained one, onto the same model, so that both sides compute alike: same weights, same device, same
precision. Knows transformers and peft; nothing of data or Trainer.
"""

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from peft.utils import ModulesToSaveWrapper

from harness_ext.errors import UserError, one_line_errors

ROWS = 4
# Of the largest logit, by the dtype of the products. Weights are compared bit for bit, so that the same kernels on the same
# numbers remain: apart by 0 on CPUs (SmolLM2, MiniLM, nf4; float32 and bfloat16). Half a step of the dtype is left to
# devices that do not always add up in one order; a head that was not saved was apart by more than the largest logit.
TOLERANCE = {"float32": 1e-5, "bfloat16": 2**-8}
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def check_saved(
    model: Any,
    folder: Path,
    examples: Sequence[dict[str, Any]],
    precision: Callable[[], AbstractContextManager],
    products: str,
) -> float:
    """Refuse a saved adapter that is not the one that was trained; say by how much their logits differ at the most.

    The model is peft's after training, without what accelerate put around its forward. `precision` gives the context that
    makes its products float32 or bfloat16. The saved adapter stays on it, and the heads that training began with are spoilt.
    """
    (trained,) = model.peft_config
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper):  # a second adapter begins with a copy of the base's head: let it be no
            for weight in module.original_module.parameters():  # numbers, so that what the folder lacks of it is seen
                weight.data.fill_(torch.nan)
    with one_line_errors(loading="The adapter as saved does not load, so it is not kept: "), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Found missing adapter keys")  # they are named below
        model.load_adapter(str(folder), "saved", torch_device=str(model.device))
    found = dict(model.named_parameters())
    for name, weight in weights.items():
        saved = found.get(name.replace(f".{trained}.", ".saved."))
        if saved is None or not torch.equal(saved, weight):
            raise UserError(f"The adapter as saved has other weights than the one trained, first {name}: it is not kept.")
    with precision():
        expected = _probe(model, examples)
        model.set_adapter("saved")
        apart = float((_probe(model, examples) - expected).abs().max())
    if not apart <= TOLERANCE[products] * float(expected.abs().max()):
        raise UserError(
            f"The adapter as saved gives other logits than the one trained (by up to {apart:.2g}): it is not kept."
        )
    return apart


def checksum(model: Any) -> int:
    """Add up the bits of all weights: another sum after training means that the base itself was changed."""
    bits = (weight.detach().reshape(-1).view(_BITS[weight.element_size()]) for weight in model.parameters())
    return sum(int(each.sum(dtype=torch.int64)) for each in bits)


def _probe(model: Any, examples: Sequence[dict[str, Any]]) -> torch.Tensor:
    """Compute the last position's logits of a few examples, ``(ROWS, ...)``, one at a time so that nothing is padded."""
    model.eval()
    ids = [torch.tensor([each.get("prompt") or each["input_ids"]], device=model.device) for each in examples[:ROWS]]
    with torch.no_grad():
        logits = [model(input_ids=row).logits for row in ids]
    return torch.stack([each.reshape(-1, each.shape[-1])[-1].float() for each in logits])
