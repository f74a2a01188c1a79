"""Odd generation configs and tokenizers: the answers are those of transformers alone, or one line says why not."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from builders import CHAT_TEMPLATE, build_model, build_tokenizer
from prompting import PROMPTS, answer_lm, choices, plain_texts, texts

SHAPING: dict[str, Any] = {  # what a model's own settings may make of its text
    "bad_words_ids": [[20]], "begin_suppress_tokens": [20], "suppress_tokens": [20, 21], "forced_bos_token_id": 20,
    "forced_eos_token_id": 0, "guidance_scale": 1.5, "min_new_tokens": 5, "no_repeat_ngram_size": 2,
    "repetition_penalty": 1.3, "stop_strings": ["e", "0"], "eos_token_id": [0, 25], "num_beams": 2,
    "renormalize_logits": True,    "exponential_decay_length_penalty": [3, 1.1], "sequence_bias": [[[20], -10.0]],
}  # fmt: skip
COMPUTING: dict[str, Any] = {  # what changes nothing in a greedy answer within the task's budget
    "cache_implementation": "static", "cache_implementation ": "quantized", "max_length": 5,
    "max_new_tokens": 3, "max_time": 1e-6, "output_scores": True, "prompt_lookup_num_tokens": 3,
    "return_dict_in_generate": True, "use_cache": False, "pad_token_id": -1, "do_sample": True, "is_assistant": True,
}  # fmt: skip
REFUSED: dict[str, Any] = {"constraints": [1], "force_words_ids": [[20]], "dola_layers": "low", "penalty_alpha": 0.6}
UNREADABLE: dict[str, Any] = {"num_return_sequences": 2, "compile_config": {}}


def edit(folder: Path, file: str, drop: tuple[str, ...] = (), **fields: Any) -> Path:
    path = folder / file
    kept = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({name: value for name, value in (kept | fields).items() if name not in drop}))
    return folder


@pytest.fixture
def model(answering, tmp_path) -> Path:
    return Path(shutil.copytree(answering, tmp_path / "model"))


@pytest.mark.parametrize("name", SHAPING)
def test_generation_config_that_shapes_the_text_is_followed(name, model):
    right = plain_texts(edit(model, "generation_config.json", **{name: SHAPING[name]}))
    for engine in ("shared", "stock"):
        assert texts(answer_lm(model, engine=engine, batch_size=3)) == right, engine


@pytest.mark.parametrize("name", COMPUTING)
def test_generation_config_about_how_to_compute_changes_no_answer(name, model):
    right = plain_texts(model)
    edit(model, "generation_config.json", **{name.strip(): COMPUTING[name]})
    for engine in ("shared", "stock"):
        assert texts(answer_lm(model, engine=engine, batch_size=3)) == right, engine


@pytest.mark.parametrize("name", REFUSED)
def test_generation_config_that_transformers_no_longer_does_is_one_line(name, model, eight_rows, elsewhere, door):
    edit(model, "generation_config.json", **{name: REFUSED[name]})
    for command in ("run", "doctor"):
        said = door(command, "--pretrained", model, "--data_dir", eight_rows)
        assert said.code == 2
        assert f"asks for {name} in its generation_config.json" in said.stderr + said.stdout


@pytest.mark.parametrize("name", UNREADABLE)
def test_generation_config_that_transformers_cannot_read_is_one_line(name, model, eight_rows, elsewhere, door):
    edit(model, "generation_config.json", **{name: UNREADABLE[name]})
    for command in ("run", "doctor"):
        said = door(command, "--pretrained", model, "--data_dir", eight_rows)
        assert said.code == 2
        assert "generation_config.json cannot be used" in said.stderr + said.stdout


def test_tokenizer_without_an_end_token_ends_where_the_model_does(model, eight_rows, elsewhere, door):
    right = plain_texts(model)
    edit(model, "tokenizer_config.json", drop=("eos_token",))
    for engine in ("shared", "stock"):
        lm = answer_lm(model, engine=engine)
        assert texts(lm) == right
        assert lm.eot_token_id == 0
        assert len(choices(lm)) == len(PROMPTS)
    assert door("doctor", "--pretrained", model, "--data_dir", eight_rows).code == 0


@pytest.mark.parametrize("ends", [None, [], 10**6, [-1]])
def test_model_that_names_no_end_token_anywhere_is_one_line(ends, model, eight_rows, elsewhere, door):
    edit(model, "tokenizer_config.json", drop=("eos_token",))
    for file in ("config.json", "generation_config.json"):
        edit(model, file, eos_token_id=ends)
    for command in ("run", "doctor"):
        said = door(command, "--pretrained", model, "--data_dir", eight_rows)
        assert said.code == 2
        assert "names an end token (eos_token)" in said.stderr + said.stdout


@pytest.mark.parametrize(
    ("drop", "fields"),
    [
        (("pad_token",), {}),
        (("pad_token", "unk_token"), {}),
        (("pad_token", "unk_token", "eos_token"), {}),
        ((), {"pad_token": "<|endoftext|>"}),
        ((), {"pad_token": "<|another|>"}),  # one that the model has never seen
    ],
)
def test_tokenizer_with_an_odd_padding_token_pads_with_another(drop, fields, model):
    right = plain_texts(model)
    edit(model, "tokenizer_config.json", drop=drop, **fields)
    for engine in ("shared", "stock"):
        lm = answer_lm(model, engine=engine, batch_size=3)
        assert texts(lm) == right, engine
        assert len(choices(lm)) == len(PROMPTS)


def end_behind(folder: Path, before: tuple[str, ...] = (), behind: str = "<|endoftext|>") -> Path:
    """Let a saved tokenizer put tokens around every text."""
    path = folder / "tokenizer.json"
    saved = json.loads(path.read_text())
    number = {each["content"]: each["id"] for each in saved["added_tokens"]}
    around = [{"SpecialToken": {"id": name, "type_id": 0}} for name in (*before, behind)]
    text = {"Sequence": {"id": "A", "type_id": 0}}
    saved["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [*around[:-1], text, around[-1]],
        "pair": [text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {name: {"id": name, "ids": [number[name]], "tokens": [name]} for name in (*before, behind)},
    }
    path.write_text(json.dumps(saved))
    return folder


@pytest.mark.parametrize(("before", "behind"), [((), "<|endoftext|>"), (("<s>",), "<|im_end|>")])
def test_tokenizer_that_ends_every_text_is_one_line(before, behind, tmp_path, eight_rows, elsewhere, door):
    model = end_behind(build_model(tmp_path / "model", "llama"), before, behind)
    common = ("--pretrained", model, "--data_dir", eight_rows)
    for words in (("run",), ("run", "--engine=stock"), ("run", "--tasks=sst2_01_choice"), ("doctor",)):
        said = door(*words, *common)
        assert said.code == 2
        assert f"puts {behind} behind every text" in said.stderr + said.stdout


def test_tokenizer_that_ends_every_text_is_refused_before_training(tmp_path, eight_rows, capsys):
    from finetune.__main__ import main

    model = end_behind(build_model(tmp_path / "model", "llama"))
    words = ["--model", str(model), "--data_dir", str(eight_rows), "--samples", "4", "--recipe", "tiny", "-o", str(tmp_path)]
    assert main(words) == 2
    assert "puts <|endoftext|> behind every text" in capsys.readouterr().err


def test_text_that_brings_its_own_end_or_begin_token_is_left_alone():
    from harness_ext.model.generation_config import check_nothing_behind

    check_nothing_behind(build_tokenizer("llama", bos=True))
    check_nothing_behind(build_tokenizer("qwen2", chat_template=CHAT_TEMPLATE))
