"""From a `TrainSpec` to jobs: all that is known of adapters, and checked, before a weight is loaded.

Reads configs, tokenizer and data; writes and prints nothing. Knows nothing of Trainer.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from finetune import data
from finetune.config import FEW_STEPS, RECIPES, Recipe, read_recipe
from finetune.reports import check_runs
from finetune.spec import TrainSpec
from harness_ext.errors import UserError
from harness_ext.keys import hash_of
from harness_ext.model import generation_config, memory, quantisation
from harness_ext.model.checkpoints import Checkpoint, find_model, is_generative, leftover
from harness_ext.model.lengths import context_length
from harness_ext.model.loading import load_tokenizer
from harness_ext.model.pooling import Pooling, pooling_of
from harness_ext.model.settings import Settings, choose
from harness_ext.paths import SHIPPED
from harness_ext.results import records
from harness_ext.run import provenance
from harness_ext.task import own_data, own_task, subsets
from harness_ext.task.data import fingerprint
from harness_ext.task.find import build_tasks
from harness_ext.task.own_data import OwnData
from harness_ext.task.prompts import chat_renderer, check_sentence, render_prompt

DEFAULT_MODEL = "Qwen/Qwen2.5-0.5B"


@dataclass(frozen=True)
class Job:
    """One adapter."""

    subset: subsets.Subset  # the rows it is trained on, and those held out
    seed: int  # decides rows, initial weights and order
    steps: int  # of the optimiser
    batch_size: int  # rows per step
    key_parts: dict[str, Any]  # all that can change its weights
    folder: Path  # where the finished adapter lies
    examples: list[dict[str, Any]] = field(repr=False)  # the encoded rows it is trained on
    held_out: list[dict[str, Any]] = field(repr=False)  # those that it is scored on meanwhile
    warning: str | None = None  # to be said before it is trained

    @property
    def key(self) -> str:
        """What `key_parts` come to."""
        return hash_of(self.key_parts)


@dataclass(frozen=True)
class Plan:
    """The jobs of one command, and what they share."""

    spec: TrainSpec
    base: Checkpoint  # the model that gets adapters
    tokenizer: Any  # its own, with a padding token
    task: Any  # built: its train split and its prompt are used
    recipe_name: str
    recipe: Recipe
    settings: Settings  # how the base is run: device, chat template and the like
    dtype: str  # of the base's weights
    mixed: bool  # products are computed in bfloat16
    notes: list[str]  # to be said before training
    own: dict[str, Any] | None = None  # all that makes the task again, where it asks of the user's own table
    pooling: Pooling | None = None  # of a classifier whose head starts as the probe
    jobs: list[Job] = field(default_factory=list, repr=False)  # in the order in which they are done

    @property
    def products(self) -> str:
        """The dtype in which products are computed, as far as the base's weights take part in them."""
        return "bfloat16" if self.mixed else self.dtype

    @property
    def base_name(self) -> str:
        """The base as an adapter's config names it: a shipped name, a Hub id, or the folder or file as it was typed."""
        return self.base.name if self.base.name in SHIPPED else self.base.typed

    def render(self, document: dict) -> str:
        """Render a document's prompt as the evaluation does; a classifier reads the sentence alone."""
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


def make_plan(spec: TrainSpec) -> Plan:
    """Find out, and check, all that training needs to know; reads the base's config and tokenizer, not its weights."""
    base = find_model(spec.model or DEFAULT_MODEL, allow_pickle=spec.allow_pickle)
    recipe_name, recipe = _recipe(spec, base)
    pooling = _pooling(recipe, base)
    own, form = own_data.given(vars(spec)), spec.task or own_task.FORMS[0]
    table = OwnData(**own) if own else None
    task = _task(spec, base, table, form)
    tokenizer = load_tokenizer(base)
    mended = _mend_tokenizer(tokenizer, base, recipe)
    chat = None if recipe.kind == "generative" else False
    settings = choose(tokenizer, base.config, thinking=False, device=spec.device, dtype=spec.dtype, chat_template=chat)
    dtype, mixed = _precision(spec.dtype, settings, base, recipe)
    check_runs(spec.report_to, len(spec.seeds) * len(spec.samples))
    notes = [f"Note: {said}"] if (said := leftover(base)) else []
    if seen := table or own_data.of_task(task):
        notes += own_data.read(seen).notes
    notes.append(
        f"recipe {recipe_name} ({recipe.kind}) · task {task.task_name} · device {settings.device} · dtype {dtype}"
        f"{', products in bfloat16' * mixed}{' (unpacked from a GGUF file)' * bool(base.file)}"
        f"{' · chat template on' * settings.chat_template}"
        f"{f' · pooling {pooling.mode}' if pooling else ''}{mended}"
    )
    made = own_task.settled(table, form) if table else None
    plan = Plan(spec, base, tokenizer, task, recipe_name, recipe, settings, dtype, mixed, notes, made, pooling)
    return replace(plan, jobs=_jobs(plan))


def _mend_tokenizer(tokenizer: Any, base: Checkpoint, recipe: Recipe) -> str:
    """Give a tokenizer without a padding token its end token for it, which training never looks at; say what was mended."""
    if recipe.kind == "generative":
        generation_config.check_nothing_behind(tokenizer)
        generation_config.give_end_token(tokenizer, generation_config.read_own(base.path, base.revision), base.config)
    if tokenizer.eos_token_id is None and tokenizer.pad_token_id is None:
        raise UserError(f"The tokenizer of {base.name!r} has no end token (eos_token): set it in its tokenizer_config.json.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
        return f" · padding {tokenizer.eos_token} (the tokenizer has no padding token)"
    return ""


def _recipe(spec: TrainSpec, base: Checkpoint) -> tuple[str, Recipe]:
    """Read the recipe that was named, or the one for such a base, and check that it can train it."""
    if (method := quantisation.stored(base.config)) and not base.file:
        raise UserError(
            f"Base {base.name!r} is stored in {method}; only full-precision ones are trained. Name the model it was made "
            "from; `--set quantise=nf4` loads that in 4 bits."
        )
    name = spec.recipe or _default_recipe(base)
    recipe = read_recipe(name, spec.overrides)
    quantisation.check_possible(base.name, base.config, recipe.quantise)
    if recipe.kind == "generative" and not is_generative(base):
        fitting = [path.stem for path in sorted(RECIPES.glob("*.yaml")) if read_recipe(path.stem).kind == "classifier"]
        raise UserError(
            f"Recipe {name!r} trains a model to write its answer, but {base.name!r} is an encoder. "
            f"Choose a classifier's recipe: {', '.join(fitting)}."
        )
    return name, recipe


def _default_recipe(base: Checkpoint) -> str:
    if base.name in SHIPPED:
        return "tiny"
    if is_generative(base):
        return "qwen"
    return "deberta" if str(base.config.get("model_type")).startswith("deberta") else "encoder"  # it has a pooler of its own


def _pooling(recipe: Recipe, base: Checkpoint) -> Pooling | None:
    """Find out how a recipe wants states pooled; None where the model's own head reads them."""
    if recipe.pooling is None:
        return None
    if recipe.pooling != "own":
        return Pooling(recipe.pooling)
    return pooling_of(base, default="last" if is_generative(base) else "mean")  # a decoder's last token has read them all


def _task(spec: TrainSpec, base: Checkpoint, table: OwnData | None, form: str) -> Any:
    folder = {"data_dir": spec.data_dir} if spec.data_dir else {}
    name = spec.task or ("sst2_01_mini" if base.name in SHIPPED and not folder else "sst2_01")
    names = own_task.build_configs(table, [form]) if table else [name]
    (task,) = build_tasks(names, spec.include_path, {"train_only": True, **folder})
    task.set_config(key="num_fewshot", value=0)
    return task


def _precision(asked: str | None, settings: Settings, base: Checkpoint, recipe: Recipe) -> tuple[str, bool]:
    """Choose the weights' dtype, and whether products are computed in bfloat16 by autocast.

    A classifier's weights stay float32: DeBERTa-v3 overflows in its stored float16 (transformers issue 46002), and the head,
    which is trained itself, would lose small updates to rounding. LoRA weights are float32 in any case. float16 weights
    cannot be trained without a loss scaler.
    """
    import torch

    if asked not in (None, "auto", "float32", "bfloat16"):
        raise UserError(f"DTYPE {asked!r} is not for training: choose float32 or bfloat16.")
    mixed = asked == "bfloat16" and settings.device == "cpu"  # unasked, a CPU's products stay exact
    if settings.device.startswith("cuda"):
        mixed = asked != "float32" and torch.cuda.is_bf16_supported(including_emulation=False)
    if asked == "bfloat16" and not mixed and recipe.kind == "classifier":
        raise UserError(
            f"DTYPE=bfloat16 is not for a classifier on {settings.device}, which has no products in it. Leave it out."
        )
    stored = memory.stored_dtype(base.config)
    wanted = asked == "bfloat16" or (asked != "float32" and mixed and stored == "bfloat16")
    return ("bfloat16" if wanted and recipe.kind == "generative" else "float32"), mixed


def _jobs(plan: Plan) -> list[Job]:
    """Plan each adapter: which rows, how many steps, under which key. Each row is encoded once for all of them."""
    spec, recipe, train = plan.spec, plan.recipe, plan.task.dataset["train"]
    labels = subsets.labels_of(train, spec.rows)
    subset_of = {(seed, samples): subsets.draw(labels, samples, seed) for seed in spec.seeds for samples in spec.samples}
    encoded = _encode(plan, {row for subset in subset_of.values() for row in (*subset.rows, *subset.held_out)})
    shared = {
        "base": plan.base.name,
        "weights": plan.base.version,
        "task": plan.task.task_name,
        "task_version": plan.task.VERSION,
        "data": fingerprint(train),
        "recipe": asdict(recipe),
        "pooling": asdict(plan.pooling) if plan.pooling else None,
        "dtype": plan.dtype,
        "mixed": plan.mixed,
        "device": plan.settings.device.split(":")[0],
        "versions": provenance.versions(
            *(["bitsandbytes"] if recipe.quantise else []), *(["scikit-learn"] if plan.pooling else [])
        ),
        **({"rows": spec.rows} if spec.rows != "all" else {}),
    }
    jobs = []
    for (seed, _), subset in subset_of.items():
        if recipe.contrastive and len(subset.rows) < 4:
            raise UserError(
                f"Recipe {plan.recipe_name!r} compares rows of one class, but SAMPLES={subset.name} holds one of each: "
                "take 4 or more, or another recipe."
            )
        examples, held_out = [encoded[row] for row in subset.rows], [encoded[row] for row in subset.held_out]
        parts = shared | {
            "texts": fingerprint(examples + held_out),  # as the model reads them: prompts, answers and tokenizer are in it
            "subset": subset.hash,
            "samples": subset.name,
            "seed": seed,
        }
        label = f"{records.plain(plan.base.name, 100)}--{subset.name}--s{seed}"
        folder = records.place(Path(spec.out) / "adapters", label, hash_of(parts))
        steps, batch_size = recipe.planned_steps(len(subset.rows)), min(recipe.batch_size, len(subset.rows))
        jobs.append(Job(subset, seed, steps, batch_size, parts, folder, examples, held_out, _few_steps(steps, plan.base)))
    return jobs


def _few_steps(steps: int, base: Checkpoint) -> str | None:
    if steps >= FEW_STEPS:
        return None
    planned = f"Warning: {steps} optimiser steps are planned"
    if not str(base.config.get("model_type")).startswith("deberta"):
        return f"{planned}, which may be too few for the adapter to learn the task (--set steps=300 plans more)."
    return (
        f"{planned}. In the original experiment DeBERTa stayed at the majority class (0.5091) in every run of up to 48 "
        "steps; a recipe that budgets by steps avoids that."
    )


def _encode(plan: Plan, rows: set[int]) -> dict[int, dict[str, Any]]:
    """Tokenise rows of the train split, by number, and check that the base can read them whole."""
    numbers = sorted(rows)
    documents: Sequence[dict] = plan.task.dataset["train"].select(numbers).to_list()
    if plan.recipe.kind == "classifier":
        examples = data.encode_sentences(plan.tokenizer, documents)
    else:
        chat = plan.settings.chat_template
        examples = data.encode_examples(plan.task, plan.tokenizer, documents, plan.render, chat)
    config = memory.text_config(plan.base.config)
    data.check_lengths(examples, context_length(config) if config is not None else None)
    return dict(zip(numbers, examples, strict=True))
