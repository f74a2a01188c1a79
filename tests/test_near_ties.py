"""Documents whose answer rounding could turn: counted by what two best logits differ by, at every token and choice."""

from types import SimpleNamespace

import psutil
import pytest
import torch
from builders import build_model
from lm_eval.api.instance import Instance
from prompting import PROMPTS, answer_lm, texts, write_until
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness_ext.backend.engine import PrefixReader, Row


def test_near_ties_are_those_that_a_look_at_every_step_finds(tmp_path):
    folder = build_model(tmp_path / "model", "llama", seed=5)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    model.generation_config.eos_token_id = None
    prompts = [[20 + number, 30, 40 + number] for number in range(12)]
    gaps = []
    with torch.no_grad():
        for prompt in prompts:
            written = model.generate(torch.tensor([prompt]), max_new_tokens=4, do_sample=False, pad_token_id=0)
            best = model(written).logits[0, 2:-1].topk(2).values
            gaps.append(float(((best[:, 0] - best[:, 1]) / best[:, 0].abs()).min()))
        resolution = sorted(gaps)[5] + 1e-6
        expected = [gap < resolution for gap in gaps]
        rows = [Row(number, prompt) for number, prompt in enumerate(prompts)]
        write_until(PrefixReader(model, torch.device("cpu")), rows, lambda row: len(row.written) == 4, resolution=resolution)
    assert [row.near_tie for row in rows] == expected
    assert sum(expected) == 6


@pytest.mark.parametrize(("apart", "counted"), [(1.0, 0), (2**-8, 5)])
def test_near_ties_are_counted_per_document_where_16_bits_cannot_tell_two_tokens_apart(apart, counted, tmp_path):
    folder = build_model(tmp_path / "model", "llama", spread=0.02)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    zero, one = (tokenizer.convert_tokens_to_ids(f"Ġ{digit}") for digit in "01")
    with torch.no_grad():  # whatever is read, the hidden state is mostly its first number
        model.model.embed_tokens.weight[:, 0] = 1
        model.lm_head.weight.zero_()
        model.lm_head.weight[zero, 0], model.lm_head.weight[one, 0] = 1, 1 - apart
    model.bfloat16().save_pretrained(folder)
    lm = answer_lm(folder, dtype="bfloat16")
    texts(lm, tokens=1)
    assert lm.account.near_ties == counted
    requests = [
        Instance("loglikelihood", {}, (prompt, f" {digit}"), 0, ("t", number, 1))
        for number, prompt in enumerate(PROMPTS)
        for digit in "01"
    ]
    lm.loglikelihood(requests)
    assert lm.account.near_ties == counted
    lm = answer_lm(folder, dtype="float32")
    texts(lm, tokens=1)
    assert lm.account.near_ties == 0


@pytest.mark.parametrize(
    ("pair", "answers", "counted"),
    [
        ((" 0", " 1"), (), 5),
        ((" 1", " the"), (), 5),
        ((" the", " film"), (), 0),
        ((" 0", " 1"), (" 1", " 0"), 5),
        ((" negative", " positive"), (" negative", " positive"), 5),
        ((" positive", " the"), (" negative", " positive"), 5),
        ((" 0", " 1"), (" negative", " positive"), 0),
        ((" negative", " positive"), (" 0", " 1"), 0),
    ],
)
def test_near_ties_are_those_between_tokens_that_decide_the_label(pair, answers, counted, tmp_path):
    folder = build_model(tmp_path / "model", "llama", spread=0.02)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    first, second = (tokenizer.convert_tokens_to_ids(text.replace(" ", "Ġ")) for text in pair)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 1
        model.lm_head.weight.zero_()
        model.lm_head.weight[first, 0], model.lm_head.weight[second, 0] = 1, 1 - 2**-8
    model.bfloat16().save_pretrained(folder)
    lm = answer_lm(folder, dtype="bfloat16")
    lm.prepare(lambda text: False, answers=answers)
    texts(lm, tokens=1)
    assert lm.account.near_ties == counted


def test_near_ties_are_not_counted_on_the_stock_path(answering):
    lm = answer_lm(answering, engine="stock")
    texts(lm)
    assert lm.account.near_ties is None


def test_batches_do_not_depend_on_the_memory_that_is_free_just_then(answering, monkeypatch):
    ask = PrefixReader._ask
    sizes: list[list[int]] = []

    def count(self, ids, *more, **named):  # of every forward pass, the self-check's included
        sizes[-1].append(len(ids))
        return ask(self, ids, *more, **named)

    monkeypatch.setattr(PrefixReader, "_ask", count)
    for free in (10**6, 10**12):
        monkeypatch.setattr(psutil, "virtual_memory", lambda free=free: SimpleNamespace(available=free, total=10**10))
        sizes.append([])
        texts(answer_lm(answering))
    assert sizes[0] == sizes[1]
    assert max(sizes[0]) == len(PROMPTS)
