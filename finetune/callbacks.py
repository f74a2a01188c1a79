"""What watches a training run: a bar with loss and time left, and the guard against weights that do not move."""

from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import ProgressCallback

from harness_ext.errors import UserError

SHOWN = {"loss": "loss", "eval_loss": "held-out loss", "eval_score": "score"}
FIRST_STEPS = 10  # the learning rate is above 0 from the second on


class Progress(ProgressCallback):
    """transformers' bar, with the latest losses on it in place of log lines above it."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        self.latest: dict[str, str] = {}
        self.training_bar.set_description(args.run_name)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if self.training_bar is not None:
            self.latest |= {said: f"{logs[name]:.3f}" for name, said in SHOWN.items() if name in logs}
            self.training_bar.set_postfix(self.latest)


class Movement(TrainerCallback):
    """Stops a run whose trainable weights, a new head's among them, stay as they were in the first steps.

    Args:
        heads: Modules that are trained whole, by name.
    """

    def __init__(self, heads: list[str]) -> None:
        self.heads = heads
        self.before: dict[str, torch.Tensor] = {}
        self.check_at = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.before = {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}
        self.check_at = min(state.global_step + FIRST_STEPS, state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step != self.check_at:
            return
        now = dict(model.named_parameters())
        moved = {name for name, weight in self.before.items() if not torch.equal(weight, now[name])}
        self.before = {}
        if not moved:
            raise UserError(
                f"No trainable weight changed in the first {state.global_step} steps (learning rate {args.learning_rate:g})."
            )
        still = [head for head in self.heads if not any(f".{head}." in name for name in moved)]
        if still:
            raise UserError(f"The classifier's {still[0]} is new and is not being trained: name it in the recipe.")
