"""`hf-answer` beside stock lm-eval on pretrained models, and on one that thinks; the goals are of docs/speed.md.

Stock runs at each of some batch sizes, and its fastest counts. REAL_MODELS names the folder of the models.
"""

import os
from pathlib import Path

import pytest
from test_answers import labels, measure, measure_share, models, sst2  # noqa: F401  fixtures

CASES = [  # model, dtype, stock's batches, shots, documents
    ("SmolLM2-135M-Instruct", "bfloat16", (32, 128), "", 400),
    ("SmolLM2-135M-Instruct", "float32", (32, 128), "", 200),
    ("SmolLM2-135M-Instruct", "bfloat16", (8, 32), "16", 64),
    ("gemma-3-270m", "bfloat16", (32, 128), "", 400),
]


def real(name: str) -> Path:
    folder = Path(os.environ.get("REAL_MODELS", ""), name)
    if not os.environ.get("REAL_MODELS") or not folder.is_dir():
        pytest.skip(f"needs {name} in REAL_MODELS=")
    return folder


@pytest.mark.parametrize(("name", "dtype", "batches", "shots", "limit"), CASES)
def test_real_model_beside_stock(benchmark, sst2, tmp_path, name, dtype, batches, shots, limit):  # noqa: F811
    given = {"limit": limit, "dtype": dtype, "shots": shots, "chat": "yes" if "Instruct" in name else ""}
    theirs = {
        batch: measure("stock", real(name), sst2, tmp_path / f"stock{batch}", batch=batch, **given) for batch in batches
    }
    ours = benchmark.pedantic(measure, ("ours", real(name), sst2, tmp_path / "ours"), given, rounds=1)
    best = max(theirs, key=lambda batch: theirs[batch]["docs_per_s"])
    same = sum(a == b for a, b in zip(labels(tmp_path / "ours"), labels(tmp_path / f"stock{best}"), strict=True))
    benchmark.extra_info |= {
        "documents": limit, "labels_equal": same, "labels": 2 * limit, "batch": best, "stock": theirs[best], "ours": ours,
        "all_of_stock": theirs,
    }  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])  # merged, and beside the base
def test_adapter_beside_its_base(benchmark, sst2, tmp_path, dtype):  # noqa: F811
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = real("SmolLM2-135M-Instruct")
    config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")  # as recipe qwen
    get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config).save_pretrained(
        tmp_path / "adapter"
    )
    given = {"limit": 200, "dtype": dtype}
    alone = measure("ours", base, sst2, tmp_path / "alone", **given)
    ours = benchmark.pedantic(
        measure, ("ours", base, sst2, tmp_path / "ours"), {**given, "adapter": tmp_path / "adapter"}, rounds=1
    )
    benchmark.extra_info |= {"documents": 200, "base": alone, "ours": ours}


def test_thinking_beside_stock(benchmark, models, sst2, tmp_path):  # noqa: F811
    model, given = models("28M", "thinks"), {"limit": 64, "think": "yes"}
    theirs = {batch: measure("stock", model, sst2, tmp_path / f"stock{batch}", batch=batch, **given) for batch in (8, 64)}
    ours = benchmark.pedantic(measure, ("ours", model, sst2, tmp_path / "ours"), given, rounds=1)
    best = max(theirs, key=lambda batch: theirs[batch]["docs_per_s"])
    benchmark.extra_info |= {
        "documents": 64, "batch": best, "stock": theirs[best], "ours": ours, "all_of_stock": theirs,
    }  # fmt: skip


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_share_of_the_machines_rate_on_a_real_models_prompts(benchmark, sst2, tmp_path, dtype):  # noqa: F811
    measure_share(benchmark, real("SmolLM2-135M-Instruct"), sst2, tmp_path, 872, dtype)
