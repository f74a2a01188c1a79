"""How Trainer is set up for a job: its settings, and the one device that it is to use."""

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import TrainingArguments

from finetune.plan import Job, Plan

LOGS = 50  # points of the training loss's curve


class DeviceArguments(TrainingArguments):
    """Trainer's settings, for the device that was asked for.

    TrainingArguments has no field for it: it takes the first GPU, all of them with DataParallel, or MPS where there is one.
    """

    def use(self, device: torch.device) -> None:
        """Let Trainer work on a device, accelerate being on it already."""
        if device.type == "cuda":
            torch.cuda.set_device(device)  # setting up has made it the first
        self.__dict__["_setup_devices"] = device  # a cached property: `device` reads it
        self._n_gpu = int(device.type != "cpu")


def training_arguments(plan: Plan, job: Job, work: Path, *, from_start: bool) -> TrainingArguments:
    """Build Trainer's settings; from the start, and not resumed, the rows held out are scored before the first step."""
    recipe = plan.recipe
    interval = math.ceil(job.steps / recipe.evaluations)
    device = torch.device(plan.settings.device)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", 0)
    with _accelerate_on(device):
        arguments = DeviceArguments(
            output_dir=str(work),
            max_steps=job.steps,
            per_device_train_batch_size=job.batch_size,
            per_device_eval_batch_size=64,
            train_sampling_strategy="sequential",  # the order is planned
            learning_rate=recipe.learning_rate,
            lr_scheduler_type=recipe.schedule,
            warmup_steps=math.ceil(recipe.warmup_share * job.steps),
            logging_steps=max(1, job.steps // LOGS),
            logging_nan_inf_filter=False,
            eval_strategy="steps",
            eval_steps=interval,
            eval_on_start=from_start,
            save_strategy="steps",
            save_steps=interval,
            save_total_limit=recipe.keep_checkpoints,
            seed=job.seed,
            use_cpu=device.type == "cpu",
            bf16=plan.mixed,
            dataloader_pin_memory=device.type == "cuda",
            remove_unused_columns=False,
            label_names=["labels"],
            report_to=list(plan.spec.report_to) or "none",
            run_name=job.folder.name,
            disable_tqdm=True,  # `callbacks.Progress` stands in
        )
    arguments.use(device)
    return arguments


@contextlib.contextmanager
def _accelerate_on(device: torch.device) -> Iterator[None]:
    """Tell accelerate its device while its state is set up; Accelerator moves the model and the batches there."""
    name = "ACCELERATE_TORCH_DEVICE"
    before = os.environ.get(name)
    os.environ[name] = str(device)
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before
