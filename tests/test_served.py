"""Models behind a server: what is asked, what is recorded, what is kept when the server fails, one line for each mistake."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tenacity
from builders import LINES, SENTENCES, answering_model
from conftest import Outcome
from fakeserver import Answer, FakeServer, chat, completion

from harness_ext.backend.server import complete_url
from harness_ext.errors import UserError

CHAT, COMPLETIONS = "local-chat-completions", "local-completions"
PROMPTS = {f"{LINES[0]}\n{LINES[1]}\n\nSentence: {sentence}\nAnswer:": str(label) for sentence, label in SENTENCES}
SECRET = "sk-not-to-be-written"


def right(number: int, body: dict[str, Any]) -> Answer:
    """Answer every sentence rightly."""
    if "messages" in body:
        return chat(PROMPTS[body["messages"][-1]["content"]])
    return completion(f" {PROMPTS[body['prompt']]}")


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness_ext.backend.client.wait_exponential", lambda **_: tenacity.wait_none())


@pytest.fixture
def serve(eight_rows: Path, tmp_path: Path, door: Callable[..., Outcome]) -> Callable[..., Outcome]:
    """Run against a fake server: ``serve(server)`` and more flags; results go to ``tmp_path / "out"``."""

    def call(server: FakeServer, *more: str, backend: str = CHAT) -> Outcome:
        place = (f"--base_url={server.url}/v1", "--pretrained=org/name", f"--model={backend}")
        return door("run", *place, f"--data_dir={eight_rows}", f"--output_path={tmp_path / 'out'}", *more)

    return call


def record(out: Path) -> dict[str, Any]:
    (path,) = out.glob("runs/*/run.json")
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(("backend", "endpoint"), [(CHAT, "/v1/chat/completions"), (COMPLETIONS, "/v1/completions")])
def test_served_run_asks_each_document_once_and_records_who_answered(backend, endpoint, serve, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with FakeServer(right) as server:
        outcome = serve(server, backend=backend)
        assert outcome.code == 0, outcome.stderr
        assert "100.00" in outcome.stdout
        assert sorted(request.prompt for request in server.requests) == sorted(PROMPTS)
        for request in server.requests:
            asked = {name: request.body[name] for name in ("model", "max_tokens", "temperature")}
            assert asked == {"model": "org/name", "max_tokens": 10, "temperature": 0}
            assert "stop" not in request.body, "some servers refuse an empty list"
            assert (request.path, request.authorization) == (endpoint, f"Bearer {SECRET}")
        assert serve(server, backend=backend).code == 0
        assert len(server.requests) == 8, "a finished run asks nothing"
    run = record(tmp_path / "out")
    assert run["model"] == "org/name"
    assert run["counts"]["strict"]["correct"] == 8
    assert run["key_parts"]["backend"] == backend
    assert run["key_parts"]["model_args"] == {"base_url": server.url + endpoint}
    assert run["key_parts"]["chat_template"] == (backend == CHAT)
    assert run["tokens"] == {"in": 400, "out": 16}, "as the server counted them"
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes(), path


def test_served_run_with_examples_gives_each_turns_of_its_own(serve):
    with FakeServer(right) as server:
        assert serve(server, "--num_fewshot=2", "--limit=1").code == 0
        turns = server.requests[0].body["messages"]
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * 2 + ["user"]
    assert [turn["content"] for turn in turns[1::2]] == [PROMPTS[turn["content"]] for turn in turns[0:4:2]]


def test_same_name_at_another_server_is_another_run(serve, tmp_path):
    for text in ("1", "0"):
        with FakeServer(partial(lambda text, number, body: chat(text), text)) as server:
            assert serve(server).code == 0
    assert len(list((tmp_path / "out").glob("runs/*/run.json"))) == 2


def test_speed_of_asking_is_no_part_of_the_key(serve):
    with FakeServer(right) as server:
        assert serve(server).code == 0
        assert "Already done" in serve(server, "--batch_size=3", "--model_args", "timeout=7,max_retries=2").stderr


def test_name_that_is_a_path_is_recorded_by_its_end(serve, tmp_path):
    with FakeServer(right) as server:
        assert serve(server, "--pretrained=/home/somebody/model").code == 0
        assert server.requests[0].body["model"] == "/home/somebody/model"
    assert record(tmp_path / "out")["model"] == "model"
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or b"somebody" not in path.read_bytes(), path


def test_answer_without_text_counts_as_empty(serve, tmp_path):
    """As a server does that keeps reasoning apart, when the budget ends within it."""
    with FakeServer(lambda number, body: chat(None, reasoning_content="0 or 1?")) as server:
        assert serve(server).code == 0
    assert record(tmp_path / "out")["counts"]["lenient"]["not_following"] == {"empty": 8}


def test_key_that_a_server_sends_back_stands_in_no_file_of_the_run(serve, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "no-known-form-of-a-key")
    with FakeServer(lambda number, body: chat("1: you are no-known-form-of-a-key \ud83d")) as server:
        outcome = serve(server)
    assert outcome.code == 0, outcome.stderr
    (folder,) = (tmp_path / "out" / "runs").iterdir()
    assert "1: you are ***" in (folder / "outcomes.csv").read_text(encoding="utf-8")
    assert not [path for path in folder.iterdir() if b"no-known-form" in path.read_bytes()]


@pytest.mark.parametrize("text", ["http://host:1", "http://host:1/", "http://host:1/v1", "http://host:1/v1/completions/"])
def test_address_is_completed_to_the_endpoint(text):
    assert complete_url(text, CHAT) == "http://host:1/v1/chat/completions"
    assert complete_url(text, COMPLETIONS) == "http://host:1/v1/completions"


def test_address_keeps_a_path_of_its_own():
    assert complete_url("https://host/openai/v2", CHAT) == "https://host/openai/v2/chat/completions"


@pytest.mark.parametrize("text", [f"http://me:{SECRET}@host/v1", f"http://host/v1?key={SECRET}", f"me:{SECRET}@host"])
def test_address_with_a_secret_is_refused_without_repeating_it(text):
    with pytest.raises(UserError) as refused:
        complete_url(text, CHAT)
    assert SECRET not in str(refused.value)


# --- a server that fails ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failure", "backend"),
    [
        ((500, {"error": {"message": "engine died"}}), CHAT),
        ((500, {"error": {"message": "engine died"}}), COMPLETIONS),
        ((429, {"error": {"message": "slow down"}}), CHAT),
        ((401, {"error": {"message": "key expired"}}), CHAT),
        ((200, {"nonsense": True}), CHAT),
        ((200, {"choices": []}), COMPLETIONS),
        ((200, "<html>a login page</html>"), CHAT),
    ],
    ids=["500", "500_completions", "429", "401", "nonsense", "empty_completions", "html"],
)
def test_server_that_fails_midway_keeps_what_was_answered(failure, backend, serve, tmp_path):
    broken = True
    with FakeServer(lambda number, body: failure if broken and number >= 5 else right(number, body)) as server:
        error = serve(server, "--batch_size=1", "--model_args=max_retries=2", backend=backend).error
        assert "Answers kept so far: 5; the same command continues" in error
        assert len(server.requests) <= 7
        broken = False
        asked = len(server.requests)
        assert serve(server, "--batch_size=1", backend=backend).code == 0
        assert len(server.requests) - asked == 3
    run = record(tmp_path / "out")
    assert run["answers_resumed"] == 5
    assert run["counts"]["strict"]["correct"] == 8


@pytest.mark.parametrize("status", [429, 500, 503])
def test_server_that_is_busy_once_is_asked_again(status, serve):
    with FakeServer(lambda number, body: (status, {"detail": "busy"}) if number == 3 else right(number, body)) as server:
        assert serve(server).code == 0
        assert len(server.requests) == 9


@pytest.mark.slow
def test_requests_that_fail_together_are_told_once(cli, eight_rows):
    """Seven are on their way when the server breaks: one line, nothing behind it at exit, no request beyond their tries."""
    with FakeServer(lambda number, body: (500, {"detail": "out of memory"}) if number else right(number, body)) as server:
        flags = (f"--base_url={server.url}", "--pretrained=name", f"--model={CHAT}", "--model_args=max_retries=2")
        assert "500: out of memory" in cli("run", *flags, f"--data_dir={eight_rows}").error
        assert len(server.requests) <= 1 + 7 * 2


def hang(server: list[FakeServer]) -> Callable[[int, dict], Answer]:
    def answer(number: int, body: dict) -> Answer:
        server[0].closing.wait(20)
        return chat("1")

    return answer


def test_server_that_hangs_is_given_up_after_the_timeout(serve):
    place: list[FakeServer] = []
    with FakeServer(hang(place)) as server:
        place.append(server)
        error = serve(server, "--model_args=timeout=1").error
        assert "has not answered within 1 s" in error
        assert "timeout=N" in error
        assert len(server.requests) == 1


# What the server answers from the start, how often it is asked then, and what the line says beside its address.
REFUSALS: dict[str, tuple[Answer, int, tuple[str, ...]]] = {
    "key_missing": ((401, {"error": {"message": "no key"}}), 1, ("401: no key", "OPENAI_API_KEY")),
    "key_of_another": ((403, {"detail": "not yours"}), 1, ("403: not yours", "OPENAI_API_KEY")),
    "model_unknown": ((404, {"error": {"message": "no model org/name"}}), 1, ("404: no model", "'org/name'", "MODEL")),
    "nothing_there": ((404, "<html>nothing</html>"), 1, ("404", "BASE_URL")),
    "request_refused": ((400, {"detail": "Server is pinned to 'x'"}), 1, ("400: Server is pinned to 'x'", "'org/name'")),
    "busy": ((429, {"error": {"message": "slow down"}}), 2, ("429: slow down", "2 times", "BATCH=")),
    "failing": ((500, {"error": "engine died"}), 2, ("500: engine died", "2 times")),
    "failing_in_text": ((502, "Bad Gateway"), 2, ("502: Bad Gateway",)),
    "a_web_page": ((200, "<html>welcome</html>"), 1, ("text/html", "BASE_URL")),
    "no_choices": ((200, {"choices": []}), 1, ("no choice", "BASE_URL")),
    "error_in_200": ((200, {"error": {"message": "not loaded"}}), 1, ("not loaded",)),
    "a_list": ((200, [1, 2]), 1, ("no choice",)),
    "choice_without_message": ((200, {"choices": [{"index": 0}]}), 1, ("no message with text",)),
    "text_a_number": ((200, {"choices": [{"message": {"content": 1}}]}), 1, ("no message with text",)),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_server_that_refuses_is_one_line_and_is_not_asked_more(name, serve, tmp_path):
    answer, times, fragments = REFUSALS[name]
    with FakeServer(lambda number, body: answer) as server:
        error = serve(server, "--model_args=max_retries=2").error
        assert len(server.requests) == times
    missing = [fragment for fragment in (f"{server.url}/v1", *fragments) if fragment not in error]
    assert not missing, f"{missing} not in: {error}"
    assert len(error) < 500
    assert not (tmp_path / "out" / "runs").exists()


# Flags in place of those that work, and what the line says; nothing is asked.
MISTAKES: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "url_missing": (["--base_url="], ("BASE_URL=http", CHAT)),
    "url_no_url": (["--base_url=127.0.0.1:8000"], ("'127.0.0.1:8000'", "no address", "http://")),
    "url_of_another_kind": (["--base_url=ftp://host/v1"], ("'ftp://host/v1'", "no address")),
    "url_without_host": (["--base_url=http://"], ("no address",)),
    "url_port_word": (["--base_url=http://host:port"], ("'http://host:port'", "no address")),
    "url_unreachable": (["--base_url=http://127.0.0.1:9"], ("http://127.0.0.1:9/v1", "cannot be reached", "running")),
    "url_for_another_backend": (["--model=hf"], ("BASE_URL", "hf asks no server", CHAT)),
    "model_missing": (["--pretrained="], ("MODEL=", "name")),
    "adapter": (["--adapter=somewhere"], ("ADAPTER", "server")),
    "dtype": (["--dtype=float32"], ("DTYPE", "server")),
    "device": (["--device=cpu"], ("DEVICE", "server")),
    "batch_word": (["--batch_size=many"], ("BATCH 'many'",)),
    "timeout_word": (["--model_args=timeout=long"], ("timeout 'long'",)),
    "key_on_the_command_line": (["--model_args=auth_token=x"], ("auth_token", "OPENAI_API_KEY")),
    "template_off": (["--apply_chat_template=false"], ("chat template", COMPLETIONS)),
    "likelihoods_of_a_chat": (["--tasks=sst2_01_choice"], ("sst2_01_choice", "likelihoods", COMPLETIONS)),
    "likelihoods_after_another_task": (["--tasks=sst2_01,sst2_01_choice"], ("sst2_01_choice", "likelihoods")),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_with_a_server_is_one_line_before_anything_is_asked(name, serve, elsewhere, random_model):
    flags, fragments = MISTAKES[name]
    model = [f"--pretrained={random_model}"] if name == "url_for_another_backend" else []
    with FakeServer(right) as server:
        error = serve(server, *model, *flags).error
        assert not server.requests
    missing = [fragment for fragment in fragments if fragment not in error]
    assert not missing, f"{missing} not in: {error}"


# --- likelihoods -----------------------------------------------------------------------------------------------------


def scorer(folder: Path, echo: bool) -> Callable[[int, dict], Answer]:
    """Answer with the log-probabilities of a real model, as vLLM's server does, or only of what it wrote itself."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)

    def answer(number: int, body: dict) -> Answer:
        (tokens,) = body["prompt"]
        with torch.no_grad():
            told = torch.log_softmax(model(torch.tensor([tokens])).logits[0].double(), dim=-1)
        written = [*tokens[1:], int(told[-1].argmax())]
        chances: list[float | None] = [None, *told[range(len(written)), written].tolist()]
        best = [None, *({"x": top} for top in told.max(-1).values.tolist())]
        start = 0 if echo else len(tokens)
        return completion("", logprobs={"token_logprobs": chances[start:], "top_logprobs": best[start:]})

    return answer


@pytest.mark.parametrize("bos", [False, True])
def test_likelihoods_of_a_server_choose_as_the_same_model_loaded_here(bos, serve, door, eight_rows, tmp_path):
    folder = answering_model(tmp_path / "model", "llama", bos=bos)
    with FakeServer(scorer(folder, echo=True)) as server:
        choice = ("--tasks=sst2_01_choice", f"--model_args=tokenizer={folder}")
        outcome = serve(server, *choice, backend=COMPLETIONS)
        assert outcome.code == 0, outcome.stderr
        assert len(server.requests) == 16
    local = ("--data_dir", eight_rows, "--tasks=sst2_01_choice", "--output_path", tmp_path / "local")
    assert door("run", "--pretrained", folder, *local).code == 0
    told, here = (
        [sample["filtered_resps"] for sample in map(json.loads, next(out.glob("runs/*/samples.jsonl")).open())]
        for out in (tmp_path / "out", tmp_path / "local")
    )
    for ours, theirs in zip(told, here, strict=True):
        assert [float(value) for value, _ in ours] == pytest.approx([float(value) for value, _ in theirs], abs=1e-3)
        assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]


@pytest.mark.parametrize("tells", ["its own token", "nothing"])
def test_likelihoods_of_a_server_that_does_not_tell_the_prompts_are_refused(tells, serve, answering, tmp_path):
    answer = scorer(answering, echo=False) if tells == "its own token" else lambda number, body: completion("1")
    with FakeServer(answer) as server:
        choice = ("--tasks=sst2_01_choice", f"--model_args=tokenizer={answering}")
        error = serve(server, *choice, backend=COMPLETIONS).error
        assert len(server.requests) == 1
    assert "echo" in error
    assert "TASK=sst2_01" in error


def test_likelihoods_without_the_tokenizer_are_refused_before_anything_is_asked(serve):
    with FakeServer(right) as server:
        error = serve(server, "--tasks=sst2_01_choice", backend=COMPLETIONS).error
        assert not server.requests
    assert "tokenizer=folder" in error
    assert "'org/name'" in error
