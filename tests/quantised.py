"""Small AWQ and GPTQ checkpoints, packed by hand in the Hub's layout, each beside the float model it stands for.

Nothing here uses gptqmodel: the packing follows the formats' own definitions, so that a model loaded from it and the
float reference can disagree.

AWQ, "gemm" layout (AutoAWQ): ``qweight`` (in, out / 8), ``qzeros`` (in / group, out / 8), both int32, eight 4-bit numbers
in each, column 0 in bits 0-3, 2 in bits 4-7, then 4 6 1 3 5 7; ``scales`` (in / group, out) float16; a weight is
scale * (q - zero).
GPTQ (AutoGPTQ, "v1"): ``qweight`` (in / 8, out), eight rows in each, in order; ``qzeros`` (in / group, out / 8) in order and
one less than the zero; ``g_idx`` (in) names each row's group; a weight is scale * (q - zero).
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from builders import build_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

GROUP = 32  # rows that share a scale; 128 on the Hub, but 32 is the smallest that every kernel takes
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 2,
}  # kernels want multiples of 32
CONFIGS: dict[str, dict[str, Any]] = {  # as in config.json of published checkpoints, but for the group size
    "awq": {
        "quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm",
        "modules_to_not_convert": None,
    },
    "gptq": {
        "quant_method": "gptq", "bits": 4, "group_size": GROUP, "damp_percent": 0.01, "desc_act": False, "sym": False,
        "true_sequential": True, "static_groups": False, "model_file_base_name": "model", "model_name_or_path": None,
    },
}  # fmt: skip


def quantised_twin(
    folder: Path,
    method: str,
    architecture: str = "qwen2",
    *,
    shards: int = 1,
    make: Callable[..., Path] = build_model,
    **options,
) -> tuple[Path, Path]:
    """Write a model and its quantised twin, whose weights are the same numbers.

    Args:
        folder: Where to; created.
        method: A name of `CONFIGS`.
        architecture: ``qwen2`` or ``llama``.
        shards: Number of safetensors files; more than one come with an index.
        make: Writes the float model: `build_model` or `answering_model`.
        **options: As for `make`.

    Returns:
        The folders of the twin and of the float model (dequantised, float32).
    """
    reference, twin = folder / "reference", folder / method
    sizes = SIZES | ({"head_dim": 32} if architecture == "llama" else {})
    make(reference, architecture, **(sizes | options))
    model = AutoModelForCausalLM.from_pretrained(reference)
    weights: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and module is not model.get_output_embeddings():
            q, scales, zeros = quantise(module.weight.data)
            module.weight.data = dequantise(q, scales, zeros)
            weights |= {f"{name}.{kind}": tensor for kind, tensor in PACK[method](q, scales, zeros).items()}
    model.half().float().save_pretrained(reference)  # kernels dequantise to float16
    for name, tensor in load_file(reference / "model.safetensors").items():
        if f"{name.removesuffix('.weight')}.qweight" not in weights:
            weights[name] = tensor.half()  # embeddings, norms, biases and the head stay in float16
    twin.mkdir()
    for path in reference.iterdir():
        if path.suffix != ".safetensors":
            (twin / path.name).write_bytes(path.read_bytes())
    fields = json.loads((reference / "config.json").read_text())
    fields |= {"dtype": "float16", "quantization_config": CONFIGS[method]}
    (twin / "config.json").write_text(json.dumps(fields, indent=2))
    save_shards(weights, twin, shards)
    return twin, reference


def quantise(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Round a weight ``(out, in)`` to 4 bits by groups of input rows.

    Returns:
        q ``(in, out)`` from 0 to 15, scales ``(in / group, out)`` in float16, zeros likewise from 1 to 15.
    """
    groups = weight.t().reshape(-1, GROUP, weight.shape[0])
    low, high = groups.amin(1).clamp(max=0), groups.amax(1).clamp(min=0)
    scales = ((high - low) / 15).half()
    zeros = (-low / scales.float()).round().clamp(1, 15).int()
    q = (groups / scales[:, None].float()).round() + zeros[:, None]
    return q.clamp(0, 15).int().reshape(weight.shape[1], weight.shape[0]), scales, zeros


def dequantise(q: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
    """Compute scale * (q - zero), back as ``(out, in)``."""
    scale, zero = (each.repeat_interleave(GROUP, 0) for each in (scales.float(), zeros))
    return ((q - zero) * scale).t().contiguous()


def pack(numbers: Tensor, order: tuple[int, ...] = tuple(range(8))) -> Tensor:
    """Pack each row's numbers, ``(rows, n)``, eight to an int32: ``(rows, n / 8)``."""
    eights = numbers.long().reshape(numbers.shape[0], -1, 8)[:, :, list(order)]
    return sum(eights[:, :, place] << 4 * place for place in range(8)).to(torch.int64).to(torch.int32)  # type: ignore[union-attr]


def pack_awq(q: Tensor, scales: Tensor, zeros: Tensor) -> dict[str, Tensor]:
    """Return a layer's tensors in AWQ's gemm layout."""
    return {"qweight": pack(q, AWQ_ORDER), "qzeros": pack(zeros, AWQ_ORDER), "scales": scales}


def pack_gptq(q: Tensor, scales: Tensor, zeros: Tensor) -> dict[str, Tensor]:
    """Return a layer's tensors in GPTQ's first layout."""
    g_idx = torch.arange(q.shape[0], dtype=torch.int32) // GROUP
    return {"qweight": pack(q.t()).t().contiguous(), "qzeros": pack(zeros - 1), "scales": scales, "g_idx": g_idx}


PACK = {"awq": pack_awq, "gptq": pack_gptq}


def save_shards(weights: dict[str, Tensor], folder: Path, shards: int) -> None:
    """Save weights as the Hub has them: one file, or several with an index."""
    weights = {name: weights[name].contiguous() for name in sorted(weights)}
    if shards == 1:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = list(weights)
    where: dict[str, str] = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = names[shard::shards]
        save_file({name: weights[name] for name in part}, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": sum(tensor.nbytes for tensor in weights.values())}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


if __name__ == "__main__":  # python tests/quantised.py FOLDER: an AWQ checkpoint to try `make eval MODEL=FOLDER/awq` with
    import sys

    from builders import answering_model

    quantised_twin(Path(sys.argv[1]), "awq", make=answering_model)
