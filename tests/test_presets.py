"""The presets: what each says, against the public configs; and that MODEL= takes them, the user's own flags first."""

import dataclasses
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from builders import CHAT_TEMPLATE, THINKING_TEMPLATE, build_model
from conftest import Outcome
from fakehub import FakeHub
from gguf_files import build_gguf

from harness_ext.__main__ import _parser
from harness_ext.errors import UserError
from harness_ext.model import memory, presets
from harness_ext.model.gguf_header import parts_of
from harness_ext.model.settings import BATCH
from harness_ext.paths import SHIPPED
from harness_ext.results import leaderboard, reported
from harness_ext.results.records import read_runs
from harness_ext.run.resolve import with_preset
from harness_ext.run.spec import RunSpec, from_args
from harness_ext.task.find import build_tasks

LONGEST_PROMPT = 128  # tokens: SST-2's longest sentences in a chat template
# What the models' own config.json says of their sizes.
QWEN3 = {"model_type": "qwen3", "vocab_size": 151936, "head_dim": 128, "num_key_value_heads": 8, "dtype": "bfloat16"}
QWEN3_8B = {
    **QWEN3, "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32,
    "tie_word_embeddings": False,
}  # fmt: skip
GGUF = {"dtype": "bfloat16", "gguf": {"quantisation": "Q4_K_M"}}
AWQ = {"dtype": "float16", "quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128}}
PUBLIC: dict[str, dict[str, Any]] = {
    "qwen3-0.6b": {
        **QWEN3, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
        "tie_word_embeddings": True,
    },
    "qwen3-8b": QWEN3_8B,
    "qwen3-8b-awq": QWEN3_8B | AWQ,
    "qwen2.5-0.5b": {
        "model_type": "qwen2", "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
        "num_attention_heads": 14, "num_key_value_heads": 2, "tie_word_embeddings": True, "dtype": "bfloat16",
    },
    "qwen2.5-7b": {
        "model_type": "qwen2", "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944,
        "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4, "tie_word_embeddings": False, **AWQ,
    },
    "qwen3-8b-gguf": QWEN3_8B | GGUF,
    "gemma-3-1b": {
        "model_type": "gemma3_text", "vocab_size": 262144, "hidden_size": 1152, "intermediate_size": 6912,
        "num_hidden_layers": 26, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256, "sliding_window": 512,
        "dtype": "bfloat16",
    },
    "llama-3-8b": {
        "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": False,
        "dtype": "bfloat16",
    },
    "deberta-v3-base": {
        "model_type": "deberta-v2", "vocab_size": 128100, "hidden_size": 768, "intermediate_size": 3072,
        "num_hidden_layers": 12, "num_attention_heads": 12, "type_vocab_size": 0, "relative_attention": True,
        "position_buckets": 256, "norm_rel_ebd": "layer_norm", "share_att_key": True, "position_biased_input": False,
        "dtype": "float16",
    },
}  # fmt: skip
PUBLIC["qwen2.5-7b-gguf"] = PUBLIC["qwen2.5-7b"] | GGUF
del PUBLIC["qwen2.5-7b-gguf"]["quantization_config"]


@cache
def parameters(name: str) -> int:
    """Count the parameters of transformers' own class for a public config, on torch's device without memory."""
    fields = {field: value for field, value in PUBLIC[name].items() if field not in ("quantization_config", "gguf")}
    config = transformers.AutoConfig.for_model(**fields)
    auto = transformers.AutoModel if name.startswith("deberta") else transformers.AutoModelForCausalLM
    with torch.device("meta"):
        return auto.from_config(config).num_parameters()


def stored_bytes(name: str) -> int:
    """Return what the weights take in 16 bits; in AWQ a linear weight has 4 bits and, for each 128, a scale and a zero."""
    config = PUBLIC[name]
    if "quantization_config" not in config:
        return 2 * parameters(name)
    whole = 2 * config["vocab_size"] * config["hidden_size"]  # embedding and output layer
    return int(2 * whole + (parameters(name) - whole) * (4 + 16 / 128 + 4 / 128) / 8)


@pytest.mark.parametrize("name", presets.load())
def test_preset_says_the_size_and_memory_that_follow_from_the_public_config(name):
    preset, config = presets.load()[name], PUBLIC[name]
    if "gguf" in config:
        config = config | {"gguf": {"parameters": parameters(name)}}
    assert preset.parameters == pytest.approx(parameters(name) / 1e9, rel=0.1)
    (task,) = build_tasks([preset.task], metadata={"data_dir": "tasks/sst2_01/mini"})
    tokens = LONGEST_PROMPT + task.config.generation_kwargs["max_gen_toks"]
    rows = preset.batch or BATCH["cuda"]
    dtype = "float32" if preset.finetune else config["dtype"]  # DeBERTa-v3 overflows in float16
    needed = memory.weights_bytes(config, stored_bytes(name), dtype, preset.quantise)
    if not preset.finetune:
        needed += rows * (memory.cache_bytes(config, tokens, dtype) + memory.logits_bytes(config, 1, 1))
    assert preset.memory_gb == pytest.approx(needed / 1e9, abs=0.05)
    assert preset.memory_gb < 20, "of a 24 GB GPU, some is for activations and the device's own libraries"


@pytest.mark.parametrize("name", presets.load())
def test_preset_names_a_reported_model_and_a_task_that_there_is(name):
    preset = presets.load()[name]
    assert preset.reported in {row["model"] for row in reported.table()}
    assert name not in SHIPPED
    assert name == name.lower()
    assert preset.quantise in (None, *memory.QUANTISED)


def test_presets_cover_every_reported_model():
    assert {preset.reported for preset in presets.load().values()} == {row["model"] for row in reported.table()}


GOOD = "a: {model: org/a, parameters: 1, memory_gb: 2.5, reported: A}\n"


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        ("a: {model: org/a, quantize: nf4}", ("'a'", "'quantize'", "Did you mean quantise")),
        ("a: {model: org/a, parameters: 1, memory_gb: 2}", ("'a'", "lacks", "reported")),
        (GOOD.replace("2.5", "much"), ("'a'", "memory_gb", "'much'")),
        (GOOD.replace("org/a", "7"), ("'a'", "model", "7")),
        ("a: org/a", ("'a'", "mapping")),
        (GOOD + GOOD.replace("a:", "b:", 1), ("org/a", "more than one")),
    ],
)
def test_preset_file_with_a_mistake_is_refused(text, fragments, tmp_path):
    path = tmp_path / "presets.yaml"
    path.write_text(GOOD)
    assert presets.load(path)["a"].memory_gb == 2.5
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        presets.load(path)
    assert [fragment for fragment in fragments if fragment not in str(error.value)] == []


def asked(*argv: str) -> tuple[RunSpec, str | None]:
    """What a command line asks for when the preset is filled in, and what is said of it."""
    return with_preset(from_args(_parser().parse_args(["run", *argv])))


@pytest.mark.parametrize("text", ["qwen3-0.6b", "Qwen3-0.6B", "Qwen/Qwen3-0.6B"])
def test_model_by_short_name_and_by_hub_id_gets_the_preset_and_says_so(text):
    spec, line = asked(f"--pretrained={text}")
    assert (spec.pretrained, spec.tasks) == ("Qwen/Qwen3-0.6B", ("sst2_01_think",))
    assert (spec.batch_size, spec.quantise) == ("4", None)
    assert line == "Preset qwen3-0.6b: Qwen/Qwen3-0.6B · task sst2_01_think · batch 4"


def test_model_of_a_quantised_preset_is_quantised_unless_the_user_says_otherwise():
    assert asked("--pretrained=llama-3-8b")[0].quantise == "nf4"
    for other in ("int8", "none"):
        assert asked("--pretrained=llama-3-8b", f"--quantise={other}")[0].quantise == other
    assert asked("--pretrained=llama-3-8b", "--model=hf")[0].quantise is None  # lm-eval's own class has no such option


def test_flags_of_the_user_win_over_the_preset():
    spec, _ = asked("--pretrained=qwen3-0.6b", "--tasks=sst2_01", "--model_args", "revision=v2")
    assert (spec.tasks, spec.model_args["revision"]) == (("sst2_01",), "v2")
    assert spec.batch_size != "4", "that batch is for thinking"
    assert asked("--pretrained=qwen3-0.6b", "--batch_size=2")[0].batch_size == "2"


def test_revision_of_a_preset_is_the_default(monkeypatch):
    pinned = dataclasses.replace(presets.load()["qwen2.5-0.5b"], revision="abc")
    monkeypatch.setitem(presets.load(), "qwen2.5-0.5b", pinned)
    assert asked("--pretrained=qwen2.5-0.5b")[0].model_args["revision"] == "abc"


def test_adapter_brings_its_own_task_and_quantisation():
    spec, _ = asked("--pretrained=llama-3-8b", "--adapter=somewhere")
    assert spec.pretrained == "meta-llama/Meta-Llama-3-8B-Instruct"
    assert (spec.quantise, spec.tasks) == (None, None)


def test_folder_named_like_a_preset_is_the_users_own_model(
    answering: Path, eight_rows: Path, elsewhere: Path, door: Callable[..., Outcome]
):
    (elsewhere / "qwen3-0.6b").symlink_to(answering)
    (elsewhere / "named").mkdir()
    done = door("run", "--pretrained=qwen3-0.6b", "--data_dir", eight_rows, "--limit=2")
    assert done.code == 0, done.stderr
    assert "Preset" not in done.stderr
    assert "sst2_01_think" not in done.stdout


def test_short_name_offline_names_the_hub_id_and_a_misspelt_one_the_near_miss(door: Callable[..., Outcome]):
    assert "'Qwen/Qwen2.5-7B-Instruct-AWQ'" in door("run", "--pretrained=qwen2.5-7b").error
    assert "Did you mean qwen2.5-7b" in door("run", "--pretrained=qwen2.5-7").error


def test_models_lists_every_preset_with_its_command(door: Callable[..., Outcome]):
    said = door("models").stdout
    for preset in presets.load().values():
        (line,) = [line for line in said.splitlines() if line.startswith(f"{preset.name} ")]
        assert preset.model in line
        assert f"MODEL={preset.name}" in line
        assert ("yes" in line) == preset.gated
    assert "84.52" in said  # Qwen3-0.6B's reported score


TWINS = {  # architecture and chat template
    "qwen3": ("qwen3", THINKING_TEMPLATE), "qwen2.5-0.5b": ("qwen2", None), "qwen2.5-7b": ("qwen2", CHAT_TEMPLATE),
    "gemma-3": ("gemma3", CHAT_TEMPLATE), "llama-3": ("llama", CHAT_TEMPLATE),
}  # fmt: skip


def gguf_twin(folder: Path, file: str, template: str | None) -> Path:
    """Write a small model under the name of a GGUF file, or of its parts."""
    model, folder = build_model(folder / "model", "qwen2", chat_template=template), folder / "gguf"
    folder.mkdir()
    names = parts_of(file)
    build_gguf(folder / "whole.gguf", model, split=27 // len(names) + 1 if len(names) > 1 else 0)
    for written, name in zip(sorted(folder.glob("*")), names, strict=True):
        written.rename(folder / name)
    return folder


@pytest.mark.slow  # a process each, for the download
@pytest.mark.parametrize("name", [preset.name for preset in presets.load().values() if not preset.finetune])
def test_preset_runs_from_the_hub_on_a_small_twin(name: str, tmp_path: Path, eight_rows: Path, cli: Callable[..., Outcome]):
    """By short name, over the real download; the twin of a checkpoint stored in 4 bits is stored plainly here."""
    (architecture, template) = next(twin for prefix, twin in TWINS.items() if name.startswith(prefix))
    preset, twin = presets.load()[name], build_model(tmp_path / "twin", architecture, chat_template=template)
    repository, _, file = preset.model.rpartition("/") if preset.model.endswith(".gguf") else (preset.model, "", "")
    if file:
        twin = gguf_twin(tmp_path / "files", file, template)
    with FakeHub(models={repository: twin}) as hub:
        flags = ("--data_dir", eight_rows, "--limit=2", "--gen_kwargs", "max_gen_toks=4", "-o", tmp_path / "out")
        done = cli("run", f"--pretrained={name}", *flags, env=hub.env(tmp_path / "home"))
    assert done.code == 0, done.stderr
    (record,) = read_runs(tmp_path / "out")
    assert (record["model"], record["task"], record["n"]) == (preset.model, preset.task, 2)
    weights = record["key_parts"]["weights"]
    assert weights.startswith("sha256:") if file else weights == FakeHub.sha(preset.model)
    assert record["settings"]["thinking"] == (preset.task == "sst2_01_think")
    assert record["settings"]["batch_size"] == (preset.batch or "auto")


def test_reported_score_belongs_to_model_task_and_quantisation():
    counts = {"lenient": {"correct": 800, "positive": 1, "negative": 1, "not_following": {}}}
    run = {"n": 872, "n_available": 872, "counts": counts, "train_samples": 0, "adapter": None, "seed": None, "data": "d"}
    run |= {"data_fingerprint": reported.SST2_VALIDATION, "model": "meta-llama/Meta-Llama-3-8B-Instruct"}
    asked = [("sst2_01", "nf4"), ("sst2_01", None), ("sst2_01_choice", "nf4")]
    found = [
        leaderboard.rows([run | {"task": task, "quantisation": quantise}], reported.scores())[0]["reported"]
        for task, quantise in asked
    ]
    assert found == [781 / 872, None, None]
