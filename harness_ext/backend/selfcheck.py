"""Whether a model says on its way of answering what it says when it is asked plainly: one prompt, no padding, no cache.

In float32 the two agree but for 1e-5 or so. In 16 bits rounding alone moves them apart, by how much depends on the model: so
the model is read plainly once more with every product rounded another way, and the way of answering may differ by a small
multiple of that. Where there is memory for a float32 copy of the weights, the way is walked in float32 too, which tells a
mistake of any size from rounding.

Knows torch and transformers' models; nothing of lm-eval, prompts or labels.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from harness_ext.backend import batches
from harness_ext.backend.engine import PrefixReader
from harness_ext.backend.logits import logits_at

# Root mean square of what differs, relative to the plain logits' spread. Measured in bfloat16 on SmolLM2-135M and
# gemma-3-270m: ways of answering 0.3 to 0.9 of the distance to another rounding, a wrong token in the prefix 1.4 to 7
# times that; in float32 1e-6, and 0.04 to 0.2.
FLOOR, TIMES_ROUNDING = 1e-3, 2.0
SHORT = (torch.bfloat16, torch.float16)
LARGEST_COPY = 8e9  # bytes of a float32 copy of the weights that is still made within seconds

Rows = Sequence[Sequence[int]]
# Of each prompt the token written after it, and logits (2, vocabulary) before and after that token; (1, vocabulary) where
# the way of answering writes none.
Walked = list[tuple[list[int], torch.Tensor]]
Way = Callable[[Rows], Walked]


def examine(model: Any, device: torch.device, rows: Rows, way: Way) -> dict[str, Any]:
    """Compare a way of answering with the plain model, as it is and, where that is possible, in float32.

    The rows are prompts, those with the most and the least padding among them. Returns ``prompts``, ``difference``,
    ``tolerance`` and ``passed``; of a walk in float32 ``difference_float32``.
    """
    found = _compare(model, device, rows, way)
    if found["passed"] and (copied := _copyable(model, device)):
        with _in_float32(copied):
            exact = _compare(model, device, rows, way)
        found |= {"difference_float32": exact["difference"], "passed": exact["passed"]}
    return found


def plain(model: Any, device: torch.device, row: Sequence[int], keep: int = 2) -> torch.Tensor:
    """Ask a model plainly; returns the logits after the last tokens of a row, ``(keep, vocabulary)`` in float32."""
    ids = torch.tensor([list(row)], device=device)
    at = torch.arange(len(row) - keep, len(row), device=device)[None]
    return logits_at(model, at, input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)[0].float()


def distance(ours: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor]) -> float:
    """Return how far logits are from those they should be, relative to how far these are from their mean."""
    apart = spread = 0.0
    for mine, right in zip(ours, theirs, strict=True):
        usable = right.isfinite()  # -inf is a legal way to forbid a token
        mine, right = mine.to(right.device)[usable], right[usable]
        apart += float((mine - right).square().sum())
        spread += float((right - right.mean()).square().sum())
    return (apart / max(spread, 1e-30)) ** 0.5


def one_by_one(way: Way) -> Way:
    """Return a way that answers each prompt by itself, of one that answers all in a padded batch."""
    return lambda rows: [found for row in rows for found in way([row])]


def shared_way(model: Any, device: torch.device, prefix: Sequence[int], pad: int, rows: Rows) -> Walked:
    """Answer by a shared prefix: rows behind the prefix that they begin with, and one step on."""
    return read_behind(PrefixReader(model, device, prefix, pad), [row[len(prefix) :] for row in rows])


def read_behind(reader: PrefixReader, rows: Rows) -> Walked:
    """Read rows behind a reader's prefix, and one step on."""
    places = reader.places(len(rows))
    first = reader.read(rows, places)
    tokens = first[:, 0].argmax(-1).tolist()
    pairs = torch.cat([first, reader.step(tokens, places)], dim=1).float()
    return [([token], pair) for token, pair in zip(tokens, pairs, strict=True)]


def generate_way(model: Any, device: torch.device, tokenizer: Any, rows: Rows) -> Walked:
    """Answer by transformers' own ``generate``, as HFLM calls it: prompts padded on their left, and two steps."""
    pad, width = tokenizer.pad_token_id, max(map(len, rows))
    ids = torch.tensor([[*[pad] * (width - len(row)), *row] for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    output = model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=2, do_sample=False, num_beams=1, use_cache=True,
        pad_token_id=pad, output_logits=True, return_dict_in_generate=True, tokenizer=tokenizer,
    )  # fmt: skip
    logits = torch.stack(output.logits, dim=1).float()
    written = output.sequences[:, width:].tolist()
    # The second step follows the first token, also where that one was the end; what is written behind it is padding.
    return [(tokens[: logits.shape[1] - 1], pair) for tokens, pair in zip(written, logits, strict=True)]


def score_way(model: Any, device: torch.device, rows: Rows) -> Walked:
    """Answer by HFLM's way of scoring: prompts padded on their right, with no mask."""
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)
    logits = model(ids).logits
    virtual = logits.shape[1] - width  # tokens that prompt tuning has put before each row
    return [([], each[virtual + len(row) - 1][None].float()) for row, each in zip(rows, logits, strict=True)]


def _compare(model: Any, device: torch.device, rows: Rows, way: Way) -> dict[str, Any]:
    walked = way(rows)
    whole = [([*row, *written], len(logits)) for row, (written, logits) in zip(rows, walked, strict=True)]
    right = [plain(model, device, row, keep) for row, keep in whole]
    tolerance = FLOOR
    if _is_rounded(model, device):
        with _rounded_otherwise(model):
            again = [plain(model, device, row, keep) for row, keep in whole]
        tolerance = max(FLOOR, TIMES_ROUNDING * distance(again, right))
    difference = distance([logits for _, logits in walked], right)
    return {"prompts": len(rows), "difference": difference, "tolerance": tolerance, "passed": difference <= tolerance}


@contextmanager
def _rounded_otherwise(model: Any) -> Iterator[None]:
    """Move what each layer with weights gives, where that is rounded, by at most half a unit in its last place."""
    generators: dict[torch.device, torch.Generator] = {}

    def move(module: Any, args: Any, output: Any) -> Any:
        if not isinstance(output, torch.Tensor) or not (eps := _unit(module, output)):
            return None
        if output.device not in generators:
            generators[output.device] = torch.Generator(output.device).manual_seed(0)
        by = torch.rand(output.shape, generator=generators[output.device], device=output.device) - 0.5
        return (output.float() * (1 + eps * by)).to(output.dtype)

    layers = [module for module in model.modules() if module._parameters and not list(module.children())]
    handles = [module.register_forward_hook(move) for module in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _unit(module: Any, output: torch.Tensor) -> float:
    """Return the unit in the last place of what a layer gives, relative to it; 0 where that is of float32."""
    weight = getattr(module, "weight", None)
    if isinstance(weight, torch.Tensor) and weight.dtype == torch.int8:
        return 2**-7  # int8 kernels round what is multiplied by the weights as well
    return torch.finfo(output.dtype).eps if output.dtype in SHORT else 0.0


def _is_rounded(model: Any, device: torch.device) -> bool:
    """Tell whether any product may be rounded to 16 bits."""
    return torch.is_autocast_enabled(device.type) or any(weight.dtype != torch.float32 for weight in model.parameters())


def _copyable(model: Any, device: torch.device) -> list[torch.nn.Parameter]:
    """Return a model's weights if they are of 16 bits and a float32 copy is small beside the memory that is free."""
    weights = list(model.parameters())
    short = any(weight.dtype in SHORT for weight in weights)
    whole = all(weight.is_floating_point() and weight.device.type == device.type for weight in weights)
    size = 4 * sum(weight.numel() for weight in weights)
    return weights if short and whole and size <= min(LARGEST_COPY, batches.free_bytes(device) // 2) else []


@contextmanager
def _in_float32(weights: list[torch.nn.Parameter]) -> Iterator[None]:
    kept = [weight.data for weight in weights]
    try:
        for weight in weights:
            weight.data = weight.data.float()
        yield
    finally:
        for weight, data in zip(weights, kept, strict=True):
            weight.data = data
