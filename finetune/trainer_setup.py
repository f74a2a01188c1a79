"""How Trainer is set up for a job: settings, the one device that it is to use, optimiser, and what watches its steps."""

import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import accelerate.utils
import numpy as np
import torch
from transformers import PrinterCallback, TrainerCallback, TrainingArguments

from finetune import data, head, reports
from finetune.config import Recipe
from finetune.model import heads_of
from finetune.plan import Job, Plan
from finetune.progress import progress
from finetune.trainers import CheckedTrainer, ContrastiveTrainer, PromptTrainer, passes_s, why_prefix_is_not_shared
from harness_ext.errors import UserError
from harness_ext.model.memory import reset_peak_memory
from harness_ext.task.prompts import common_prefix

LOGS = 50  # points of the training loss's curve
FIRST_STEPS = 10  # the learning rate is above 0 from the second on


def build_trainer(plan: Plan, job: Job, work: Path, model: Any, *, from_start: bool) -> CheckedTrainer:
    """Set up Trainer for a job in its workspace."""
    recipe, examples = plan.recipe, job.examples
    labels, lengths = [example["labels"] for example in examples], list(map(data.length, examples))
    balanced = recipe.balanced_batches and job.batch_size % 2 == 0
    order = data.plan_batches(labels, lengths, job.steps, job.batch_size, job.seed, balanced=balanced)
    is_generative = recipe.kind == "generative"
    collate = partial(data.collate_prompts, pad=plan.tokenizer.pad_token_id)
    kind = PromptTrainer if is_generative else ContrastiveTrainer if recipe.contrastive else CheckedTrainer
    trainer = kind(
        model=model,
        args=training_arguments(plan, job, work, from_start=from_start),
        train_dataset=[examples[row] for row in order],
        eval_dataset=sorted(job.held_out, key=data.length),  # little padding: unsorted, 500 phrases take three times as long
        data_collator=collate if is_generative else partial(data.collate_sentences, tokenizer=plan.tokenizer),
        compute_metrics=_score,
        optimizers=(_optimizer(model, recipe), None),
        callbacks=[
            _Movement([] if is_generative or recipe.contrastive else heads_of(model.get_base_model())),
            progress(),
        ],
    )
    trainer.remove_callback(PrinterCallback)  # it prints every log entry, as the progress and the history have them
    reports.place(trainer, work, job.folder.name)
    if isinstance(trainer, ContrastiveTrainer):
        trainer.refit = partial(head.fit, model, plan, head.some(job), job.seed)
    if isinstance(trainer, PromptTrainer):
        trainer.full_loss_weight, trainer.prompt_loss_weight = recipe.full_loss_weight, recipe.prompt_loss_weight
        share_prefix(trainer, collate, examples + job.held_out)
    return trainer


def training_arguments(plan: Plan, job: Job, work: Path, *, from_start: bool) -> TrainingArguments:
    """Build Trainer's settings; from the start, and not resumed, the rows held out are scored before the first step."""
    recipe = plan.recipe
    interval = math.ceil(job.steps / recipe.evaluations)
    device = torch.device(plan.settings.device)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", 0)
    # Accelerator moves the model and the batches there.
    with accelerate.utils.patch_environment(ACCELERATE_TORCH_DEVICE=device):
        arguments = TrainingArguments(
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
            accelerator_config={"non_blocking": device.type == "cuda"},  # or each batch waits for the step before it
            remove_unused_columns=False,
            label_names=["labels"],
            report_to=list(plan.spec.report_to) or "none",
            run_name=job.folder.name,
            disable_tqdm=True,  # `progress` stands in
        )
    # TrainingArguments has no field for the device: it takes the first GPU, all of them with DataParallel, or MPS.
    if device.type == "cuda":
        torch.cuda.set_device(device)  # setting up has made it the first
    arguments.__dict__["_setup_devices"] = device  # a cached property: `device` reads it
    arguments._n_gpu = int(device.type != "cpu")
    return arguments


class _Movement(TrainerCallback):
    """Stops a run whose trainable weights stay as they were in the first steps, or those of a head, given by name."""

    def __init__(self, heads: list[str]) -> None:
        self.heads = heads

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self.before = {name: weight.detach().clone() for name, weight in trained.items()}
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


def _optimizer(model: Any, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW, with a rate of its own for a classifier's head."""
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    head = [weight for name, weight in trained.items() if ".modules_to_save." in name]
    lora = [weight for name, weight in trained.items() if ".modules_to_save." not in name]
    groups = [(lora, recipe.learning_rate), (head, recipe.head_learning_rate or recipe.learning_rate)]
    found = [{"params": weights, "lr": rate} for weights, rate in groups if weights]
    return torch.optim.AdamW(found, weight_decay=recipe.weight_decay)


def _score(prediction: Any) -> dict[str, float]:
    return {"score": float((np.argmax(prediction.predictions, axis=1) == prediction.label_ids).mean())}


def share_prefix(trainer: PromptTrainer, collate: Callable, examples: list[dict[str, Any]]) -> None:
    """Let the trainer run once per batch what all prompts begin with, if the model can do that and is not slower for it.

    On a CPU it never is, as there are fewer tokens; nothing is timed there, so that every run ends with the same weights.
    """
    prefix = common_prefix([example["prompt"] for example in examples])
    why, seconds = why_prefix_is_not_shared(trainer, collate, examples, prefix), {}
    if not why and trainer.args.device.type != "cpu":
        seconds = passes_s(trainer, collate, prefix)
        reset_peak_memory()  # the record's is training's
        if len(seconds) == 2 and seconds["plain_s"] < seconds["shared_s"]:
            why = f"that is faster here ({seconds['plain_s']:.3f} s a batch, else {seconds['shared_s']:.3f})"
    if why:
        print(f"The beginning that all prompts share is read anew for every row, because {why}.", file=sys.stderr)
        trainer.prefix, trainer.shared = None, {"tokens": 0, "why": why, **seconds}
    else:
        trainer.prefix = torch.tensor(prefix, device=trainer.args.device)
        trainer.data_collator = partial(collate, prefix_length=len(prefix))
        trainer.shared = {"tokens": len(prefix), **seconds}
