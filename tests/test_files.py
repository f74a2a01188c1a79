"""Which files of a folder are loaded and hashed: what transformers reads, whatever else lies beside it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from builders import build_model
from conftest import Outcome
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from finetune.config import read_recipe
from finetune.model import load_base
from harness_ext.model import files
from harness_ext.model.checkpoints import find_model, inspect_model, is_version
from harness_ext.model.loading import WholeModel, load_tokenizer


@pytest.fixture
def model(answering: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(answering, tmp_path / "model"))


@pytest.mark.parametrize(
    "name",
    ["._model.safetensors", ".DS_Store", "model.safetensors.tmp", "consolidated.safetensors", "consolidated.00.pth",
     "LICENSE.txt", "README.md", "training_args.bin", ".gitattributes", "trainer_state.json", "eval_results.json"],
)  # fmt: skip
def test_file_that_is_not_loaded_changes_neither_check_nor_hash(name: str, model: Path):
    before = find_model(str(model))
    (model / name).write_bytes(b"\0\5\x16\7 Mac OS X")
    (model / "original").mkdir()
    after = find_model(str(model))
    assert (after.version, after.weights) == (before.version, before.weights)


@pytest.mark.parametrize(
    ("name", "content"),
    [("chat_template.jinja", "{{ x }}"), ("modeling_own.py", "x = 1"), ("generation_config.json", "{}"),
     ("special_tokens_map.json", "{}"), ("vocab.txt", "a"), ("own.tiktoken", "a")],
)  # fmt: skip
def test_file_that_can_change_an_answer_changes_the_hash(name: str, content: str, model: Path):
    before = find_model(str(model)).version
    (model / name).write_text(content)
    assert find_model(str(model)).version != before


def test_shards_are_those_of_the_index_and_a_single_file_comes_first(model: Path, tmp_path: Path):
    loaded = AutoModelForCausalLM.from_pretrained(model)
    loaded.save_pretrained(tmp_path / "sharded", max_shard_size="50KB")
    index = json.loads((tmp_path / "sharded" / "model.safetensors.index.json").read_text())
    shards = sorted(set(index["weight_map"].values()))
    shutil.copy(model / "model.safetensors", tmp_path / "sharded" / "model-fp16.safetensors")
    assert files.weights_in(tmp_path / "sharded") == [*shards, "model.safetensors.index.json"]
    shutil.copy(model / "model.safetensors", tmp_path / "sharded")
    assert files.weights_in(tmp_path / "sharded") == ["model.safetensors"]


def test_hash_of_earlier_records_is_still_recognised(model: Path):
    plain = find_model(str(model))
    assert files.hash_as_before(model) == plain.version
    (model / "notes.txt").write_text("as trained")
    trained_on = files.hash_as_before(model)
    now = find_model(str(model))
    assert now.version == plain.version != trained_on
    assert is_version(now, trained_on)
    assert is_version(now, plain.version)
    assert not is_version(now, "sha256:0123456789abcdef")


def put_adapter_beside(model: Path, task_type: str, targets: list[str], auto: Any) -> None:
    """Leave an adapter of large random weights in a model's folder."""
    torch.manual_seed(0)
    adapted = peft.get_peft_model(
        auto.from_pretrained(model), peft.LoraConfig(task_type=task_type, r=4, target_modules=targets)
    )
    for name, weight in adapted.named_parameters():
        if "lora_" in name:
            weight.data.normal_()
    adapted.save_pretrained(str(model))


@pytest.mark.parametrize("kind", ["generative", "classifier"])
def test_adapter_left_beside_a_models_weights_is_not_put_on_them(kind: str, model: Path, tmp_path: Path):
    auto: Any = AutoModelForCausalLM
    if kind == "classifier":
        auto = AutoModelForSequenceClassification
        model = build_model(tmp_path / "bert", "bert", head="SequenceClassification")
    clean = find_model(str(model))
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        expected = auto.from_pretrained(model)(input_ids=ids).logits
    put_adapter_beside(model, *(("CAUSAL_LM", ["q_proj"]) if kind == "generative" else ("SEQ_CLS", ["query"])), auto)
    there = find_model(str(model))
    with torch.no_grad():
        stock = auto.from_pretrained(model)(input_ids=ids).logits
        evaluated = WholeModel(auto).from_pretrained(model)(input_ids=ids).logits
        recipe = read_recipe("qwen" if kind == "generative" else "deberta", [])
        base = load_base(there, recipe, "float32", "cpu", load_tokenizer(there)).model
        trained_on = base.eval()(input_ids=ids).logits
    assert not torch.allclose(stock, expected, atol=1e-3), "transformers puts it on: if it stops doing so, so can we"
    assert torch.equal(evaluated, expected)
    assert torch.equal(trained_on, expected)
    assert there.version == clean.version


def test_leftover_adapter_is_said_by_run_and_doctor(
    model: Path, eight_rows: Path, elsewhere: Path, door: Callable[..., Outcome]
):
    put_adapter_beside(model, "CAUSAL_LM", ["q_proj"], AutoModelForCausalLM)
    for command in ("run", "doctor"):
        outcome = door(command, f"--pretrained={model}", f"--data_dir={eight_rows}", "--limit=2")
        assert outcome.code == 0, outcome.stderr
        assert f"ADAPTER={model}" in outcome.stderr + outcome.stdout
        both = door(command, f"--pretrained={model}", f"--adapter={model}", f"--data_dir={eight_rows}", "--limit=2")
        assert both.code == 0, both.stderr


def test_leftover_adapter_is_not_put_on_by_lm_evals_own_class_either(
    model: Path, answering: Path, eight_rows: Path, elsewhere: Path, door: Callable[..., Outcome]
):
    put_adapter_beside(model, "CAUSAL_LM", ["q_proj", "v_proj", "o_proj"], AutoModelForCausalLM)
    found = []
    for folder in (model, answering):
        flags = (f"--pretrained={folder}", f"--data_dir={eight_rows}", f"--output_path={folder.name}", "--model=hf")
        assert door("run", *flags).code == 0
        (path,) = Path(folder.name).glob("runs/*/samples.jsonl")
        found.append([json.loads(line)["resps"] for line in path.read_text().splitlines()])
    assert found[0] == found[1]


def test_mistyped_name_of_one_word_is_told_what_is_near_before_the_hub(elsewhere: Path, door: Callable[..., Outcome]):
    Path("models/SmolLM2-135M-Instruct").mkdir(parents=True)
    error = door("run", "--pretrained=smollm").error
    assert error.index("SmolLM2-135M-Instruct") < error.index("Hub")
    near = door("run", "--pretrained=qwen3").error
    assert near.index("Did you mean qwen3-0.6b") < near.index("Hub")


def test_sizes_and_pickles_are_those_that_would_be_loaded(model: Path):
    torch.save({}, model / "pytorch_model.bin")
    (model / "adapter_model.safetensors").write_bytes(b"x" * 10)
    found = inspect_model(str(model))
    assert not found.problems
    assert found.checkpoint.weights == {"model.safetensors": (model / "model.safetensors").stat().st_size}
