"""GGUF files, written at test time of the models that `builders` makes, by the gguf package's own writer."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import load_file

_NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def gguf_name(name: str) -> str:
    """Return llama.cpp's name of a Qwen2's tensor."""
    name, _, ending = name.rpartition(".")
    if name.startswith("model.layers."):
        number, _, name = name.removeprefix("model.layers.").partition(".")
        return f"blk.{number}.{_NAMES[name]}.{ending}"
    return f"{_NAMES[name]}.{ending}"


def build_gguf(
    file: Path,
    model: Path,  # a Qwen2's folder
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.Q8_0,
    *,
    architecture: str = "qwen2",
    split: int = 0,  # tensors a file at the most
    weights: bool = True,
    tokenizer: bool = True,
    **metadata: Any,  # further texts and whole numbers, a dot written as two underscores
) -> Path:
    """Write a model as a GGUF file, its matrices quantised; and return the file, or the first of several."""
    config = json.loads((model / "config.json").read_text())
    writer = gguf.GGUFWriter(file, architecture, split_max_tensors=split)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(10000.0)
    if tokenizer:
        _add_tokenizer(writer, model)
    for name, value in metadata.items():
        add = writer.add_string if isinstance(value, str) else writer.add_uint32
        add(name.replace("__", "."), value)
    for name, tensor in load_file(model / "model.safetensors").items() if weights else ():
        quantised = gguf.quantize(tensor, kind) if tensor.ndim > 1 else tensor
        writer.add_tensor(gguf_name(name), quantised, raw_dtype=kind if tensor.ndim > 1 else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file if not split else min(file.parent.glob(f"{file.stem}-*.gguf"))


def _add_tokenizer(writer: gguf.GGUFWriter, model: Path) -> None:
    content = json.loads((model / "tokenizer.json").read_text())
    settings = json.loads((model / "tokenizer_config.json").read_text())
    ids = content["model"]["vocab"] | {added["content"]: added["id"] for added in content["added_tokens"]}
    special = {added["content"] for added in content["added_tokens"] if added["special"]}
    tokens = sorted(ids, key=ids.__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in content["model"]["merges"]])
    for name in ("eos", "pad"):
        getattr(writer, f"add_{name}_token_id")(ids[settings[f"{name}_token"]])
    template = model / "chat_template.jinja"
    if template.is_file():
        writer.add_chat_template(template.read_text())


def unpacked(file: Path) -> dict[str, np.ndarray]:
    """Return a file's tensors by llama.cpp's names, unpacked by the gguf package alone."""
    return {tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type) for tensor in gguf.GGUFReader(file).tensors}
