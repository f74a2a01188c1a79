"""The engine on pretrained models: adapters that touch tied embeddings, and mistakes in bfloat16."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from prompting import answer_lm, plain_texts, texts
from test_selfcheck import FAULTS, faulty
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness_ext.backend import selfcheck
from harness_ext.task.prompts import common_prefix, encode_prompts

QUESTION = (
    "Does this sentence from a movie review express a positive or a negative opinion?\n"
    "Answer with 1 for positive or 0 for negative, and nothing else.\n\nSentence: {}\nAnswer:"
)
SENTENCES = (
    "a small wonder",
    "it 's a charming and often affecting journey .",
    "dull , loud and far too long to sit through",
)
PROMPTS = [QUESTION.format(sentence) for sentence in SENTENCES]


@pytest.mark.real
@pytest.mark.parametrize("touches", [{"target_modules": ["q_proj", "embed_tokens"]}, {"modules_to_save": ["embed_tokens"]}])
def test_smollm2_with_an_adapter_on_its_tied_embedding_answers_as_peft_does(touches, real_models, tmp_path):
    base = real_models / "SmolLM2-135M-Instruct"
    config = LoraConfig(**{"r": 4, "task_type": "CAUSAL_LM", "target_modules": ["q_proj"], **touches})
    torch.manual_seed(0)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data += 0.02 * torch.randn(weight.shape)
    model.save_pretrained(tmp_path / "adapter")
    right = plain_texts(base, tmp_path / "adapter", prompts=PROMPTS)
    assert right != plain_texts(base, prompts=PROMPTS)
    for engine in ("shared", "stock"):
        lm = answer_lm(base, peft=str(tmp_path / "adapter"), engine=engine)
        assert texts(lm, prompts=PROMPTS) == right, engine
        assert lm.account.self_check["passed"]


@pytest.mark.real
@pytest.mark.parametrize("name", ["SmolLM2-135M-Instruct", "gemma-3-270m"])
def test_mistakes_of_the_engine_are_caught_on_a_pretrained_model_in_bfloat16(name, real_models):
    if not (real_models / name).is_dir():
        pytest.skip(f"needs {name} in REAL_MODELS=")
    model = AutoModelForCausalLM.from_pretrained(real_models / name, dtype=torch.bfloat16).eval()
    rows = encode_prompts(AutoTokenizer.from_pretrained(real_models / name), PROMPTS)
    with torch.inference_mode():
        assert selfcheck.examine(model, torch.device("cpu"), rows, faulty(model, common_prefix(rows)))["passed"]
        for fault, mistake in FAULTS.items():
            found = selfcheck.examine(model, torch.device("cpu"), rows, faulty(model, common_prefix(rows), **mistake))
            assert not found["passed"], fault
