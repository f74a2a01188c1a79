"""A sequence-classification model, asked in the fastest way that agrees with transformers and peft alone.

Before its first answer it has to say in a batch what they say of a few sentences, one at a time, unmerged and without
padding. Knows transformers and peft; nothing of lm-eval.
"""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from harness_ext.backend import batches
from harness_ext.backend.logits import finite, inner_model
from harness_ext.backend.merging import can_merge
from harness_ext.errors import UserError
from harness_ext.model import pooled
from harness_ext.model.loading import WholeModel, put_on
from harness_ext.model.pooling import Pooling

# How far apart logits may be, as a share of the largest of them: rounding that adds up over the layers. Measured on MiniLM
# and SmolLM2, 24 sentences in batches of 8 against one at a time: 2e-6, 0.0014 and 0.021; MiniLM at wrong positions: 0.27.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 1 / 64, torch.bfloat16: 1 / 16}
LEAST_SCALE = 0.25  # small logits are differences of larger numbers, which rounding moves as before

Encoded = dict[str, list[int]]  # what the model's forward takes of a sentence


@dataclass(frozen=True)
class Way:
    """How sentences are put to the model."""

    merged: bool = False  # the adapter's weights are added to the base's
    padding: str | None = None  # the side on which shorter sentences are filled up; None: those of one length go together
    alone: bool = False  # every sentence goes by itself


class Classifier:
    """A model and its tokenizer; the way is the plainest until `find_way` has found a faster one."""

    def __init__(self, load: Callable[[], Any], tokenizer: Any, device: torch.device) -> None:
        """Load the model; `load` does that as transformers and peft do, and may be called again."""
        self._load, self.tokenizer, self._device = load, tokenizer, device
        self.model = load().to(device).eval()
        self._plain = self.base.config.get_text_config().pad_token_id  # as transformers alone finds it
        self._accepted = set(inspect.signature(self.base.forward).parameters)
        self.way = Way(alone=True)

    @property
    def base(self) -> Any:
        """The transformers model, under peft or not."""
        return inner_model(self.model)

    def encode(self, sentences: list[str]) -> list[Encoded]:
        """Tokenise sentences, to what the model's forward takes."""
        found = self.tokenizer(sentences, return_attention_mask=True)
        columns = [name for name in found if name in self._accepted]
        return [dict(zip(columns, row, strict=True)) for row in zip(*(found[name] for name in columns), strict=True)]

    def find_way(self, sentences: dict[str, Encoded]) -> dict[str, Any]:
        """Take the first way that agrees with transformers and peft alone on the shortest, a middle and longest sentence.

        Returns how that came out: ``prompts``, ``difference``, ``tolerance``, ``passed``. None at all is a UserError.
        """
        ordered = sorted(sentences, key=lambda sentence: len(sentences[sentence]["input_ids"]))
        probes = [ordered[0], ordered[len(ordered) // 2], ordered[-1]]
        alone = torch.cat([self._ask(self.tokenizer(sentence, return_tensors="pt")) for sentence in probes])
        allowed = TOLERANCE.get(self.model.dtype, TOLERANCE[torch.float16]) * max(LEAST_SCALE, float(alone.abs().max()))
        for way in self._ways():
            self._take(way)
            try:
                ours = self._logits_as_batched([sentences[sentence] for sentence in probes])
            except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError) as error:
                if batches.is_out_of_memory(error):
                    raise
                continue  # an architecture that cannot be asked so; its logits may be NaN
            apart = float((ours - alone).abs().max())
            if apart <= allowed:
                return {"prompts": len(probes), "difference": apart, "tolerance": allowed, "passed": True}
        raise UserError(
            "The model's answers differ each time it is asked the same, in every way tried: they would mean nothing."
        )

    def logits(self, rows: list[Encoded]) -> torch.Tensor:
        """Compute the logits ``(rows, classes)`` of one batch."""
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        if self.way.padding is None:
            return self._ask({name: torch.tensor(column) for name, column in columns.items()})
        return self._ask(self.tokenizer.pad(columns, padding_side=self.way.padding, return_tensors="pt"))

    def _ways(self) -> Iterator[Way]:
        """Name the ways of asking, the fastest first."""
        sides = ["right", "left"]  # on the right it leaves positions as they are
        if self.tokenizer.pad_token is None and self.tokenizer.eos_token is None:
            sides = []
        for merged in (True, False) if can_merge(self.model) else (False,):
            yield from (Way(merged, side) for side in sides)
        yield Way()
        yield Way(alone=True)

    def _take(self, way: Way) -> None:
        if way.merged and not self.way.merged:
            self.model = self.model.merge_and_unload()
        elif self.way.merged and not way.merged:
            self.model = self._load().to(self._device).eval()
        self.way = way
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        # What follows the last token that is no padding is read off by many heads; alone there is none.
        padding = self._plain if way.alone else self.tokenizer.pad_token_id
        config = self.base.config
        config.pad_token_id = config.get_text_config().pad_token_id = padding

    def _logits_as_batched(self, rows: list[Encoded]) -> torch.Tensor:
        """Ask in batches of more than one, where the way has such."""
        if self.way.padding is not None:
            return self.logits(rows)
        return torch.cat([self.logits([row] if self.way.alone else [row, row])[:1] for row in rows])

    def _ask(self, inputs: Any) -> torch.Tensor:
        accepted = {name: column.to(self._device) for name, column in inputs.items() if name in self._accepted}
        return finite(self.model(**accepted).logits).float()


def load(pretrained: str, adapter: str | None, head: list[str], pooling: str | None = None, **options: Any) -> Any:
    """Load model and adapter, whose `head` are weights or modules that it brings whole, as transformers and peft do.

    With a `pooling` (`Pooling.mode`) the head stands on pooled states in place of the model's own.
    """
    lacking = (
        "Neither the base nor the adapter holds them: they were not saved when it was trained (peft's issue 2171)."
        if adapter
        else "Download them again."
    )
    if pooling:
        model = pooled.load(pretrained, Pooling(pooling), lacking=lacking, **options)
    else:
        loader = WholeModel(AutoModelForSequenceClassification, may_lack=head, lacking=lacking)
        model = loader.from_pretrained(pretrained, **options, **({"num_labels": 2} if head else {}))
    return put_on(model, adapter, classifier=True) if adapter else model
