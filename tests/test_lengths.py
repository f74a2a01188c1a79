"""How many tokens a model reads: against the model itself, which fails one token later, or reads on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from builders import build_model, tsv_folder
from conftest import Outcome
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from harness_ext.model.lengths import context_length

SIZES = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 100,
    "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "max_position_embeddings": 40,
}  # fmt: skip
FULL: dict[str, dict[str, Any]] = {  # those of whose positions some are not for tokens, and those that hold what they say
    "roberta": {},
    "camembert": {},
    "mpnet": {},
    "longformer": {"attention_window": 8},
    "esm": {"position_embedding_type": "absolute"},
    "bert": {},
    "distilbert": {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64},
    "nystromformer": {},
    "gpt2": {"n_positions": 40, "n_embd": 32, "n_layer": 1, "n_head": 2},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
}
RELATIVE: dict[str, dict[str, Any]] = {
    "deberta-v2": {"relative_attention": True, "position_biased_input": False, "pos_att_type": "p2c|c2p"},
    "bloom": {"n_layer": 1, "n_head": 2},
    "falcon": {"alibi": True},
}


def reads(model: Any, tokens: int) -> bool:
    ids = torch.tensor([[0, *[5] * (tokens - 2), 2]])
    try:
        with torch.no_grad():
            model(input_ids=ids, attention_mask=torch.ones_like(ids))
    except (RuntimeError, IndexError):
        return False
    return True


@pytest.mark.parametrize("kind", FULL)
def test_model_reads_so_many_tokens_and_not_one_more(kind: str):
    config = AutoConfig.for_model(kind, **SIZES, **FULL[kind])
    model = AutoModelForSequenceClassification.from_config(config).eval()
    limit = context_length(config)
    assert limit is not None
    assert context_length(config, model) == limit
    assert reads(model, limit)
    assert not reads(model, limit + 1)


@pytest.mark.parametrize("kind", RELATIVE)
def test_model_of_relative_positions_has_no_limit(kind: str):
    config = AutoConfig.for_model(kind, **SIZES, **RELATIVE[kind])
    model = AutoModelForSequenceClassification.from_config(config).eval()
    assert context_length(config) is None
    assert context_length(config, model) is None
    assert reads(model, 80)


def test_rotary_model_reads_what_its_config_says():
    assert context_length(AutoConfig.for_model("qwen2", **SIZES, num_key_value_heads=1)) == 40


def test_sentence_beyond_the_length_is_one_line_in_run_doctor_and_training(elsewhere: Path, door: Callable[..., Outcome]):
    tokenizer = AutoTokenizer.from_pretrained(build_model("bert", "bert"))
    sizes: dict[str, Any] = {**SIZES, "num_labels": 2, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    config = transformers.RobertaConfig(**sizes)
    transformers.RobertaForSequenceClassification(config).save_pretrained("roberta")
    tokenizer.save_pretrained("roberta")
    room = 40 - tokenizer.pad_token_id - 1
    text = "x" + " x" * (room + 1)
    assert len(tokenizer(text).input_ids) > room
    data = tsv_folder("data", [(text, 1), ("dull", 0)], [(text, 1), ("dull", 0)] * 4)
    said = f"tokens, but the model reads {room}"
    assert said in door("run", "--pretrained=roberta", f"--data_dir={data}").error
    assert said in door("doctor", "--pretrained=roberta", f"--data_dir={data}").stdout

    from finetune import data as training

    with pytest.raises(ValueError, match=f"context holds {room}"):
        training.check_lengths([{"input_ids": [0] * (room + 1)}], context_length(config))
