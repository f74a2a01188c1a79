"""Adapters as peft alone loads them, and merged only where that changes nothing.

Knows transformers and peft; nothing of lm-eval, which resizes the vocabulary to the tokenizer's (its #2748) and ties weights
again that an adapter has just told apart.
"""

from collections import Counter
from typing import Any

import torch

from harness_ext.loading import put_on


def attach(base: Any, folder: str) -> Any:
    """Put an adapter on its base, as peft does it.

    Args:
        base: A model of transformers; given the adapter's vocabulary where the adapter brings one of another size.
        folder: The adapter's.

    Raises:
        UserWarning: Adapter weights are missing; peft would fill them in.
        UserError: Some have no place in the base; peft would leave them out.
    """
    return put_on(base, folder, vocabulary=_vocabulary(base, folder))


def can_merge(model: Any) -> bool:
    """Tell whether adding an adapter's weights to the base's is exact: in 16 bits and in quantised weights they are rounded.

    A weight that two layers share must not be changed for one of them, as for an embedding tied to the output layer.
    """
    if not hasattr(model, "merge_adapter") or model.dtype != torch.float32 or is_quantised(model):
        return False
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    uses = Counter(id(weight) for module in model.modules() for weight in module._parameters.values() if weight is not None)
    kinds: Any = (BaseTunerLayer, AuxiliaryTrainingWrapper)
    weights = (weight for module in model.modules() if isinstance(module, kinds) for weight in module.parameters())
    return all(uses[id(weight)] == 1 for weight in weights)


def is_quantised(model: Any) -> bool:
    """Tell whether a model's weights are held in fewer bits than it computes in."""
    return getattr(model, "hf_quantizer", None) is not None or bool(getattr(model, "is_quantized", False))


def _vocabulary(base: Any, folder: str) -> int | None:
    """Return the rows of the embedding or output layer that an adapter brings, if it brings any."""
    from peft.utils import load_peft_weights

    names = {module: name for name, module in base.named_modules()}
    tables = [names[layer] for layer in (base.get_input_embeddings(), base.get_output_embeddings()) if layer in names]
    for key, weight in load_peft_weights(folder, device="cpu").items():
        layer, _, parameter = key.removeprefix("base_model.model.").partition(".lora_")
        if any(layer.removesuffix(".weight").removesuffix(".base_layer").endswith(table) for table in tables):
            rows = {"": 0, "embedding_A": 1, "B.weight": 0}  # of LoRA's matrices the other two have no side of this size
            if parameter in rows:
                return int(weight.shape[rows[parameter]])
    return None
