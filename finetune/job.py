"""From the command line to jobs: everything about an adapter that is known, and checked, before anything is trained."""

import argparse
import functools
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from finetune import data
from finetune.config import RECIPES, Recipe, read_recipe
from harness_ext.errors import UserError
from harness_ext.keys import hash_of
from harness_ext.model import generation_config, memory, quantisation
from harness_ext.model.checkpoints import Checkpoint, find_model, is_generative, leftover
from harness_ext.model.lengths import context_length
from harness_ext.model.loading import load_tokenizer
from harness_ext.model.settings import Settings, choose
from harness_ext.paths import SHIPPED
from harness_ext.results import records
from harness_ext.run import provenance
from harness_ext.task import subsets
from harness_ext.task.data import fingerprint
from harness_ext.task.find import build_tasks
from harness_ext.task.prompts import chat_renderer, check_sentence, render_prompt

DEFAULT_MODEL = "Qwen/Qwen2.5-0.5B"
QUANTISER = "bitsandbytes"


@dataclass(frozen=True)
class Setting:
    """What all jobs of one command share.

    Attributes:
        base: The model that gets an adapter.
        tokenizer: Its tokenizer, with a padding token.
        task: The built task whose train split and prompt are used.
        recipe_name: As in ``finetune/recipes``.
        recipe: The settings.
        settings: Device, chat template and the like.
        dtype: Of the base's weights.
        mixed: Whether products are computed in bfloat16.
        labels: 0 or 1 for each row of the train split.
        out: OUT.
        report_to: Trainer integrations that log too.
        mended: What was mended in the tokenizer, to be said.
        allow_pickle: Whether the base's weights may be pickled.
        encoded: Rows of the train split that have been tokenised, by number.
    """

    base: Checkpoint
    tokenizer: Any
    task: Any
    recipe_name: str
    recipe: Recipe
    settings: Settings
    dtype: str
    mixed: bool
    labels: list[int]
    out: Path
    report_to: list[str]
    mended: str = ""
    allow_pickle: bool = False
    encoded: dict[int, dict[str, Any]] = field(default_factory=dict, repr=False)

    @property
    def products(self) -> str:
        """The dtype in which products are computed, as far as the base's weights take part in them."""
        return "bfloat16" if self.mixed else self.dtype

    @property
    def base_name(self) -> str:
        """The base as an adapter's config names it: a shipped name, a Hub id, or the folder as it was typed."""
        return self.base.name if self.base.name in SHIPPED else self.base.path

    def line(self) -> str:
        """Say what was chosen in one line."""
        chat = " · chat template on" if self.settings.chat_template else ""
        return (
            f"recipe {self.recipe_name} ({self.recipe.kind}) · task {self.task.task_name} · device {self.settings.device} · "
            f"dtype {self.dtype}{', products in bfloat16' if self.mixed else ''}{chat}{self.mended}"
        )

    def render(self, document: dict) -> str:
        """Render a document's prompt as the evaluation does; a classifier reads the sentence alone.

        Raises:
            UserError: It cannot be rendered, or lacks the sentence.
        """
        if self.recipe.kind == "classifier":
            return document["sentence"]
        template = chat_renderer(self.tokenizer, self.settings.template_args) if self.settings.chat_template else None
        what = f"{self.base.name!r}'s chat template" if template else "the task's own template"
        try:
            prompt = render_prompt(self.task, document, template)
        except Exception as error:  # a template may raise anything
            raise UserError(f"The prompt of {self.task.task_name} cannot be rendered by {what}: {error}") from error
        check_sentence(prompt, document["sentence"], what)
        return prompt

    def encode(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Tokenise rows of the train split, each once for all jobs.

        Raises:
            UserError: A prompt lacks its sentence, or the model cannot read a row whole.
        """
        new = [row for row in rows if row not in self.encoded]
        documents = self.task.dataset["train"].select(new).to_list() if new else []
        if documents and self.recipe.kind == "classifier":
            examples = data.encode_sentences(self.tokenizer, documents)
        else:
            chat = self.settings.chat_template
            examples = data.encode_examples(self.task, self.tokenizer, documents, self.render, chat) if documents else []
        self.encoded.update(zip(new, examples, strict=True))
        encoded = [self.encoded[row] for row in rows]
        data.check_lengths(encoded, self.context)
        return encoded

    @functools.cached_property
    def context(self) -> int | None:
        """How many tokens the base reads at the most; None where nothing but memory sets a limit."""
        config = memory.text_config(self.base.config)
        return context_length(config) if config is not None else None


@dataclass(frozen=True)
class Job:
    """One adapter.

    Attributes:
        setting: What it shares with the others.
        subset: The rows it is trained on, and those held out.
        seed: Decides rows, initial weights and order.
        steps: Optimiser steps.
        batch_size: Rows per step.
        key_parts: All that can change its weights.
        examples: The encoded rows it is trained on.
        held_out: Those that it is scored on meanwhile.
    """

    setting: Setting
    subset: subsets.Subset
    seed: int
    steps: int
    batch_size: int
    key_parts: dict[str, Any]
    examples: list[dict[str, Any]] = field(repr=False)
    held_out: list[dict[str, Any]] = field(repr=False)

    @property
    def key(self) -> str:
        """The hash of `key_parts`."""
        return hash_of(self.key_parts)

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.folder.name

    @functools.cached_property
    def folder(self) -> Path:
        """Where the finished adapter lies."""
        label = records.run_label(self.setting.base.name, f"{self.subset.name}--s{self.seed}")
        return records.place(self.setting.out / "adapters", label, self.key)


def read_setting(args: argparse.Namespace) -> Setting:
    """Check what all jobs share; reads the base's config and tokenizer, not its weights.

    Raises:
        UserError: Something the user gave is wrong.
    """
    base = find_model(args.model or DEFAULT_MODEL, allow_pickle=args.allow_pickle)
    if said := leftover(base):
        print(f"Note: {said}", file=sys.stderr)
    if method := quantisation.stored(base.config):
        raise UserError(
            f"Base {base.name!r} is stored in {method}; only full-precision ones are trained. Name the model it was made "
            "from; `--set quantise=nf4` loads that in 4 bits."
        )
    recipe_name = args.recipe or _default_recipe(base)
    recipe = read_recipe(recipe_name, args.set)
    if recipe.kind == "generative" and not is_generative(base):
        fitting = [path.stem for path in sorted(RECIPES.glob("*.yaml")) if read_recipe(path.stem, []).kind == "classifier"]
        raise UserError(
            f"Recipe {recipe_name!r} trains a model to write its answer, but {base.name!r} is an encoder. "
            f"Choose a classifier's recipe: {', '.join(fitting)}."
        )
    embedded = base.name in SHIPPED and not args.data_dir
    name = args.task or ("sst2_01_mini" if embedded else "sst2_01")
    own_data = {"data_dir": args.data_dir} if args.data_dir else {}
    (task,) = build_tasks([name], args.include_path, {"train_only": True, **own_data})
    task.set_config(key="num_fewshot", value=0)
    tokenizer = load_tokenizer(base)
    mended = mend_tokenizer(tokenizer, base, recipe)
    settings = choose(
        tokenizer,
        base.config,
        thinking=False,
        device=args.device,
        dtype=args.dtype,
        chat_template=None if recipe.kind == "generative" else False,
    )
    dtype, mixed = _precision(args.dtype, settings, base, recipe)
    labels = list(task.dataset["train"]["label"])
    report_to = args.report_to.split(",") if args.report_to else []
    return Setting(
        base=base,
        tokenizer=tokenizer,
        task=task,
        recipe_name=recipe_name,
        recipe=recipe,
        settings=settings,
        dtype=dtype,
        mixed=mixed,
        labels=labels,
        out=Path(args.output_path),
        report_to=report_to,
        mended=mended,
        allow_pickle=args.allow_pickle,
    )


def plan_job(setting: Setting, samples: str, seed: int) -> Job:
    """Plan one adapter.

    Raises:
        UserError: The train split cannot give the samples, or the model cannot be trained on them.
    """
    recipe, task = setting.recipe, setting.task
    subset = subsets.draw(setting.labels, samples, seed)
    examples, held_out = setting.encode(subset.rows), setting.encode(subset.held_out)
    batch_size = min(recipe.batch_size, len(subset.rows))
    parts = {
        "base": setting.base.name,
        "weights": setting.base.version,
        "task": task.task_name,
        "task_version": task.VERSION,
        "texts": fingerprint(examples + held_out),  # as the model reads them: prompts, answers and tokenizer are in it
        "data": fingerprint(task.dataset["train"]),
        "subset": subset.hash,
        "samples": subset.name,
        "seed": seed,
        "recipe": asdict(recipe),
        "dtype": setting.dtype,
        "mixed": setting.mixed,
        "device": setting.settings.device.split(":")[0],
        "versions": provenance.versions(*([QUANTISER] if recipe.quantise else [])),
    }
    return Job(setting, subset, seed, recipe.planned_steps(len(subset.rows)), batch_size, parts, examples, held_out)


def mend_tokenizer(tokenizer: Any, base: Checkpoint, recipe: Recipe) -> str:
    """Give a tokenizer without a padding token its end token for it, which training never looks at.

    Returns:
        What was mended, to be said; empty if nothing was.

    Raises:
        UserError: There is no end token, which a generative model must learn to write.
    """
    if recipe.kind == "generative":
        generation_config.check_nothing_behind(tokenizer)
        generation_config.give_end_token(tokenizer, generation_config.read_own(base.path, base.revision), base.config)
    if tokenizer.eos_token_id is None and tokenizer.pad_token_id is None:
        raise UserError(f"The tokenizer of {base.name!r} has no end token (eos_token): set it in its tokenizer_config.json.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
        return f" · padding {tokenizer.eos_token} (the tokenizer has no padding token)"
    return ""


def _default_recipe(base: Checkpoint) -> str:
    if base.name in SHIPPED:
        return "tiny"
    return "qwen" if is_generative(base) else "deberta"


def _precision(asked: str | None, settings: Settings, base: Checkpoint, recipe: Recipe) -> tuple[str, bool]:
    """Choose the weights' dtype, and whether products are computed in bfloat16 by autocast.

    A classifier's weights stay float32: DeBERTa-v3 overflows in its stored float16 (transformers issue 46002), and the head,
    which is trained itself, would lose small updates to rounding. LoRA weights are float32 in any case. float16 weights
    cannot be trained without a loss scaler.
    """
    import torch

    if asked not in (None, "auto", "float32", "bfloat16"):
        raise UserError(f"DTYPE {asked!r} is not for training: choose float32 or bfloat16.")
    device = settings.device.split(":")[0]
    if device == "cuda":
        mixed = asked != "float32" and torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        mixed = asked == "bfloat16" and device == "cpu"  # unasked, a CPU's products stay exact
    if asked == "bfloat16" and not mixed and recipe.kind == "classifier":
        raise UserError(
            f"DTYPE=bfloat16 is not for a classifier on {settings.device}, which has no products in it. Leave it out."
        )
    stored = memory.stored_dtype(base.config)
    wanted = asked == "bfloat16" or (asked != "float32" and mixed and stored == "bfloat16")
    return ("bfloat16" if wanted and recipe.kind == "generative" else "float32"), mixed
