"""What stands beside an adapter: ``run.json``, which says what it is, and a README.md made of that. Trains nothing."""

import json
from dataclasses import asdict
from typing import Any

from finetune.plan import Job, Plan
from finetune.summary import portable_command
from harness_ext.results import records
from harness_ext.results.experiments import adapter_experiment
from harness_ext.results.tables import markdown_cell, markdown_table, visible
from harness_ext.run import provenance
from harness_ext.task.data import median_words

README = "README.md"


def identity(plan: Plan, job: Job) -> dict[str, Any]:
    """What the adapter is; `harness_ext` reads these fields from the ``run.json`` beside it."""
    experiment, curve = adapter_experiment(job.key_parts)
    train = plan.task.dataset["train"]
    return {
        "schema": records.SCHEMA,
        "status": "complete",
        "base": plan.base_name,
        "base_version": plan.base.version,
        "kind": plan.recipe.kind,
        "label_names": dict(zip("01", plan.own["labels"] if plan.own else ("negative", "positive"), strict=True)),
        "task": plan.task.task_name,
        "task_version": plan.task.VERSION,
        "prompt": {"first": plan.render(train[job.subset.rows[0]])},
        "chat_template": plan.settings.chat_template,
        "data": train.info.description,
        "data_fingerprint": job.key_parts["data"],
        "own_data": plan.own,
        "train_samples": job.subset.train_samples,
        "rows": len(job.subset.rows),
        "rows_from": plan.spec.rows,
        "median_words": median_words(train.select([*job.subset.rows, *job.subset.held_out])["sentence"][:]),
        "subset": job.subset.hash,
        "seed": job.seed,
        "recipe": plan.recipe_name,
        "recipe_settings": asdict(plan.recipe) | {"batch_size": job.batch_size},
        "pooling": asdict(plan.pooling) if plan.pooling else None,
        "dtype": plan.dtype,
        "products": plan.products,
        "key": job.key,
        "key_parts": job.key_parts,
        "experiment": experiment,
        "curve": curve,
        "hardware": provenance.hardware(plan.settings.device),
        "commit": provenance.commit(),
        "command": provenance.command("finetune", plan.spec.words()),
    }


def readme(plan: Plan, job: Job, made: dict[str, Any]) -> str:
    """Write an adapter's card from its record, its front matter as the Hub reads it; names in it stay text."""
    front = {"library_name": "peft", "tags": ["lora", made["kind"], made["task"]]}
    if not made["base_version"].startswith("sha256:"):  # a folder: the Hub takes only its own ids
        front = {"base_model": made["base"], **front}
    recipe, held_out, before = made["recipe_settings"], made["held_out"], made["held_out_before"]
    source = "rows that are sentences" if made["rows_from"] == "sentences" else "rows"
    zero, one = map(markdown_cell, made["label_names"].values())
    rows = {
        "base": f"{plan.base.name}, {made['base_version']}",
        "data": f"{made['data']}: {made['train_samples']} samples ({made['rows']} {source}), seed {made['seed']}",
        "recipe": f"{made['recipe']}: {made['optimiser_steps']} steps of {recipe['batch_size']} rows, learning rate "
        f"{recipe['learning_rate']:g}, rank {recipe['rank']}, {made['dtype']}, products in {made['products']}",
        "held out": f"{held_out['n']} rows: loss {held_out['loss']:.3f}, score {100 * held_out['score']:.1f}%"
        + ", COLLAPSED to one class" * made["collapsed"]
        + (f", NO BETTER THAN ITS BASE (loss {before['loss']:.3f})" if made["no_better_than_base"] else ""),
        "made": f"{made['started']}, commit {made['commit']}, {made['hardware']}",
    }
    return "\n".join([
        "---",
        *(f"{name}: {json.dumps(value)}" for name, value in front.items()),  # JSON is YAML
        "---",
        "",
        f"# {markdown_cell(job.folder.name)}",
        "",
        f"A LoRA adapter that answers {markdown_cell(made['task'])} with 0 ({zero}) or 1 ({one}).",
        "",
        *markdown_table(["", ""], list(rows.items())),
        "Made and scored by:",
        "",
        f"    {visible(made['command'])}",
        f"    {visible(portable_command(str(job.folder), plan.spec))}",
        "",
    ])  # fmt: skip
