"""A recipe: how an adapter is trained. Read from YAML, overridden by ``--set name=value``, checked as a whole."""

import math
from collections.abc import Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import yaml

from harness_ext.errors import UserError, did_you_mean
from harness_ext.model.pooling import MODES

RECIPES = Path(__file__).parent / "recipes"
FEW_STEPS = 100  # the original's DeBERTa stayed at the majority class up to 48 steps, and left it at 192
HIGHEST_RATE = 1e30  # of learning: an optimiser multiplies it further, and numbers end at 3e38
SCHEDULES = ("linear", "cosine", "constant_with_warmup")
POOLINGS = ("own", *MODES)  # own: as the base's makers say, else the mean


@dataclass(frozen=True)
class Recipe:
    """Settings of a training run."""

    kind: str  # generative (the model writes the answer) or classifier (a head over the sentence)
    learning_rate: float  # of the LoRA weights, at its highest
    batch_size: int  # rows per optimiser step; no more than there are samples
    # Optimiser steps: a number, or one for each number of training rows; between two of these, interpolated on a log scale.
    steps: int | dict[int, int] | None = None
    epochs: float | None = None  # passes over the rows, instead of steps
    head_learning_rate: float | None = None  # of a classifier's head; as learning_rate if left out
    pooling: str | None = None  # one of POOLINGS, under a head that starts as the probe; if left out, the model's own head
    contrastive: bool = False  # train the pooled vectors on pairs of rows, and fit the head to them at the end
    schedule: str = "linear"  # one of SCHEDULES
    warmup_share: float = 0.06  # of the steps, over which the learning rate rises from 0
    weight_decay: float = 0.0  # of AdamW
    rank: int = 16  # of LoRA (https://arxiv.org/abs/2106.09685)
    alpha: int | None = None  # LoRA's scale is alpha / rank; twice the rank if left out
    dropout: float = 0.0  # on LoRA's input
    target_modules: list[str] | None = None  # linear layers that get LoRA, by name; all in the model's body if left out
    balanced_batches: bool = True  # every batch holds as many 0s as 1s
    # Of the cross-entropy over the whole vocabulary, beside that between the two answers; null: the former is all the loss.
    full_loss_weight: float | None = 0.1
    prompt_loss_weight: float = 0.0  # of a prompt token's part in the former; an answer token has 1
    quantise: str | None = None  # nf4: base in 4 bits (QLoRA, https://arxiv.org/abs/2305.14314); int8: in 8
    evaluations: int = 10  # how often the rows held out are scored and a checkpoint is saved
    keep_checkpoints: int = 3  # how many of these checkpoints stay

    def __post_init__(self) -> None:
        for name, type_ in get_type_hints(Recipe).items():
            _check_type(name, getattr(self, name), type_)
        _check_one_of("kind", self.kind, ("generative", "classifier"))
        _check_one_of("schedule", self.schedule, SCHEDULES)
        _check_one_of("quantise", self.quantise, (None, "nf4", "int8"))
        _check_one_of("pooling", self.pooling, (None, *POOLINGS))
        for name in ("learning_rate", "head_learning_rate", "batch_size", "rank", "alpha", "epochs", "evaluations"):
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                raise UserError(f"Recipe: {name} {getattr(self, name)} is not above 0.")
        if max(self.learning_rate, self.head_learning_rate or 0) > HIGHEST_RATE:
            raise UserError(f"Recipe: a learning rate above {HIGHEST_RATE:g} overflows in the optimiser: try 1.0e-4.")
        for name in ("warmup_share", "dropout", "prompt_loss_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"Recipe: {name} {getattr(self, name)} is not within 0 and 1.")
        if self.full_loss_weight is not None and self.full_loss_weight < 0:
            raise UserError(f"Recipe: full_loss_weight {self.full_loss_weight} is below 0.")
        if self.weight_decay < 0 or self.keep_checkpoints < 1:
            raise UserError("Recipe: weight_decay must be 0 or more, keep_checkpoints 1 or more.")
        if (self.steps is None) == (self.epochs is None):
            raise UserError("Recipe: exactly one of steps and epochs must be given (--set epochs=null --set steps=300).")
        table = {1: self.steps} if isinstance(self.steps, int) else self.steps
        if table is not None and not (table and all(rows > 0 and n > 0 for rows, n in table.items())):
            raise UserError(f"Recipe: steps {self.steps} must be a number, or map numbers of rows to such, all above 0.")
        if self.balanced_batches and self.batch_size % 2:
            raise UserError(f"Recipe: batch_size {self.batch_size} is odd, so its batches cannot be balanced.")
        if self.kind == "classifier" and (self.quantise or self.prompt_loss_weight):
            raise UserError("Recipe: quantise and prompt_loss_weight are for generative recipes.")
        if self.kind == "generative" and (self.pooling or self.contrastive):
            raise UserError("Recipe: pooling and contrastive are for classifiers; a generative recipe writes its answer.")
        if self.contrastive and (self.pooling is None or not self.balanced_batches or self.batch_size < 4):
            raise UserError("Recipe: contrastive needs a pooling, and balanced batches of 4 rows or more to find pairs in.")

    def planned_steps(self, rows: int) -> int:
        """Return the number of optimiser steps for so many training rows."""
        if self.epochs is not None:
            return max(1, math.ceil(self.epochs * math.ceil(rows / self.batch_size)))
        if isinstance(self.steps, int):
            return self.steps
        assert self.steps
        sizes, steps = zip(*sorted(self.steps.items()), strict=True)
        return round(float(np.interp(math.log(rows), [math.log(size) for size in sizes], steps)))


def read_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe by shipped name or path, and apply ``name=value`` overrides (values are YAML)."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else RECIPES / f"{name}.yaml"
    if not path.is_file():
        shipped = sorted(file.stem for file in RECIPES.glob("*.yaml"))
        hint = did_you_mean(name, shipped) or f" There are {', '.join(shipped)}, or pass a YAML file."
        raise UserError(f"Recipe {name!r} is unknown.{hint}")
    values = _read_yaml(path.read_text(encoding="utf-8"), str(path))
    if not isinstance(values, dict):
        raise UserError(f"Recipe {path} holds no settings (name: value).")
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise UserError(f"--set {override!r} is not of the form name=value.")
        values[key] = _read_yaml(text, f"--set {override}")
    fields = Recipe.__dataclass_fields__
    for key in values:
        if key not in fields:
            hint = did_you_mean(str(key), fields) or f" There are {', '.join(fields)}."
            raise UserError(f"Recipe {path.stem}: unknown setting {key!r}.{hint}")
    missing = [key for key, field in fields.items() if field.default is MISSING and key not in values]
    if missing:
        raise UserError(f"Recipe {path.stem}: {', '.join(missing)} must be given.")
    return Recipe(**values)


def _read_yaml(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from None


def _check_type(name: str, value: Any, type_: Any) -> None:
    """Check a value against a field's type; an int passes for a float, and 1e-4, which YAML reads as text, is said."""
    kinds = get_args(type_) or (type_,)
    if value is None:
        is_right = type(None) in kinds
    elif list[str] in kinds:
        is_right = isinstance(value, list) and value != [] and all(isinstance(each, str) for each in value)
    elif dict[int, int] in kinds:
        is_table = isinstance(value, dict) and {type(each) for pair in value.items() for each in pair} <= {int}
        is_right = is_table or (int in kinds and type(value) is int)
    elif float in kinds:
        is_right = type(value) in (int, float) and math.isfinite(value)
    else:
        is_right = type(value) in kinds
    if not is_right:
        hint = " (YAML reads 1e-4 as text: write 1.0e-4)" if isinstance(value, str) and float in kinds else ""
        raise UserError(f"Recipe: {name} {value!r} is no {getattr(type_, '__name__', type_)}{hint}.")


def _check_one_of(name: str, value: Any, allowed: tuple) -> None:
    if value not in allowed:
        said = list(map(str, allowed))
        raise UserError(f"Recipe: {name} {value!r} is not one of {', '.join(said)}.{did_you_mean(str(value), said, most=1)}")
