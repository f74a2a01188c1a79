import pytest
import torch
from builders import CHAT_TEMPLATE, THINKING_TEMPLATE, build_tokenizer

from harness_ext.errors import UserError
from harness_ext.model.settings import BATCH, BATCH_THINKING, choose


@pytest.fixture(autouse=True)
def plain_cpu(monkeypatch):
    """A machine without a GPU and without bfloat16 hardware."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)


@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16", "torch.bfloat16", None])
def test_dtype_on_a_cpu_without_bf16_hardware_is_float32_whatever_is_stored(stored):
    choices = choose(build_tokenizer(), {"dtype": stored}, thinking=False)
    assert (choices.device, choices.dtype) == ("cpu", "float32")
    assert f"stored as {stored or 'float32'}".replace("torch.", "") in choices.line()


@pytest.mark.parametrize(("stored", "dtype"), [("bfloat16", "bfloat16"), ("float16", "float32"), ("float32", "float32")])
def test_dtype_on_a_cpu_with_bf16_hardware_keeps_bf16(stored, dtype, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert choose(build_tokenizer(), {"dtype": stored}, thinking=False).dtype == dtype


@pytest.mark.parametrize(("has_bf16", "stored", "dtype"), [(True, "bfloat16", "bfloat16"), (False, "bfloat16", "float16")])
def test_dtype_on_a_gpu_is_the_stored_one_if_it_multiplies_it(has_bf16, stored, dtype, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: has_bf16)
    choices = choose(build_tokenizer(), {"torch_dtype": stored}, thinking=False)
    assert (choices.device, choices.dtype, choices.batch_size) == ("cuda", dtype, BATCH["cuda"])


def test_chat_template_is_applied_where_there_is_one_and_can_be_left_out():
    assert choose(build_tokenizer(chat_template=CHAT_TEMPLATE), {}, thinking=False).chat_template is True
    assert choose(build_tokenizer(), {}, thinking=False).chat_template is False
    assert (
        choose(build_tokenizer(chat_template=CHAT_TEMPLATE), {}, thinking=False, chat_template=False).chat_template is False
    )


@pytest.mark.parametrize("thinking", [True, False])
def test_thinking_switch_of_the_template_follows_the_task(thinking):
    choices = choose(build_tokenizer(chat_template=THINKING_TEMPLATE), {}, thinking=thinking)
    assert choices.template_args == {"enable_thinking": thinking}
    assert choices.thinking_end == ("</think>" if thinking else None)
    assert choices.batch_size == (BATCH_THINKING if thinking else BATCH["cpu"])


def test_thinking_switch_set_by_the_user_wins():
    tokenizer = build_tokenizer(chat_template=THINKING_TEMPLATE)
    assert not choose(tokenizer, {}, thinking=True, template_args={"enable_thinking": False}).thinking


def test_thinking_asked_of_a_model_without_thinking_tags_is_an_error():
    with pytest.raises(UserError, match="TASK=sst2_01"):
        choose(build_tokenizer(chat_template=CHAT_TEMPLATE), {}, thinking=True)


@pytest.mark.parametrize("thinking", [True, False])
def test_sampling_of_the_model_is_used_while_it_thinks(thinking):
    own = {"do_sample": True, "temperature": 0.6, "top_k": 20}
    choices = choose(build_tokenizer(chat_template=THINKING_TEMPLATE), {}, thinking=thinking, sampling=own)
    assert choices.sampling == (own if thinking else {})
    assert choices.line().endswith(" · sampling temperature 0.6, top_k 20 (the model's own)") == thinking


@pytest.mark.parametrize(("given", "batch_size"), [("7", 7), ("auto", "auto"), ("auto:4", "auto:4")])
def test_batch_size_given_is_used(given, batch_size):
    assert choose(build_tokenizer(), {}, thinking=False, batch_size=given).batch_size == batch_size


def test_line_says_every_choice_with_its_reason():
    line = choose(build_tokenizer(), {"dtype": "bfloat16"}, thinking=False).line()
    assert line == (
        "device cpu (no GPU found) · dtype float32 (stored as bfloat16) · "
        "chat template off (the tokenizer has none) · thinking off · batch 32"
    )
