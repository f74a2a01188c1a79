"""Training one adapter: Trainer does the work; what it leaves is checked, and moved into place when it is whole."""

import contextlib
import json
import shutil
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PrinterCallback, set_seed

from finetune import curves, data, reload, reports
from finetune.arguments import training_arguments
from finetune.callbacks import Bar, Movement
from finetune.config import FEW_STEPS
from finetune.job import Job, Setting
from finetune.model import add_lora, draw_new_weights, heads_of, load_base
from finetune.trainers import CheckedTrainer, PromptTrainer, why_prefix_is_not_shared
from harness_ext.errors import UserError, one_line_errors, writing_to
from harness_ext.model.loading import quieten_libraries
from harness_ext.model.memory import peak_memory_bytes, reset_peak_memory
from harness_ext.results import records
from harness_ext.run import provenance

RESUME_STATE = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "trainer_state.json")


class Bench:
    """The base model, loaded when the first job needs it and used by all."""

    def __init__(self, setting: Setting) -> None:
        """Prepare; nothing is loaded yet."""
        quieten_libraries()
        self.setting = setting
        self._model: Any = None
        self._heads: dict[str, torch.Tensor] = {}
        self._new: list[str] = []
        self._checksum = 0

    def run(self, job: Job, force: bool) -> dict[str, Any]:
        """Make one adapter, or find the finished one of the same key.

        Returns:
            Its manifest.

        Raises:
            UserError: It cannot be made or written.
        """
        with records.workspace(self.setting.out, job.name, keep="checkpoint-*") as work:
            if not force and (finished := _finished(job)):
                records.drop(work)
                print(f"Already done: {job.folder} (FORCE=1 trains it again).", file=sys.stderr)
                return finished
            if force:
                _start_anew(work)
            manifest = self._train(job, work)
            with writing_to(self.setting.out):
                records.write_json(work / "done" / records.MANIFEST, manifest)
                records.publish(work, work / "done", job.folder)
        print(f"Written: {job.folder}", file=sys.stderr)
        return manifest

    def _train(self, job: Job, work: Path) -> dict[str, Any]:
        start, started = time.perf_counter(), datetime.now(UTC)
        reset_peak_memory()
        if job.steps < FEW_STEPS:
            print(
                f"Warning: {job.steps} optimiser steps are planned. In the original experiment DeBERTa stayed at the "
                "majority class (0.5091) in every run of up to 48 steps; a recipe that budgets by steps avoids that.",
                file=sys.stderr,
            )
        loggers = ",".join(self.setting.report_to)
        handed_on = f"Training with REPORT_TO={loggers} does not work: " if loggers else None
        with one_line_errors(running=handed_on):
            base = self._base()
            set_seed(job.seed)
            draw_new_weights(base, self._new)
            model = add_lora(base, self.setting.recipe)
            trainable = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
            with contextlib.ExitStack() as at_last:
                at_last.callback(model.unload)
                trainer, resumed = self._trainer(job, work, model)
                at_last.callback(reports.finish, trainer)
                begun = time.perf_counter()
                with writing_to(self.setting.out):
                    trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
                train_s = time.perf_counter() - begun
                self._save(job, work, trainer)
                outcome = _outcome(trainer)
                precision = trainer.accelerator.autocast  # what accelerate has put around the model's forward
                trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
                trained = reload.remember(model, job.held_out, precision)
            outcome["reload_difference"] = self._check_saved(job, work / "done", trained, precision)
        steps = trainer.state.global_step - (_step(resumed) if resumed else 0)
        return {
            **_identity(job),
            **outcome,
            "optimiser_steps": trainer.state.global_step,
            "steps_resumed": trainer.state.global_step - steps,
            "epochs": job.steps * job.batch_size / len(job.subset.rows),
            "shared_prefix_tokens": (trainer.shared or {"tokens": 0})["tokens"],
            "shared_prefix": trainer.shared,
            "trainable_parameters": trainable,
            "time_s": {"train": train_s, "total": time.perf_counter() - start},
            "samples_per_s": steps * job.batch_size / train_s,
            "peak_memory_bytes": peak_memory_bytes(),
            "hardware": provenance.hardware(self.setting.settings.device),
            "commit": provenance.commit(),
            "command": provenance.command("finetune"),
            "started": started.isoformat(timespec="seconds"),
        }

    def _base(self) -> Any:
        """Return the base as it was loaded, a new head's weights among it."""
        setting = self.setting
        if self._model is None:
            self._model, self._new = load_base(
                setting.base, setting.recipe, setting.dtype, setting.settings.device, setting.tokenizer, setting.allow_pickle
            )
            self._checksum = reload.checksum(self._model)
            if self.setting.recipe.kind == "classifier":
                heads = set(heads_of(self._model))
                state = self._model.state_dict()
                self._heads = {name: weight.clone() for name, weight in state.items() if set(name.split(".")) & heads}
        self._model.load_state_dict(self._heads, strict=False)  # peft leaves the last job's head when it is taken off
        return self._model

    def _check_saved(self, job: Job, folder: Path, trained: reload.Trained, precision: Any) -> float:
        """Compare the adapter as saved with the one trained, and the base with the one loaded.

        Returns:
            The largest difference of the logits.

        Raises:
            UserError: The adapter is another.
        """
        base = self._base()
        torch.manual_seed(job.seed + 1)  # not the head that training began with: one that was not saved is to be seen
        draw_new_weights(base, self._new)
        apart = reload.check_saved(folder, base, trained, job.held_out, precision, self.setting.products)
        if reload.checksum(self._base()) != self._checksum:
            raise RuntimeError("Training has changed the base's own weights, which the adapter does not hold.")
        return apart

    def _trainer(self, job: Job, work: Path, model: Any) -> tuple[Any, Path | None]:
        recipe, tokenizer = self.setting.recipe, self.setting.tokenizer
        examples, everything = job.examples, job.examples + job.held_out
        labels, lengths = [example["labels"] for example in examples], list(map(data.length, examples))
        balanced = recipe.balanced_batches and job.batch_size % 2 == 0
        plan = data.plan_batches(labels, lengths, job.steps, job.batch_size, job.seed, balanced=balanced)
        resumed = _last_checkpoint(work)
        common = {
            "model": model,
            "args": training_arguments(job, work, from_start=resumed is None),
            "train_dataset": [examples[row] for row in plan],
            "eval_dataset": job.held_out,
            "compute_metrics": _score,
            "optimizers": (_optimizer(model, recipe), None),
            "callbacks": [Bar(job.name), Movement(_heads(model))],
        }
        if recipe.kind == "classifier":
            return _prepared(CheckedTrainer(**common, data_collator=data.collate_sentences(tokenizer)), job, work), resumed

        def collate(prefix_length: int) -> Any:
            return data.collate_prompts(tokenizer.pad_token_id, prefix_length)

        trainer = _prepared(PromptTrainer(**common, data_collator=collate(0)), job, work)
        trainer.prompt_loss_weight = recipe.prompt_loss_weight
        prefix = data.shared_prefix(everything)
        if why := why_prefix_is_not_shared(trainer, collate, everything, prefix):
            print(f"The beginning that all prompts share is read anew for every row, because {why}.", file=sys.stderr)
            trainer.shared = {"tokens": 0, "why": why}
        else:
            trainer.prefix = torch.tensor(prefix, device=trainer.args.device)
            trainer.data_collator = collate(len(prefix))
            trainer.shared = {"tokens": len(prefix)}
        return trainer, resumed

    def _save(self, job: Job, work: Path, trainer: Any) -> None:
        """Lay out the finished folder: adapter, history, curve, and the checkpoints without what only resuming needs."""
        done = work / "done"
        shutil.rmtree(done, ignore_errors=True)
        with writing_to(self.setting.out):
            trainer.model.save_pretrained(done)
            for folder in work.glob("checkpoint-*"):
                shutil.copytree(folder, done / folder.name, ignore=shutil.ignore_patterns(*RESUME_STATE))
            for config in done.glob("**/adapter_config.json"):
                content = json.loads(config.read_text(encoding="utf-8"))
                records.write_json(config, content | {"base_model_name_or_path": self.setting.base_name})
            history = curves.history_of(trainer.state.log_history)
            records.write_json(done / curves.HISTORY, {"name": job.name, "history": history})
            curves.draw([(job.name, history)], done / "curve")
            reports.keep(work, done)


def _prepared(trainer: Any, job: Job, work: Path) -> Any:
    """Take out the callback that prints every log entry, as the bar and the history have them; place what others write."""
    trainer.remove_callback(PrinterCallback)
    reports.place(trainer, work, job.name)
    return trainer


def _optimizer(model: Any, recipe: Any) -> torch.optim.Optimizer:
    """AdamW, with a rate of its own for a classifier's head."""
    head = [weight for name, weight in model.named_parameters() if weight.requires_grad and ".modules_to_save." in name]
    lora = [weight for name, weight in model.named_parameters() if weight.requires_grad and ".modules_to_save." not in name]
    groups = [{"params": lora, "lr": recipe.learning_rate}]
    if head:
        groups.append({"params": head, "lr": recipe.head_learning_rate or recipe.learning_rate})
    return torch.optim.AdamW(groups, weight_decay=recipe.weight_decay)


def _heads(model: Any) -> list[str]:
    return heads_of(model.get_base_model()) if model.peft_config["default"].modules_to_save else []


def _score(prediction: Any) -> dict[str, float]:
    """Score the rows held out by the larger of the two logits."""
    return {"score": float((np.argmax(prediction.predictions, axis=1) == prediction.label_ids).mean())}


def _outcome(trainer: Any) -> dict[str, Any]:
    """Predict the rows held out with the final weights."""
    prediction = trainer.predict(trainer.eval_dataset)
    classes = np.argmax(prediction.predictions, axis=1)
    collapsed = len(set(classes.tolist())) == 1
    if collapsed:
        print(
            f"Warning: after {trainer.state.global_step} optimiser steps the adapter answers {classes[0]} to all "
            f"{len(classes)} sentences held out: it has collapsed to one class.",
            file=sys.stderr,
        )
    return {
        "held_out": {
            "n": len(classes),
            "loss": float(prediction.metrics["test_loss"]),
            "score": float(prediction.metrics["test_score"]),
            "positive_share": float(classes.mean()),
        },
        "collapsed": collapsed,
    }


def _identity(job: Job) -> dict[str, Any]:
    """What the adapter is; `harness_ext` reads these fields from the ``run.json`` beside it."""
    setting = job.setting
    return {
        "schema": records.SCHEMA,
        "status": "complete",
        "base": setting.base_name,
        "base_version": setting.base.version,
        "kind": setting.recipe.kind,
        "label_names": {"0": "negative", "1": "positive"},
        "task": setting.task.task_name,
        "task_version": setting.task.VERSION,
        "prompt": {"first": setting.render(setting.task.dataset["train"][job.subset.rows[0]])},
        "chat_template": setting.settings.chat_template,
        "data": setting.task.dataset["train"].info.description,
        "data_fingerprint": job.key_parts["data"],
        "train_samples": job.subset.train_samples,
        "rows": len(job.subset.rows),
        "subset": job.subset.hash,
        "seed": job.seed,
        "recipe": setting.recipe_name,
        "settings": asdict(setting.recipe) | {"batch_size": job.batch_size},
        "dtype": setting.dtype,
        "products": setting.products,
        "key": job.key,
        "key_parts": job.key_parts,
    }


def _last_checkpoint(work: Path) -> Path | None:
    """Find the last checkpoint that is whole, and remove those that a killed process left half written.

    Trainer writes ``trainer_state.json`` last.
    """
    whole = []
    for folder in work.glob("checkpoint-*"):
        try:
            json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
            whole.append(folder)
        except (OSError, ValueError):
            shutil.rmtree(folder)
    return max(whole, key=_step, default=None)


def _finished(job: Job) -> dict[str, Any] | None:
    """Read the manifest of a finished adapter of the same key."""
    if not records.is_complete(job.folder, job.key):
        return None
    try:
        return records.read_run(job.folder)
    except (OSError, ValueError) as error:
        raise UserError(f"The record in {job.folder} is damaged ({error}). Train again with FORCE=1.") from None


def _start_anew(work: Path) -> None:
    """Remove what an interrupted attempt has left."""
    for folder in (*work.glob("checkpoint-*"), work / reports.LOGS):
        with contextlib.suppress(OSError):
            shutil.rmtree(folder)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])
