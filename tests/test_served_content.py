"""What servers may send beside a plain text: each is the right value, or one line; a run can always be written."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tenacity
from conftest import Outcome
from fakeserver import Answer, FakeServer, chat, completion
from hypothesis import given
from hypothesis import strategies as st
from stock import samples_of

from harness_ext.backend.client import _message, content_text

CHAT, COMPLETIONS = "local-chat-completions", "local-completions"
REASONING = {"reasoning_content": "0 or 1?", "reasoning": "0 or 1?"}


@pytest.fixture
def served(eight_rows: Path, tmp_path: Path, door: Callable[..., Outcome], monkeypatch) -> Callable[..., Outcome]:
    """Run one document against a server that always answers the same: ``served(answer)``."""
    monkeypatch.setattr("harness_ext.backend.client.wait_exponential", lambda **_: tenacity.wait_none())

    def call(answer: Answer | Callable[[int, dict], Answer], backend: str = CHAT, *more: str) -> Outcome:
        with FakeServer(answer if callable(answer) else lambda number, body: answer) as server:
            place = (f"--base_url={server.url}", "--pretrained=name", f"--model={backend}", "--model_args=max_retries=2")
            return door("run", *place, f"--data_dir={eight_rows}", f"--output_path={tmp_path / 'out'}", "--limit=1", *more)

    return call


def body(**changes: Any) -> Answer:
    """A chat's answer of 1 in which other fields are what they should not be."""
    return 200, {"choices": [{"message": {"role": "assistant", "content": "1"}}], **changes}


def parts(*contents: Any, **message: Any) -> Answer:
    return chat(list(contents), **message)


TEXT, THINKING = {"type": "text", "text": "1"}, {"type": "thinking", "thinking": [{"type": "text", "text": "0 or 1?"}]}
# What is sent, the text that is read, and the lenient rule's prediction.
READ: dict[str, tuple[Answer, str, str]] = {
    "half_an_emoji": (chat("1 \ud83d"), "1 \ufffd", "1"),
    "other_half": (chat("\ude00 1"), "\ufffd 1", "1"),
    "a_whole_emoji": (chat("1 \U0001f600"), "1 \U0001f600", "1"),
    "half_an_emoji_in_a_completion": (completion(" 1\ud83d"), " 1\ufffd", "1"),
    "parts": (parts(TEXT), "1", "1"),
    "parts_of_a_response": (parts({"type": "output_text", "text": "1"}), "1", "1"),
    "parts_of_text": (parts("The answer ", {"type": "text", "text": "is 1\ud83d"}), "The answer is 1\ufffd", "1"),
    "thinking_before_parts": (parts(THINKING, TEXT), "1", "1"),
    "reasoning_before_parts": (parts({"type": "reasoning", "text": "0"}, TEXT), "1", "1"),
    "no_parts": (parts(), "", "[empty]"),
    "null": (chat(None), "", "[empty]"),
    "null_in_a_completion": (completion(None), "", "[empty]"),
    "left_out": ((200, {"choices": [{"message": {"role": "assistant"}}]}), "", "[empty]"),
    "reasoning_beside": (chat("1", **REASONING), "1", "1"),
    "reasoning_alone": (chat(None, **REASONING), "", "[empty]"),
    "refusal": (chat(None, refusal="I cannot rate this 1."), "", "[empty]"),
    "tool_call": (chat(None, tool_calls=[{"function": {"name": "rate", "arguments": "1"}}]), "", "[empty]"),
    "cut_by_its_budget": ((200, {"choices": [{"message": {"content": "1"}, "finish_reason": "length"}]}), "1", "1"),
    "usage_null": (body(usage=None), "1", "1"),
    "usage_of_other_shapes": (body(usage={"prompt_tokens": "50", "completion_tokens": None}), "1", "1"),
    "usage_a_list": (body(usage=[1]), "1", "1"),
    "model_of_half_an_emoji": (body(model="\ud83d"), "1", "1"),
    "nul": (chat("1\x00"), "1\x00", "1"),
    "nul_alone": (chat("\x00"), "\x00", "[other]"),
    "line_ends": (chat("1\r\n\u2028\x85"), "1\r\n\u2028\x85", "1"),
    "ten_megabytes": (chat("x" * 10_000_000 + "1"), "x" * 10_000_000 + "1", "1"),
    "index_of_another": ((200, {"choices": [{"index": 7, "message": {"content": "1"}}]}), "1", "1"),
    "type_left_out": (
        (200, (json.dumps(chat("1")[1]).encode(), {"Content-Type": "application/json; charset=none"})),
        "1",
        "1",
    ),
    "gzip": ((200, (gzip.compress(json.dumps(chat("1")[1]).encode()), {"Content-Encoding": "gzip"})), "1", "1"),
}


@pytest.mark.parametrize("name", READ)
def test_answer_of_another_shape_is_read_for_its_text(name, served, tmp_path):
    answer, text, prediction = READ[name]
    outcome = served(answer, COMPLETIONS if "completion" in name else CHAT)
    assert outcome.code == 0, outcome.stderr
    sample = next(sample for sample in samples_of(tmp_path / "out") if sample["filter"] == "lenient")
    assert (sample["resps"], sample["filtered_resps"]) == ([[text]], [prediction])


# What is sent, and what the one line says.
REFUSED: dict[str, tuple[Answer, str]] = {
    "a_number": (chat(1), "no message with text"),
    "an_object": (chat({"type": "text", "text": "1"}), "no message with text"),
    "true": (chat(True), "no message with text"),
    "parts_of_numbers": (parts(1), "no message with text"),
    "part_without_type": (parts({"text": "1"}), "no message with text"),
    "part_without_text": (parts({"type": "text"}), "no message with text"),
    "a_number_in_a_completion": ((200, {"choices": [{"text": 1}]}), "no text"),
    "no_text_in_a_completion": ((200, {"choices": [{"index": 0}]}), "no text"),
    "an_empty_message": ((200, {"choices": [{"message": {}}]}), "no message with text"),
    "a_message_of_text": ((200, {"choices": [{"message": "1"}]}), "no message with text"),
    "two_choices": ((200, {"choices": [{"message": {"content": text}} for text in "01"]}), "no choice"),
    "choices_an_object": ((200, {"choices": {"message": {"content": "1"}}}), "no choice"),
    "null": ((200, None), "no choice"),
    "half_an_emoji_in_an_error": ((200, {"error": {"message": "bad \ud83d"}}), "bad \ufffd"),
    "half_an_emoji_in_a_refusal": ((400, {"error": {"message": "bad \ud83d"}}), "400: bad \ufffd"),
    "no_utf8_in_a_refusal": ((400, b'{"detail": "bad \xff"}'), "400: bad \ufffd"),
    "no_utf8": ((200, b'{"choices": "\xff"}'), "something else than a completion"),
    "no_json": ((200, b"1"), "no choice"),
    "half_of_it": ((200, b'{"choices": [{"mess'), "something else than a completion"),
    "nothing": ((200, b""), "no choice"),
    "too_deep": ((200, b"[" * 100_000), "something else than a completion"),
    "a_number_too_long": ((200, b'{"choices": ' + b"1" * 5_000 + b"}"), "something else than a completion"),
    "gzip_of_nothing": ((200, (b"\x1f\x8bnonsense", {"Content-Encoding": "gzip"})), "something else than a completion"),
    "another_type": ((200, (b'{"choices": []}', {"Content-Type": "text/plain"})), "something else than a completion"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_answer_that_cannot_be_read_is_one_line(name, served, tmp_path):
    answer, said = REFUSED[name]
    error = served(answer, COMPLETIONS if "completion" in name else CHAT).error
    assert said in error
    assert len(error) < 500
    assert not (tmp_path / "out" / "runs").exists()


@pytest.mark.parametrize("chance", [None, "low", float("nan"), [1]], ids=str)
def test_log_probabilities_that_are_no_numbers_are_one_line(chance, answering, served):
    def answer(number: int, body: dict[str, Any]) -> Answer:
        tokens = len(body["prompt"][0]) + 1
        return completion("", logprobs={"token_logprobs": [chance] * tokens, "top_logprobs": [{"x": chance}] * tokens})

    choice = ("--tasks=sst2_01_choice", f"--model_args=tokenizer={answering}")
    assert "its log-probabilities are not numbers" in served(answer, COMPLETIONS, *choice).error


UNPAIRED = st.text(st.characters(exclude_categories=()), max_size=20)  # halves of characters included
JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | UNPAIRED | st.just("text"),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["type", "text"]) | UNPAIRED, inner, max_size=3)
    ),
    max_leaves=8,
)


@given(JSON)
def test_any_content_is_a_text_that_a_file_can_hold_or_none(content):
    text = content_text(content)
    assert text is None or text.encode("utf-8").decode("utf-8") == text


@given(UNPAIRED)
def test_a_text_is_read_as_it_is_but_for_halves_of_characters(text):
    whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")  # another way to the same
    assert len(content_text(text) or "") == len(text)
    assert content_text(whole) == whole


@given(JSON)
def test_any_message_of_an_error_can_be_printed(body):
    assert len(_message(json.dumps(body)).encode("utf-8")) <= 150 * 4
