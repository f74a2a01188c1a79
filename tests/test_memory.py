"""The estimate of memory: against closed forms, and against the real tensors of small models."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from builders import build_model
from conftest import Outcome
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, DynamicCache

from harness_ext.model import memory
from harness_ext.model.checkpoints import inspect_model

LLAMA_3_8B = {
    "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}  # fmt: skip
LARGER: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "head_dim": 64,
    "num_attention_heads": 4,
    "vocab_size": 400,
}


def cache_of(model, tokens: int) -> int:
    """Return the bytes of the keys and values that a model keeps of one row."""
    cache: Any = DynamicCache(config=model.config)
    with torch.no_grad():
        model(torch.arange(tokens)[None] % 300, past_key_values=cache, use_cache=True)
    return sum(tensor.nbytes for layer in cache.layers for tensor in (layer.keys, layer.values))


def weights_of(model) -> int:
    """Return the bytes of a model's parameters, with the scales that bitsandbytes keeps beside them."""
    size = 0
    for weight in {parameter.data_ptr(): parameter for parameter in model.parameters()}.values():
        size += weight.nbytes
        if state := getattr(weight, "quant_state", None):
            size += state.absmax.nbytes + state.state2.absmax.nbytes
        size += 0 if getattr(weight, "SCB", None) is None else weight.SCB.nbytes
    return size


def test_cache_of_llama_3_8b_is_the_closed_form():
    # keys and values x layers x key heads x their size x 2 bytes: 128 KiB for each token
    assert memory.cache_bytes(LLAMA_3_8B, 1, "bfloat16") == 2 * 32 * 8 * 128 * 2 == 131072
    assert memory.cache_bytes(LLAMA_3_8B, 1000, "auto") == 131_072_000


def test_weights_of_llama_3_8b_are_the_closed_form():
    body = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336)
    tables = 2 * 128256 * 4096
    stored = 2 * (body + tables)
    assert memory.weights_bytes(LLAMA_3_8B, stored, "float32") == 2 * stored
    assert memory.weights_bytes(LLAMA_3_8B, stored, "auto") == stored
    assert memory.weights_bytes(LLAMA_3_8B, stored, "bfloat16", "int8") == body + 2 * tables
    bits = 4 + 8 / 64 + 32 / (64 * 256)  # 4.127 bits, as QLoRA says
    assert memory.weights_bytes(LLAMA_3_8B, stored, "bfloat16", "nf4") == int(body * bits / 8 + 2 * tables)


def test_weights_stored_quantised_take_what_their_files_take():
    config = LLAMA_3_8B | {"quantization_config": {"quant_method": "awq"}}
    assert memory.weights_bytes(config, 5_700_000_000, "float32") == 5_700_000_000


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "llama", "gemma3", "gpt2"])
def test_cache_is_as_large_as_the_tensors_that_the_model_keeps(architecture, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(build_model(tmp_path / "model", architecture))
    config = inspect_model(str(tmp_path / "model")).checkpoint.config
    estimate, real = memory.cache_bytes(config, 100, "float32"), cache_of(model, 100)
    if architecture == "gemma3":  # windows of 64; a layer keeps one token less than its window
        kinds = model.config.layer_types
        assert kinds == ["sliding_attention", "sliding_attention"]
        assert estimate - real == 2 * len(kinds) * 16 * 4
        assert real < memory.cache_bytes(config | {"sliding_window": None}, 100, "float32")
    else:
        assert estimate == real


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize(("stored", "dtype"), [("float32", "float32"), ("float32", "bfloat16"), ("bfloat16", "float32")])
def test_weights_are_as_large_as_the_tensors_loaded(tie, stored, dtype, tmp_path):
    checkpoint = inspect_model(str(build_model(tmp_path / "model", "llama", stored, tie=tie))).checkpoint
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=getattr(torch, dtype))
    estimate = memory.weights_bytes(checkpoint.config, sum(checkpoint.weights.values()), dtype)
    assert estimate == pytest.approx(weights_of(model), rel=0.1)  # the file's header is 3 kB of a file of 80
    assert estimate >= weights_of(model)


@pytest.mark.parametrize("quantise", ["nf4", "int8"])
def test_weights_quantised_are_as_large_as_bitsandbytes_makes_them(quantise, tmp_path):
    checkpoint = inspect_model(str(build_model(tmp_path / "model", "llama", "bfloat16", **LARGER))).checkpoint
    nf4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    config = BitsAndBytesConfig(**(nf4 if quantise == "nf4" else {"load_in_8bit": True}))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.bfloat16, quantization_config=config)
    estimate = memory.weights_bytes(checkpoint.config, sum(checkpoint.weights.values()), "bfloat16", quantise)
    assert estimate == pytest.approx(weights_of(model), rel=0.03)


def test_shards_are_added_up_and_copies_in_other_formats_are_not(tmp_path):
    folder = build_model(tmp_path / "model", "llama")
    whole = (folder / "model.safetensors").stat().st_size
    (folder / "consolidated.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    (folder / "pytorch_model.bin").write_bytes(b"x" * 1000)
    assert inspect_model(str(folder)).checkpoint.weights == {"model.safetensors": whole}


def test_memory_of_the_cpu_is_the_machines_within_a_containers_limit(monkeypatch, tmp_path):
    there = psutil.virtual_memory().total + psutil.swap_memory().total
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert memory.total("cpu") == there
    assert 0 < memory.available("cpu") <= there
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.total("cpu") == there
    (tmp_path / "memory.max").write_text("1000000\n")
    assert memory.available("cpu") == 1_000_000
    assert memory.total("cpu") == 1_000_000 + psutil.swap_memory().total


@pytest.mark.parametrize(("quantise", "hint"), [(None, "QUANT=nf4"), ("nf4", "Take a smaller model")])
def test_run_of_a_model_larger_than_the_memory_is_refused_before_it_is_loaded(
    quantise: str | None,
    hint: str,
    answering: Path,
    eight_rows: Path,
    elsewhere: Path,
    door: Callable[..., Outcome],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(memory, "total", lambda device: 10_000)
    monkeypatch.setattr(memory, "weights_bytes", lambda *args: 12_000_000_000)
    if quantise:
        adapter = elsewhere / "adapter"
        adapter.mkdir()
        (adapter / "adapter_config.json").write_text('{"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2}')
        (adapter / "adapter_model.safetensors").write_bytes((answering / "model.safetensors").read_bytes())
        (adapter / "run.json").write_text('{"settings": {"quantise": "nf4"}}')
    more = ["--adapter=adapter"] if quantise else []
    error = door("run", "--pretrained", answering, "--data_dir", eight_rows, *more).error
    fragments = ("'answering'", "12.0 GB", "cpu has 0.0 MB", hint)
    assert [fragment for fragment in fragments if fragment not in error] == []


def test_layers_that_keep_nothing_of_their_own_do_not_count():
    # Gemma 3n: of 35 layers the last 15 read what others keep; of the first 20 every fifth keeps all, the others 512.
    token = 2 * 2 * 256 * 4  # keys and values x key heads x their size x 4 bytes
    assert memory.cache_bytes({"model_type": "gemma3n_text"}, 5000, "float32") == token * (4 * 5000 + 16 * 512)


@pytest.mark.parametrize("kind", ["rwkv", "mamba", "mamba2", "falcon_mamba"])
def test_model_without_attention_keeps_no_keys_and_values(kind):
    assert memory.cache_bytes({"model_type": kind}, tokens=100, dtype="float32") == 0
