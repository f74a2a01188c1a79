"""The one decode loop: whatever goes together, comes, goes or is begun again, each row is written as if it were alone."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from builders import build_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prompting import write_until
from scipy import stats
from transformers import AutoModelForCausalLM, GptOssConfig, GptOssForCausalLM, PreTrainedModel

from harness_ext.backend import batches
from harness_ext.backend.engine import PrefixReader, Row, write
from harness_ext.backend.next_token import NextToken, merged_config
from harness_ext.model import memory

CPU = torch.device("cpu")
PREFIX = [20, 21, 22, 23, 24, 25]
SAMPLED = {"do_sample": True, "temperature": 0.8, "top_k": 12, "top_p": 0.9}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "gpt2": {},
    "gemma3": {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"], "num_hidden_layers": 2},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Callable[[str], PreTrainedModel]:
    loaded: dict[str, Any] = {}

    def load(name: str) -> PreTrainedModel:
        if name not in loaded:
            folder = build_model(tmp_path_factory.mktemp("models") / name, name, seed=3, **MODELS[name])
            loaded[name] = AutoModelForCausalLM.from_pretrained(folder).eval()
            loaded[name].generation_config.eos_token_id = None
        return loaded[name]

    return load


def alone(model: Any, ids: list[int], tokens: int, **settings: Any) -> list[int]:
    """Write after one prompt as transformers does."""
    output = model.generate(
        torch.tensor([[*PREFIX, *ids]]), max_new_tokens=tokens, do_sample=False, pad_token_id=0, **settings
    )
    return output[0, len(PREFIX) + len(ids) :].tolist()


asked = st.lists(st.tuples(st.lists(st.integers(5, 90), min_size=1, max_size=9), st.integers(1, 7)), min_size=1, max_size=7)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(sorted(MODELS)), rows=asked, limit=st.integers(1, 4), penalty=st.sampled_from([1.0, 1.4]))
@torch.inference_mode()
def test_any_mixture_of_rows_is_written_as_generate_writes_each(model, name, rows, limit, penalty):
    loaded = model(name)
    config, _ = merged_config(loaded, {"do_sample": False, "repetition_penalty": penalty}, 8)
    made = [Row(number, ids) for number, (ids, _) in enumerate(rows)]
    write_until(PrefixReader(loaded, CPU, PREFIX), made, lambda row: len(row.written) >= rows[row.number][1], limit, config)
    for row, (ids, tokens) in zip(made, rows, strict=True):
        assert row.written == alone(loaded, ids, tokens, repetition_penalty=penalty)


@torch.inference_mode()
def test_attention_with_sinks_is_that_of_the_model():
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
    }
    config = GptOssConfig(
        vocab_size=99,
        num_hidden_layers=2,
        num_local_experts=2,
        num_experts_per_tok=1,
        sliding_window=6,
        pad_token_id=0,
        **sizes,
    )
    loaded = GptOssForCausalLM._from_config(config, attn_implementation="eager").eval()
    for weight in loaded.parameters():
        weight.normal_(std=0.3)
    rows = [Row(0, [40, 41, 42]), Row(1, [50]), Row(2, [60, 61, 62, 63, 64])]
    write_until(PrefixReader(loaded, CPU, PREFIX), rows, lambda row: len(row.written) == 5)
    for row in rows:
        ids = [*PREFIX, *row.ids]
        for token in row.written:
            assert token == int(loaded(torch.tensor([ids])).logits[0, -1].argmax())
            ids.append(token)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6))
@torch.inference_mode()
def test_memory_that_runs_out_now_and_then_loses_and_changes_nothing(model, seed):
    loaded, chance = model("llama"), random.Random(seed)

    class Short(PrefixReader):
        def _ask(self, rows, now, keep):
            if now.beginning() is not None and len(rows) > 1 and chance.random() < 0.3:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
            return super()._ask(rows, now, keep)

    def run(reader, sampled):
        config, _ = merged_config(loaded, SAMPLED, 9) if sampled else (None, None)
        rows = [Row(number, [30 + number] * (1 + number % 3)) for number in range(9)]
        ended: list[int] = []
        room = batches.Room(CPU, loaded, lambda width: 0, limit=5)
        choose = NextToken(reader, config)
        write(reader, rows, choose, lambda row: len(row.written) > row.number, lambda row: ended.append(row.number), room)
        assert sorted(ended) == list(range(9))
        return [row.written for row in rows]

    for sampled in (False, True):
        assert run(Short(loaded, CPU, PREFIX), sampled) == run(PrefixReader(loaded, CPU, PREFIX), sampled)


def drawn_plainly(model: Any, ids: list[int], tokens: int, seed: int) -> list[int]:
    """Draw as a textbook does, in numpy: temperature, top k, top p, and the inverse of the cumulative sum by token."""
    numbers, written = np.random.default_rng([seed]), list[int]()
    for _ in range(tokens):
        logits = model(torch.tensor([[*PREFIX, *ids, *written]])).logits[0, -1].double().numpy() / SAMPLED["temperature"]
        order = np.argsort(-logits)[: SAMPLED["top_k"]]
        shares = np.exp(logits[order] - logits[order].max())
        shares /= shares.sum()
        within = np.cumsum(shares) - shares < SAMPLED["top_p"]  # up to the one with which the sum reaches it
        kept = sorted(zip(order[within].tolist(), shares[within].tolist(), strict=True))
        sums = np.cumsum([share for _, share in kept])
        written.append(kept[int(np.searchsorted(sums, numbers.random() * sums[-1], side="right"))][0])
    return written


@pytest.mark.parametrize("limit", [1, 3, None])
@torch.inference_mode()
def test_what_is_drawn_follows_from_the_rows_own_seed_whatever_goes_together(limit, model):
    loaded = model("qwen2")
    rows = [Row(number, [30 + number] * (1 + number % 4)) for number in range(8)]
    random.Random(str(limit)).shuffle(rows)
    config, _ = merged_config(loaded, SAMPLED, 6)
    write_until(PrefixReader(loaded, CPU, PREFIX), rows, lambda row: len(row.written) == 6, limit, config)
    for row in rows:
        assert row.written == drawn_plainly(loaded, row.ids, 6, row.number)


@torch.inference_mode()
def test_tokens_are_drawn_as_often_as_is_likely(model):
    reader = PrefixReader(model("llama"), CPU, PREFIX)
    config, _ = merged_config(reader.model, {"do_sample": True, "temperature": 0.5, "top_k": 0}, 1)
    logits = torch.tensor([[0.0, 1.0, -torch.inf, 0.5, 1.5]])
    choose = NextToken(reader, config)
    found = np.bincount(choose([Row(number, [1]) for number in range(4000)], logits.expand(4000, -1)), minlength=5)
    shares = torch.softmax(logits[0].double() / 0.5, -1).numpy()
    assert found[2] == 0
    assert stats.chisquare(found[shares > 0], 4000 * shares[shares > 0]).pvalue > 1e-3


@torch.inference_mode()
def test_long_rows_wait_where_memory_is_short_and_are_written_all_the_same(model, monkeypatch):
    reader, held = PrefixReader(model("llama"), CPU, PREFIX), []
    places = reader.places

    def watched(rows):
        held.append(places(rows))
        return held[-1]

    def largest():
        return max(sum(each.nbytes for pair in place.held.values() for each in pair) for place in held)

    monkeypatch.setattr(reader, "places", watched)
    rows = [Row(number, [30 + number]) for number in range(4)]
    allowed = 400 * reader.cache_bytes  # places for 4 short rows, and for one that is done
    weights = sum(weight.nbytes for weight in reader.model.parameters())
    monkeypatch.setattr(memory, "total", lambda device: weights + allowed / batches.SHARE)
    room = batches.Room(CPU, reader.model, lambda width: 0, kept_bytes=reader.cache_bytes)
    assert (room.to_write(64), room.to_write(320)) == (6, 1)
    sizes: list[int] = []

    def is_done(row):
        sizes.append(largest())
        return len(row.written) == 200

    write(reader, rows, NextToken(reader), is_done, lambda row: None, room)
    assert max(sizes) <= allowed
    for row in rows:
        assert row.written == alone(reader.model, row.ids, 200)
