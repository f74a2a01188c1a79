"""`python -m harness_ext run`: one model on one or more tasks, each a run with a record.

What is finished is not done again; what was interrupted continues; what could not be written has failed.
"""

import argparse
import json
import logging
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness_ext.backend import served, vllm
from harness_ext.backend.build import adjust, create_model
from harness_ext.backend.meter import Meter
from harness_ext.errors import UserError, one_line_errors, writing_to
from harness_ext.keys import hash_of
from harness_ext.model.memory import reset_peak_memory
from harness_ext.model.settings import Settings
from harness_ext.results import advice, leaderboard, outcomes, records, render, reported
from harness_ext.results.schema1 import upgrade
from harness_ext.run import lm_eval_output, provenance, shards
from harness_ext.run.cache import kept_safely
from harness_ext.run.plan import Asking, find_tasks, multiturn
from harness_ext.run.redaction import hide
from harness_ext.run.spec import Request, read_request

HANDED_ON = ("gen_kwargs", "model_args", "samples", "config")  # what lm-eval and transformers check only while they run


def execute(args: argparse.Namespace) -> None:
    """Run what the command line asks for, task after task with one loaded model, and print the table.

    Raises:
        UserError: Something the user gave is wrong.
    """
    _quieten(args.verbosity)
    if shards.place().rank:
        shards.help_out(create_model, adjust)
        return
    request = read_request(args)
    tasks = find_tasks(request.config, request.own, request.adapter)
    for task in tasks:
        served.check_task(request.config.model, task.task_name, task.OUTPUT_TYPE)
    # A forced choice comes after the answers to the same prompts: they have its log-probabilities already.
    tasks.sort(key=lambda task: task.OUTPUT_TYPE == "multiple_choice")
    with shards.together(request.own["procs"]) as team:
        session = Session(request, tasks, team)
        manifests = [session.run(task) for task in tasks]
    rows = leaderboard.rows(manifests, reported.scores())
    if rows:
        render.show(rows)
    for manifest in manifests:
        for line in advice.lines(manifest):
            print(f"{manifest['task']}: {line}" if len(manifests) > 1 else line)


class Session:
    """One model, loaded when the first run needs it, and the runs it does."""

    def __init__(self, request: Request, tasks: list[Any], team: shards.Team) -> None:
        """Prepare to run tasks; nothing is loaded yet."""
        self.request, self._tasks = request, tasks
        self.asking = Asking(request)
        self.team = team
        self.meter = Meter()
        self._lm: Any = None
        self._start = 0.0

    def run(self, task: Any) -> dict[str, Any]:
        """Run one task, or find the finished run of the same key.

        Args:
            task: A built lm-eval task.

        Returns:
            The run's manifest.

        Raises:
            UserError: The run cannot be done, or its results cannot be written.
        """
        request, config = self.request, self.request.config
        self._start = time.perf_counter()
        settings = self.asking.prepare(task)
        if settings:
            self.team.check_device(settings.device)
        parts = self.asking.key_parts(task, settings)
        key = hash_of(parts)
        out = Path(config.output_path)
        reset_peak_memory()
        shown = f"{request.model}+{request.adapter.name}" if request.adapter else request.model
        target = records.place(out / "runs", records.run_label(shown, task.task_name), key)
        with records.workspace(out, target.name) as work:
            if records.is_complete(target, key) and not request.own["force"]:
                records.drop(work)
                print(f"Already done: {target} (FORCE=1 runs it again).", file=sys.stderr)
                return _read(target)
            if settings or request.is_served:
                print(settings.line() if settings else served.line(config), file=sys.stderr, flush=True)
            if made := self.asking.trained_on(task):
                print(f"The adapter was trained on {made['task']} ({made['data']}).", file=sys.stderr)
            self.team.call()
            provenance.describe_machine_meanwhile()
            provenance.spare_git_elsewhere()
            started = datetime.now(UTC)
            samples, finished, metrics = self._evaluate(task, settings, work, key)
            manifest = self._manifest(task, settings, samples, metrics)
            manifest |= {
                "data_fingerprint": parts["data"],
                "started": started.isoformat(timespec="seconds"),
                "key": key,
                "key_parts": parts,
            }
            (manifest,) = upgrade([manifest])
            with writing_to(out):
                records.write_json(finished / records.MANIFEST, manifest)
                records.publish(work, finished, target)
        print(f"Written: {target}", file=sys.stderr)
        return manifest

    def _evaluate(
        self, task: Any, settings: Settings | None, work: Path, key: str
    ) -> tuple[list[dict], Path, dict[str, Any]]:
        """Let lm-eval run the task, every answer kept as it comes, and write its two files.

        Returns:
            The per-document log, the folder with both files, and the metrics by filter.
        """
        from lm_eval import simple_evaluate
        from lm_eval.loggers import EvaluationTracker
        from lm_eval.tasks import TaskManager

        request, config = self.request, self.request.config
        if request.own["force"]:
            for file in work.glob("answers*"):
                file.unlink()
        lm = self._load(task, settings)
        wishes = self._wishes(task, settings) if settings else None
        if wishes:
            adjust(lm, *wishes)
        # lm-eval's cache is not keyed by model: another model would get this one's answers.
        cache = f"{config.use_cache}-{key}" if config.use_cache else str(work / f"answers-{key}")
        tracker = EvaluationTracker(output_path=str(work / "lm_eval"), **config.hf_hub_log_args)
        secrets = self.asking.secrets
        handed_on = " ".join(
            f"{name}={hide(request.if_given(name), secrets)}" for name in HANDED_ON if name in request.given
        )
        running = f"lm-eval does not run with {handed_on}: " if handed_on else None
        with one_line_errors(running=running), kept_safely(lm):
            summary = simple_evaluate(
                model=lm,
                model_args=hide({**config.model_args, "pretrained": request.model}, secrets),
                tasks=[task],
                num_fewshot=config.num_fewshot,
                batch_size=settings.batch_size if settings else config.batch_size,
                device=settings.device if settings else config.device,
                use_cache=self.team.begin(wishes, cache),
                limit=config.limit,
                samples=config.samples,
                check_integrity=config.check_integrity,
                write_out=config.write_out,
                log_samples=True,
                evaluation_tracker=tracker,
                system_instruction=config.system_instruction,
                apply_chat_template=settings.chat_template if settings else config.apply_chat_template,
                fewshot_as_multiturn=multiturn(config, settings),
                gen_kwargs=config.gen_kwargs or None,
                task_manager=TaskManager(include_defaults=False),
                random_seed=config.seed[0],
                numpy_random_seed=config.seed[1],
                torch_random_seed=config.seed[2],
                fewshot_random_seed=config.seed[3],
                confirm_run_unsafe_code=config.confirm_run_unsafe_code,
                metadata=config.metadata,
            )
        if config.show_config:
            print(json.dumps(summary["configs"], indent=2, default=str))
        samples = summary.pop("samples")[task.task_name]
        finished = lm_eval_output.save(tracker, summary, samples, task.task_name, work, secrets)
        return samples, finished, lm_eval_output.by_filter(summary["results"][task.task_name])

    def _load(self, task: Any, settings: Settings | None) -> Any:
        """Load the model once, for all tasks."""
        config = self.request.config
        tokens = 0
        if config.model == vllm.VLLM and settings:
            tokens = vllm.needed_tokens(task, self.asking.tokenizer, self.asking.prompts(task, settings))
        if self._lm is None or self.request.is_baseline:
            start = time.perf_counter()
            adapter = f" with adapter {self.request.adapter.name!r}" if self.request.adapter else ""
            with one_line_errors(loading=f"Model {self.request.model!r}{adapter} does not load: "):
                self.team.load(self.request, settings)
                self._lm = self.team.share(create_model(self.request, settings, self._train_rows(task), tokens))
            self.meter.load_s = time.perf_counter() - start
            self.meter.watch(self._lm)
        if tokens and settings:
            vllm.check_room(self._lm, tokens)
        if settings and settings.chat_template:
            # What was checked is what is asked. lm-eval's own drops a system message that is refused, reads the clock, and
            # (0.4.13, vllm) loses the thinking switch when it is off.
            self._lm.apply_chat_template = self.asking.renderer(settings)
        self.meter.reset()
        return self._lm

    def _wishes(self, task: Any, settings: Settings) -> tuple[Any, ...]:
        """Return what a loaded model needs to know about a task: the further arguments of `building.adjust`."""
        from harness_ext.task.filters import settled_test

        return settings, settled_test(task), self._choices_to_come(task, settings)

    def _choices_to_come(self, task: Any, settings: Settings) -> list[str]:
        """Return the continuations that a later forced choice will ask for after this task's prompts."""
        if task.OUTPUT_TYPE != "generate_until":
            return []
        later = [other for other in self._tasks if other.OUTPUT_TYPE == "multiple_choice"]
        requests = [
            request
            for other in later
            for request in other.construct_requests(other.eval_docs[0], "", apply_chat_template=settings.chat_template)
        ]
        return list(dict.fromkeys(request.args[1] for request in requests))

    def _train_rows(self, task: Any) -> list[dict[str, Any]]:
        subset = self.asking.subset(task)
        return task.dataset["train"].select(subset.rows).to_list() if subset else []

    def _train_data(self, task: Any) -> dict[str, Any]:
        from harness_ext.task.data import fingerprint

        train = task.dataset["train"]
        return {"data": train.info.description, "data_fingerprint": fingerprint(train)}

    def _training(self, task: Any) -> dict[str, Any]:
        """Say what the model was trained on here: nothing, a baseline's rows, or what an adapter's own record says."""
        if subset := self.asking.subset(task):
            seed = self.request.config.seed[0]
            return {
                "train_samples": subset.train_samples,
                "seed": seed,
                "training": {"subset": subset.hash, **self._train_data(task)},
            }
        if self.request.adapter is None:
            return {"train_samples": 0, "seed": None, "training": None}
        made = dict(self.request.adapter.manifest)
        if "recipe_settings" in made:  # an adapter of schema 1 calls them settings
            made["settings"] = made["recipe_settings"]
        if "base" in made:
            made["base"] = provenance.without_folders(str(made["base"]))
        kept = ["base", "base_version", "kind", "task", "data", "subset", "recipe", "optimiser_steps", "collapsed"]
        kept += ["experiment", "curve"]
        return {
            "train_samples": made.get("train_samples"),
            "seed": made.get("seed"),
            "training": {
                **{name: made[name] for name in (*kept, "settings") if name in made},
                "data_fingerprint": made.get("data_fingerprint") or made.get("key_parts", {}).get("data"),
            },
        }

    def _manifest(
        self, task: Any, settings: Settings | None, samples: list[dict], metrics: dict[str, Any]
    ) -> dict[str, Any]:
        from harness_ext.task import data, prompts

        request, (meter, peak) = self.request, self.team.total(self.meter)
        has_template = bool(settings and settings.chat_template)
        adapter = request.adapter
        n = len({sample["doc_id"] for sample in samples})
        answers = n * len(samples[0]["arguments"])
        engine = getattr(self._lm, "path", None) if meter.requests else None
        # Of answers from an earlier attempt no one knows how close they were.
        near_ties = self.team.near_ties(getattr(self._lm, "near_ties", None)) if meter.requests == answers else None
        is_measured = meter.requests and not (engine or {}).get("from_generation")
        return {
            "schema": 1,
            "status": "complete",
            "model": request.model,
            "adapter": adapter.name if adapter else None,
            **self._training(task),
            "trained_on": self.asking.trained_on(task),
            "task": task.task_name,
            "data": task.eval_docs.info.description if task.config.custom_dataset else task.config.dataset_path,
            "prompt": {
                "first": self.asking.prompts(task, settings)[0],
                "chat_template": prompts.template_hash(self.asking.tokenizer) if has_template else None,
                "date": f"{prompts.DATE:%Y-%m-%d}"
                if has_template and prompts.asks_for_date(self.asking.tokenizer)
                else None,
            },
            "n": n,
            "n_available": len(task.eval_docs),
            "train_overlap": data.overlap(task),
            "counts": outcomes.counts(outcomes.rows(samples, {})),
            "examples": advice.examples(samples),
            "metrics": metrics,
            "near_ties": near_ties,
            "self_check": getattr(self._lm, "self_check", None),
            "docs_per_s": meter.requests / answers * n / meter.answer_s if is_measured else None,
            "engine": engine,
            "answers_resumed": answers - meter.requests,
            "time_s": {
                "load": meter.load_s,
                "tokenise": meter.tokenise_s,
                "infer": meter.answer_s - meter.tokenise_s,
                "total": time.perf_counter() - self._start,
            },
            "tokens": {"in": meter.tokens_in, "out": meter.tokens_out},
            "peak_memory_bytes": peak,
            "procs": self.team.size,
            "choices": vars(settings) if settings else None,
            "hardware": provenance.hardware(settings.device if settings else "cpu" if request.is_baseline else None),
            "commit": provenance.commit(),
            "command": hide(provenance.command(), self.asking.secrets),
        }


def _read(target: Path) -> dict[str, Any]:
    try:
        return records.read_run(target)
    except (OSError, ValueError) as error:
        raise UserError(f"The record in {target} is damaged ({error}). Run again with FORCE=1.") from None


def _quieten(verbosity: str | None) -> None:
    """Let lm-eval say errors only, unless the user wants more (--verbosity or LMEVAL_LOG_LEVEL)."""
    from lm_eval.utils import setup_logging

    setup_logging(getattr(logging, verbosity or "ERROR", logging.ERROR))
