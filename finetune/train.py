"""Training a plan's adapters: Trainer does the work; what it leaves is checked, and moved into place when it is whole."""

import contextlib
import json
import shutil
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from transformers import set_seed

from finetune import curves, head, record, reports, verdict
from finetune.model import Base, add_lora, draw_new_weights, load_base
from finetune.plan import Job, Plan
from finetune.reload import check_saved
from finetune.trainer_setup import build_trainer
from harness_ext.errors import UserError, one_line_errors, writing_to
from harness_ext.model.loading import quieten_libraries
from harness_ext.model.memory import peak_memory_bytes, reset_peak_memory
from harness_ext.results import records

RESUME_STATE = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "trainer_state.json")


def execute(plan: Plan) -> list[dict[str, Any]]:
    """Make the adapters of a plan, or find the finished ones of the same keys; return the record of each."""
    quieten_libraries()
    out = Path(plan.spec.out)
    base: Base | None = None  # loaded once, if at all
    made = []
    warned: set[str] = set()
    for job in plan.jobs:
        with records.workspace(out, job.folder.name, keep="checkpoint-*") as work:
            if not plan.spec.force and records.is_complete(job.folder, job.key):
                made.append(_finished(job))
                records.drop(work)
                continue
            if plan.spec.force:
                for left in (*work.glob("checkpoint-*"), work / reports.LOGS):
                    shutil.rmtree(left, ignore_errors=True)
            if job.warning and job.warning not in warned and not plan.recipe.contrastive:  # 120 pairs a step: few are enough
                print(job.warning, file=sys.stderr)
                warned.add(job.warning)
            reset_peak_memory()
            started, start = datetime.now(UTC), time.perf_counter()
            base = base or load_base(
                plan.base,
                plan.recipe,
                plan.dtype,
                plan.settings.device,
                plan.tokenizer,
                plan.spec.allow_pickle,
                plan.pooling,
            )
            measured = _train(plan, job, base, work)
            measured["time_s"]["total"] = time.perf_counter() - start
            about = record.identity(plan, job) | measured | {"started": started.isoformat(timespec="seconds")}
            with writing_to(out):
                records.write_json(work / "done" / records.MANIFEST, about)
                (work / "done" / record.README).write_text(record.readme(plan, job, about), encoding="utf-8")
                records.publish(work, work / "done", job.folder)
        print(*verdict.remarks(job.folder.name, about), f"Written: {job.folder}", sep="\n", file=sys.stderr)
        made.append(about)
    return made


def _train(plan: Plan, job: Job, base: Base, work: Path) -> dict[str, Any]:
    """Train one adapter, leave it in the workspace's folder ``done``, and return what was measured, for its record."""
    loggers = ",".join(plan.spec.report_to)
    with one_line_errors(running=f"Training with REPORT_TO={loggers} does not work: " if loggers else None):
        set_seed(job.seed)
        fitted = None
        if plan.pooling is None:
            draw_new_weights(base.model, base.new)
        elif not plan.recipe.contrastive:  # whose head is fitted anew whenever rows are scored
            fitted = head.fit(base.model, plan, job.examples, job.seed)
        model = add_lora(base.model, plan.recipe)
        trainable, _ = model.get_nb_trainable_parameters()
        with contextlib.ExitStack() as at_last:
            at_last.callback(model.unload)
            resumed = _last_checkpoint(work)
            trainer = build_trainer(plan, job, work, model, from_start=resumed is None)
            at_last.callback(reports.finish, trainer)
            begun = time.perf_counter()
            with writing_to(Path(plan.spec.out)):
                trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
                if trainer.refit:
                    fitted = trainer.fitted
                    if trainer.scored_at != trainer.state.global_step or fitted["rows"] < len(job.examples):
                        trainer.refit, trainer.scored_at = None, -1
                        fitted = head.fit(model, plan, job.examples, job.seed)
                train_s = time.perf_counter() - begun
                _save(plan, job, work, trainer)
            outcome = _outcome(trainer)
            history = curves.history_of(trainer.state.log_history)
            outcome |= verdict.verdict(plan.recipe.kind, history, outcome["held_out"])
            precision = trainer.accelerator.autocast  # what accelerate has put around the model's forward
            trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
            apart = check_saved(model, work / "done", job.held_out, precision, plan.products)
        base.restore()
    steps_resumed = _step(resumed) if resumed else 0
    return {
        **outcome,
        "head": fitted,
        "reload_difference": apart,
        "optimiser_steps": trainer.state.global_step,
        "steps_resumed": steps_resumed,
        "epochs": job.steps * job.batch_size / len(job.subset.rows),
        "shared_prefix_tokens": (trainer.shared or {"tokens": 0})["tokens"],
        "shared_prefix": trainer.shared,
        "trainable_parameters": trainable,
        "time_s": {"train": train_s},
        "samples_per_s": (trainer.state.global_step - steps_resumed) * job.batch_size / train_s,
        "peak_memory_bytes": peak_memory_bytes(),
    }


def _save(plan: Plan, job: Job, work: Path, trainer: Any) -> None:
    """Lay out the finished folder: adapter, history, curve, and the checkpoints without what only resuming needs."""
    done = work / "done"
    shutil.rmtree(done, ignore_errors=True)
    trainer.model.save_pretrained(done)
    for folder in work.glob("checkpoint-*"):
        shutil.copytree(folder, done / folder.name, ignore=shutil.ignore_patterns(*RESUME_STATE))
    for config in done.glob("**/adapter_config.json"):
        content = json.loads(config.read_text(encoding="utf-8"))
        records.write_json(config, content | {"base_model_name_or_path": plan.base_name})
    history = curves.history_of(trainer.state.log_history)
    records.write_json(done / curves.HISTORY, {"name": job.folder.name, "history": history})
    curves.draw([(job.folder.name, history)], done / "curve")
    reports.keep(work, done)


def _outcome(trainer: Any) -> dict[str, Any]:
    """Say what the final weights make of the rows held out."""
    prediction = trainer.final_scores()
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


def _last_checkpoint(work: Path) -> Path | None:
    """Find the last checkpoint that is whole, and remove those that a killed process left half written."""
    for folder in work.glob("checkpoint-*"):
        try:  # Trainer writes it last
            json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            shutil.rmtree(folder)
    return max(work.glob("checkpoint-*"), key=_step, default=None)


def _finished(job: Job) -> dict[str, Any]:
    try:
        made = records.read_run(job.folder)
    except (OSError, ValueError) as error:
        raise UserError(f"The record in {job.folder} is damaged ({error}). Train again with FORCE=1.") from None
    print(f"Already done: {job.folder} (FORCE=1 trains it again).", file=sys.stderr)
    return made


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])
