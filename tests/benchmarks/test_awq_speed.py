"""The dtype of AWQ on a CPU: seconds for 16 prompts of 80 tokens and for one more token each, beside the float32 model."""

import importlib.util
from typing import Any

import pytest
import torch
from quantised import quantised_twin
from transformers import AutoModelForCausalLM

from harness_ext.model.loading import WholeModel, quieten_libraries

SIZES: dict[str, Any] = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8, "num_hidden_layers": 2}


@pytest.mark.skipif(importlib.util.find_spec("gptqmodel") is None, reason="needs gptqmodel (make setup EXTRAS=awq)")
@pytest.mark.parametrize("tokens", [80, 1])
@pytest.mark.parametrize("dtype", ["reference", "float32", "bfloat16", "float16"])
def test_awq_on_a_cpu_by_dtype(dtype, tokens, benchmark, tmp_path):
    quieten_libraries()
    twin, reference = quantised_twin(tmp_path, "awq", spread=0.02, **SIZES)
    folder, stored = (reference, "float32") if dtype == "reference" else (twin, dtype)
    model = WholeModel(AutoModelForCausalLM).from_pretrained(folder, dtype=getattr(torch, stored)).eval()
    ids = torch.randint(5, 300, (16, tokens), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        benchmark.pedantic(model, (ids,), rounds=2, warmup_rounds=1)
