"""Where the loggers that REPORT_TO= names leave their files, and where one job's run ends and the next begins."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness_ext.errors import UserError

LOGS = "logs"  # in an adapter's folder
_MODULES = {"WandbCallback": "_wandb", "SwanLabCallback": "_swanlab", "TrackioCallback": "_trackio"}
_ONE_RUN = ("WANDB_RUN_ID", "SWANLAB_RUN_ID")


def check_runs(report_to: Sequence[str], jobs: int) -> None:
    """Check that each job can have a run of its own: that the environment does not name one for all."""
    named = [name for name in _ONE_RUN if os.environ.get(name) and name.partition("_")[0].lower() in report_to]
    if named and jobs > 1:
        raise UserError(f"{named[0]} names one run, but there are {jobs} adapters to make: unset it, or make one at a time.")


def place(trainer: Any, work: Path, name: str) -> None:
    """Let TensorBoard write into the workspace, from where `keep` takes it; with TENSORBOARD_LOGGING_DIR, to a part of it.

    By default it would write to a folder named after the machine.
    """
    own = os.environ.get("TENSORBOARD_LOGGING_DIR")
    for callback in trainer.callback_handler.callbacks:
        if type(callback).__name__ == "TensorBoardCallback":
            callback.logging_dir = str(Path(own).expanduser() / name if own else work / LOGS)


def keep(work: Path, done: Path) -> None:
    """Copy what loggers have left in the workspace, Trainer's output folder, into the finished adapter's inside it."""
    for path in sorted(work.iterdir()):
        if path.name in (done.name, "lock") or path.name.startswith("checkpoint-"):
            continue
        target = done / LOGS if path.name == LOGS else done / LOGS / path.name
        target.parent.mkdir(exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, target, dirs_exist_ok=True)
        else:
            shutil.copy2(path, target)


def finish(trainer: Any) -> None:
    """End the runs that a job's loggers have begun: wandb and SwanLab would log the next job into them."""
    for callback in trainer.callback_handler.callbacks:
        module = _MODULES.get(type(callback).__name__)
        if module and getattr(callback, "_initialized", False):
            getattr(callback, module).finish()
