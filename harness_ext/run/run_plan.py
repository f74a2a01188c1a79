"""One run, planned: how a task is put to a model, all that is asked, its key and its folder.

Loads nothing; the tokenizer is given.
"""

import functools
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness_ext.backend.subject import ANSWER, CLASSIFIER, HF, PROBE, VLLM, Subject
from harness_ext.errors import UserError, one_line_errors
from harness_ext.keys import hash_of
from harness_ext.model import adapters, classes, generation_config
from harness_ext.model.checkpoints import is_generative, own_sampling
from harness_ext.model.settings import Settings, choose
from harness_ext.results import records
from harness_ext.results.experiments import method_of
from harness_ext.run import calibrate, examples
from harness_ext.run.checks import NOTE, Checks
from harness_ext.run.passed_on import check_generation
from harness_ext.run.question import Question, key_parts
from harness_ext.task import data
from harness_ext.task.filters import answers_of
from harness_ext.task.prompts import encode_completions


@dataclass(frozen=True)
class RunPlan:
    """One run: one task put to one subject."""

    asked: Question
    prompts: list[str] = field(repr=False)  # of every document, in lm-eval's order
    requests: str  # a hash over all that is asked and what would be right
    trained_on: dict[str, str] | None  # where an adapter was trained on another task or other data: which
    notes: tuple[str, ...] = ()  # what is particular about it

    @functools.cached_property
    def parts(self) -> dict[str, Any]:
        """All that can change the run's numbers; reads local weights to hash them, once for each file."""
        return key_parts(self.asked, self.prompts, self.requests)

    @functools.cached_property
    def key(self) -> str:
        """The run key: a hash over `parts`."""
        return hash_of(self.parts)

    @property
    def method(self) -> str:
        """How the model is made to answer."""
        return method_of(self.parts)

    @functools.cached_property
    def folder(self) -> Path:
        """Where the finished run lies."""
        asked, subject = self.asked, self.asked.subject
        made = subject.adapter.manifest if subject.adapter else {}
        samples, seed = made.get("train_samples"), made.get("seed")
        if subset := asked.subset:
            samples, seed = subset.train_samples, asked.seed
        method = subject.adapter.name if subject.adapter and samples is None else self.method
        label = records.run_label(subject.name, asked.task.task_name, method, samples, seed)
        return records.place(Path(asked.spec.output_path) / "runs", label, self.key)


def plan_run(asked: Question, checks: Checks) -> list[RunPlan]:
    """Decide how a task is put, and render all of it; nothing where that cannot be decided."""
    spec = asked.spec
    _apply_overrides(asked)
    if asked.subject.base:
        settings = _settings(asked, checks)
        if settings is None:
            return []
        if settings.sampling:
            asked.task.set_config(key="generation_kwargs", value=settings.sampling, update=True)
        asked = replace(asked, settings=settings)
    if spec.calibrate:
        calibrate.check(asked)
    if asked.subject.frozen:
        with checks.problem("labels"):
            rows, source = len(asked.subset.rows if asked.subset else ()), asked.task.dataset["train"].info.description
            checks.say("labels", f"{rows} rows of {source}, seed {asked.seed}")
    trained_on = _trained_on(asked)
    if trained_on:
        checks.say("training", f"the adapter was trained on {trained_on['task']} ({trained_on['data']})", NOTE)
    prompts = asked.prompts()
    if spec.shots and asked.subject.base:
        budget = (asked.task.config.generation_kwargs or {}).get("max_gen_toks", 1)
        examples.check_room(asked.subject.base, asked.tokenizer, prompts, budget, int(spec.shots))
    notes = _notes(asked, prompts)
    for note in notes:
        checks.say("answers", note, NOTE)
    return [RunPlan(asked, prompts, asked.requests_hash(prompts), trained_on, tuple(notes))]


def _notes(asked: Question, prompts: list[str]) -> list[str]:
    """Say where the two answers, as the model reads them, begin with the same part of a word."""
    if asked.settings is None or asked.subject.is_classifier or not prompts:
        return []
    answers, delimiter = answers_of(asked.task), "" if asked.chat_template else asked.task.config.target_delimiter
    texts = [f"{delimiter}{answer}" for answer in answers]
    try:
        zero, one = encode_completions(asked.tokenizer, prompts[:1] * 2, texts)
    except UserError:  # prompts that no model should read are found where they are looked at
        return []
    begun = asked.tokenizer.decode(zero[:1]).strip()  # a blank alone tells nothing anyway
    if zero[0] != one[0] or not begun:
        return []
    return [
        f"{answers[0]!r} and {answers[1]!r} begin with the same token ({begun!r}): a forced choice scores them whole, and "
        "a written answer has a margin only where they differ in their last token"
    ]


def _trained_on(asked: Question) -> dict[str, str] | None:
    """Say which task and data an adapter was trained on, as far as they are others than those of this task."""
    made = asked.subject.adapter.manifest if asked.subject.adapter else {}
    if not made.get("task"):
        return None
    trained = made.get("data_fingerprint") or made.get("key_parts", {}).get("data")
    has_train = asked.task.config.custom_dataset and "train" in asked.task.dataset
    same_data = not has_train or trained in (None, data.fingerprint(asked.task.dataset["train"]))
    if made["task"] == asked.task.task_name and same_data:
        return None
    has_changed = made["task"] == asked.task.task_name and made.get("own_data")
    return {"task": made["task"], "data": f"{made.get('data')}{'; other rows than it has now' if has_changed else ''}"}


def _apply_overrides(asked: Question) -> None:
    """Apply what lm-eval will apply to the task, so that the run key sees it."""
    spec, task, budget = asked.spec, asked.task, asked.spec.think_budget
    if budget is not None:
        if not (task.config.metadata or {}).get("thinking"):
            raise UserError(f"THINK_BUDGET is for a task with thinking (TASK=sst2_01_think), not {task.task_name}.")
        task.set_config(key="generation_kwargs", value={"max_gen_toks": budget}, update=True)
    if spec.gen_kwargs and task.OUTPUT_TYPE == "generate_until":
        task.set_config(key="generation_kwargs", value=spec.gen_kwargs, update=True)
    if spec.shots and asked.subset:
        examples.put_before(task, asked.subset, asked.seed)
    elif task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=spec.num_fewshot or 0)
    elif spec.num_fewshot is not None and task.get_config("num_fewshot") != 0:
        task.set_config(key="num_fewshot", value=spec.num_fewshot)
    if not task.config.num_fewshot and hasattr(task, "sampler"):
        task.sampler.replace_df([])  # of a train split lm-eval keeps all rows as a list


def _settings(asked: Question, checks: Checks) -> Settings | None:
    """Settle how the model is run; where only thinking is impossible, say so and go on without it."""
    settings = None
    with checks.problem("choices"):
        if asked.task.OUTPUT_TYPE == "generate_until":
            by_transformers = asked.subject.backend in (ANSWER, HF) and not asked.subject.remote_code
            check_generation(asked.task.config.generation_kwargs or {}, asked.spec.gen_kwargs, by_transformers)
        settings = _choose(asked, thinking=False)
        check_procs(asked.spec.procs, settings.device)
    if settings and ((asked.task.config.metadata or {}).get("thinking") or "enable_thinking" in asked.subject.args):
        with checks.problem("thinking"):
            settings = _choose(asked, thinking=None)
    if settings:
        checks.say("choices", settings.line())
    return settings


def _choose(asked: Question, thinking: bool | None) -> Settings:
    spec, subject = asked.spec, asked.subject
    assert subject.base is not None
    if is_generative(subject.base) and not subject.reads_sentence:
        own = generation_config.read_own(subject.base.path, subject.base.revision)
        generation_config.check_own(own, subject.base.name)
        generation_config.give_end_token(asked.tokenizer, own, subject.base.config)
        if not subject.base.config.get("is_encoder_decoder"):
            generation_config.check_nothing_behind(asked.tokenizer)
    made = subject.adapter.manifest if subject.adapter else {}
    template = _yes_or_no(spec.apply_chat_template)
    dtype = spec.dtype or subject.args.get("dtype")
    if thinking is None:
        wanted = bool((asked.task.config.metadata or {}).get("thinking")) and not subject.reads_sentence
        thinking = bool(subject.args.get("enable_thinking", wanted))
    chosen = choose(
        asked.tokenizer,
        subject.base.config,
        thinking=thinking,
        device=spec.device,
        # DeBERTa-v3 overflows in its stored float16. An adapter's weights fit the base's as they were in training.
        dtype=dtype or ("float32" if subject.is_classifier or subject.frozen else made.get("dtype")),
        dtype_of_adapter=dtype is None and made.get("dtype") is not None and not subject.is_classifier,
        # As the adapter was trained, unless told otherwise.
        chat_template=False if subject.reads_sentence else made.get("chat_template") if template is None else template,
        template_args=subject.args.get("chat_template_args"),
        batch_size=spec.batch_size or ("auto" if subject.backend == VLLM else None),
        batches_itself=subject.backend in (ANSWER, CLASSIFIER, PROBE),
        sampling=_sampling(asked),
        quantise=subject.quantise,
    )
    return replace(chosen, classes=_classes(asked), tokenizer=_whose_tokenizer(subject))


def _sampling(asked: Question) -> dict[str, Any]:
    """Return the model's own sampling settings where the task leaves open how to generate; the task's come first."""
    wanted = asked.task.config.generation_kwargs or {}
    if asked.task.OUTPUT_TYPE != "generate_until" or wanted.get("do_sample") is False or asked.subject.base is None:
        return {}
    return {name: wanted.get(name, value) for name, value in own_sampling(asked.subject.base).items()}


def _classes(asked: Question) -> dict[str, Any] | None:
    """Decide which of a classifier's classes is 1."""
    subject = asked.subject
    if not subject.is_classifier or subject.base is None:
        return None
    named = classes.of_checkpoint(subject.base, subject.adapter)
    of_own_data = subject.adapter and subject.adapter.manifest.get("own_data") and named[1]  # in the order of its labels
    with one_line_errors(loading=f"Model {subject.name!r} cannot be read as 0 and 1: "):
        return classes.decide(named, subject.args.get("positive", of_own_data), classes.words_of(asked.task)).record()


def _whose_tokenizer(subject: Subject) -> str | None:
    """Say whose tokenizer is used, where it is not the base's."""
    if other := subject.args.get("tokenizer"):
        return str(other)
    return "the adapter's own" if adapters.brings_tokenizer(subject.adapter) else None


def _yes_or_no(template: bool | str | None) -> bool | None:
    """Read --apply_chat_template; a template's name cannot be honoured, as lm-eval always applies the default one."""
    if isinstance(template, str):
        if template.lower() not in ("true", "false"):
            raise UserError(
                f"--apply_chat_template {template!r}: only true and false; a tokenizer's default template is applied."
            )
        return template.lower() == "true"
    return template


def check_procs(procs: int, device: str) -> None:
    """Check that each process gets a device of its own, or that it is the CPU."""
    if procs == 1 or device == "cpu":
        return
    import torch

    if device != "cuda":
        raise UserError(f"PROCS {procs} needs DEVICE=cuda (GPUs 0 to {procs - 1}) or cpu, not {device}.")
    if procs > (found := torch.cuda.device_count()):
        raise UserError(f"PROCS {procs} is more than the {found} GPUs of this machine.")
