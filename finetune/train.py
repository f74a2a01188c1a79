"""Training one adapter: Trainer does the work; what it leaves is checked, and moved into place when it is whole."""

import contextlib
import json
import math
import shutil
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PrinterCallback, TrainingArguments, set_seed

from finetune import curves, data, reload
from finetune.callbacks import Bar, Movement
from finetune.config import FEW_STEPS
from finetune.job import Job, Setting
from finetune.model import add_lora, draw_new_weights, heads_of, load_base
from finetune.trainers import CheckedTrainer, PromptTrainer, reads_prefix_once
from harness_ext import evidence, memory, records
from harness_ext.errors import UserError, one_line_errors, writing_to
from harness_ext.lengths import context_length
from harness_ext.loading import quieten_libraries
from harness_ext.meter import peak_memory_bytes

LOGS = 50  # points of the training loss's curve
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
        self._encoded: dict[int, dict[str, Any]] = {}

    def run(self, job: Job, force: bool) -> dict[str, Any]:
        """Make one adapter, or find the finished one of the same key.

        Returns:
            Its manifest.

        Raises:
            UserError: It cannot be made or written.
        """
        with records.workspace(self.setting.out, job.name, keep="checkpoint-*") as work:
            if records.is_complete(job.folder) and not force:
                records.drop(work)
                print(f"Already done: {job.folder} (FORCE=1 trains it again).", file=sys.stderr)
                return records.read_run(job.folder)
            if force:
                _remove_checkpoints(work)
            manifest = self._train(job, work)
            with writing_to(self.setting.out):
                records.write_json(work / "done" / records.MANIFEST, manifest)
                records.publish(work, work / "done", job.folder)
        print(f"Written: {job.folder}", file=sys.stderr)
        return manifest

    def _train(self, job: Job, work: Path) -> dict[str, Any]:
        start, started = time.perf_counter(), datetime.now(UTC)
        if job.steps < FEW_STEPS:
            print(
                f"Warning: {job.steps} optimiser steps are planned. In the original experiment DeBERTa stayed at the "
                "majority class (0.5091) in every run of up to 48 steps; a recipe that budgets by steps avoids that.",
                file=sys.stderr,
            )
        handed_on = f"REPORT_TO={','.join(self.setting.report_to)} does not work: " if self.setting.report_to else None
        with one_line_errors(running=handed_on):
            base = self._base()
            set_seed(job.seed)
            draw_new_weights(base, self._new)
            model = add_lora(base, self.setting.recipe)
            trainable = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
            examples, held_out = self._encode(job.subset.rows), self._encode(job.subset.held_out)
            try:
                trainer, resumed = self._trainer(job, work, model, examples, held_out)
                begun = time.perf_counter()
                with writing_to(self.setting.out):
                    trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
                train_s = time.perf_counter() - begun
                self._save(job, work, trainer)
                outcome = _outcome(trainer)
                outcome["reload_difference"] = self._check_reload(work / "done", model, held_out)
            finally:
                self._model = model.unload()
        steps = trainer.state.global_step - (_step(resumed) if resumed else 0)
        return {
            **_identity(job),
            **outcome,
            "optimiser_steps": trainer.state.global_step,
            "steps_resumed": trainer.state.global_step - steps,
            "epochs": job.steps * job.batch_size / len(job.subset.rows),
            "shared_prefix_tokens": 0 if getattr(trainer, "prefix", None) is None else len(trainer.prefix),
            "trainable_parameters": trainable,
            "time_s": {"train": train_s, "total": time.perf_counter() - start},
            "samples_per_s": steps * job.batch_size / train_s,
            "peak_memory_bytes": peak_memory_bytes(),
            "hardware": evidence.hardware(self.setting.choices.device),
            "commit": evidence.commit(),
            "command": evidence.command("finetune"),
            "started": started.isoformat(timespec="seconds"),
        }

    def _base(self) -> Any:
        """Return the base as it was loaded."""
        if self._model is None:
            self._model, self._new = load_base(*self._load_arguments())
            if self.setting.recipe.kind == "classifier":
                heads = set(heads_of(self._model))
                state = self._model.state_dict()
                self._heads = {name: weight.clone() for name, weight in state.items() if set(name.split(".")) & heads}
        self._model.load_state_dict(self._heads, strict=False)  # peft leaves the last job's head when it is taken off
        return self._model

    def _load_arguments(self) -> tuple[Any, ...]:
        setting = self.setting
        return setting.base, setting.recipe, setting.dtype, setting.choices.device, setting.tokenizer, setting.allow_pickle

    def _encode(self, rows: list[int]) -> list[dict[str, Any]]:
        """Tokenise rows of the train split, each once for all jobs."""
        setting = self.setting
        new = [row for row in rows if row not in self._encoded]
        documents = setting.task.dataset["train"].select(new).to_list()
        if not new:
            examples = []
        elif setting.recipe.kind == "classifier":
            examples = data.encode_sentences(setting.tokenizer, documents)
        else:
            chat = setting.choices.chat_template
            examples = data.encode_examples(setting.task, setting.tokenizer, documents, setting.render, chat)
        self._encoded |= dict(zip(new, examples, strict=True))
        encoded = [self._encoded[row] for row in rows]
        config = memory.text_config(setting.base.config)
        data.check_lengths(encoded, context_length(config) if config is not None else None)
        return encoded

    def _trainer(
        self, job: Job, work: Path, model: Any, examples: list[dict], held_out: list[dict]
    ) -> tuple[Any, Path | None]:
        recipe, tokenizer = self.setting.recipe, self.setting.tokenizer
        labels, lengths = [example["labels"] for example in examples], list(map(data.length, examples))
        balanced = recipe.balanced_batches and job.batch_size % 2 == 0
        plan = data.plan_batches(labels, lengths, job.steps, job.batch_size, job.seed, balanced=balanced)
        resumed = _last_checkpoint(work)
        common = {
            "model": model,
            "args": _arguments(job, work, resumed is None),
            "train_dataset": [examples[row] for row in plan],
            "eval_dataset": held_out,
            "compute_metrics": _score,
            "optimizers": (_optimizer(model, recipe), None),
            "callbacks": [Bar(job.name), Movement(_heads(model))],
        }
        if recipe.kind == "classifier":
            return _quiet(CheckedTrainer(**common, data_collator=data.collate_sentences(tokenizer))), resumed

        def collate(prefix_length: int) -> Any:
            return data.collate_prompts(tokenizer.pad_token_id, prefix_length)

        trainer = _quiet(PromptTrainer(**common, data_collator=collate(0)))
        trainer.prompt_loss_weight = recipe.prompt_loss_weight
        prefix = [] if recipe.prompt_loss_weight else data.shared_prefix(examples + held_out)
        if prefix and reads_prefix_once(trainer, collate, examples + held_out, prefix):
            trainer.prefix = torch.tensor(prefix, device=trainer.args.device)
            trainer.data_collator = collate(len(prefix))
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

    def _check_reload(self, folder: Path, model: Any, held_out: list[dict]) -> float:
        """Let another process load the adapter, and compare.

        Raises:
            UserError: It gives other logits.
        """
        examples = held_out[: reload.ROWS]
        theirs = reload.other_process().submit(reload.reloaded, self._load_arguments(), str(folder), examples).result()
        apart = reload.difference(reload.probe(model, examples), theirs)
        if not apart <= reload.TOLERANCE:
            raise UserError(
                f"The adapter as saved gives other logits than the one trained (by up to {apart:.2g}): it is not kept. "
                "Its base may be damaged, or not the one that was trained on."
            )
        return apart


def _arguments(job: Job, work: Path, from_start: bool) -> TrainingArguments:
    setting, recipe = job.setting, job.setting.recipe
    interval = math.ceil(job.steps / recipe.evaluations)
    on_cpu = setting.choices.device == "cpu"
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
        use_cpu=on_cpu,
        bf16=setting.mixed,
        dataloader_pin_memory=not on_cpu,
        remove_unused_columns=False,
        label_names=["labels"],
        report_to=setting.report_to or "none",
        run_name=job.name,
        disable_tqdm=True,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # one device, not DataParallel over all there are
    return arguments


def _quiet(trainer: Any) -> Any:
    """Take out the callback that prints every log entry; the bar and the history have them."""
    trainer.remove_callback(PrinterCallback)
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
        "prompt": job.key_parts["prompt"],
        "chat_template": setting.choices.chat_template,
        "data": setting.task.dataset["train"].info.description,
        "train_samples": job.subset.train_samples,
        "rows": len(job.subset.rows),
        "subset": job.subset.hash,
        "seed": job.seed,
        "recipe": setting.recipe_name,
        "settings": asdict(setting.recipe) | {"batch_size": job.batch_size},
        "dtype": setting.dtype,
        "key": records.run_key(job.key_parts),
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


def _remove_checkpoints(work: Path) -> None:
    for folder in work.glob("checkpoint-*"):
        with contextlib.suppress(OSError):
            shutil.rmtree(folder)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])
