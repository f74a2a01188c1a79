"""The head of a classifier that pools: a logistic regression on its rows' vectors, so that training starts from the probe.

A head of random weights spoils good states before it has learned anything (https://arxiv.org/abs/2202.10054, LP-FT).
"""

from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch
from torch import nn

from finetune import data
from finetune.plan import Job, Plan
from harness_ext.model import logistic

BATCH = 64
SOME = 1024  # rows that a head is fitted to before each evaluation in training; they cost as much as the rows held out


def fit(model: Any, plan: Plan, examples: Sequence[dict[str, Any]], seed: int) -> dict[str, Any]:
    """Fit a classifier's head to rows as it reads them now, under peft or not; say how, for the record.

    C is scikit-learn's own, 1: one chosen by cross-validation is a better probe, with weights so large that training on from
    it ends worse (64 rows, 200 steps: 74.1 against 75.7, log-loss 0.92 against 0.74), and on vectors that were themselves
    trained on these labels it finds every C good.
    """
    labels = [example["labels"] for example in examples]
    found = logistic.fit([vectors(model, plan.tokenizer, examples).numpy()], labels, seed=seed, choose=False)
    _copy(found.model[-1], _head(model))
    return {"rows": len(labels), "C": found.C}


def some(job: Job) -> list[dict[str, Any]]:
    """Return a job's rows, of many the first `SOME`, half of them of each class."""
    if len(job.examples) <= SOME:
        return job.examples
    classes = ((each for each in job.examples if each["labels"] == label) for label in (0, 1))
    return [example for each in classes for example in islice(each, SOME // 2)]


@torch.no_grad()
def vectors(model: Any, tokenizer: Any, examples: Sequence[dict[str, Any]]) -> torch.Tensor:
    """Return what encoded rows come to, ``(rows, hidden)`` in float32 on the CPU."""
    was_training = model.training
    model.eval()
    order = sorted(range(len(examples)), key=lambda row: data.length(examples[row]))  # little padding
    found = []
    for start in range(0, len(order), BATCH):
        batch = data.collate_sentences([examples[row] for row in order[start : start + BATCH]], tokenizer)
        inputs = {name: column.to(model.device) for name, column in batch.items() if name != "labels"}
        found.append(model(**inputs).vectors.float().cpu())
    model.train(was_training)
    back = torch.tensor(order).argsort()
    return torch.cat(found)[back]


def _head(model: Any) -> nn.Linear:
    head = model.get_base_model().classifier if hasattr(model, "get_base_model") else model.classifier
    return head.modules_to_save["default"] if hasattr(head, "modules_to_save") else head


@torch.no_grad()
def _copy(regression: Any, head: nn.Linear) -> None:
    """Let a head's two logits be apart by what scikit-learn's decision function says."""
    for part, weights in (("weight", regression.coef_[0]), ("bias", regression.intercept_[0])):
        half = torch.as_tensor(weights / 2)
        getattr(head, part).copy_(torch.stack([-half, half]))
