"""Models that think in channels, from weights to score: here, on the stock path, and behind a server."""

import json

import pytest
from builders import HARMONY, HARMONY_ANSWER, chain_model
from fakeserver import FakeServer, chat
from stock import samples_of

WRITTEN = "".join(
    (*HARMONY, *HARMONY_ANSWER)
)  # "<|channel|>analysis<|message|>maybe0<|end|><|start|>assistant<|channel|>final…1"
OPENED = "<|channel|>analysis<|message|>"
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}<|start|>assistant" + OPENED


@pytest.fixture(scope="module", params=["the model opens the channel", "the template opens the channel"])
def harmony(request, tmp_path_factory):
    """A model and what it is asked with; both answer 1 to everything, after an analysis that names 0."""
    opened = request.param.startswith("the template")
    folder = tmp_path_factory.mktemp("harmony") / "model"
    chain_model(folder, (*HARMONY, *HARMONY_ANSWER), chat_template=TEMPLATE if opened else None)
    return folder, "sst2_01_think" if opened else "sst2_01"


def counts(out) -> dict:
    (path,) = out.glob("runs/*/run.json")
    return json.loads(path.read_text(encoding="utf-8"))["counts"]


@pytest.mark.parametrize("engine", ["shared", "stock"])
def test_model_that_thinks_in_channels_is_read_in_the_final_one(engine, harmony, door, eight_rows, tmp_path):
    model, task = harmony
    place = (f"--pretrained={model}", f"--data_dir={eight_rows}", f"--output_path={tmp_path / 'out'}", f"--tasks={task}")
    outcome = door("run", *place, f"--engine={engine}", "--gen_kwargs", "max_gen_toks=16")
    assert outcome.code == 0, outcome.stderr
    if task == "sst2_01_think":
        assert "ends at <|channel|>final<|message|>" in outcome.stderr
    for rule in ("lenient", "strict"):
        assert counts(tmp_path / "out")[rule] == {"correct": 4, "positive": 8, "negative": 0, "not_following": {}}
    assert {sample["resps"][0][0] for sample in samples_of(tmp_path / "out")} == {WRITTEN}


def test_model_whose_budget_ends_within_the_analysis_has_not_answered(harmony, door, eight_rows, tmp_path):
    model, task = harmony
    place = (f"--pretrained={model}", f"--data_dir={eight_rows}", f"--output_path={tmp_path / 'out'}", f"--tasks={task}")
    assert door("run", *place, "--gen_kwargs", f"max_gen_toks={5 if task == 'sst2_01' else 2}").code == 0
    assert counts(tmp_path / "out")["lenient"]["not_following"] == {"unfinished_thinking": 8}


@pytest.mark.parametrize(
    "message",
    [
        {"text": WRITTEN},
        {"text": WRITTEN + "<|return|>"},
        {"text": "analysismaybe 0assistantfinal1"},  # as a server writes it that leaves special tokens out
        {"text": "1", "reasoning_content": "maybe 0"},
        {"text": "1", "reasoning": "maybe 0"},
    ],
    ids=["markers", "end_marker", "no_markers", "reasoning_content", "reasoning"],
)
def test_served_answer_in_channels_is_read_in_the_final_one(message, door, eight_rows, tmp_path):
    with FakeServer(lambda number, body: chat(**message)) as server:
        place = (f"--base_url={server.url}", "--pretrained=name", "--model=local-chat-completions")
        outcome = door("run", *place, f"--data_dir={eight_rows}", f"--output_path={tmp_path / 'out'}")
    assert outcome.code == 0, outcome.stderr
    for rule in ("lenient", "strict"):
        assert counts(tmp_path / "out")[rule] == {"correct": 4, "positive": 8, "negative": 0, "not_following": {}}
