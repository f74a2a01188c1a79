"""Adapters on the device: made, checked by a fresh process, and answering as peft alone makes of them."""

import importlib.util
import json

import pytest
import torch
from builders import answering_model, build_model
from quantised import SIZES

from gpu.alone import classified, prompted, turned
from gpu.conftest import DTYPES, free
from gpu.test_evaluation import ROUNDING, two_gpus

pytestmark = pytest.mark.gpu
FIGURES = ("reload_difference", "time_s", "samples_per_s", "peak_memory_bytes")


def note(adapter, record_property) -> dict:
    """Put the figures of an adapter's record into the report."""
    manifest = json.loads((adapter / "run.json").read_text(encoding="utf-8"))
    for name in FIGURES:
        if name in manifest:
            record_property(name, manifest[name])
    return manifest


@pytest.mark.parametrize("dtype", DTYPES)
def test_lora_adapter_answers_as_peft_alone_makes_of_it(dtype, models, train, evaluate, device, record_property):
    adapter = train(f"--model={models[dtype]}", f"--dtype={dtype}")
    note(adapter, record_property)
    run = evaluate("scored", f"--adapter={adapter}", f"--dtype={dtype}")
    alone = prompted(models[dtype], device, dtype, adapter=adapter)
    other = turned(run.predictions, alone)
    record_property("labels_turned", len(other))
    untrained = prompted(models[dtype], device, dtype)
    assert sum(choice.margin != base.margin for choice, base in zip(alone, untrained, strict=True)) > len(alone) / 2
    assert all(share < ROUNDING[dtype] for share in other), other


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
def test_qlora_adapter_answers_as_peft_alone_makes_of_it(train, evaluate, device, tmp_path, record_property):
    base = answering_model(tmp_path / "base", "llama", dtype="bfloat16", head_dim=32, **SIZES)
    adapter = train(f"--model={base}", "--set=quantise=nf4")
    note(adapter, record_property)
    run = evaluate("scored", f"--adapter={adapter}", "--dtype=bfloat16")
    other = turned(run.predictions, prompted(base, device, "bfloat16", adapter=adapter, nf4=True))
    record_property("labels_turned", len(other))
    record_property("quantisation", run.record["settings"]["quantisation"])
    assert all(share < ROUNDING["bfloat16"] for share in other), other


@pytest.mark.parametrize("architecture", ["bert", "qwen2"])
def test_classifier_answers_as_transformers_and_peft_alone(architecture, train, evaluate, device, tmp_path, record_property):
    base = build_model(tmp_path / "base", architecture, head="MaskedLM")
    adapter = train(f"--model={base}", "--recipe=deberta")
    note(adapter, record_property)
    run = evaluate("scored", f"--adapter={adapter}")
    other = turned(run.predictions, classified(base, device, adapter=adapter))
    record_property("labels_turned", len(other))
    assert all(share < ROUNDING["float32"] for share in other), other


@two_gpus
def test_second_device_alone_trains_where_it_is_named(models, train, record_property):
    free()
    before = torch.cuda.memory_allocated(0)
    torch.cuda.reset_peak_memory_stats(0)
    note(train(f"--model={models['float32']}", on="cuda:1"), record_property)
    assert torch.cuda.max_memory_allocated(0) - before < 2**20
