"""Every prompt is proved to hold its sentence, whatever a chat template does, and to be the same on any day."""

import json
from datetime import datetime
from typing import Any

import pytest
from builders import CHAT_TEMPLATE, answering_model, build_tokenizer

from harness_ext.errors import UserError
from harness_ext.model.settings import choose
from harness_ext.paths import TASKS_DIR
from harness_ext.task.prompts import chat_renderer, check_sentence

TEMPLATE = TASKS_DIR / "sst2_01" / "_template.yaml"
SYSTEM, ASK = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Is it  good?\nAnswer:"}
PARTS = CHAT_TEMPLATE.replace(
    "{{ message['content'] }}",
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}",
)
DROPS_SYSTEM = CHAT_TEMPLATE.replace("for message in messages", "for message in messages if message['role'] != 'system'")
CLOCK = "{{ strftime_now('%d %b %Y %H:%M:%S') }}\n" + CHAT_TEMPLATE
# Llama 3.1 and 3.2: the date if given, else the clock's, else that of the model's release.
LLAMA = (
    "{% if not date_string is defined %}{% if strftime_now is defined %}{% set date_string = strftime_now('%d %b %Y') %}"
    "{% else %}{% set date_string = '26 Jul 2024' %}{% endif %}{% endif %}Today Date: {{ date_string }}\n" + CHAT_TEMPLATE
)
DROPS_ALL = "{% for message in messages %}<|im_start|>{% endfor %}"
CUTS = CHAT_TEMPLATE.replace("message['content']", "message['content'][:185]")
DRAWS = "{{ range(99999) | random }}" + CHAT_TEMPLATE


def _say(task, device="cpu", **more):
    return choose(task, {"dtype": "float32"}, thinking=False, device=device, **more)


def test_template_that_reads_lists_of_parts_gets_them():
    tokenizer = build_tokenizer("llama", chat_template=PARTS)
    parts: Any = [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in (SYSTEM, ASK)]
    expected = tokenizer.apply_chat_template(parts, tokenize=False, add_generation_prompt=True)
    assert chat_renderer(tokenizer, {})([SYSTEM, ASK]) == expected
    assert "texts as lists of parts" in _say(tokenizer).line()
    assert "parts" not in _say(build_tokenizer("llama", chat_template=CHAT_TEMPLATE)).line()


def test_system_message_that_a_template_drops_in_silence_goes_to_the_users_turn():
    tokenizer = build_tokenizer("llama", chat_template=DROPS_SYSTEM)
    assert chat_renderer(tokenizer, {})([SYSTEM, ASK]) == (
        "<|im_start|>user\nBe brief.\n\nIs it  good?\nAnswer:<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("template", [DROPS_ALL, DROPS_ALL + CHAT_TEMPLATE.replace("content'", "text'")], ids=["all", "key"])
def test_template_that_drops_the_users_message_in_every_form_is_refused(template):
    with pytest.raises(UserError, match="user's message"):
        chat_renderer(build_tokenizer("llama", chat_template=template), {})([ASK])


def test_a_list_printed_as_python_text_does_not_pass_for_the_message():
    dropping = CHAT_TEMPLATE.replace("message['content']", "'' if message['content'] is string else message['content']")
    with pytest.raises(UserError, match="is not in what it renders"):
        chat_renderer(build_tokenizer("llama", chat_template=dropping), {})([{"role": "user", "content": "good?"}])


@pytest.mark.parametrize(
    ("prompt", "holds"),
    [("Sentence: A  Fine\nfilm", True), ("a fine film", True), ("a fine fil", False), ("afine film", False), ("", False)],
)
def test_sentence_is_looked_for_whatever_its_case_and_white_space(prompt, holds):
    if holds:
        check_sentence(prompt, " a fine film\n", "'tiny''s chat template")
    else:
        with pytest.raises(UserError, match=r"lacks the sentence.*'a fine film'.*'tiny''s chat template"):
            check_sentence(prompt, "a fine film", "'tiny''s chat template")


@pytest.mark.parametrize("verb", ["doctor", "run"])
@pytest.mark.parametrize(
    ("template", "says"),
    [
        (DROPS_ALL, "user's message is not in what"),
        (CUTS, "user's message is not in what"),
        (DRAWS, "differently each time"),
    ],
    ids=["drops all", "cuts long ones", "draws at random"],
)
def test_template_that_loses_a_sentence_or_draws_stops_run_and_doctor_alike(
    door, tmp_path, elsewhere, eight_rows, template, says, verb
):
    model = answering_model(tmp_path / "model", "llama", chat_template=template)
    outcome = door(verb, "--pretrained", model, "--data_dir", eight_rows)
    assert outcome.code == 2
    assert says in outcome.stderr + outcome.stdout
    assert "'model''s chat template" in outcome.stderr + outcome.stdout


def test_task_whose_own_template_drops_a_later_sentence_is_refused(door, tmp_path, elsewhere, answering, eight_rows):
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "forgets.yaml").write_text(
        f"include: {TEMPLATE}\ntask: forgets\n"
        "doc_to_text: \"{% if 'mess' in sentence %}it{% else %}{{sentence}}{% endif %}?\"\n"
    )
    options = (
        "--pretrained",
        answering,
        "--tasks",
        "forgets",
        "--include_path",
        tmp_path / "tasks",
        "--data_dir",
        eight_rows,
    )
    assert "'the plot is a mess'): the task's own template drops" in door("run", *options).error
    assert "'the plot is a mess'" in door("doctor", *options).stdout


@pytest.mark.parametrize("verb", ["doctor", "run"])
def test_task_that_makes_no_request_of_a_document_is_one_line(verb, door, tmp_path, elsewhere, answering, eight_rows):
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "fails.yaml").write_text(f"include: {TEMPLATE}\ntask: fails\ndoc_to_target: '{{{{ 1 / 0 }}}}'\n")
    options = ("--pretrained", answering, "--tasks", "fails", "--include_path", tmp_path / "tasks", "--data_dir", eight_rows)
    outcome = door(verb, *options)
    assert outcome.code == 2
    assert "ZeroDivisionError" in outcome.stdout + outcome.stderr


@pytest.mark.parametrize(("template", "date"), [(CLOCK, "26 Jul 2024 00:00:00"), (LLAMA, "Today Date: 26 Jul 2024\n")])
def test_date_of_a_template_is_always_the_same_and_is_said(template, date):
    tokenizer = build_tokenizer("llama", chat_template=template)
    assert chat_renderer(tokenizer, {})([ASK]).startswith(date)
    assert "its date is 2024-07-26" in _say(tokenizer).line()
    stock = tokenizer.apply_chat_template([ASK], tokenize=False)
    assert f"{datetime.now():%Y}" in stock, "transformers' own clock goes on"


def test_run_on_a_template_with_a_clock_is_done_once_and_records_its_date(door, tmp_path, elsewhere, eight_rows):
    model = answering_model(tmp_path / "model", "llama", chat_template=CLOCK)
    options = ("run", "--pretrained", model, "--data_dir", eight_rows, "--limit", "4")
    assert door(*options).code == 0
    assert "Already done" in door(*options).stderr
    (record,) = elsewhere.glob("results/runs/*/run.json")
    prompt = json.loads(record.read_text())["prompt"]
    assert prompt["date"] == "2024-07-26"
    assert prompt["first"].startswith("26 Jul 2024 00:00:00")
    (log,) = elsewhere.glob("results/runs/*/samples.jsonl")
    asked = [json.loads(line)["arguments"]["gen_args_0"]["arg_0"] for line in log.read_text().splitlines()]
    assert all(text.startswith("26 Jul 2024 00:00:00") for text in asked), "what lm-eval asks is what was checked"


def _switched(condition):
    return CHAT_TEMPLATE.replace(
        "assistant\n{% endif %}", f"assistant\n{{% if {condition} %}}<think>\n{{% endif %}}{{% endif %}}"
    )


@pytest.mark.parametrize(
    ("template", "args", "says"),
    [
        (_switched("enable_thinking"), {"enable_thinking": False}, "thinking off"),
        (_switched("thinking is not defined or thinking"), {"thinking": False}, "thinking off"),  # Granite, DeepSeek
        (_switched("reasoning is undefined or reasoning"), {"reasoning": False}, "thinking off"),  # Command A
        (_switched("true"), {}, "thinking not asked for (yet the chat template opens it"),  # R1
        (CHAT_TEMPLATE, {}, "thinking off"),
    ],
    ids=["enable_thinking", "thinking", "reasoning", "always", "none"],
)
def test_thinking_is_said_to_be_off_only_where_the_prompt_leaves_it_off(template, args, says):
    choices = _say(build_tokenizer("llama", chat_template=template))
    assert choices.template_args == args
    assert says in choices.line()
