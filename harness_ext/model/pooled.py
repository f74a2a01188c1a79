"""A model whose tokens' states are pooled to one vector, with a linear head of two classes on top.

It stands where transformers' own classifier would: that one reads an encoder through a pooler which is random where the
encoder was trained without it. Knows transformers; nothing of training, peft or tasks.
"""

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModel
from transformers.utils import ModelOutput

from harness_ext.model.loading import WholeModel
from harness_ext.model.pooling import Pooling

HEAD = "classifier"  # as peft expects it to be called
NEW = [f"{HEAD}.weight", f"{HEAD}.bias"]  # weights that no checkpoint holds


@dataclass
class PooledOutput(ModelOutput):
    """What a text comes to."""

    logits: torch.Tensor | None = None  # (batch, 2)
    vectors: torch.Tensor | None = None  # (batch, hidden), of length 1


class PooledClassifier(nn.Module):
    """Body, pooling and head. All that transformers models have besides, such as config and dtype, is the body's."""

    base_model_prefix = "body"

    def __init__(self, body: Any, pooling: Pooling) -> None:
        super().__init__()
        if isinstance(getattr(body, "pooler", None), nn.Module):
            body.pooler = nn.Identity()  # nobody reads what it says
        self.body, self.pooling = body, pooling
        self._takes = set(inspect.signature(body.forward).parameters)  # FNet knows no mask, DistilBERT no token types
        hidden = body.config.get_text_config().hidden_size
        self.classifier = nn.Linear(hidden, 2, device=body.device, dtype=body.dtype)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "body":
                raise
            return getattr(self.body, name)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        **_: Any,  # peft hands on what transformers' classifiers take
    ) -> PooledOutput:
        """Run texts ``(batch, tokens)``, padded on either side."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        inputs = {"attention_mask": mask, "token_type_ids": token_type_ids}
        inputs = {name: each for name, each in inputs.items() if each is not None and name in self._takes}
        states = self.body(input_ids=input_ids, **inputs).last_hidden_state
        vectors = self.pooling(states.float(), mask)
        return PooledOutput(self.classifier(vectors.to(self.classifier.weight.dtype)), vectors)


def load(pretrained: str, pooling: Pooling, *, lacking: str = "Download them again.", **options: Any) -> PooledClassifier:
    """Load a body, whole but for a pooler, and put a new head on it; `options` are those of ``from_pretrained``."""
    loader = WholeModel(AutoModel, may_lack=["pooler"], lacking=lacking)
    return PooledClassifier(loader.from_pretrained(pretrained, **{"num_labels": 2, **options}), pooling).eval()
