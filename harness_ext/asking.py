"""How a request's model is asked a task: the choices made for it, the prompt, and all that the run key says.

Loads a tokenizer at the most; nothing is answered here.
"""

import functools
from dataclasses import replace
from typing import Any

from harness_ext import classes, evidence, records, sampling, served, vllm_backend
from harness_ext.adapters import brings_tokenizer
from harness_ext.choices import Choices, choose
from harness_ext.errors import UserError, one_line_errors
from harness_ext.loading import load_tokenizer
from harness_ext.models import own_sampling
from harness_ext.request import CLASSIFIER_BACKEND, DEFAULT_BACKEND, Request


class Asking:
    """A request, ready to be put to tasks."""

    def __init__(self, request: Request) -> None:
        """Prepare; nothing is loaded yet."""
        self.request = request

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The model's tokenizer, where the backend loads a checkpoint."""
        args = self.request.config.model_args
        other, remote_code = str(args.get("tokenizer") or ""), bool(args.get("trust_remote_code"))
        if self.request.base is None:
            return None
        return load_tokenizer(self.request.base, other, remote_code=remote_code, adapter=self.request.adapter)

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

    def key_parts(self, task: Any, choices: Choices | None) -> dict[str, Any]:
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
            "train_rows": subset.hash if (subset := self.subset(task)) else None,
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
                task, document or task.eval_docs[0], template, config.system_instruction, multiturn(config, choices)
            )
        except Exception as error:  # a template may raise anything
            what = f"{self.request.model}'s chat template" if template else "its own template"
            raise UserError(f"The prompt of {task.task_name} cannot be rendered by {what}: {error}") from error

    def subset(self, task: Any) -> sampling.Subset | None:
        """Draw the rows that a baseline is fitted on: those that `finetune` trains on at the same SAMPLES and SEED."""
        if not self.request.is_baseline:
            return None
        samples = self.request.own["train_samples"] or "all"
        return sampling.draw(task.dataset["train"]["label"], samples, self.request.config.seed[0])

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
        chosen = choose(
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
        return replace(chosen, classes=self._classes(task), tokenizer=self._whose_tokenizer())

    def _classes(self, task: Any) -> dict[str, Any] | None:
        """Decide which of a classifier's classes is 1."""
        request = self.request
        if not request.is_classifier or request.base is None:
            return None
        asked = request.config.model_args.get("positive")
        with one_line_errors(loading=f"Model {request.model!r} cannot be read as 0 and 1: "):
            return classes.decide(
                classes.of_checkpoint(request.base, request.adapter), asked, classes.words_of(task)
            ).record()

    def _whose_tokenizer(self) -> str | None:
        """Say whose tokenizer is used, where it is not the base's."""
        if other := self.request.config.model_args.get("tokenizer"):
            return str(other)
        return "the adapter's own" if brings_tokenizer(self.request.adapter) else None

    def _sampling(self, task: Any) -> dict[str, Any]:
        """Return the model's own sampling settings where the task leaves open how to generate; the task's come first."""
        asked = task.config.generation_kwargs or {}
        if task.OUTPUT_TYPE != "generate_until" or asked.get("do_sample") is False or self.request.base is None:
            return {}
        own = own_sampling(self.request.base)
        return {name: asked.get(name, value) for name, value in own.items()}


def multiturn(config: Any, choices: Choices | None) -> bool:
    """Few-shot examples become turns of their own wherever there is a chat template, as in lm-eval."""
    template = choices.chat_template if choices else config.apply_chat_template
    return bool(template) if config.fewshot_as_multiturn is None else bool(config.fewshot_as_multiturn and template)


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
