"""transformers' Trainer with this project's two losses; the loop, optimiser, schedule and checkpoints stay its own."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from transformers import DynamicCache, Trainer

from finetune.data import IGNORED, length
from harness_ext.errors import UserError

SAME_LOSS = 1e-3  # relative; bfloat16 rounds to 4e-3, float32 agrees within 1e-6


class CheckedTrainer(Trainer):
    """A Trainer that stops at the first loss that is no number."""

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, *args: Any, **kwargs: Any
    ) -> Any:
        """Compute the loss as `loss_of` does.

        Raises:
            UserError: The loss is NaN or infinite; names the likely cause.
        """
        loss, logits = self.loss_of(model, inputs)
        if not torch.isfinite(loss):
            rate = self.args.learning_rate
            cause = (
                f"the computation overflowed: try DTYPE=float32, or a learning rate below {rate:g}"
                if self.args.bf16 or next(model.parameters()).dtype != torch.float32
                else f"a learning rate of {rate:g} is too high for this model: try --set learning_rate={rate / 10:g}"
            )
            raise UserError(f"The loss is {loss.item()} after step {self.state.global_step}; likely {cause}.")
        return (loss, {"logits": logits}) if return_outputs else loss

    def loss_of(self, model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a classifier's mean cross-entropy and its logits ``(batch, 2)``."""
        logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits.float()
        return F.cross_entropy(logits, inputs["labels"]), logits


class PromptTrainer(CheckedTrainer):
    """A Trainer for prompts with a common beginning, which is run once per batch, gradients and all.

    Keys and values of the beginning are repeated over the batch, so its gradient is the sum over the rows, exactly as
    if every row had been read whole; logits are computed only where there is a target.
    """

    prefix: torch.Tensor | None = None
    prompt_loss_weight = 0.0

    def loss_of(self, model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the weighted mean cross-entropy of the next tokens, and the logits of "0" and "1", ``(batch, 2)``."""
        targets, is_answer = inputs["targets"], inputs["is_answer"]
        keep = targets.shape[1]
        if not self.prompt_loss_weight:
            targets = targets.masked_fill(~is_answer, IGNORED)
            keep -= int((targets != IGNORED).any(0).int().argmax())
        logits = last_logits(model, inputs["input_ids"], inputs["attention_mask"], keep, self.prefix).float()
        targets, is_answer = targets[:, -keep:], is_answer[:, -keep:]
        weights = torch.where(is_answer, 1.0, self.prompt_loss_weight) * (targets != IGNORED)
        each = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none", ignore_index=IGNORED)
        rows = torch.arange(len(targets), device=logits.device)
        chosen = logits[rows, keep - inputs["choice_at"]].gather(1, inputs["choices"])
        return (each * weights).sum() / weights.sum(), chosen


def last_logits(
    model: Any, ids: torch.Tensor, mask: torch.Tensor, keep: int, prefix: torch.Tensor | None = None
) -> torch.Tensor:
    """Run left-padded rows behind a common prefix.

    Args:
        model: A causal language model, or one under peft.
        ids: Tokens after the prefix, ``(batch, tokens)``.
        mask: 1 for a token, 0 for padding, same shape.
        keep: At how many positions, from the end, logits are wanted.
        prefix: Tokens before every row, ``(prefix,)``; None for none.

    Returns:
        Logits ``(batch, keep, vocabulary)``.
    """
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


def reads_prefix_once(
    trainer: PromptTrainer, collate: Callable[[int], Callable], examples: list[dict], prefix: list[int]
) -> bool:
    """Tell whether a model gives the same loss when the shared prefix is run once, by trying its extremes.

    Padding stands between prefix and row, so an attention window shorter than the longest row would see less of the
    prefix; architectures whose cache cannot be repeated, or that have none, raise.

    Args:
        trainer: Its model is asked.
        collate: From a prefix length to what batches examples behind it.
        examples: All that will be trained on or scored.
        prefix: The tokens they share.
    """
    model: Any = trainer.model
    device = trainer.args.device
    extremes = [min(examples, key=length), max(examples, key=length)]
    window = getattr(model.config.get_text_config(), "sliding_window", None)
    if window and window < length(extremes[1]):
        return False
    was_training = model.training
    losses = []
    try:
        model.eval()
        with torch.no_grad(), trainer.compute_loss_context_manager():
            for tokens in ([], prefix):
                trainer.prefix = torch.tensor(tokens, device=device) if tokens else None
                batch = {name: value.to(device) for name, value in collate(len(tokens))(extremes).items()}
                losses.append(float(trainer.loss_of(model, batch)[0]))
    except (TypeError, ValueError, NotImplementedError, RuntimeError, AttributeError):
        return False
    finally:
        model.train(was_training)
        trainer.prefix = None
    return abs(losses[0] - losses[1]) <= SAME_LOSS * max(abs(losses[0]), 1e-3)
