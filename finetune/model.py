"""The base model, loaded once for several adapters, and the LoRA weights put on it; nothing of data or training."""

import functools
import re
import warnings
from dataclasses import dataclass
from typing import Any

import peft
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.pytorch_utils import Conv1D

from finetune.config import Recipe
from finetune.reload import checksum
from harness_ext.errors import UserError, one_line_errors
from harness_ext.model import pooled
from harness_ext.model.checkpoints import Checkpoint
from harness_ext.model.loading import ID2LABEL, WholeModel, quantiser
from harness_ext.model.memory import without_weights
from harness_ext.model.pooling import Pooling


@dataclass(frozen=True)
class Base:
    """A base model as it was loaded."""

    model: Any  # of transformers; a classifier has two labels
    new: list[str]  # names of the weights that the checkpoint lacks, those of a new head
    heads: dict[str, torch.Tensor]  # all weights of a classifier's heads
    checksum: int  # of all weights

    def restore(self) -> None:
        """Put back the heads, in whose place peft leaves an adapter's; all else must be as it was."""
        self.model.load_state_dict(self.heads, strict=False)
        if checksum(self.model) != self.checksum:
            raise RuntimeError("Training has changed the base's own weights, which the adapter does not hold.")


def load_base(
    checkpoint: Checkpoint,
    recipe: Recipe,
    dtype: str,
    device: str,
    tokenizer: Any,
    allow_pickle: bool = False,
    pooling: Pooling | None = None,
) -> Base:
    """Load a base model for training: whole, but for a classifier's head; the padding token goes into its config.

    With a `pooling`, a classifier's new head stands on pooled states, and not on a pooler of its own.
    """
    with one_line_errors(loading=f"Base {checkpoint.name!r} does not load: "):
        weights = getattr(torch, dtype)
        options: dict[str, Any] = {
            "revision": checkpoint.revision,
            "use_safetensors": None if allow_pickle else True,
            "dtype": weights,
        }
        classes: dict[str, Any] = {
            "num_labels": 2,
            "id2label": ID2LABEL,
            "label2id": {name: n for n, name in ID2LABEL.items()},
        }
        if pooling:
            model, new = pooled.load(checkpoint.path, pooling, **options, **classes), pooled.NEW
        else:
            is_generative = recipe.kind == "generative"
            auto = AutoModelForCausalLM if is_generative else AutoModelForSequenceClassification
            loader = WholeModel(auto, may_lack=() if is_generative else _head_names(checkpoint))
            more = quantiser(recipe.quantise, weights, device) if is_generative else classes
            model = loader.from_pretrained(checkpoint.path, **options, **more)
            new = loader.missing
        if not recipe.quantise:
            model.to(device)
    names: set[str] = set()
    if recipe.kind == "classifier":
        names = set(heads_of(model))
        model.config.pad_token_id = model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    heads = {name: weight.clone() for name, weight in model.state_dict().items() if set(name.split(".")) & names}
    return Base(model, new, heads, checksum(model))


def draw_new_weights(model: Any, new: list[str]) -> None:
    """Draw the weights of a new head, given by name, from torch's generator, as transformers does for linear layers."""
    for weight in map(model.get_parameter, new):  # `nn.init` records no gradients
        if weight.ndim > 1:
            nn.init.normal_(weight, std=model.config.get_text_config().initializer_range)
        else:
            nn.init.zeros_(weight)


def add_lora(model: Any, recipe: Recipe) -> Any:
    """Put new LoRA weights on a base model, in place and in float32; a classifier's head is trained with them."""
    is_classifier = recipe.kind == "classifier"
    heads = heads_of(model) if is_classifier else []
    config = peft.LoraConfig(
        task_type=peft.TaskType.SEQ_CLS if is_classifier else peft.TaskType.CAUSAL_LM,
        r=recipe.rank,
        lora_alpha=recipe.alpha or 2 * recipe.rank,
        lora_dropout=recipe.dropout,
        target_modules=_target_pattern(model, recipe.target_modules, heads),
        modules_to_save=heads or None,
    )
    # peft's prepare_model_for_kbit_training would widen what is not quantised to float32: another base than is evaluated.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "fan_in_fan_out")  # GPT-2's Conv1D: peft sets it right by itself
        adapted: Any = peft.get_peft_model(model, config)
    # "auto" asks the Hub for the base's config at every checkpoint, to see if the vocabulary grew. It never does here.
    adapted.save_pretrained = functools.partial(adapted.save_pretrained, save_embedding_layers=False)
    adapted.create_or_update_model_card = lambda folder: None  # of peft's blank one: `record.readme` has something to say
    return adapted


def heads_of(model: Any) -> list[str]:
    """Name what a classifier has beside its body, and a pooler inside it: what may start untrained.

    peft itself saves a classifier but not its pooler (its issue 2171).
    """
    children = {name for name, child in model.named_children() if [*child.parameters()]}
    poolers = {"pooler" for name, child in model.named_modules() if name.endswith(".pooler") and [*child.parameters()]}
    return sorted(children - {model.base_model_prefix} | poolers)


def _target_pattern(model: Any, wanted: list[str] | None, heads: list[str]) -> str:
    """Return the pattern, for peft, of the linear layers in a model's body that get LoRA: the wanted ones, or all."""
    prefix = model.base_model_prefix
    linear = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and name.startswith(f"{prefix}.") and not set(name.split(".")) & set(heads)
    }
    chosen = sorted(linear if wanted is None else linear & set(wanted))
    unknown = sorted(set(wanted or ()) - linear)
    if unknown or not chosen:
        raise UserError(
            f"Recipe: target_modules {', '.join(unknown) or 'none'} match no linear layer of {type(model).__name__}; "
            f"it has {', '.join(sorted(linear))}."
        )
    outside = "".join(rf"(?!.*\.{re.escape(head)}\.)" for head in heads)
    return rf"{outside}{re.escape(prefix)}\..*\.({'|'.join(map(re.escape, chosen))})"


def _head_names(checkpoint: Checkpoint) -> list[str]:
    """Name the modules that a classifier of this base has and its language model has not."""
    config = AutoConfig.from_pretrained(checkpoint.path, revision=checkpoint.revision)
    return heads_of(without_weights(config, AutoModelForSequenceClassification))
