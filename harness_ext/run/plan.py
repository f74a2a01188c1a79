"""How a request's model is asked a task: the settings made for it, the prompt, and all that the run key says.

Loads a tokenizer at the most; nothing is answered here.
"""

import functools
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from harness_ext.backend import served, vllm
from harness_ext.errors import UserError, one_line_errors
from harness_ext.keys import hash_of
from harness_ext.model import classes, generation_config
from harness_ext.model.adapters import brings_tokenizer
from harness_ext.model.checkpoints import Checkpoint, is_generative, own_sampling
from harness_ext.model.loading import find_tokenizer, load_tokenizer
from harness_ext.model.settings import Settings, choose
from harness_ext.run import provenance
from harness_ext.run.passed_on import check_generation
from harness_ext.run.redaction import hide, secrets_in
from harness_ext.run.spec import CLASSIFIER_BACKEND, DEFAULT_BACKEND, Request
from harness_ext.task import subsets

PLACES = ("cache_dir", "offload_folder", "token", "use_auth_token")  # arguments of a model that say where, not what


class Asking:
    """A request, ready to be put to tasks."""

    def __init__(self, request: Request) -> None:
        """Prepare; nothing is loaded yet."""
        self.request = request
        self._prompts: dict[tuple[int, str], list[str]] = {}

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The model's tokenizer, where the backend loads a checkpoint."""
        request = self.request
        if request.base is None:
            return None
        remote_code = bool(request.config.model_args.get("trust_remote_code"))
        if other := self.other_tokenizer:
            return load_tokenizer(other, remote_code=remote_code)
        return load_tokenizer(request.base, remote_code=remote_code, adapter=request.adapter)

    @functools.cached_property
    def other_tokenizer(self) -> Checkpoint | None:
        """The tokenizer that is used in place of the model's own, where the user names one."""
        text = self.request.config.model_args.get("tokenizer") if self.request.base else None
        return find_tokenizer(str(text)) if text else None

    def prepare(self, task: Any, thinking: bool | None = None) -> Settings | None:
        """Make the settings for a task, and set in it what they and the command line say of it.

        Args:
            task: A built lm-eval task.
            thinking: Whether the model is to think; None leaves it to the task.

        Returns:
            The settings, or None where the backend loads no checkpoint.

        Raises:
            UserError: A value is wrong, or the model cannot do what the task asks.
        """
        config = self.request.config
        _apply_overrides(task, config, self.request.own["think_budget"])
        if task.OUTPUT_TYPE == "generate_until":
            of_ours = config.model in (DEFAULT_BACKEND, "hf") and not config.model_args.get("trust_remote_code")
            check_generation(task.config.generation_kwargs or {}, config.gen_kwargs, by_transformers=of_ours)
        settings = self._choose(task, thinking)
        if settings and settings.sampling:
            task.set_config(key="generation_kwargs", value=settings.sampling, update=True)
        return settings

    def key_parts(self, task: Any, settings: Settings | None) -> dict[str, Any]:
        """Collect all that can change the run's numbers, but for the machine, which the record names.

        Raises:
            UserError: A prompt cannot be asked.
        """
        from harness_ext.task import content
        from harness_ext.task.data import fingerprint

        request, config = self.request, self.request.config
        named = hash_of(config.model_args["pretrained"]) if request.is_served else None
        shots = task.config.num_fewshot
        subset = self.subset(task)
        parts = {
            "task": task.task_name,
            "task_version": task.VERSION,
            "task_config": hash_of(content.task_content(task.config)),
            "prompts": hash_of(self.prompts(task, settings)),
            "requests": self.requests(task, settings),
            "output_type": task.OUTPUT_TYPE,
            "num_fewshot": shots,
            "data": fingerprint(task.eval_docs),
            "fewshot_data": fingerprint(task.fewshot_docs()) if shots else None,
            "backend": config.model,
            "model": request.model,
            "weights": request.base.version if request.base else named,  # a server tells no more than the name
            "adapter": request.adapter.version if request.adapter else None,
            "tokenizer": self.other_tokenizer.version if self.other_tokenizer else None,  # the model's is part of `weights`
            "model_args": self._model_args(settings),
            "device": settings.device.split(":")[0] if settings else None,
            "dtype": settings.dtype if settings else None,
            "quantisation": settings.quantisation if settings else None,
            "batch": self._batch(task, settings),
            "chat_template": settings.chat_template if settings else config.apply_chat_template,
            "template_args": settings.template_args if settings else None,
            "generation": task.config.generation_kwargs,
            "limit": config.limit,
            "samples": config.samples,
            "seeds": config.seed,
            "train_rows": subset.hash if subset else None,
            "train_data": fingerprint(task.dataset["train"]) if subset else None,
            "versions": provenance.versions(
                *([vllm.VLLM] if config.model == vllm.VLLM else []),
                *(provenance.KERNELS if settings and settings.quantisation else []),
                *(["scikit-learn"] if request.is_baseline else []),
            ),
        }
        return hide(parts, self.secrets)

    @functools.cached_property
    def secrets(self) -> frozenset[str]:
        """What the user gave that must not be written."""
        config = self.request.config
        return secrets_in(config.model_args, config.hf_hub_log_args, config.metadata, config.gen_kwargs, dict(os.environ))

    def _model_args(self, settings: Settings | None) -> dict[str, Any]:
        """Return the arguments of the model that stand nowhere else in the key and can change its answers."""
        left_out = {*PLACES}
        if settings:
            left_out |= {"pretrained", "peft", "revision", "dtype", "chat_template_args", "enable_thinking"}
        if self.request.is_served:
            left_out |= {"pretrained", *served.NOT_IN_KEY}
        if self.other_tokenizer:
            left_out |= {"tokenizer"}
        return {name: value for name, value in self.request.config.model_args.items() if name not in left_out}

    def _batch(self, task: Any, settings: Settings | None) -> dict[str, Any] | None:
        """Return how requests are batched, where that can change answers: by rounding, or by the order of what is drawn."""
        if settings is None:
            return None
        config, drawn = self.request.config, (task.config.generation_kwargs or {}).get("do_sample")
        is_stock = config.model_args.get("engine") == "stock" or config.model not in (DEFAULT_BACKEND, CLASSIFIER_BACKEND)
        if settings.dtype == "float32" and not (is_stock or drawn or settings.quantisation):
            return None
        return {"size": settings.batch_size, "largest": config.max_batch_size, "procs": self.request.own["procs"]}

    def prompts(self, task: Any, settings: Settings | None) -> list[str]:
        """Render the prompt of every document that is asked, in lm-eval's order, and check that none has lost its sentence.

        Raises:
            UserError: One cannot be rendered, lacks its sentence, or comes out otherwise a second time.
        """
        asked = (id(task), repr(settings))
        if asked not in self._prompts:
            self._prompts[asked] = self._render(task, settings)
        return self._prompts[asked]

    def requests(self, task: Any, settings: Settings | None) -> str:
        """Build all that a model will be asked, and what would be right, as far as their hash.

        Raises:
            UserError: The task does not make them.
        """
        from harness_ext.task import content

        prompts = self.prompts(task, settings)
        try:
            return content.requests_hash(task, self.documents(task), prompts, self.renderer(settings))
        except Exception as error:  # whatever a task file does wrong
            said = " ".join(str(error).split())[:300]
            raise UserError(
                f"Task {task.task_name} makes no request of a document: {type(error).__name__}: {said}"
            ) from error

    def documents(self, task: Any) -> list[tuple[int, dict[str, Any]]]:
        """Return the documents that a run asks, LIMIT and --samples applied as lm-eval does, each with its number."""
        from lm_eval.evaluator_utils import get_sample_size

        chosen = (self.request.config.samples or {}).get(task.task_name)
        if chosen and max(chosen) >= len(task.eval_docs):
            raise UserError(f"--samples {max(chosen)} is beyond the {len(task.eval_docs)} documents of {task.task_name}.")
        return list(task.doc_iterator(limit=get_sample_size(task, self.request.config.limit), samples=chosen))

    def renderer(self, settings: Settings | None) -> Callable[..., str] | None:
        """Return what renders messages to prompts; None for plain text."""
        from harness_ext.task.prompts import chat_renderer, show_messages

        if self.request.is_served and self.request.config.apply_chat_template:
            return show_messages
        return chat_renderer(self.tokenizer, settings.template_args) if settings and settings.chat_template else None

    def _render(self, task: Any, settings: Settings | None) -> list[str]:
        from harness_ext.task.prompts import check_sentence, render_prompt

        config, template = self.request.config, self.renderer(settings)
        what = f"{self.request.model!r}'s chat template" if template else "the task's own template"
        shots = task.config.num_fewshot
        if shots and shots > (examples := len(task.fewshot_docs())):
            raise UserError(f"--num_fewshot {shots} asks for more examples than the {examples} there are.")
        reads_prompt = not (self.request.is_classifier or self.request.is_baseline)

        def render(document: dict[str, Any]) -> str:
            try:
                return render_prompt(task, document, template, config.system_instruction, multiturn(config, settings))
            except Exception as error:  # a template may raise anything
                raise UserError(f"The prompt of {task.task_name} cannot be rendered by {what}: {error}") from error

        prompts: list[str] = []
        documents = [document for _, document in self.documents(task)]
        for document in (*documents[:1], *documents):
            if len(prompts) < 2:
                task.set_fewshot_seed(config.seed[3])
            prompts.append(render(document))
            if reads_prompt and task.config.custom_dataset and isinstance(sentence := document.get("sentence"), str):
                check_sentence(prompts[-1], sentence, what)
        if prompts[:1] != prompts[1:2]:
            raise UserError(f"The same prompt of {task.task_name} comes out differently each time: {what} draws at random.")
        return prompts[1:]

    def trained_on(self, task: Any) -> dict[str, str] | None:
        """Say which task and data an adapter was trained on, as far as they are others than those of a task."""
        made = self.request.adapter.manifest if self.request.adapter else {}
        if not made.get("task"):
            return None
        from harness_ext.task.data import fingerprint

        data = made.get("data_fingerprint") or made.get("key_parts", {}).get("data")
        has_train = task.config.custom_dataset and "train" in task.dataset
        if made["task"] == task.task_name and (not has_train or data in (None, fingerprint(task.dataset["train"]))):
            return None
        return {"task": made["task"], "data": str(made.get("data"))}

    def subset(self, task: Any) -> subsets.Subset | None:
        """Draw the rows that a baseline is fitted on: those that `finetune` trains on at the same SAMPLES and SEED."""
        if not self.request.is_baseline:
            return None
        samples = self.request.own["train_samples"] or "all"
        return subsets.draw(task.dataset["train"]["label"], samples, self.request.config.seed[0])

    def _choose(self, task: Any, thinking: bool | None) -> Settings | None:
        request, args = self.request, self.request.config.model_args
        if request.base is None:
            return None
        if is_generative(request.base) and not request.is_classifier:
            self._check_generative(request.base)
        template = _yes_or_no(request.if_given("apply_chat_template"))
        if template is None and request.adapter:
            template = request.adapter.manifest.get("chat_template")  # as it was trained
        dtype = request.own["dtype"] or args.get("dtype")
        trained_in = request.adapter.manifest.get("dtype") if request.adapter else None
        batch_size = request.if_given("batch_size") or ("auto" if request.config.model == vllm.VLLM else None)
        if thinking is None:
            asked = bool((task.config.metadata or {}).get("thinking")) and not request.is_classifier
            thinking = bool(args.get("enable_thinking", asked))
        chosen = choose(
            self.tokenizer,
            request.base.config,
            thinking=thinking,
            device=request.if_given("device"),
            # DeBERTa-v3 overflows in its stored float16. An adapter's weights fit the base's as they were in training.
            dtype=dtype or ("float32" if request.is_classifier else trained_in),
            dtype_of_adapter=dtype is None and trained_in is not None and not request.is_classifier,
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

    def _check_generative(self, base: Checkpoint) -> None:
        """Check what stops a generative model before its weights are loaded."""
        own = generation_config.read_own(base.path, base.revision)
        generation_config.check_own(own, base.name)
        generation_config.give_end_token(self.tokenizer, own, base.config)
        if not base.config.get("is_encoder_decoder"):
            generation_config.check_nothing_behind(self.tokenizer)

    def _sampling(self, task: Any) -> dict[str, Any]:
        """Return the model's own sampling settings where the task leaves open how to generate; the task's come first."""
        asked = task.config.generation_kwargs or {}
        if task.OUTPUT_TYPE != "generate_until" or asked.get("do_sample") is False or self.request.base is None:
            return {}
        own = own_sampling(self.request.base)
        return {name: asked.get(name, value) for name, value in own.items()}


def find_tasks(config: Any, own: dict[str, Any], adapter: Checkpoint | None) -> list[Any]:
    """Build the tasks that a request names, or its adapter's record does.

    Raises:
        UserError: One is unknown or does not build.
    """
    from harness_ext.task.find import build_tasks  # needs the datasets library

    own_data = {"data_dir": own["data_dir"]} if own["data_dir"] else {}
    try:
        return build_tasks(list(config.tasks), config.include_path, config.metadata | own_data)
    except UserError as error:
        made_on = adapter.manifest.get("task") if adapter else None
        if config.tasks != [made_on] or "Unknown task" not in str(error):
            raise
        raise UserError(
            f"The adapter was made on the task {made_on!r}, which is not known here: give the folder of its file with "
            "ARGS='--include_path FOLDER', or another task with TASK=."
        ) from error


def multiturn(config: Any, settings: Settings | None) -> bool:
    """Few-shot examples become turns of their own wherever there is a chat template, as in lm-eval."""
    template = settings.chat_template if settings else config.apply_chat_template
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
