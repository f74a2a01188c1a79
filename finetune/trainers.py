"""transformers' Trainer with this project's two losses; the loop, optimiser, schedule and checkpoints stay its own."""

import contextlib
import functools
import inspect
import math
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from transformers import DynamicCache, Trainer

from finetune.data import IGNORED, length
from harness_ext.errors import UserError
from harness_ext.model.lengths import window_below

TIMED = 3  # batches by which the two passes are timed
ANSWERS = 2  # positions at the end that are compared: the digit's and the end token's
# How far the two passes' centred logits may be apart, of their length, by the dtype of the products. Measured on CPUs: in
# float32 at most 2e-6; in bfloat16 0.9% to 1.1% on gemma-3-270m and 1.6% to 2.7% on SmolLM2-135M, where the plain pass is as
# far from its own float32. A pass that forgets the prefix is apart by more than 100%.
SAME_ANSWER = {"float32": 1e-3, "bfloat16": 0.1}


class CheckedTrainer(Trainer):
    """A Trainer that stops where a loss is no number, and reads none off the device at a step: that would wait for it."""

    model: Any  # under peft
    train_dataset: Any  # rows in the order in which they are trained on
    eval_dataset: Any  # rows held out
    shared: dict[str, Any] | None = None  # for the record: tokens that all prompts share, run once per batch, or why not
    refit: Callable[[], dict[str, Any]] | None = None  # fits a head that is not trained
    fitted: Any = None  # what the last such fit said
    scores: Any = None  # of the rows held out
    scored_at = -1  # the step after which they were found

    @functools.cached_property
    def _columns(self) -> set[str]:
        """What the model takes of a batch; some tokenizers write token types for models that have none."""
        return set(inspect.signature(self.model.get_base_model().forward).parameters) - {"labels"}

    @property
    def in_16_bits(self) -> bool:
        """Whether products are computed in 16 bits."""
        return bool(self.args.bf16 or next(self.model.parameters()).dtype != torch.float32)

    def compute_loss(self, model: Any, inputs: dict, return_outputs: bool = False, *args: Any, **kwargs: Any) -> Any:
        """Compute the loss that is trained, or that of rows held out."""
        loss, logits = self.loss_of(model, inputs)
        if not return_outputs:
            return loss
        # Rows held out are scored by the two answers alone, which every method gives.
        return F.cross_entropy(logits, inputs["labels"]), {"logits": logits}

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, unless a loss is NaN or infinite: then name the likely cause. Nothing is saved in between."""
        for name, loss in logs.items():
            if name.endswith("loss") and not math.isfinite(loss):
                rate = self.args.learning_rate
                cause = (
                    f"the computation overflowed: try DTYPE=float32, or a learning rate below {rate:g}"
                    if self.in_16_bits
                    else f"a learning rate of {rate:g} is too high for this model: try --set learning_rate={rate / 10:g}"
                )
                raise UserError(f"The loss is {loss} after step {self.state.global_step}; likely {cause}.")
        super().log(logs, *args, **kwargs)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Count none: nobody reads it, and Trainer walks through all modules for it at every step."""
        return 0

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Score rows as Trainer does, by a head that fits today's vectors where one is fitted."""
        if self.refit:
            self.fitted = self.refit()
        self.scores, self.scored_at = super().evaluation_loop(*args, **kwargs), self.state.global_step
        return self.scores

    def final_scores(self) -> Any:
        """Return predictions and metrics of the rows held out, computed anew only if a step has been made since."""
        if self.scored_at != self.state.global_step:
            self.predict(self.eval_dataset)
        else:
            metrics = {name.replace("eval_", "test_", 1): value for name, value in self.scores.metrics.items()}
            self.scores = self.scores._replace(metrics=metrics)
            self.callback_handler.on_predict(self.args, self.state, self.control, metrics)  # loggers are told all the same
        return self.scores

    def loss_of(self, model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a classifier's mean cross-entropy and its logits ``(batch, 2)``."""
        logits = self._run(model, inputs).logits.float()
        return F.cross_entropy(logits, inputs["labels"]), logits

    def _run(self, model: Any, inputs: dict[str, Any]) -> Any:
        return model(**{name: column for name, column in inputs.items() if name in self._columns})


class ContrastiveTrainer(CheckedTrainer):
    """A Trainer that brings the vectors of rows of one class together, and those of two apart (SetFit's first stage).

    sentence-transformers' ``CosineSimilarityLoss`` over all pairs of a batch: the mean squared distance of their cosine
    from 1 or 0 (https://arxiv.org/abs/2209.11055). The rows held out are scored by what such vectors are for: `refit` fits
    the head to them first.
    """

    def loss_of(self, model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss of a batch's pairs in training, else the head's cross-entropy; and the logits ``(batch, 2)``."""
        if not model.training:
            return super().loss_of(model, inputs)
        output, labels = self._run(model, inputs), inputs["labels"]
        return pair_loss(output.vectors, labels), output.logits


def pair_loss(vectors: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the loss of all pairs of vectors ``(batch, hidden)``, which are of length 1."""
    first, second = torch.triu_indices(len(labels), len(labels), offset=1, device=labels.device)
    cosines = (vectors[first] * vectors[second]).sum(-1)
    return F.mse_loss(cosines, (labels[first] == labels[second]).to(cosines.dtype))


class PromptTrainer(CheckedTrainer):
    """A Trainer for prompts: loss between the two answers, and a part of that over the whole vocabulary.

    The latter is the former minus log p("0" or "1") where the answers part, so its share is what teaches to follow
    (and to end); without it, ``full_loss_weight`` 0, a model learns which answer is the likelier and not to give one.

    What all prompts begin with is run once per batch, gradients and all.
    Keys and values of the beginning are repeated over the batch, so its gradient is the sum over the rows, exactly as
    if every row had been read whole; logits are computed only where there is a target.
    """

    prefix: torch.Tensor | None = None
    full_loss_weight: float | None = None  # None: the cross-entropy over the whole vocabulary is all the loss
    prompt_loss_weight = 0.0

    def loss_of(self, model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss that is trained, and the logits of "0" and "1" where the answers part, ``(batch, 2)``."""
        targets, is_answer = inputs["targets"], inputs["is_answer"]
        if self.prompt_loss_weight:
            is_answer = F.pad(is_answer, (targets.shape[1] - is_answer.shape[1], 0))
        keep = is_answer.shape[1]
        logits = last_logits(model, inputs["input_ids"], inputs["attention_mask"], keep, self.prefix).float()
        targets = targets[:, -keep:]
        weights = torch.where(is_answer, 1.0, self.prompt_loss_weight) * (targets != IGNORED)
        each = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none", ignore_index=IGNORED)
        rows = torch.arange(len(targets), device=logits.device)
        chosen = logits[rows, keep - inputs["choice_at"]].gather(1, inputs["choices"])
        full = (each * weights).sum() / weights.sum()
        if self.full_loss_weight is None:
            return full, chosen
        return F.cross_entropy(chosen, inputs["labels"]) + self.full_loss_weight * full, chosen


def last_logits(
    model: Any, ids: torch.Tensor, mask: torch.Tensor, keep: int, prefix: torch.Tensor | None = None
) -> torch.Tensor:
    """Run left-padded rows ``(batch, tokens)`` behind a prefix; return the last logits ``(batch, keep, vocabulary)``."""
    before = 0 if prefix is None else len(prefix)
    options: dict[str, Any] = {"use_cache": False}
    if prefix is not None:
        cache = DynamicCache(config=model.config)
        model(input_ids=prefix[None], past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache.batch_repeat_interleave(len(ids))
        options = {"past_key_values": cache, "use_cache": True}
        mask = torch.cat([mask.new_ones(len(mask), before), mask], dim=1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)[:, before:]
    output = model(input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=keep, **options)
    return output.logits[:, -keep:]


def why_prefix_is_not_shared(
    trainer: PromptTrainer, collate: Callable, examples: list[dict], prefix: list[int]
) -> str | None:
    """Try on the extremes whether a model answers the same when the shared prefix is run once; say why not, after "because".

    Padding stands between prefix and row, so an attention window shorter than the longest row would see less of the
    prefix; architectures whose cache cannot be repeated, or that have none, raise.
    """
    if trainer.prompt_loss_weight:
        return "prompt_loss_weight is above 0"
    if not prefix:
        return "there is none"
    model: Any = trainer.model
    extremes = [min(examples, key=length), max(examples, key=length)]
    if window := window_below(model.config, length(extremes[1])):
        return f"the attention window of {window} tokens is shorter than the longest row"
    model.eval()  # Trainer puts it into training mode at every step
    answers = []
    try:
        with torch.no_grad(), trainer.accelerator.autocast():  # Trainer's own context is empty: accelerate's is what counts
            for tokens in ([], prefix):
                shared = torch.tensor(tokens, device=trainer.args.device) if tokens else None
                batch = collate(extremes, prefix_length=len(tokens))
                ids, mask = (batch[name].to(trainer.args.device) for name in ("input_ids", "attention_mask"))
                logits = last_logits(model, ids, mask, ANSWERS, shared).float()
                answers.append(logits - logits.mean(-1, keepdim=True))
    except (TypeError, ValueError, NotImplementedError, RuntimeError, AttributeError) as error:
        return f"this architecture cannot ({type(error).__name__}: {' '.join(str(error).split())[:120]})"
    apart = float((answers[1] - answers[0]).norm() / answers[0].norm())
    allowed = SAME_ANSWER["bfloat16" if trainer.in_16_bits else "float32"]
    return None if apart <= allowed else f"answers would differ by {apart:.1%}, where rounding explains {allowed:.1%}"


def passes_s(trainer: PromptTrainer, collate: Callable, prefix: list[int]) -> dict[str, float]:
    """Time both passes, forward and backward, over the first batches: ``shared_s`` and ``plain_s``, in seconds a batch.

    A pass is missing for which a GPU's memory is too small. Weights, gradients and random numbers stay as they are.
    """
    device, size, rows = trainer.args.device, trainer.args.train_batch_size, trainer.train_dataset
    weights = [weight for weight in trainer.model.parameters() if weight.requires_grad]
    found = {}
    trainer.model.train()
    with torch.random.fork_rng([device] if device.type == "cuda" else []), contextlib.suppress(torch.OutOfMemoryError):
        for name, tokens in (("shared_s", prefix), ("plain_s", [])):
            trainer.prefix = torch.tensor(tokens, device=device) if tokens else None
            seconds = []
            for start in (0, *range(0, min(TIMED * size, len(rows)), size)):
                batch = collate(rows[start : start + size], prefix_length=len(tokens))
                begun = time.perf_counter()
                with trainer.accelerator.autocast():
                    loss, _ = trainer.loss_of(trainer.model, {key: each.to(device) for key, each in batch.items()})
                torch.autograd.grad(loss, weights, allow_unused=True)
                if device.type != "cpu":
                    torch.accelerator.synchronize(device)
                seconds.append(time.perf_counter() - begun)
            found[name] = sum(seconds[1:]) / len(seconds[1:])  # at the first, libraries set themselves up
    return found
