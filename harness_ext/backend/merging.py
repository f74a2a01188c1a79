"""Where an adapter's weights may be added to its base's: only where that changes nothing. Knows torch and peft."""

from collections import Counter
from typing import Any

import torch


def can_merge(model: Any) -> bool:
    """Tell whether adding an adapter's weights to the base's is exact: in 16 bits and in quantised weights they are rounded.

    A weight that two layers share must not be changed for one of them, as for an embedding tied to the output layer.
    """
    quantised = getattr(model, "hf_quantizer", None) is not None or getattr(model, "is_quantized", False)
    if not hasattr(model, "merge_adapter") or model.dtype != torch.float32 or quantised:
        return False
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    uses = Counter(id(weight) for module in model.modules() for weight in module._parameters.values() if weight is not None)
    kinds: Any = (BaseTunerLayer, AuxiliaryTrainingWrapper)
    weights = (weight for module in model.modules() if isinstance(module, kinds) for weight in module.parameters())
    return all(uses[id(weight)] == 1 for weight in weights)
