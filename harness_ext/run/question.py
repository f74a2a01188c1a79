"""What makes a run the run that it is: the prompts it asks, and all else that can change its numbers, as data.

Nothing is answered here, and no weights are loaded.
"""

import itertools
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from harness_ext.backend.server import NOT_IN_KEY
from harness_ext.backend.subject import ANSWER, CHAT, CLASSIFIER, PROBE, VLLM, Subject
from harness_ext.errors import UserError
from harness_ext.keys import hash_of
from harness_ext.model import logistic, pooling
from harness_ext.model.files import hash_folder
from harness_ext.model.lengths import sentences_of
from harness_ext.model.settings import Settings
from harness_ext.run import provenance
from harness_ext.run.redaction import hide, secrets_in
from harness_ext.run.spec import RunSpec
from harness_ext.task import calibration, content, data, subsets
from harness_ext.task.prompts import chat_renderer, check_sentence, render_prompt, show_messages

# Arguments of a model that say where things lie or how long they may take, or that stand in the key by another name.
_PLACES = ("cache_dir", "offload_folder", "token", "use_auth_token")
_SAID_ELSEWHERE = ("pretrained", "peft", "revision", "dtype", "chat_template_args", "enable_thinking", "tokenizer")


@dataclass(frozen=True)
class Question:
    """One task as it is put to one subject."""

    spec: RunSpec
    subject: Subject
    task: Any  # a built lm-eval task, with what the command line says of it applied
    settings: Settings | None = None  # how the model is run; None where the backend loads no checkpoint
    tokenizer: Any = None  # the model's, where there are settings

    @property
    def chat_template(self) -> bool:
        """Whether prompts are messages."""
        if self.settings:
            return self.settings.chat_template
        return self.subject.backend == CHAT or str(self.spec.apply_chat_template).lower() == "true"

    @property
    def multiturn(self) -> bool:
        """Whether few-shot examples are turns of their own: wherever there is a chat template, as in lm-eval."""
        return self.chat_template and self.spec.fewshot_as_multiturn is not False

    @property
    def renderer(self) -> Callable[..., str] | None:
        """What renders messages to prompts; None for plain text."""
        if not self.chat_template:
            return None
        if self.subject.is_served:
            return show_messages
        return chat_renderer(self.tokenizer, self.settings.template_args) if self.settings else None

    @property
    def seed(self) -> int:
        """What decides which rows of the train split are drawn."""
        return self.spec.seed[0] or 0

    @property
    def draw_seed(self) -> int:
        """What decides which answers are drawn, where they are; torch's seed."""
        seed = self.spec.seed[2]
        return random.getrandbits(32) if seed is None else seed

    @property
    def train(self) -> Any:
        """The split that labelled rows are drawn from."""
        splits = self.task.dataset if isinstance(self.task.dataset, dict) else {}
        wanted = ("label", "sentence") if self.spec.rows or self.spec.calibrate else ("label",)
        if missing := [name for name in wanted if name not in getattr(splits.get("train"), "column_names", ())]:
            raise UserError(
                f"Task {self.task.task_name} has no train split with a column {missing[0]!r}, from which rows are drawn for "
                "SAMPLES, SHOTS and CALIBRATE: take a task that reads GLUE's files, such as TASK=sst2_01."
            )
        return splits["train"]

    @cached_property
    def train_labels(self) -> list[int | None]:
        """The labels of the train split's rows; None of those that are not drawn from."""
        return subsets.labels_of(self.train, self.spec.rows or "all")

    @cached_property
    def subset(self) -> subsets.Subset | None:
        """The labelled rows that the method uses: those that `finetune` trains on at the same SAMPLES and SEED."""
        samples = self.spec.shots or self.spec.train_samples or ("all" if self.subject.is_fitted else None)
        if samples is None:
            return None
        return subsets.draw(self.train_labels, samples, self.seed, "SHOTS" if self.spec.shots else "SAMPLES")

    def documents(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Return the documents that are asked, LIMIT and --samples applied as lm-eval does, each with its number."""
        from lm_eval.evaluator_utils import get_sample_size

        task = self.task
        chosen = (self.spec.samples or {}).get(task.task_name)
        if chosen and max(chosen) >= len(task.eval_docs):
            raise UserError(f"--samples {max(chosen)} is beyond the {len(task.eval_docs)} documents of {task.task_name}.")
        return task.doc_iterator(limit=get_sample_size(task, self.spec.limit), samples=chosen)

    def prompts(self) -> list[str]:
        """Render the prompt of every document that is asked, in lm-eval's order, and check that none has lost its sentence.

        Raises:
            UserError: One cannot be rendered, lacks its sentence, or comes out otherwise a second time.
        """
        task, what = self.task, self._rendered_by
        shots = task.config.num_fewshot
        if shots and shots > (examples := len(task.fewshot_docs())):
            raise UserError(f"--num_fewshot {shots} asks for more examples than the {examples} there are.")
        reads_prompt = not self.subject.reads_sentence

        prompts: list[str] = []
        for _, document in itertools.chain(itertools.islice(self.documents(), 1), self.documents()):  # the first one twice
            if len(prompts) < 2:
                task.set_fewshot_seed(self.spec.seed[3])
            prompts.append(self._render(document))
            if reads_prompt and task.config.custom_dataset and isinstance(sentence := document.get("sentence"), str):
                check_sentence(prompts[-1], sentence, what)
        if prompts[:1] != prompts[1:2]:
            raise UserError(f"The same prompt of {task.task_name} comes out differently each time: {what} draws at random.")
        return prompts[1:]

    @property
    def _rendered_by(self) -> str:
        return f"{self.subject.name!r}'s chat template" if self.renderer else "the task's own template"

    def _render(self, document: dict[str, Any]) -> str:
        try:
            return render_prompt(self.task, document, self.renderer, self.spec.system_instruction, self.multiturn)
        except Exception as error:  # a template may raise anything
            what = f"The prompt of {self.task.task_name} cannot be rendered by {self._rendered_by}"
            raise UserError(f"{what}: {error}") from error

    def labelled(self) -> list[dict[str, Any]]:
        """Return the rows of `subset`."""
        return self.train.select(self.subset.rows).to_list() if self.subset else []

    def read(self, rows: list[dict[str, Any]]) -> list[str]:
        """Return what a probe reads of rows, labelled or to be asked: sentences, or prompts as they are asked."""
        return sentences_of(rows) if self.subject.reads_sentence else list(map(self._render, rows))

    def requests_hash(self, prompts: list[str]) -> str:
        """Build all that a model will be asked, and what would be right, as far as their hash."""
        try:
            return content.requests_hash(self.task, self.documents(), prompts, self.renderer)
        except Exception as error:  # whatever a task file does wrong
            said = " ".join(str(error).split())[:300]
            raise UserError(
                f"Task {self.task.task_name} makes no request of a document: {type(error).__name__}: {said}"
            ) from error

    def secrets(self) -> frozenset[str]:
        """What the user gave that must not be written."""
        spec = self.spec
        return secrets_in(self.subject.args, spec.hf_hub_log_args, spec.metadata, spec.gen_kwargs, dict(os.environ))


def key_parts(asked: Question, prompts: list[str], requests: str) -> dict[str, Any]:
    """Collect all that can change the run's numbers, but for the machine, which the record names."""
    spec, subject, task, settings, subset = asked.spec, asked.subject, asked.task, asked.settings, asked.subset
    shots, base = task.config.num_fewshot, subject.base
    named = hash_of(subject.args["pretrained"]) if subject.is_served else None  # a server tells no more than the name
    parts = {
        "task": task.task_name,
        "task_version": task.VERSION,
        "task_config": hash_of(content.task_content(task.config)),
        "prompts": hash_of(prompts),
        "requests": requests,
        "output_type": task.OUTPUT_TYPE,
        "num_fewshot": shots,
        "data": data.fingerprint(task.eval_docs),
        "fewshot_data": data.fingerprint(task.fewshot_docs()) if shots else None,
        "backend": subject.backend,
        "model": subject.name,
        "weights": (base.version or hash_folder(Path(base.path))) if base else named,
        "adapter": subject.adapter.version if subject.adapter else None,
        "tokenizer": subject.tokenizer.version if subject.tokenizer else None,  # the model's is part of `weights`
        "model_args": _model_args(subject),
        "device": settings.device.split(":")[0] if settings else None,
        "dtype": settings.dtype if settings else None,
        "quantisation": settings.quantisation if settings else None,
        "batch": _batch(asked),
        "chat_template": asked.chat_template,
        "template_args": settings.template_args if settings else None,
        "generation": task.config.generation_kwargs,
        "limit": spec.limit,
        "samples": spec.samples,
        "seeds": list(spec.seed),
        "train_rows": subset.hash if subset else None,
        "train_data": data.fingerprint(asked.train) if subset or spec.calibrate else None,
        "versions": provenance.versions(
            *([VLLM] if subject.backend == VLLM else []),
            *(["gguf"] if base and base.file else provenance.KERNELS if settings and settings.quantisation else []),
            *(["scikit-learn"] if subject.is_fitted or spec.calibrate == "labels" else []),
        ),
    }
    return hide(parts | _parts_of_some(asked), asked.secrets())


def _parts_of_some(asked: Question) -> dict[str, Any]:
    """Return what only some runs have: it stands in no other's key, so that a new method leaves theirs as they were."""
    spec, subject = asked.spec, asked.subject
    parts: dict[str, Any] = {}
    if subject.frozen:
        parts["probe"] = {**subject.frozen.record(), **logistic.record()}
    if pooled := pooling.of_adapter(subject.adapter):  # an adapter's version does not cover its record
        parts["pooling"] = pooled.mode
    if asked.task.config.num_fewshot:  # else it shows in the prompts, which here depend on the seed too
        parts |= {"system_instruction": spec.system_instruction, "multiturn": asked.multiturn}
    if spec.rows:
        parts["rows"] = spec.rows
    if spec.shots:
        parts["shots"] = "the same"
    if spec.calibrate:
        parts["calibration"] = calibration.record(spec.calibrate)
    return parts


def _model_args(subject: Subject) -> dict[str, Any]:
    """Return the arguments of the model that stand nowhere else in the key and can change its answers."""
    left_out = {*_PLACES}
    if subject.base:
        left_out |= {*_SAID_ELSEWHERE}
    if subject.is_served:
        left_out |= {"pretrained", *NOT_IN_KEY}
    return {name: value for name, value in subject.args.items() if name not in left_out}


def _batch(asked: Question) -> dict[str, Any] | None:
    """Return how requests are batched, where that can change answers by rounding."""
    settings, subject = asked.settings, asked.subject
    if settings is None:
        return None
    is_stock = subject.args.get("engine") == "stock" or subject.backend not in (ANSWER, CLASSIFIER, PROBE)
    if settings.dtype == "float32" and not (is_stock or settings.quantisation):
        return None
    return {"size": settings.batch_size, "largest": asked.spec.max_batch_size, "procs": asked.spec.procs}
