"""What a run leaves in ``run.json``: scores, what was asked and how, what it cost, on which machine and code.

Schema 2; its fields are explained in docs/reference.md.
"""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from harness_ext.backend.account import Account
from harness_ext.results import advice, experiments, outcomes, records, schema1
from harness_ext.run import provenance
from harness_ext.run.question import Question
from harness_ext.run.redaction import hide
from harness_ext.run.run_plan import RunPlan
from harness_ext.run.spec import RunSpec
from harness_ext.task import calibration, data, prompts

# Of an adapter's own record, what stands in that of a run too.
_MADE = (
    "base_version", "kind", "task", "data", "subset", "rows_from", "median_words", "recipe", "optimiser_steps",
    "held_out", "held_out_before", "collapsed", "recipe_settings",
)  # fmt: skip
# Arguments of a model that a table names in a column of their own.
_NAMED_BY_COLUMNS = ("pretrained", "peft", "revision", "dtype", "tokenizer", "base_url", "model", "trust_remote_code")


@dataclass(frozen=True)
class Evaluated:
    """What came of a run."""

    requests: int  # that lm-eval has made of the documents
    outcomes: list[outcomes.Outcome]
    metrics: dict[str, dict[str, float]]  # by filter
    account: Account  # what the backend says of its work
    procs: int
    started: datetime
    total_s: float
    calibration: dict[str, Any] | None = None  # where the boundary of a forced choice was put


def record_of(run: RunPlan, done: Evaluated) -> dict[str, Any]:
    """Write a run down."""
    asked, settings, account = run.asked, run.asked.settings, done.account
    subject, task, secrets = asked.subject, asked.task, asked.secrets()
    training = _training(run)
    if account.fitted and training["training"]:
        training["training"] |= account.fitted
    adapter = subject.adapter.name if subject.adapter else None
    experiment, curve = experiments.experiment_of(run.parts, training["training"], training["train_samples"], adapter)
    return {
        "schema": records.SCHEMA,
        "status": "complete",
        "model": subject.name,
        "adapter": adapter,
        "method": run.method,
        "recipe": (training["training"] or {}).get("recipe"),
        "quantisation": settings.quantisation if settings else None,
        "not_default": hide(_not_default(run), secrets),
        **training,
        "trained_on": run.trained_on,
        "task": task.task_name,
        "data": task.eval_docs.info.description if task.config.custom_dataset else task.config.dataset_path,
        "data_fingerprint": run.parts["data"],
        "prompt": _prompt(run),
        **_scores(run, done),
        "calibration": done.calibration,
        "self_check": account.self_check,
        "engine": account.path or None,
        "batches": account.batches,
        "time_s": {
            "load": account.load_s,
            "tokenise": account.tokenise_s,
            "infer": account.answer_s - account.tokenise_s,
            "total": done.total_s,
        },
        "tokens": {"in": account.tokens_in, "out": account.tokens_out},
        "peak_memory_bytes": account.peak_memory,
        "procs": done.procs,
        "settings": asdict(settings) if settings else None,
        "hardware": provenance.hardware(settings.device if settings else "cpu" if subject.is_baseline else None),
        "commit": provenance.commit(),
        "command": hide(provenance.command("harness_ext", asked.spec.words()), secrets),
        "started": done.started.isoformat(timespec="seconds"),
        "experiment": experiment,
        "curve": curve,
        "key": run.key,
        "key_parts": run.parts,
    }


def _scores(run: RunPlan, done: Evaluated) -> dict[str, Any]:
    account, answers, docs, n = done.account, done.requests, run.asked.task.eval_docs, len(run.prompts)
    is_measured = account.requests and not (account.path.get("from_generation") or account.path.get("documents_kept"))
    return {
        "n": n,
        "n_available": len(docs),
        "train_overlap": data.overlap(run.asked.task),
        "median_words": data.median_words(docs["sentence"]) if "sentence" in getattr(docs, "column_names", ()) else None,
        "counts": outcomes.counts(done.outcomes),
        "examples": advice.examples(done.outcomes),
        "margins": _worth(done.outcomes),
        "metrics": done.metrics,
        # Of answers from an earlier attempt no one knows how close they were; nor how close to a boundary that was moved.
        "near_ties": account.near_ties if account.requests == answers and done.calibration is None else None,
        "docs_per_s": account.requests / answers * n / account.answer_s if is_measured else None,
        "answers_resumed": answers - account.requests,
    }


def _worth(rows: list[outcomes.Outcome]) -> dict[str, Any] | None:
    """Say what a run's margins are worth, where all are known; see `calibration.worth`."""
    margins = [row.margin for row in rows if row.margin is not None]
    return calibration.worth(margins, [row.gold for row in rows]) if margins and len(margins) == len(rows) else None


def _prompt(run: RunPlan) -> dict[str, Any]:
    asked = run.asked
    has_template = bool(asked.settings and asked.settings.chat_template)
    reads_clock = has_template and prompts.asks_for_date(asked.tokenizer)
    return {
        "first": run.prompts[0],
        "chat_template": prompts.template_hash(asked.tokenizer) if has_template else None,
        "date": f"{prompts.DATE:%Y-%m-%d}" if reads_clock else None,
    }


def _training(run: RunPlan) -> dict[str, Any]:
    """Say which labels were used: none, those of a subset, or what an adapter's own record says."""
    asked, adapter = run.asked, run.asked.subject.adapter
    if subset := asked.subset:
        description = asked.task.dataset["train"].info.description
        made = {"subset": subset.hash, "data": description, "data_fingerprint": run.parts["train_data"]}
        return {"train_samples": subset.train_samples, "seed": asked.seed, "training": made}
    if adapter is None:
        draws_rows = asked.spec.calibrate == "batch"  # without their labels
        return {"train_samples": 0, "seed": asked.seed if draws_rows else None, "training": None}
    own = schema1.upgrade([adapter.manifest])[0] if adapter.manifest.get("schema") == 1 else adapter.manifest
    made = {name: own[name] for name in (*_MADE, "experiment", "curve") if name in own}
    if not own.get("steps_resumed") and "time_s" in own:  # else it is the time of the last attempt
        made["train_s"] = own["time_s"]["train"]
    if "base" in own:
        made["base"] = provenance.without_folders(str(own["base"]))
    made["data_fingerprint"] = own.get("data_fingerprint") or own.get("key_parts", {}).get("data")
    return {"train_samples": own.get("train_samples"), "seed": own.get("seed"), "training": made}


def _draws_alone(asked: Question) -> bool:
    """Tell whether the seed decides about nothing but what a model draws: no other column of a table says it then."""
    subject = asked.subject
    return not (subject.adapter or subject.is_classifier or subject.is_fitted or asked.subset or asked.spec.calibrate)


def _not_default(run: RunPlan) -> dict[str, Any]:
    """Say what was asked for that is no default, by the word that a table has for it."""
    spec, asked = run.asked.spec, run.asked
    thinks = asked.settings is not None and asked.settings.thinking
    said = {
        "shots": None if spec.shots else asked.task.config.num_fewshot or None,  # SHOTS are labels, which are counted
        "calibrated": f"by {spec.calibrate}" if spec.calibrate else None,
        "rows": spec.rows if spec.rows != "all" else None,
        "system": spec.system_instruction,
        "chat template": None if spec.apply_chat_template is None else asked.chat_template,
        "dtype": spec.dtype,
        "batch": spec.batch_size,
        "engine": spec.engine,
        "thinking": f"up to {spec.think_budget} tokens" if spec.think_budget and thinks else None,
        "tokenizer": asked.subject.args.get("tokenizer"),
        "seed": list(spec.seed) if _draws_alone(asked) and spec.seed != RunSpec.seed else None,
        **spec.gen_kwargs,
        **{name: value for name, value in spec.model_args.items() if name not in _NAMED_BY_COLUMNS},
    }
    return {name: value for name, value in said.items() if value is not None}
