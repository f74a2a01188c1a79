"""Adapters as peft alone answers with them: those that touch embeddings, and every kind that peft has."""

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from builders import build_model
from peft import LoraConfig, get_peft_model
from prompting import PROMPTS, answer_lm, choices, plain_texts, texts
from transformers import AutoModelForCausalLM, AutoTokenizer

LORA: dict[str, Any] = {"r": 4, "lora_alpha": 16, "task_type": "CAUSAL_LM"}
EMBEDDINGS: dict[str, dict[str, Any]] = {
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "output layer": {"target_modules": ["q_proj", "lm_head"]},
    "both": {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    "embedding saved": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "output layer saved": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "both saved": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    "some tokens": {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [20, 21, 22]}},
    "tied on purpose": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
}
WIDE: dict[str, Any] = {"target_modules": ["q_proj", "v_proj"]}
KINDS = {
    "DoRA": LoraConfig(**LORA, **WIDE, use_dora=True),
    "VeRA": peft.VeraConfig(r=4, task_type="CAUSAL_LM", target_modules=["q_proj"]),
    "IA3": peft.IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "LoHa": peft.LoHaConfig(r=4, task_type="CAUSAL_LM", **WIDE),
    "LoKr": peft.LoKrConfig(r=4, task_type="CAUSAL_LM", **WIDE),
    "OFT": peft.OFTConfig(oft_block_size=4, task_type="CAUSAL_LM", **WIDE),
    "norms": peft.LNTuningConfig(task_type="CAUSAL_LM", target_modules=["input_layernorm"]),
    "prompt tuning": peft.PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"),
    "p-tuning": peft.PromptEncoderConfig(num_virtual_tokens=4, encoder_hidden_size=16, task_type="CAUSAL_LM"),
    "prefix tuning": peft.PrefixTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"),
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> dict[bool, Path]:
    """A model whose output layer is its embedding, and one whose is not."""
    folder = tmp_path_factory.mktemp("bases")
    return {tie: build_model(folder / str(tie), "llama", tie=tie, seed=11) for tie in (True, False)}


def adapter(base: Path, folder: Path, config: Any, resize: int = 0) -> Path:
    """Write an adapter of random weights, large enough to change every answer."""
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if resize:
        model.resize_token_embeddings(resize, mean_resizing=False)
    model = get_peft_model(model, config)
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            small = "vera_lambda" in name or "oft_R" in name
            weight.data = torch.randn(weight.shape) * (0.1 if small else 0.3)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("touches", EMBEDDINGS)
@pytest.mark.parametrize("tie", [True, False])
def test_adapter_that_touches_embeddings_answers_as_peft_does(touches, tie, bases, tmp_path):
    folder = adapter(bases[tie], tmp_path / "adapter", LoraConfig(**LORA, **EMBEDDINGS[touches]))
    right = plain_texts(bases[tie], folder)
    assert len(set(right)) > 1
    assert right != plain_texts(bases[tie])
    for engine in ("shared", "stock"):
        lm = answer_lm(bases[tie], peft=str(folder), engine=engine)
        assert texts(lm) == right, engine
        assert lm.account.self_check["passed"]


@pytest.mark.parametrize("kind", KINDS)
def test_adapter_of_another_kind_answers_as_peft_does(kind, bases, tmp_path):
    folder = adapter(bases[False], tmp_path / "adapter", KINDS[kind])
    right = plain_texts(bases[False], folder)
    assert right != plain_texts(bases[False])
    for engine in ("shared", "stock"):
        lm = answer_lm(bases[False], peft=str(folder), engine=engine)
        assert texts(lm) == right, (engine, lm.account.path)
        assert lm.account.self_check["passed"]


@pytest.mark.parametrize("kind", ["prompt tuning", "prefix tuning", "DoRA"])
def test_adapter_of_another_kind_chooses_as_peft_does(kind, bases, tmp_path):
    folder = adapter(bases[False], tmp_path / "adapter", KINDS[kind])
    tokenizer = AutoTokenizer.from_pretrained(bases[False])
    model = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(bases[False], dtype=torch.float32), folder)
    right = []
    with torch.no_grad():
        for prompt in PROMPTS:
            logits = model.eval()(**tokenizer(prompt, return_tensors="pt")).logits[0, -1]
            right.append(float(logits.log_softmax(-1)[tokenizer(" 0").input_ids[0]]))
    assert choices(answer_lm(bases[False], peft=str(folder))) == pytest.approx(right, abs=1e-3)


def test_adapter_is_merged_where_that_is_exact_and_nowhere_else(bases, tmp_path):
    merged = {}
    cases: tuple[tuple[str, bool, str, dict[str, Any]], ...] = (
        ("plain", True, "float32", WIDE),
        ("plain16", True, "bfloat16", WIDE),
        ("tied", True, "float32", EMBEDDINGS["embedding"]),
        ("untied", False, "float32", EMBEDDINGS["embedding"]),
    )
    for name, tie, dtype, config in cases:
        folder = adapter(bases[tie], tmp_path / name, LoraConfig(**LORA, **config))
        lm = answer_lm(bases[tie], peft=str(folder), dtype=dtype)
        texts(lm)
        merged[name] = not hasattr(lm.model, "peft_config")
        assert merged[name] == ("merged_difference" in lm.account.self_check)
    assert merged == {"plain": True, "plain16": False, "tied": False, "untied": True}


SWAPPED = {name: LoraConfig(**LORA, **touches) for name, touches in EMBEDDINGS.items()} | KINDS
STAYS = {*EMBEDDINGS, "prompt tuning", "p-tuning", "prefix tuning"} - {"some tokens"}  # brings more than layers on top


@pytest.mark.parametrize("kind", SWAPPED)
def test_adapter_gives_way_to_another_and_leaves_nothing_of_itself(kind, bases, tmp_path):
    first, second = adapter(bases[True], tmp_path / "a", SWAPPED[kind]), adapter(bases[True], tmp_path / "b", KINDS["IA3"])
    lm, fresh = (answer_lm(bases[True], peft=str(folder), dtype="bfloat16") for folder in (first, second))
    before = texts(lm)
    assert lm.swap_adapter(str(second)) == (kind not in STAYS)
    assert texts(lm) == (before if kind in STAYS else texts(fresh))


def test_adapter_swapped_before_it_is_merged_answers_as_peft_does(bases, tmp_path):
    first, second = (adapter(bases[False], tmp_path / kind, KINDS[kind]) for kind in ("DoRA", "LoHa"))
    lm = answer_lm(bases[False], peft=str(first))
    assert lm.swap_adapter(str(second))
    assert texts(lm) == plain_texts(bases[False], second)
    assert not lm.swap_adapter(str(first)), "it has been merged"


def test_adapter_whose_merge_changes_the_logits_stays_beside_its_base(bases, tmp_path, monkeypatch):
    from peft.tuners.lora import Linear

    folder = adapter(bases[False], tmp_path / "adapter", LoraConfig(**LORA, **WIDE))
    merge = Linear.merge

    def wrong(self, *args, **kwargs):
        self.scaling["default"] *= 2
        merge(self, *args, **kwargs)

    def back(self, *args, **kwargs):
        unmerge(self, *args, **kwargs)
        self.scaling["default"] /= 2

    unmerge = Linear.unmerge
    monkeypatch.setattr(Linear, "merge", wrong)
    monkeypatch.setattr(Linear, "unmerge", back)
    lm = answer_lm(bases[False], peft=str(folder))
    assert texts(lm) == plain_texts(bases[False], folder)
    assert hasattr(lm.model, "peft_config")


def test_adapter_with_a_vocabulary_of_its_own_gives_the_base_that_size(bases, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(bases[False])
    config = LoraConfig(**LORA, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])
    size = len(tokenizer) + 7  # more rows than the tokenizer has tokens, as trainers pad them
    folder = adapter(bases[False], tmp_path / "adapter", config, resize=size)
    lm = answer_lm(bases[False], peft=str(folder))
    assert len(texts(lm)) == len(PROMPTS)
    assert lm.model.get_input_embeddings().weight.shape[0] == size


def test_checkpoint_whose_output_layer_is_its_own_though_its_config_says_tied_keeps_it(bases, tmp_path):
    folder = tmp_path / "model"
    model = AutoModelForCausalLM.from_pretrained(bases[False])
    model.config.tie_word_embeddings = True
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(bases[False]).save_pretrained(folder)
    right = plain_texts(folder)
    assert right == plain_texts(bases[False])
    for engine in ("shared", "stock"):
        assert texts(answer_lm(folder, engine=engine)) == right
