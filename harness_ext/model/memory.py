"""How much memory a model needs, estimated before anything is loaded, and how much there is.

The estimate is for weights, cached keys and values, and logits: what grows with the model and the batch. Activations,
the device's own libraries and a copy while weights are converted come on top, usually less than 1 GB together.
"""

import resource
import sys
from pathlib import Path
from typing import Any

from harness_ext.errors import UserError
from harness_ext.model.checkpoints import Checkpoint

GB = 1e9
# Bytes for each weight of a linear layer. nf4: 4 bits, an 8-bit scale for each 64 weights, and 32 bits for each 256 of
# these scales (https://arxiv.org/abs/2305.14314, section 3); int8 has one scale a row, which does not count.
QUANTISED = {"nf4": (4 + 8 / 64 + 32 / (64 * 256)) / 8, "int8": 1.0}
_ITEM = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1}
_SPREADS = {"parallelize", "device_map"}  # model_args with which weights go elsewhere
_CGROUP = Path("/sys/fs/cgroup")


def stored_dtype(config: dict[str, Any]) -> str:
    """Return the dtype in which a checkpoint is stored, as far as its ``config.json`` says; else float32."""
    text = config.get("text_config") or {}
    named = config.get("dtype") or config.get("torch_dtype") or text.get("dtype") or text.get("torch_dtype")
    return str(named or "float32").removeprefix("torch.")


def text_config(config: dict[str, Any]) -> Any:
    """Let transformers fill in what a ``config.json`` leaves out; None for an architecture that it does not know."""
    from transformers import AutoConfig

    fields = {name: value for name, value in config.items() if name != "quantization_config"}
    try:
        return AutoConfig.for_model(**fields).get_text_config(decoder=True)
    except Exception:  # what is wrong with a config is said when the model is loaded
        return None


def without_weights(config: Any, auto_class: Any) -> Any:
    """Build a model of a transformers config, as one of its auto classes does, on torch's device without memory."""
    from accelerate import init_empty_weights

    with init_empty_weights():
        return auto_class.from_config(config)


def weights_bytes(config: dict[str, Any], file_bytes: int, dtype: str, quantise: str | None = None) -> int:
    """Estimate the bytes of weights that are converted to a dtype (``auto``: not), and quantised if to one of `QUANTISED`.

    A checkpoint that is stored quantised takes what its files take; a GGUF file is unpacked.
    """
    if "gguf" in config:
        return config["gguf"]["parameters"] * _ITEM.get(dtype, 4)
    if config.get("quantization_config"):
        return file_bytes
    stored = _ITEM.get(stored_dtype(config), 4)
    weights, item = file_bytes // stored, stored if dtype == "auto" else _ITEM.get(dtype, 4)
    linear = min(weights, _linear_weights(config)) if quantise in QUANTISED else 0
    return int((weights - linear) * item + linear * QUANTISED.get(str(quantise), 0))


def cache_bytes(config: dict[str, Any], tokens: int, dtype: str) -> int:
    """Estimate the bytes of the keys and values of one row of so many tokens, prompt and answer together.

    It is 0 for an architecture that transformers does not know. A layer with a sliding window keeps no more than that.
    """
    text = text_config(config)
    queries = getattr(text, "num_attention_heads", None)
    if not queries:
        return 0  # a recurrent model, such as RWKV or Mamba, keeps a state of fixed size
    from transformers.cache_utils import DynamicCache, DynamicLayer

    heads = getattr(text, "num_key_value_heads", None) or queries
    size = getattr(text, "head_dim", None) or text.hidden_size // queries
    try:
        layers = [layer for layer in DynamicCache(config=text).layers if isinstance(layer, DynamicLayer)]
        kept = sum(min(tokens, getattr(layer, "sliding_window", tokens)) for layer in layers)
    except (KeyError, TypeError):  # of kinds that only the model's own code knows, or a window that is not there
        kept = tokens * text.num_hidden_layers
    return 2 * heads * size * kept * _ITEM.get(stored_dtype(config) if dtype == "auto" else dtype, 4)


def logits_bytes(config: dict[str, Any], rows: int, positions: int) -> int:
    """Estimate the memory of the logits, kept in float32 beside a copy, of `positions` tokens in each of `rows` rows."""
    text = text_config(config)
    return 0 if text is None else 2 * 4 * rows * positions * text.vocab_size


def check_fits(model: Checkpoint, args: dict[str, Any]) -> None:
    """Refuse a model whose weights alone are larger than all the memory of the device in lm-eval's arguments."""
    if _SPREADS & args.keys():
        return
    needed = weights_bytes(model.config, sum(model.weights.values()), args["dtype"], args.get("quantise"))
    there = total(args["device"])
    if needed > there:
        instead = "Take a smaller model." if args.get("quantise") else "Quantise it (QUANT=nf4), or take a smaller model."
        sizes = f"need about {in_words(needed)}, but {args['device']} has {in_words(there)}"
        raise UserError(f"The weights of {model.name!r} {sizes}. {instead}")


def total(device: str) -> int:
    """Return all memory of a device in bytes; of a CPU with what can be swapped out."""
    return _free_and_all(device)[1]


def available(device: str) -> int:
    """Return the memory of a device in bytes that is free now."""
    return _free_and_all(device)[0]


def in_words(size: int) -> str:
    """Write a number of bytes for people."""
    return f"{size / GB:.1f} GB" if size >= GB / 10 else f"{size / 1e6:.1f} MB"


def peak_memory_bytes() -> dict[str, int]:
    """Return the most memory this process has held, in main memory and on the GPUs it has used, all of them together."""
    peak = {"process": _peak_bytes()}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        peak["gpu"] = sum(torch.cuda.max_memory_allocated(gpu) for gpu in range(torch.cuda.device_count()))
    return peak


def reset_peak_memory() -> None:
    """Forget what GPUs have held so far; what they hold now counts. A process's own peak cannot be reset."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():  # before, there is nothing to forget, and torch raises
        for gpu in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(gpu)


def _linear_weights(config: dict[str, Any]) -> int:
    """Count the weights of a model's linear layers: embedding and output layer stay as they are when it is quantised."""
    from torch import nn
    from transformers import AutoModel
    from transformers.pytorch_utils import Conv1D

    try:
        model = without_weights(text_config(config), AutoModel)
    except Exception:  # of an architecture that transformers does not know
        return sys.maxsize
    return sum(layer.weight.numel() for layer in model.modules() if isinstance(layer, nn.Linear | Conv1D))


def _free_and_all(device: str) -> tuple[int, int]:
    if device.startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info(device)
    import psutil

    there, limit = psutil.virtual_memory(), _cgroup_limit()
    return min(there.available, limit), min(there.total, limit) + psutil.swap_memory().total


def _cgroup_limit() -> int:
    """Return the memory that a container leaves its processes."""
    for file in ("memory.max", "memory/memory.limit_in_bytes"):  # version 2, version 1
        path = _CGROUP / file
        if path.is_file() and (text := path.read_text().strip()).isdecimal():
            return int(text)
    return 2**63


def _peak_bytes() -> int:
    """Read it where it is this program's alone: on Linux `ru_maxrss` begins at what the parent process held."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
