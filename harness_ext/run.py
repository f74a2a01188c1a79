"""`python -m harness_ext run`: one model on one or more tasks, each a run with a record.

What is finished is not done again; what was interrupted continues; what could not be written has failed.
"""

import argparse
import functools
import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness_ext import evidence, leaderboard, memory, procs, records, results, sampling, served, vllm_backend
from harness_ext.choices import Choices, choose
from harness_ext.errors import UserError, one_line_errors, writing_to
from harness_ext.loading import load_tokenizer, quieten_libraries
from harness_ext.meter import Meter
from harness_ext.models import own_sampling
from harness_ext.request import CLASSIFIER_BACKEND, DEFAULT_BACKEND, Request, read_request

HANDED_ON = ("gen_kwargs", "model_args", "samples", "config")  # what lm-eval and transformers check only while they run


def execute(args: argparse.Namespace) -> None:
    """Run what the command line asks for, task after task with one loaded model, and print the table.

    Raises:
        UserError: Something the user gave is wrong.
    """
    _quieten(args.verbosity)
    if procs.RANK:
        procs.help_out(_create_model, _adjust)
        return
    request = read_request(args)
    from harness_ext.tasks import build_tasks  # after the checks that need no datasets library

    own_data = {"data_dir": request.own["data_dir"]} if request.own["data_dir"] else {}
    config = request.config
    tasks = build_tasks(list(config.tasks), config.include_path, config.metadata | own_data)
    for task in tasks:
        served.check_task(config.model, task.task_name, task.OUTPUT_TYPE)
    # A forced choice comes after the answers to the same prompts: they have its log-probabilities already.
    tasks.sort(key=lambda task: task.OUTPUT_TYPE == "multiple_choice")
    with procs.together(request.own["procs"]) as team:
        session = Session(request, tasks, team)
        manifests = [session.run(task) for task in tasks]
    rows = leaderboard.rows(manifests, leaderboard.read_reported())
    if rows:
        leaderboard.show(rows)


class Session:
    """One model, loaded when the first run needs it, and the runs it does."""

    def __init__(self, request: Request, tasks: list[Any], team: procs.Team) -> None:
        """Prepare to run tasks; nothing is loaded yet."""
        self.request, self._tasks = request, tasks
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
        choices = self.prepare(task)
        if choices:
            self.team.check_device(choices.device)
        parts = self._key_parts(task, choices)
        key = records.run_key(parts)
        out = Path(config.output_path)
        shown = f"{request.model}+{request.adapter.name}" if request.adapter else request.model
        target = records.run_folder(out, records.run_name(shown, task.task_name, key))
        with records.workspace(out, target.name) as work:
            if records.is_complete(target) and not request.own["force"]:
                records.drop(work)
                print(f"Already done: {target} (FORCE=1 runs it again).", file=sys.stderr)
                return _read(target)
            if choices or request.is_served:
                print(choices.line() if choices else served.line(config), file=sys.stderr, flush=True)
            self.team.call()
            evidence.describe_machine_meanwhile()
            started = datetime.now(UTC)
            samples, finished, metrics = self._evaluate(task, choices, work, key)
            manifest = self._manifest(task, choices, samples, metrics)
            manifest |= {
                "data_fingerprint": parts["data"],
                "started": started.isoformat(timespec="seconds"),
                "key": key,
                "key_parts": parts,
            }
            with writing_to(out):
                records.write_json(finished / records.MANIFEST, manifest)
                records.publish(work, finished, target)
        print(f"Written: {target}", file=sys.stderr)
        return manifest

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The model's tokenizer, where the backend loads a checkpoint."""
        args = self.request.config.model_args
        other, remote_code = str(args.get("tokenizer") or ""), bool(args.get("trust_remote_code"))
        return load_tokenizer(self.request.base, other, remote_code=remote_code) if self.request.base else None

    def prepare(self, task: Any, thinking: bool | None = None) -> Choices | None:
        """Make the choices for a task, and set in it what they and the command line say of it.

        Args:
            task: A built lm-eval task.
            thinking: Whether the model is to think; None leaves it to the task.

        Returns:
            The choices, or None where the backend loads no checkpoint.

        Raises:
            UserError: A value is wrong, or the model cannot do what the task asks.
        """
        _apply_overrides(task, self.request.config, self.request.own["think_budget"])
        choices = self._choose(task, thinking)
        if choices and choices.sampling:
            task.set_config(key="generation_kwargs", value=choices.sampling, update=True)
        return choices

    def _choose(self, task: Any, thinking: bool | None) -> Choices | None:
        request, args = self.request, self.request.config.model_args
        if request.base is None:
            return None
        template = _yes_or_no(request.if_given("apply_chat_template"))
        if template is None and request.adapter:
            template = request.adapter.manifest.get("chat_template")  # as it was trained
        dtype = request.own["dtype"] or args.get("dtype")
        batch_size = request.if_given("batch_size") or ("auto" if request.config.model == vllm_backend.VLLM else None)
        if thinking is None:
            asked = bool((task.config.metadata or {}).get("thinking")) and not request.is_classifier
            thinking = bool(args.get("enable_thinking", asked))
        return choose(
            self.tokenizer,
            request.base.config,
            thinking=thinking,
            device=request.if_given("device"),
            dtype=dtype or ("float32" if request.is_classifier else None),  # DeBERTa-v3 overflows in its stored float16
            chat_template=False if request.is_classifier else template,
            template_args=args.get("chat_template_args"),
            batch_size=None if batch_size is None else str(batch_size),
            batches_itself=request.config.model in (DEFAULT_BACKEND, CLASSIFIER_BACKEND),
            sampling=self._sampling(task),
            quantise=request.quantise,
        )

    def _sampling(self, task: Any) -> dict[str, Any]:
        """Return the model's own sampling settings where the task leaves open how to generate; the task's come first."""
        asked = task.config.generation_kwargs or {}
        if task.OUTPUT_TYPE != "generate_until" or asked.get("do_sample") is False or self.request.base is None:
            return {}
        own = own_sampling(self.request.base)
        return {name: asked.get(name, value) for name, value in own.items()}

    def _key_parts(self, task: Any, choices: Choices | None) -> dict[str, Any]:
        """Collect all that can change the run's numbers."""
        from harness_ext.data import fingerprint

        request, config = self.request, self.request.config
        chosen = {"pretrained", "peft", "revision", "dtype", "chat_template_args", "enable_thinking"} if choices else set()
        chosen |= {"pretrained", *served.NOT_IN_KEY} if request.is_served else set()
        named = records.run_key(config.model_args["pretrained"]) if request.is_served else None
        shots = task.config.num_fewshot
        return {
            "task": task.task_name,
            "task_version": task.VERSION,
            "prompt": records.run_key({"first": self.prompt(task, choices), "filters": task.config.filter_list}),
            "output_type": task.OUTPUT_TYPE,
            "num_fewshot": shots,
            "data": fingerprint(task.eval_docs),
            "fewshot_data": fingerprint(task.fewshot_docs()) if shots else None,
            "backend": config.model,
            "model": request.model,
            "weights": request.base.version if request.base else named,  # a server tells no more than the name
            "adapter": request.adapter.version if request.adapter else None,
            "model_args": {name: value for name, value in config.model_args.items() if name not in chosen},
            "device": choices.device.split(":")[0] if choices else None,
            "dtype": choices.dtype if choices else None,
            "quantisation": choices.quantisation if choices else None,
            "chat_template": choices.chat_template if choices else config.apply_chat_template,
            "template_args": choices.template_args if choices else None,
            "generation": task.config.generation_kwargs,
            "limit": config.limit,
            "samples": config.samples,
            "seeds": config.seed,
            "train_rows": subset.hash if (subset := self._subset(task)) else None,
            "versions": evidence.versions(
                *([vllm_backend.VLLM] if config.model == vllm_backend.VLLM else []),
                *(evidence.KERNELS if choices and choices.quantisation else []),
            ),
        }

    def prompt(self, task: Any, choices: Choices | None, document: dict[str, Any] | None = None) -> str:
        """Render the prompt of a document, the first if none is given.

        Raises:
            UserError: It cannot be rendered.
        """
        from harness_ext.prompts import chat_renderer, render_prompt, show_messages

        config = self.request.config
        template = chat_renderer(self.tokenizer, choices.template_args) if choices and choices.chat_template else None
        if self.request.is_served and config.apply_chat_template:
            template = show_messages
        task.set_fewshot_seed(config.seed[3])
        shots = task.config.num_fewshot
        if shots and shots > (examples := len(task.fewshot_docs())):
            raise UserError(f"--num_fewshot {shots} asks for more examples than the {examples} there are.")
        try:
            return render_prompt(
                task, document or task.eval_docs[0], template, config.system_instruction, _multiturn(config, choices)
            )
        except Exception as error:  # a template may raise anything
            what = f"{self.request.model}'s chat template" if template else "its own template"
            raise UserError(f"The prompt of {task.task_name} cannot be rendered by {what}: {error}") from error

    def _evaluate(self, task: Any, choices: Choices | None, work: Path, key: str) -> tuple[list[dict], Path, dict[str, Any]]:
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
        lm = self._load(task, choices)
        wishes = self._wishes(task, choices) if choices else None
        if wishes:
            _adjust(lm, *wishes)
        # lm-eval's cache is not keyed by model: another model would get this one's answers.
        cache = f"{config.use_cache}-{key[:8]}" if config.use_cache else str(work / "answers")
        tracker = EvaluationTracker(output_path=str(work / "lm_eval"), **config.hf_hub_log_args)
        handed_on = " ".join(f"{name}={request.if_given(name)}" for name in HANDED_ON if name in request.given)
        with one_line_errors(running=f"lm-eval does not run with {handed_on}: " if handed_on else None):
            summary = simple_evaluate(
                model=lm,
                model_args={**config.model_args, "pretrained": request.model},
                tasks=[task],
                num_fewshot=config.num_fewshot,
                batch_size=choices.batch_size if choices else config.batch_size,
                device=choices.device if choices else config.device,
                use_cache=self.team.begin(wishes, cache),
                cache_requests=config.cache_requests.get("cache_requests", False),
                rewrite_requests_cache=config.cache_requests.get("rewrite_requests_cache", False),
                delete_requests_cache=config.cache_requests.get("delete_requests_cache", False),
                limit=config.limit,
                samples=config.samples,
                check_integrity=config.check_integrity,
                write_out=config.write_out,
                log_samples=True,
                evaluation_tracker=tracker,
                system_instruction=config.system_instruction,
                apply_chat_template=choices.chat_template if choices else config.apply_chat_template,
                fewshot_as_multiturn=_multiturn(config, choices),
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
        finished = results.save(tracker, summary, samples, task.task_name, work)
        return samples, finished, results.by_filter(summary["results"][task.task_name])

    def _load(self, task: Any, choices: Choices | None) -> Any:
        """Load the model once, for all tasks."""
        config = self.request.config
        tokens = 0
        if config.model == vllm_backend.VLLM and choices:
            multiturn = _multiturn(config, choices)
            tokens = vllm_backend.needed_tokens(task, self.tokenizer, choices, config.system_instruction, multiturn)
        if self._lm is None or self.request.is_baseline:
            start = time.perf_counter()
            adapter = f" with adapter {self.request.adapter.name!r}" if self.request.adapter else ""
            with one_line_errors(loading=f"Model {self.request.model!r}{adapter} does not load: "):
                self.team.load(self.request, choices)
                self._lm = self.team.share(_create_model(self.request, choices, self._train_rows(task), tokens))
            self.meter.load_s = time.perf_counter() - start
            self.meter.watch(self._lm)
        if tokens and choices:
            from harness_ext.prompts import chat_renderer

            vllm_backend.check_room(self._lm, tokens)
            # lm-eval's own loses the thinking switch when it is off (0.4.13), and drops a system message that is refused.
            self._lm.apply_chat_template = chat_renderer(self.tokenizer, choices.template_args)
        self.meter.reset()
        return self._lm

    def _wishes(self, task: Any, choices: Choices) -> tuple[Any, ...]:
        """Return what a loaded model needs to know about a task: the further arguments of `_adjust`."""
        from harness_ext.filters import settled_test

        return choices, settled_test(task), self._choices_to_come(task, choices)

    def _choices_to_come(self, task: Any, choices: Choices) -> list[str]:
        """Return the continuations that a later forced choice will ask for after this task's prompts."""
        if task.OUTPUT_TYPE != "generate_until":
            return []
        later = [other for other in self._tasks if other.OUTPUT_TYPE == "multiple_choice"]
        requests = [
            request
            for other in later
            for request in other.construct_requests(other.eval_docs[0], "", apply_chat_template=choices.chat_template)
        ]
        return list(dict.fromkeys(request.args[1] for request in requests))

    def _subset(self, task: Any) -> sampling.Subset | None:
        """Draw the rows that a baseline is fitted on: those that `finetune` trains on at the same SAMPLES and SEED."""
        if not self.request.is_baseline:
            return None
        samples = self.request.own["train_samples"] or "all"
        return sampling.draw(task.dataset["train"]["label"], samples, self.request.config.seed[0])

    def _train_rows(self, task: Any) -> list[dict[str, Any]]:
        subset = self._subset(task)
        return task.dataset["train"].select(subset.rows).to_list() if subset else []

    def _training(self, task: Any) -> dict[str, Any]:
        """Say what the model was trained on here: nothing, a baseline's rows, or what an adapter's own record says."""
        if subset := self._subset(task):
            seed = self.request.config.seed[0]
            return {"train_samples": subset.train_samples, "seed": seed, "training": {"subset": subset.hash}}
        if self.request.adapter is None:
            return {"train_samples": 0, "seed": None, "training": None}
        made = self.request.adapter.manifest
        kept = ("base", "kind", "data", "subset", "recipe", "optimiser_steps", "collapsed", "settings")
        return {
            "train_samples": made.get("train_samples"),
            "seed": made.get("seed"),
            "training": {name: made[name] for name in kept if name in made},
        }

    def _manifest(self, task: Any, choices: Choices | None, samples: list[dict], metrics: dict[str, Any]) -> dict[str, Any]:
        from harness_ext import prompts

        request, (meter, peak) = self.request, self.team.total(self.meter)
        adapter = request.adapter
        n = len({sample["doc_id"] for sample in samples})
        answers = n * len(samples[0]["arguments"])
        engine = getattr(self._lm, "path", None) if meter.requests else None
        is_measured = meter.requests and not (engine or {}).get("from_generation")
        return {
            "schema": records.SCHEMA,
            "status": "complete",
            "model": request.model,
            "adapter": adapter.name if adapter else None,
            **self._training(task),
            "task": task.task_name,
            "data": task.eval_docs.info.description if task.config.custom_dataset else task.config.dataset_path,
            "prompt": {
                "first": self.prompt(task, choices),
                "chat_template": prompts.template_hash(self.tokenizer) if choices and choices.chat_template else None,
            },
            "n": n,
            "n_available": len(task.eval_docs),
            "counts": evidence.count_labels(samples),
            "metrics": metrics,
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
            "choices": vars(choices) if choices else None,
            "hardware": evidence.hardware(choices.device if choices else None),
            "commit": evidence.commit(),
            "command": evidence.command(),
        }


def _read(target: Path) -> dict[str, Any]:
    try:
        return records.read_run(target)
    except (OSError, ValueError) as error:
        raise UserError(f"The record in {target} is damaged ({error}). Run again with FORCE=1.") from None


def _create_model(
    request: Request, choices: Choices | None, train_rows: Sequence[dict[str, Any]] = (), tokens: int = 0
) -> Any:
    """Build lm-eval's LM for the request; a baseline is fitted on `train_rows`, vLLM is started for `tokens`."""
    quieten_libraries()
    import lm_eval.models  # noqa: F401  registers lm-eval's own
    from lm_eval.api.registry import get_model

    import harness_ext.lm  # noqa: F401  registers ours

    config = request.config
    args = dict(config.model_args)
    if request.is_served:
        from harness_ext.lm.served import MODELS

        return MODELS[config.model](**args)
    if request.is_baseline:
        args["rows"] = train_rows
    more = {"batch_size": config.batch_size, "max_batch_size": config.max_batch_size, "device": config.device}
    if request.base and choices and config.model == vllm_backend.VLLM:
        ours = {"pretrained", "peft", "revision", "dtype", "chat_template_args", "enable_thinking"}
        theirs = {name: value for name, value in args.items() if name not in ours}
        return get_model(config.model)(**(vllm_backend.model_args(request.base, request.adapter, choices, tokens) | theirs))
    if request.base and choices:
        args.pop("enable_thinking", None)  # goes by chat_template_args, so that lm-eval leaves the thinking in the log
        args |= {"pretrained": request.base.path, "revision": request.base.revision, "dtype": choices.dtype}
        if request.is_classifier:
            args["head"] = request.adapter.config.get("modules_to_save") if request.adapter else None
        else:
            args["chat_template_args"] = choices.template_args
        if not request.own["allow_pickle"]:
            args["use_safetensors"] = True
        if request.adapter:
            args["peft"] = request.adapter.path
        if request.quantise:
            args["quantise"] = request.quantise
        more |= {"batch_size": choices.batch_size, "device": choices.device}
        memory.check_fits(request.base, args | more)
    return get_model(config.model).create_from_arg_obj(args, more)


def _adjust(lm: Any, choices: Choices, settled: Callable[[str], bool] | None, continuations: list[str]) -> None:
    """Run a loaded model as the next task wants it; see `Session._wishes`."""
    lm.chat_template_args = choices.template_args
    if str(choices.batch_size).isdecimal():  # `auto` is the same for all tasks, and each model's own affair
        lm.batch_size_per_gpu = int(choices.batch_size)
    if hasattr(lm, "prepare"):
        lm.prepare(settled, continuations)


def _apply_overrides(task: Any, config: Any, think_budget: int | None) -> None:
    """Apply what lm-eval will apply to the task, so that the run key sees it."""
    if think_budget is not None:
        if not (task.config.metadata or {}).get("thinking"):
            raise UserError(f"THINK_BUDGET is for a task with thinking (TASK=sst2_01_think), not {task.task_name}.")
        task.set_config(key="generation_kwargs", value={"max_gen_toks": think_budget}, update=True)
    if config.gen_kwargs and task.OUTPUT_TYPE == "generate_until":
        task.set_config(key="generation_kwargs", value=config.gen_kwargs, update=True)
    if task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=config.num_fewshot or 0)
    elif config.num_fewshot is not None and task.get_config("num_fewshot") != 0:
        task.set_config(key="num_fewshot", value=config.num_fewshot)


def _yes_or_no(template: bool | str | None) -> bool | None:
    """Read --apply_chat_template; a template's name cannot be honoured, as lm-eval always applies the default one."""
    if isinstance(template, str):
        if template.lower() not in ("true", "false"):
            raise UserError(
                f"--apply_chat_template {template!r}: only true and false; a tokenizer's default template is applied."
            )
        return template.lower() == "true"
    return template


def _multiturn(config: Any, choices: Choices | None) -> bool:
    """Few-shot examples become turns of their own wherever there is a chat template, as in lm-eval."""
    template = choices.chat_template if choices else config.apply_chat_template
    return bool(template) if config.fewshot_as_multiturn is None else bool(config.fewshot_as_multiturn and template)


def _quieten(verbosity: str | None) -> None:
    """Let lm-eval say errors only, unless the user wants more (--verbosity or LMEVAL_LOG_LEVEL)."""
    from lm_eval.utils import setup_logging

    setup_logging(getattr(logging, verbosity or "ERROR", logging.ERROR))
