"""Chat templates with the structure of well-known ones: one BOS, no system message lost, thinking as asked."""

import pytest
from builders import CHAT_TEMPLATE, THINKING_TEMPLATE, build_tokenizer
from jinja2 import TemplateError

from harness_ext.errors import UserError
from harness_ext.task.prompts import chat_renderer, check_bos, encode_prompts, fold_system

# Llama 3: headers around each role's name, and the template itself writes BOS.
HEADERS = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
# Gemma: turns of user and model only.
TURNS = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "<start_of_turn>{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    "{{ message['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
SYSTEM, ASK = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "0 or 1?"}
ANSWER, AGAIN = {"role": "assistant", "content": "1"}, {"role": "user", "content": "and now?"}


@pytest.mark.parametrize("template", [HEADERS, TURNS], ids=["headers", "turns"])
def test_prompt_of_a_template_that_writes_bos_begins_with_one(template):
    tokenizer = build_tokenizer("llama", chat_template=template, bos=True)
    prompt = chat_renderer(tokenizer, {})([ASK])
    (row,) = encode_prompts(tokenizer, [prompt])
    assert row.count(tokenizer.bos_token_id) == 1
    assert row[0] == tokenizer.bos_token_id


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, None], ids=["chatml", "none"])
def test_prompt_without_bos_in_its_text_gets_the_tokenizers_one(template):
    tokenizer = build_tokenizer("llama", chat_template=template, bos=True)
    prompt = chat_renderer(tokenizer, {})([ASK]) if template else "0 or 1?"
    (row,) = encode_prompts(tokenizer, [prompt])
    assert row.count(tokenizer.bos_token_id) == 1
    assert row[0] == tokenizer.bos_token_id


def test_two_bos_are_refused_with_their_cause():
    tokenizer = build_tokenizer("llama", chat_template=HEADERS, bos=True)
    doubled = tokenizer(chat_renderer(tokenizer, {})([ASK]))["input_ids"]  # adds its own before the template's
    assert doubled[:2] == [tokenizer.bos_token_id] * 2
    with pytest.raises(UserError, match=r"two BOS tokens \(<s>\).*add_bos_token"):
        check_bos(tokenizer, [doubled[1:], doubled])


def test_template_that_writes_two_bos_is_refused_where_prompts_are_encoded():
    tokenizer = build_tokenizer("llama", chat_template="{{ bos_token }}" + HEADERS, bos=True)
    with pytest.raises(UserError, match="two BOS"):
        encode_prompts(tokenizer, [chat_renderer(tokenizer, {})([ASK])])


def test_bos_further_on_and_no_bos_at_all_are_fine():
    with_bos, without = build_tokenizer("llama", bos=True), build_tokenizer("qwen2")
    bos = with_bos.bos_token_id
    check_bos(with_bos, [[bos, 7, bos], [bos], [], [7, bos, bos]])
    check_bos(without, [[5, 5], [5]])


def test_system_message_that_a_template_refuses_goes_to_the_first_users_turn():
    tokenizer = build_tokenizer("llama", chat_template=TURNS, bos=True)
    assert chat_renderer(tokenizer, {})([SYSTEM, ASK, ANSWER, AGAIN]) == (
        "<s><start_of_turn>user\nBe brief.\n\n0 or 1?<end_of_turn>\n<start_of_turn>model\n1<end_of_turn>\n"
        "<start_of_turn>user\nand now?<end_of_turn>\n<start_of_turn>model\n"
    )


def test_system_message_that_a_template_takes_stays_a_turn_of_its_own():
    tokenizer = build_tokenizer("llama", chat_template=HEADERS, bos=True)
    head = "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
    assert chat_renderer(tokenizer, {})([SYSTEM, ASK]).startswith(head)


def test_system_message_without_a_users_turn_behind_it_becomes_one():
    assert fold_system([SYSTEM]) == [{"role": "user", "content": "Be brief."}]
    assert fold_system([SYSTEM, ANSWER]) == [{"role": "user", "content": "Be brief."}, ANSWER]


def test_template_that_refuses_more_than_the_system_role_still_raises():
    tokenizer = build_tokenizer("llama", chat_template=TURNS, bos=True)
    with pytest.raises(TemplateError, match="must alternate"):
        chat_renderer(tokenizer, {})([SYSTEM, ASK, AGAIN])
    with pytest.raises(TemplateError, match="must alternate"):
        chat_renderer(tokenizer, {})([ASK, AGAIN])


@pytest.mark.parametrize(("thinking", "ends"), [(True, "assistant\n"), (False, "<think>\n\n</think>\n\n")])
def test_thinking_switch_reaches_the_template(thinking, ends):
    tokenizer = build_tokenizer("qwen2", chat_template=THINKING_TEMPLATE)
    assert chat_renderer(tokenizer, {"enable_thinking": thinking})([SYSTEM, ASK]).endswith(ends)
