"""What backends say of the requests they have answered, against what lm-eval's logs and transformers alone say."""

import json
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from builders import answering_model
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from prompting import PROMPTS, answer_lm, texts
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness_ext.backend.account import Account, watch
from harness_ext.backend.baseline import TfidfLM


def plain_margins(folder, answers, prompts=PROMPTS):
    """Ask transformers alone for log p(second) - log p(first) after each prompt; each answer is a token."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    zero, one = (tokenizer(answer, add_special_tokens=False)["input_ids"][0] for answer in answers)
    margins = []
    with torch.no_grad():
        for prompt in prompts:
            scores = model(**tokenizer(prompt, return_tensors="pt")).logits[0, -1].log_softmax(-1)
            margins.append(float(scores[one] - scores[zero]))
    return margins


def choose(lm, choices=(" 0", " 1")):
    requests = [
        Instance("loglikelihood", {}, (prompt, choice), index, ("t", number, 1))
        for number, prompt in enumerate(PROMPTS)
        for index, choice in enumerate(choices)
    ]
    return lm.loglikelihood(requests)


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "gpt2"])
def test_margins_of_written_answers_are_those_of_transformers_alone(architecture, tmp_path):
    folder = answering_model(tmp_path / "model", architecture)
    lm = answer_lm(folder)
    before = texts(lm)
    assert lm.account.margins == {}, "which answers a task has it did not say"
    lm.prepare(None, answers=(" 0", " 1"))
    assert texts(lm) == before
    expected = plain_margins(folder, (" 0", " 1"))
    assert [lm.account.margins[number] for number in range(len(PROMPTS))] == pytest.approx(expected, abs=1e-4)


def test_margins_of_answers_of_two_tokens_are_known_where_the_model_writes_the_first(answering):
    tokenizer = AutoTokenizer.from_pretrained(answering)
    lm = answer_lm(answering)
    (said, *_) = texts(lm, tokens=1)
    assert said in (" 0", " 1")
    pair = (f"{said} 0", f"{said} 1")
    assert len(tokenizer(pair[0], add_special_tokens=False)["input_ids"]) == 2
    lm.prepare(None, answers=pair)
    written = texts(lm, tokens=2)
    follow = [number for number, text in enumerate(written) if text.startswith(said)]
    assert 0 < len(follow) < len(PROMPTS)
    assert sorted(lm.account.margins) == follow
    expected = plain_margins(answering, (" 0", " 1"), [PROMPTS[number] + said for number in follow])
    assert [lm.account.margins[number] for number in follow] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("engine", ["shared", "stock"])
def test_margins_of_a_forced_choice_are_those_of_its_scores(engine, answering):
    lm = answer_lm(answering, engine=engine)
    scores = [score for score, _ in choose(lm)]
    expected = plain_margins(answering, (" 0", " 1"))
    assert [one - zero for zero, one in zip(scores[::2], scores[1::2], strict=True)] == pytest.approx(expected, abs=1e-4)
    assert [lm.account.margins[number] for number in range(len(PROMPTS))] == pytest.approx(expected, abs=1e-4)


def test_margins_of_a_baseline_are_known_whatever_is_asked():
    rows = [{"sentence": "good film", "label": 1}, {"sentence": "bad film", "label": 0}, {"sentence": "good", "label": 1}]
    lm = TfidfLM(rows)
    requests = [SimpleNamespace(doc_id=n, doc=row, args=("", {})) for n, row in enumerate(rows)]
    said = lm.generate_until(requests)
    shares = lm._fitted.predict_log_proba([row["sentence"] for row in rows])
    assert [lm.account.margins[n] for n in range(3)] == pytest.approx([one - zero for zero, one in shares])
    assert [str(int(lm.account.margins[n] > 0)) for n in range(3)] == said


def test_account_counts_tokens_and_batches_as_they_are_run(answering):
    tokenizer = AutoTokenizer.from_pretrained(answering)
    lengths = [len(tokenizer(prompt)["input_ids"]) for prompt in PROMPTS]
    for engine in ("shared", "stock"):
        lm = answer_lm(answering, engine=engine, batch_size=2)
        written = texts(lm, tokens=4)
        account = lm.account
        assert (account.requests, account.tokens_in) == (5, sum(lengths))
        assert account.tokens_out == sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in written)
        assert 0 < account.tokenise_s < account.answer_s
        rows = Counter({2: 2, 1: 1})
        assert Counter(int(shape.split(" x ")[0]) for shape in account.batches.elements()) == rows
        longest = max(int(shape.split(" x ")[1]) for shape in account.batches)
        assert longest == max(lengths) - account.path.get("prefix_tokens", 0)
        account.reset()
        assert (account.requests, account.tokens_in, account.margins, account.batches) == (0, 0, {}, {})
        assert account.path == {}
        assert account.self_check is not None
        assert account.self_check["passed"]


def test_tokens_of_prompts_that_the_engine_leaves_to_the_stock_path_count_once(answering, monkeypatch):
    def cannot(*_):
        raise TypeError("a cache of its own")

    monkeypatch.setattr("harness_ext.backend.selfcheck.shared_way", cannot)
    lm, stock = answer_lm(answering, engine="shared"), answer_lm(answering, engine="stock")
    assert texts(lm) == texts(stock)
    assert lm.account.path["why"] == "the model cannot read a shared prefix"
    assert lm.account.tokens_in == stock.account.tokens_in > 0


def test_model_of_lm_evals_own_is_watched_once_and_counted(answering):
    lm, ours = HFLM(str(answering), device="cpu", dtype="float32", batch_size=2), answer_lm(answering, engine="stock")
    account = watch(lm)
    assert watch(lm) is account
    assert watch(ours) is ours.account
    assert texts(lm) == texts(ours)
    choose(lm)
    choose(ours)
    for name in ("requests", "tokens_in", "tokens_out"):
        assert getattr(account, name) == getattr(ours.account, name) > 0, name
    assert account.requests == 15
    assert account.answer_s > 0
    assert account.margins == pytest.approx(ours.account.margins, abs=1e-4)
    assert (account.near_ties, account.self_check, account.path) == (None, None, {})


def test_account_survives_json_and_adds_up():
    first = Account(3, 2.0, 0.5, 30, 6, 1, {"path": "stock"}, {"passed": True}, {0: -1.5, 4: 2.0}, Counter({"2 x 9": 2}))
    second = Account(2, 3.0, 0.1, 20, 4, 2, {"path": "other"}, None, {1: 0.25}, Counter({"2 x 9": 1, "1 x 4": 1}))
    idle = Account()
    assert [Account.from_json(json.loads(json.dumps(each.to_json()))) for each in (first, idle)] == [first, idle]
    margins, batches = {0: -1.5, 4: 2.0, 1: 0.25}, Counter({"2 x 9": 3, "1 x 4": 1})
    total = Account(5, 3.0, 0.5, 50, 10, 3, {"path": "stock"}, {"passed": True}, margins, batches)
    assert Account.total([idle, first, second]) == total
    assert Account.total([first, Account(requests=1)]).near_ties is None
    assert Account.total([idle]) == idle
