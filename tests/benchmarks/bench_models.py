"""Models for benchmarks that need no training: a random body of realistic shape, and an output layer made by hand.

``answers`` says " 0" or " 1" depending on its input; ``late`` writes three other tokens first; ``never`` writes the same
word for ever; ``thinks``, where tokens are drawn, for 20 tokens and then for 130 more on average before it says a digit and
ends. Float32 or bfloat16, in the Hub's file layout.
"""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from harness_ext.paths import SHIPPED
from harness_ext.task.find import build_tasks
from harness_ext.task.prompts import render_prompt

VOCABULARY = 32_000
SIZES: dict[str, dict[str, Any]] = {  # non-embedding parameters
    "28M": {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 10, "num_attention_heads": 8},
    "150M": {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 13, "num_attention_heads": 16},
    "0.5B": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14},
}
CHAIN = (300, 301, 302)  # token ids; their embeddings are large, so that each decides what follows it
THOUGHT = tuple(range(400, 421))  # the last one follows itself but once in 130 times


def build(folder: Path, size: str = "28M", variant: str = "answers", dtype: str = "float32") -> Path:
    """Write a model.

    Args:
        folder: Where to.
        size: Of `SIZES`.
        variant: ``answers``, ``late``, ``never`` or ``thinks``.
        dtype: As stored.
    """
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED["tiny-base"])
    if variant == "thinks":
        tokenizer.add_tokens(["<think>", "</think>"])
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY, num_key_value_heads=2, max_position_embeddings=4096, tie_word_embeddings=False,
        eos_token_id=tokenizer.eos_token_id, bos_token_id=None, initializer_range=0.05, **SIZES[size],
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).eval()
    with torch.no_grad():
        _write_head(model, tokenizer, variant)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def body_parameters(folder: Path) -> int:
    """Count the parameters of a model but for its embeddings and output layer."""
    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return sum(weight.numel() for name, weight in model.named_parameters() if "embed" not in name and "lm_head" not in name)


def _write_head(model: Any, tokenizer: Any, variant: str) -> None:
    embeddings, head = model.get_input_embeddings().weight, model.lm_head.weight
    (task,) = build_tasks(["sst2_01_mini"])
    prompts = [render_prompt(task, document) for document in task.eval_docs.select(range(16))]
    batch = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    mean = F.normalize(model.model(**batch).last_hidden_state[:, -1].mean(0), dim=0)  # of the states, (hidden,)
    direction = torch.randn_like(mean)
    digits = [tokenizer.convert_tokens_to_ids(digit) for digit in "01"]
    head.zero_()
    if variant == "thinks":
        _think(embeddings, head, mean, tokenizer("</think>")["input_ids"], digits, tokenizer.eos_token_id)
        return
    if variant == "late":
        embeddings[list(CHAIN)] *= 100
        steps = F.normalize(embeddings[list(CHAIN)], dim=1)
        direction = F.normalize(direction - direction @ steps[2] * steps[2], dim=0)
        head[CHAIN[0]], head[CHAIN[1]], head[CHAIN[2]] = mean, 5 * steps[0], 5 * steps[1]
        head[digits[0]], head[digits[1]] = 5 * steps[2] + direction, 5 * steps[2] - direction
        return
    words = digits if variant == "answers" else list(CHAIN[:2])
    direction = direction - direction @ mean * mean  # so that both are said
    head[words[0]], head[words[1]] = direction, -direction


def _think(embeddings: Any, head: Any, mean: Any, closing: list[int], digits: list[int], end: int) -> None:
    chain = [*THOUGHT, *closing]
    embeddings[[*chain, *digits]] *= 100
    steps = {token: F.normalize(embeddings[token], dim=0) for token in [*chain, *digits]}
    sure, rare = 1.2, 1.2 - math.log(130) / math.sqrt(len(mean))  # a state after the final norm has the length sqrt(hidden)
    head[chain[0]] = mean
    for before, after in pairwise(chain):
        head[after] += (rare if before == THOUGHT[-1] else sure) * steps[before]
    head[THOUGHT[-1]] += sure * steps[THOUGHT[-1]]
    for digit in digits:
        head[digit] += sure * steps[chain[-1]]
        head[end] += sure * steps[digit]
