"""What watches a training run: a bar with loss and time left, and the guard against weights that do not move."""

import sys
from typing import Any

import torch
from tqdm import tqdm
from transformers import TrainerCallback

from harness_ext.errors import UserError

FIRST_STEPS = 10  # the learning rate is above 0 from the second on


class Bar(TrainerCallback):
    """A progress bar with the latest losses; nothing where standard error is no terminal."""

    def __init__(self, title: str) -> None:
        """Prepare."""
        self.title = title
        self.bar: Any = None
        self.shown: dict[str, str] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the bar, where a resumed run stands."""
        self.bar = tqdm(
            total=state.max_steps, initial=state.global_step, desc=self.title, unit="step", disable=not sys.stderr.isatty()
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Advance."""
        self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Show the latest losses."""
        names = {"loss": "loss", "eval_loss": "held-out loss", "eval_score": "score"}
        self.shown |= {said: f"{logs[name]:.3f}" for name, said in names.items() if name in logs}
        if self.bar is not None:
            self.bar.set_postfix(self.shown)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the bar."""
        self.bar.close()


class Movement(TrainerCallback):
    """Stops a run whose trainable weights, a new head's among them, stay as they were in the first steps."""

    def __init__(self, heads: list[str]) -> None:
        """Prepare.

        Args:
            heads: Modules that are trained whole, by name.
        """
        self.heads = heads
        self.before: dict[str, torch.Tensor] = {}
        self.check_at = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Remember the weights."""
        self.before = {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}
        self.check_at = min(state.global_step + FIRST_STEPS, state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Compare once.

        Raises:
            UserError: Nothing moved, or a head did not.
        """
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
