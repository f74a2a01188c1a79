"""How training shows how far it is: one bar on a terminal, a line now and then in a log file."""

import sys
import time
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback
from transformers.trainer_callback import ProgressCallback
from transformers.utils import logging as transformers_logging

_SHOWN = {"loss": "loss", "eval_loss": "held-out loss", "eval_score": "score"}


def progress() -> TrainerCallback:
    """Return what fits standard error."""
    return Bar() if sys.stderr.isatty() else Lines()


def hide_other_bars() -> None:
    """Keep transformers' bar of loading weights away, so that each bar is an adapter; downloads keep theirs."""
    transformers_logging.set_tqdm_hook(lambda bar, args, options: bar(*args, **options | {"disable": True}))


class Bar(ProgressCallback):
    """transformers' bar, labelled, with the latest losses on it in place of log lines above and of bars for scoring."""

    training_bar: Any

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Name the adapter."""
        self.training_bar, self.current_step = tqdm(total=state.max_steps, desc=args.run_name, dynamic_ncols=True), 0
        self.latest: dict[str, str] = {}

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Show the latest losses."""
        if self.training_bar is not None:
            self.latest |= {said: f"{logs[name]:.3f}" for name, said in _SHOWN.items() if name in logs}
            self.training_bar.set_postfix(self.latest)

    def on_prediction_step(self, *args: Any, **kwargs: Any) -> None:
        """Show no second bar."""


class Lines(TrainerCallback):
    """A line when an adapter is begun, and one whenever the rows held out are scored."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Say what is trained."""
        self.started, self.first = time.monotonic(), state.global_step
        resumed = f", from step {self.first} on" if self.first else ""
        print(f"Training {args.run_name}: {state.max_steps} steps{resumed}", file=sys.stderr, flush=True)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        """Say how far it is."""
        done, left = state.global_step - self.first, state.max_steps - state.global_step
        time_left = f", {(time.monotonic() - self.started) / done * left:.0f} s left" if done and left else ""
        print(
            f"step {state.global_step} of {state.max_steps}: held-out loss {metrics['eval_loss']:.3f}, "
            f"score {100 * metrics['eval_score']:.1f}{time_left}",
            file=sys.stderr,
            flush=True,
        )
