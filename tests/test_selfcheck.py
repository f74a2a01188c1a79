"""The comparison of every way of answering with the model asked plainly: what passes, what is caught, what comes of it."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from builders import build_model, build_tokenizer
from prompting import PROMPTS, answer_lm, choices, plain_texts, texts
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness_ext.backend import selfcheck
from harness_ext.backend.engine import PrefixReader
from harness_ext.backend.logits import logits_at
from harness_ext.errors import UserError
from harness_ext.task.prompts import common_prefix, encode_prompts

CPU = torch.device("cpu")
SMALL = {
    "vocab_size": 330,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "eos_token_id": 0,
    "bos_token_id": 1,
    "pad_token_id": 2,
}
RECURRENT: dict[str, tuple[str, dict[str, Any]]] = {  # which read padding as they read text
    "rwkv": ("Rwkv", {"attention_hidden_size": 32, "context_length": 512, "tie_word_embeddings": False}),
    "recurrent_gemma": (
        "RecurrentGemma",
        {"intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "attention_window_size": 64,
         "lru_width": 32, "head_dim": 16, "num_key_value_heads": 1, "tie_word_embeddings": False},
    ),
    "mamba": ("Mamba", {"state_size": 8, "tie_word_embeddings": False}),
    "mamba2": ("Mamba2", {"state_size": 8, "num_heads": 4, "head_dim": 16, "n_groups": 1, "expand": 2, "chunk_size": 16,
                          "tie_word_embeddings": False}),
    "falcon_mamba": ("FalconMamba", {"state_size": 8, "tie_word_embeddings": False}),
}  # fmt: skip
FAULTS: dict[str, dict[str, Any]] = {
    "a wrong token in the prefix": {"token": 3},
    "a token lost from the prefix": {"lost": 3},
    "positions off by one": {"shift": 1},
    "padding is read": {"mask": False},
    "padding counts as positions": {"count": True},
}


@pytest.fixture(scope="module")
def recurrent(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recurrent")

    def build(kind: str) -> Path:
        if not (folder / kind).exists():
            name, fields = RECURRENT[kind]
            config = getattr(transformers, f"{name}Config")(**{**SMALL, **fields})
            torch.manual_seed(1)
            model = getattr(transformers, f"{name}ForCausalLM")(config)
            for weight in model.parameters():
                if weight.ndim > 1:
                    weight.data.normal_(0, 0.25)
            model.save_pretrained(folder / kind)
            build_tokenizer("llama").save_pretrained(folder / kind)
        return folder / kind

    return build


@pytest.mark.parametrize("kind", RECURRENT)
def test_model_that_does_not_know_padding_answers_as_generate_does(kind, recurrent):
    right = plain_texts(recurrent(kind))
    for engine in ("shared", "stock"):
        lm = answer_lm(recurrent(kind), engine=engine)
        assert texts(lm) == right, (engine, lm.account.path)
        assert lm.account.self_check["passed"]
        assert lm.batch_size == "auto"
    if kind in ("rwkv", "recurrent_gemma"):
        assert lm.account.path == {"path": "stock", "why": "ENGINE=stock", "batches": "rows of one"}


@pytest.mark.parametrize("kind", RECURRENT)
def test_model_that_does_not_know_padding_chooses_as_the_plain_model_does(kind, recurrent):
    model = AutoModelForCausalLM.from_pretrained(recurrent(kind), dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(recurrent(kind))
    right = []
    with torch.no_grad():
        for prompt in PROMPTS:
            context = tokenizer(prompt).input_ids
            answer = tokenizer(prompt + " 0").input_ids[len(context) :]
            scores = model(torch.tensor([context + answer[:-1]])).logits[0, len(context) - 1 :].log_softmax(-1)
            right.append(sum(float(each[token]) for each, token in zip(scores, answer, strict=True)))
    lm = answer_lm(recurrent(kind))
    assert choices(lm) == pytest.approx(right, abs=1e-3)
    assert lm.account.self_check["passed"]


def faulty(
    model: Any, prefix: list[int], *, token: int = 0, lost: int = 0, shift: int = 0, mask: bool = True, count: bool = False
):
    """Return the shared-prefix way with a mistake in it."""

    class Reader(PrefixReader):
        def _ask(self, ids, now, keep):
            if now.beginning() is not None:
                now.positions = (
                    now.positions.amax(0, keepdim=True).expand_as(now.positions) if count else now.positions
                ) + shift
            if not mask:
                now.hidden = lambda *asked: (None, None)
            return super()._ask(ids, now, keep)

    def walk(rows):
        read = list(prefix)
        if token:
            read[token] += 1
        if lost:
            del read[lost]
        return selfcheck.read_behind(Reader(model, CPU, read), [row[len(prefix) :] for row in rows])

    return walk


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", ["qwen2", "llama", "gemma3"])
def test_gross_mistake_is_caught_in_any_precision(architecture, dtype, fault, tmp_path):
    folder = build_model(tmp_path / "model", architecture, dtype)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    rows = encode_prompts(AutoTokenizer.from_pretrained(folder), PROMPTS)
    with torch.inference_mode():
        right = selfcheck.examine(model, CPU, rows, faulty(model, common_prefix(rows)))
        wrong = selfcheck.examine(model, CPU, rows, faulty(model, common_prefix(rows), **FAULTS[fault]))
    assert right["passed"], right
    assert not wrong["passed"], wrong
    assert model.dtype == getattr(torch, dtype)


def test_mistake_in_16_bits_is_caught_without_a_float32_copy(tmp_path, monkeypatch):
    monkeypatch.setattr(selfcheck, "LARGEST_COPY", 0)
    model = AutoModelForCausalLM.from_pretrained(build_model(tmp_path / "model", "llama", "bfloat16")).eval()
    rows = encode_prompts(AutoTokenizer.from_pretrained(tmp_path / "model"), PROMPTS)
    found = {}
    with torch.inference_mode():
        for fault, mistake in {"none": {}, **FAULTS}.items():
            found[fault] = selfcheck.examine(model, CPU, rows, faulty(model, common_prefix(rows), **mistake))
    assert {fault: each["passed"] for fault, each in found.items()} == {"none": True, **dict.fromkeys(FAULTS, False)}
    assert all(1e-3 < each["tolerance"] < 0.1 for each in found.values())
    assert "difference_float32" not in found["none"]


def test_weights_are_the_same_bytes_after_a_walk_in_float32(tmp_path):
    model = AutoModelForCausalLM.from_pretrained(build_model(tmp_path / "model", "llama", "bfloat16", tie=True)).eval()
    before = {name: (weight.data_ptr(), weight.clone()) for name, weight in model.state_dict().items()}
    rows = encode_prompts(AutoTokenizer.from_pretrained(tmp_path / "model"), PROMPTS)
    with torch.inference_mode():
        assert "difference_float32" in selfcheck.examine(model, CPU, rows, faulty(model, common_prefix(rows)))
    after = model.state_dict()
    assert all(after[name].data_ptr() == place and torch.equal(after[name], data) for name, (place, data) in before.items())
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_way_that_answers_wrong_whatever_the_batches_is_one_line(answering, monkeypatch):
    generate = selfcheck.generate_way

    def wrong(*args):
        return [(written, logits.roll(1)) for written, logits in generate(*args)]

    monkeypatch.setattr(selfcheck, "generate_way", wrong)
    with pytest.raises(UserError, match="not those that it gives when it is asked plainly"):
        texts(answer_lm(answering, engine="stock"))


def test_check_that_runs_out_of_memory_goes_on_with_fewer_prompts(answering, monkeypatch):
    plain, asked = selfcheck.plain, []

    def short(model, device, row, keep=2):
        asked.append(len(row))
        if len(row) > min(asked):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 6 GiB")
        return plain(model, device, row, keep)

    right = texts(answer_lm(answering))
    monkeypatch.setattr(selfcheck, "plain", short)
    lm = answer_lm(answering)
    assert texts(lm) == right
    assert lm.account.self_check["prompts"] == 1
    assert lm.account.path["path"] == "shared prefix"


def test_check_never_computes_logits_of_all_positions(tmp_path):
    """A vocabulary of 262,000 after 4,000 tokens would take 4 GB."""
    model = AutoModelForCausalLM.from_pretrained(build_model(tmp_path / "model", "llama")).eval()
    shapes: list[tuple[int, ...]] = []
    model.lm_head.register_forward_hook(lambda layer, args, output: shapes.append(tuple(output.shape)))
    expected = model(torch.arange(60)[None]).logits[:, -2:]
    last = torch.tensor([[58, 59]])
    assert torch.allclose(logits_at(model, last, input_ids=torch.arange(60)[None]), expected, atol=1e-5)
    assert [shape[1] for shape in shapes] == [60, 2]
    assert torch.equal(model(torch.arange(60)[None]).logits[:, -2:], expected)  # nothing is left behind
