"""The next token of each row, by its logits: the most likely one, or one that is drawn, as a generation config says.

What shapes the scores is transformers' own, as its ``generate`` puts it together. What is drawn follows from the row's own
random numbers, so that it depends neither on the rows beside it nor on how often it was begun. Knows torch and transformers.
"""

from collections.abc import Callable, Hashable, Sequence
from copy import copy
from itertools import compress
from typing import Any

import numpy as np
import torch
from transformers import RepetitionPenaltyLogitsProcessor, TopKLogitsWarper

from harness_ext.backend.engine import PrefixReader, Row
from harness_ext.backend.logits import inner_model, nan_error

CANDIDATES = 4  # tokens looked at for ties, the best first
TIED = 64  # tokens more than the top k that are looked at, as all that are as likely as the last of them are drawn from too


class NextToken:
    """Chooses tokens; an `engine.Choose`."""

    def __init__(
        self,
        reader: PrefixReader,
        config: Any = None,  # from `merged_config`; None: greedily
        *,
        seed: Callable[[int], Sequence[int]] = lambda number: [number],  # of the random numbers of a row, by its number
        resolution: float = 0.0,  # how near logits may be, relative to the best, to be called a tie
        decides: Callable[[int], Hashable] = int,  # what a token would; those that decide the same make no tie
    ) -> None:
        self._reader, self._seed, self._resolution, self._decides = reader, seed, resolution, decides
        self._greedy, self._warpers = config, []
        if config is not None and config.do_sample:
            self._greedy = copy(config)
            self._greedy.do_sample = False
            plain = [*map(type, self._processors(self._greedy, [0]))]
            self._warpers = [each for each in self._processors(config, [0]) if type(each) not in plain]
        self._shaping = self._processors(self._greedy, [0]) if config is not None else []
        self._of_row: dict[Row, Any] = {}
        self._random: dict[Row, np.random.Generator] = {}
        self._draws = config is not None and config.do_sample

    def __call__(self, rows: list[Row], logits: torch.Tensor) -> list[int]:
        """Return a token for each row, by logits ``(rows, vocabulary)``; one that is nearly a tie is noted in its row."""
        scores = self._shaped(rows, logits.float())
        return self._drawn(rows, scores) if self._draws else self._likeliest(rows, scores)

    def _shaped(self, rows: list[Row], scores: torch.Tensor) -> torch.Tensor:
        if not self._shaping:
            return scores
        whole = [[*self._reader.prefix, *row.ids, *row.written] for row in rows]
        if [*map(type, self._shaping)] == [RepetitionPenaltyLogitsProcessor]:
            longest = max(map(len, whole))  # filled up with a token that the row has anyway
            ids = torch.tensor([[tokens[0]] * (longest - len(tokens)) + tokens for tokens in whole], device=scores.device)
            return self._shaping[0](ids, scores)
        shaped = []
        for row, tokens, score in zip(rows, whole, scores, strict=True):
            if row not in self._of_row:
                self._of_row[row] = self._processors(self._greedy, tokens[: len(tokens) - len(row.written)])
            shaped.append(self._of_row[row](torch.tensor([tokens], device=score.device), score[None])[0])
        return torch.stack(shaped)

    def _likeliest(self, rows: list[Row], scores: torch.Tensor) -> list[int]:
        best, others = scores.topk(min(CANDIDATES, scores.shape[-1]))
        near = best[:, :1] - best < self._resolution * best[:, :1].abs()
        chosen = scores.argmax(dim=-1, keepdim=True)  # of equals the first, as `generate` does
        # In one transfer: on a GPU each waits for all that was asked of it.
        told = torch.cat([chosen, best[:, :1].isnan(), others, near], dim=1).tolist()
        self._check_nan([is_nan for _, is_nan, *_ in told])
        for row, (token, _, *found) in zip(rows, told, strict=True):
            alike = compress(found, found[len(found) // 2 :])
            row.near_tie |= len({self._decides(token), *map(self._decides, alike)}) > 1
        return [token for token, *_ in told]

    def _drawn(self, rows: list[Row], scores: torch.Tensor) -> list[int]:
        ids = torch.arange(scores.shape[-1], device=scores.device).expand_as(scores)
        if top := [each.top_k for each in self._warpers if isinstance(each, TopKLogitsWarper)]:
            _, ids = scores.topk(min(top[0] + TIED, scores.shape[-1]))
            ids = ids.sort(dim=-1).values  # whatever rounding makes of their order
            scores = scores.gather(1, ids)
        for warper in self._warpers:
            scores = warper(ids, scores)
        sums = scores.softmax(dim=-1).cumsum(dim=-1)
        numbers = [[self._generator(row).random()] for row in rows]
        at = torch.searchsorted(sums, torch.tensor(numbers, dtype=sums.dtype, device=sums.device) * sums[:, -1:], right=True)
        last = (scores > -torch.inf).long().cumsum(dim=-1).argmax(dim=-1, keepdim=True)
        tokens = ids.gather(1, torch.minimum(at, last))
        told = torch.cat([tokens, sums[:, -1:].isnan().long()], dim=1).tolist()
        self._check_nan([is_nan for _, is_nan in told])
        return [token for token, _ in told]

    def _generator(self, row: Row) -> np.random.Generator:
        if row not in self._random:
            self._random[row] = np.random.default_rng([*self._seed(row.number)])
        return self._random[row]

    def _check_nan(self, are_nan: Sequence[int]) -> None:
        if any(are_nan):
            raise nan_error(self._reader.model.dtype)

    def _processors(self, config: Any, prompt: list[int]) -> Any:
        ids = torch.tensor([prompt], device=self._reader.device)
        config.max_length = len(prompt) + config.max_new_tokens
        model = inner_model(self._reader.model)
        return model._get_logits_processor(config, len(prompt), encoder_input_ids=ids, device=str(self._reader.device))


def merged_config(model: Any, settings: dict[str, Any], limit: int) -> tuple[Any, dict[str, Any]]:
    """Return the generation config that ``generate`` would follow, with settings of its, and those that are none of them."""
    model = inner_model(model)
    config, others = model._prepare_generation_config(None, **settings, max_new_tokens=limit)
    model._prepare_special_tokens(config, device=model.device)
    return config, others
