"""Rows of tokens that begin alike, run through a causal model: the common beginning once, the rest in batches.

Keys and values of the beginning are computed once and repeated over each batch; logits are computed only where they
are wanted; a row that is done leaves the batch. Knows torch and transformers' caches; nothing of lm-eval, tokenizers or
labels.
"""

import copy
import inspect
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Any

import torch
from transformers import DynamicCache, RepetitionPenaltyLogitsProcessor

from harness_ext.errors import UserError

CANDIDATES = 4  # tokens looked at for ties, the best first


@dataclass(eq=False)
class Row:
    """A prompt behind the shared prefix, and what has been written after it."""

    number: int  # the caller's own
    ids: list[int]  # of the prompt after the prefix
    written: list[int] = field(default_factory=list)
    done: bool = False
    near_tie: bool = False  # somewhere a token that decides something else was as good as that written, but for rounding

    def __len__(self) -> int:
        return len(self.ids) + len(self.written)


Watch = Callable[[list[Row], torch.Tensor], None]  # is shown rows and their logits (rows, vocabulary) before each token


class PrefixReader:
    """A causal model of transformers, or one under peft, behind a prefix that it has already read.

    Padding may be any token, as what stands there is masked. Of keys and values, one token takes ``cache_bytes``.
    """

    def __init__(self, model: Any, device: torch.device, prefix: Sequence[int] = (), pad: int = 0) -> None:
        self.model, self.device, self.prefix, self._pad = model, device, list(prefix), pad
        self._positions = "position_ids" in inspect.signature(inner_model(model).forward).parameters
        self._cache = DynamicCache(config=model.config)
        self.cache_bytes = 0
        if self.prefix:
            ids = torch.tensor([self.prefix], device=device)
            self.forward(ids, torch.ones_like(ids), self._cache, keep=1)
            held = (each for layer in self._cache.layers for each in vars(layer).values())
            self.cache_bytes = sum(each.nbytes for each in held if isinstance(each, torch.Tensor)) // len(self.prefix)

    def read(self, rows: Sequence[Sequence[int]], keep: int = 1) -> "Batch":
        """Read rows of tokens behind the prefix, padded on their left; logits are wanted at the last `keep` positions."""
        return Batch(self, *self._lay_out(rows), keep)

    def states(self, rows: Sequence[Sequence[int]], layers: Sequence[int]) -> torch.Tensor:
        """Read rows likewise, and return some layers' states after the last token, ``(rows, layers, hidden)``."""
        cache, ids, mask = self._lay_out(rows)
        return last_states(self.model, layers, **self._inputs(ids, mask, cache))

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, cache: DynamicCache, keep: int) -> torch.Tensor:
        """Run the model over new tokens ``(batch, new)``, given the mask ``(batch, all)``; see `last_logits`."""
        return last_logits(self.model, keep, **self._inputs(ids, mask, cache))

    def _lay_out(self, rows: Sequence[Sequence[int]]) -> tuple[DynamicCache, torch.Tensor, torch.Tensor]:
        """Return the prefix's cache once for each row, the rows' tokens ``(rows, new)``, and the mask ``(rows, all)``."""
        before, width = len(self.prefix), max(map(len, rows))
        ids = torch.full((len(rows), width), self._pad)
        mask = torch.ones((len(rows), before + width), dtype=torch.long)
        for number, row in enumerate(rows):
            ids[number, width - len(row) :] = torch.tensor(row)
            mask[number, before : before + width - len(row)] = 0
        cache = copy.deepcopy(self._cache)
        if before:
            _take(cache, torch.zeros(len(rows), dtype=torch.long, device=self.device))
        return cache, ids.to(self.device), mask.to(self.device)

    def _inputs(self, ids: torch.Tensor, mask: torch.Tensor, cache: DynamicCache) -> dict[str, Any]:
        inputs = {"input_ids": ids, "attention_mask": mask, "past_key_values": cache, "use_cache": True}
        if self._positions:
            inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        return inputs


class Batch:
    """Rows being read and written together; their logits ``(rows, keep, vocabulary)`` are those after the last tokens."""

    def __init__(self, reader: PrefixReader, cache: DynamicCache, ids: torch.Tensor, mask: torch.Tensor, keep: int) -> None:
        self._reader, self._cache, self._mask = reader, cache, mask
        self.logits = reader.forward(ids, mask, cache, keep)

    def step(self, tokens: torch.Tensor) -> None:
        """Read one more token of each row, ``(rows,)``."""
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._mask), 1)], dim=1)
        self.logits = self._reader.forward(tokens[:, None], self._mask, self._cache, 1)

    def select(self, rows: torch.Tensor) -> None:
        """Keep only these rows, by index."""
        _take(self._cache, rows)
        self._mask = self._mask[rows]


def write(
    reader: PrefixReader,
    rows: list[Row],  # not done; they may have begun before
    is_done: Callable[[Row], bool],  # asked after each token of a row
    penalty: float | None = None,  # transformers' `repetition_penalty`, from the model's generation config
    watch: Watch | None = None,
    resolution: float = 0.0,  # how near logits may be, relative to the best, to be called a tie
    decides: Callable[[int], Hashable] = int,  # what a token would; those that decide the same make no tie
) -> None:
    """Write after rows, always the most likely token, until each is done; rows that are done leave the batch."""
    rows = list(rows)
    process = RepetitionPenaltyLogitsProcessor(penalty) if penalty not in (None, 1.0) else None
    batch = reader.read([row.ids + row.written for row in rows])
    while True:
        logits = batch.logits[:, -1]
        if watch:
            watch(rows, logits)
        scores = logits.float()
        if process:
            scores = process(_rectangle(reader.prefix, rows).to(scores.device), scores)
        tokens = scores.argmax(-1)
        if scores.gather(1, tokens[:, None]).isnan().any():
            raise nan_error(reader.model.dtype)
        for row, token, others in zip(rows, tokens.tolist(), _as_good(scores, resolution), strict=True):
            row.near_tie |= len({decides(token), *map(decides, others)}) > 1
            row.written.append(token)
            row.done = is_done(row)
        still = [number for number, row in enumerate(rows) if not row.done]
        if not still:
            return
        if len(still) < len(rows):
            rows = [rows[number] for number in still]
            kept = torch.tensor(still, device=tokens.device)
            tokens = tokens[kept]
            batch.select(kept)
        batch.step(tokens)


def _as_good(scores: torch.Tensor, resolution: float) -> list[list[int]]:
    """Return for each row of ``(rows, vocabulary)`` the tokens whose score is the best but for rounding."""
    best, order = scores.topk(min(CANDIDATES, scores.shape[-1]))
    near = best[:, :1] - best < resolution * best[:, :1].abs()
    return [list(compress(tokens, are_near)) for tokens, are_near in zip(order.tolist(), near.tolist(), strict=True)]


def last_logits(model: Any, keep: int, **inputs: Any) -> torch.Tensor:
    """Run a model, but its output layer at the last positions only: over all of them logits may take more than the model.

    They are of shape ``(batch, keep, vocabulary)``.
    """
    inner = inner_model(model)
    if "logits_to_keep" in inspect.signature(inner.forward).parameters:
        return model(**inputs, logits_to_keep=keep).logits[:, -keep:]
    head = inner.get_output_embeddings()
    if not isinstance(head, torch.nn.Module):
        return model(**inputs).logits[:, -keep:]
    handle = head.register_forward_pre_hook(lambda layer, args: (args[0][:, -keep:], *args[1:]))
    try:
        return model(**inputs).logits[:, -keep:]
    finally:
        handle.remove()


def last_states(model: Any, layers: Sequence[int], **inputs: Any) -> torch.Tensor:
    """Run a model but for its output layer; returns layers' states after the last tokens, ``(rows, layers, hidden)``.

    Layer 0 is the embedding; behind the last one there is the final norm.
    """
    states = inner_model(model).base_model(**inputs, output_hidden_states=True).hidden_states
    return torch.stack([states[layer][:, -1] for layer in layers], dim=1)


def inner_model(model: Any) -> Any:
    """Return the model of transformers under peft's, if there is one."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def finite(logits: torch.Tensor) -> torch.Tensor:
    """Return logits ``(..., vocabulary)`` if none is NaN; -inf is a legal way to forbid a token."""
    if torch.isnan(logits).any():
        raise nan_error(logits.dtype)
    return logits


def nan_error(dtype: torch.dtype) -> UserError:
    """Say what NaN logits mean, for a model that computes in `dtype`."""
    cause = (
        "Its weights are damaged: download them again."
        if dtype == torch.float32
        else f"It may overflow in {str(dtype).removeprefix('torch.')}: try DTYPE=float32."
    )
    return UserError(f"The model's logits are NaN, so its answers would mean nothing. {cause}")


def _take(cache: DynamicCache, rows: torch.Tensor) -> None:
    """Make a cache hold these of its rows, any number of times; every kind of layer can do what beam search needs."""
    cache.reorder_cache(rows)  # type: ignore[arg-type]


def _rectangle(prefix: list[int], rows: list[Row]) -> torch.Tensor:
    """Lay out all tokens of each row, ``(rows, longest)``, filled up with a token that the row has anyway."""
    whole = [[*prefix, *row.ids, *row.written] for row in rows]
    longest = max(map(len, whole))
    return torch.tensor([[tokens[0]] * (longest - len(tokens)) + tokens for tokens in whole])
