"""THE table of bad inputs: each ends with exit code 2 and one line that says what, which value, what to do.

A case prepares a folder and returns the command line; everything it does not name is a run that works
(`test_room_without_a_mistake_is_evaluated`), so each case fails for its own reason. The fragments are what the line
must contain. Whatever happens, a finished run that was there before stays byte for byte, and no run appears.
"""

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from builders import CHAT_TEMPLATE, SENTENCES, THINKING_TEMPLATE, build_model, tsv_folder
from conftest import Outcome
from safetensors.torch import load_file, save_file

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"  # noqa: E501
TEMPLATE_THAT_REFUSES = "{{ raise_exception('roles must alternate') }}"


@dataclass
class Room:
    """A working folder with a good model (``models/good``), good data (``data``) and an OUT with an earlier run.

    Attributes:
        folder: The working folder; paths on the command line are relative to it.
    """

    folder: Path

    def run(self, *more: str, **flags: str | int | None) -> list[str]:
        """Return the command line of a run that works, but for `flags` (None leaves one out)."""
        good = {"pretrained": "models/good", "data_dir": "data", "limit": 4, "output_path": "out"}
        return ["run", *(f"--{name}={value}" for name, value in {**good, **flags}.items() if value is not None), *more]

    def model(self, name: str = "changed") -> Path:
        """Return a copy of the good model, to be changed."""
        return Path(shutil.copytree(self.folder / "models" / "good", self.folder / "models" / name))

    def build(self, **options: object) -> list[str]:
        """Return a run of a model that is built with other options."""
        build_model(self.folder / "models" / "built", **options)
        return self.run(pretrained="models/built")

    def config(self, **fields: object) -> list[str]:
        """Return a run of the good model with other fields in its config.json."""
        path = self.model() / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))
        return self.run(pretrained="models/changed")

    def dev(self, text: str | bytes) -> list[str]:
        """Return a run on the good data with another dev.tsv."""
        (self.folder / "data" / "dev.tsv").write_bytes(text if isinstance(text, bytes) else text.encode())
        return self.run()

    def task(self, text: str) -> list[str]:
        """Return a run of a task of the user's own."""
        (self.folder / "mine").mkdir()
        (self.folder / "mine" / "mine.yaml").write_text(f"task: sst2_01_mine\n{text}")
        return self.run(tasks="sst2_01_mine", include_path="mine")  # so near a known name that lm-eval's own stay unread

    def adapter(self, base: str, layers: str = "base_model.model.model.layers", size: int = 32, **fields: object) -> str:
        """Write a LoRA adapter of rank 2 for the good model that names `base`, and return its path."""
        folder = self.folder / "adapter"
        folder.mkdir()
        config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "target_modules": ["q_proj"], **fields}
        (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": base}))
        weights = {"A": torch.zeros(2, size), "B": torch.zeros(size, 2)}
        names = {f"{layers}.{layer}.self_attn.q_proj.lora_{kind}.weight": kind for layer in range(2) for kind in weights}
        save_file({name: weights[kind].clone() for name, kind in names.items()}, folder / "adapter_model.safetensors")
        return "adapter"


@pytest.fixture
def room(elsewhere: Path, random_model: Path, eight_rows: Path) -> Room:
    shutil.copytree(random_model, elsewhere / "models" / "good")
    shutil.copytree(eight_rows, elsewhere / "data")
    earlier = elsewhere / "out" / "runs" / "earlier--sst2_01--00000000"
    earlier.mkdir(parents=True)
    for name in ("run.json", "results.json", "samples.jsonl"):
        (earlier / name).write_text(f"the earlier {name}\n")
    return Room(elsewhere)


def adapter_of_other_weights(room: Room) -> list[str]:
    room.adapter("models/good")
    manifest = {"base": "models/good", "base_version": "sha256:0123456789abcdef"}
    (room.folder / "adapter" / "run.json").write_text(json.dumps(manifest))
    return room.run(adapter="adapter")


def files_of(folder: Path) -> dict[str, bytes]:
    """Read every file under a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- what goes wrong, by group ---------------------------------------------------------------------------------------


def remove(*patterns: str) -> Callable[[Room], list[str]]:
    def prepare(room: Room) -> list[str]:
        folder = room.model()
        for pattern in patterns:
            for path in folder.glob(pattern):
                path.unlink()
        return room.run(pretrained="models/changed")

    return prepare


def replace(file: str, text: str | bytes | None = None) -> Callable[[Room], list[str]]:
    """Write `text` in place of a file of the model, or without one cut the file in half."""

    def prepare(room: Room) -> list[str]:
        path = room.model() / file
        if text is None:
            data = path.read_bytes()
            path.write_bytes(data[: len(data) // 2])
        else:
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return room.run(pretrained="models/changed")

    return prepare


def pickled(room: Room) -> list[str]:
    folder = room.model()
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return room.run(pretrained="models/changed")


def index_of_no_form(room: Room) -> list[str]:
    (room.model() / "model.safetensors").rename(room.folder / "models" / "changed" / "model-00001-of-00001.safetensors")
    (room.folder / "models" / "changed" / "model.safetensors.index.json").write_text('{"weight_map": []}')
    return room.run(pretrained="models/changed")


def missing_shard(room: Room) -> list[str]:
    from transformers import AutoModelForCausalLM

    folder = room.model()
    (folder / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(room.folder / "models" / "good").save_pretrained(folder, max_shard_size="40KB")
    sorted(folder.glob("*.safetensors"))[1].unlink()
    return room.run(pretrained="models/changed")


def nan_weights(task: str) -> Callable[[Room], list[str]]:
    def prepare(room: Room) -> list[str]:
        path = room.model() / "model.safetensors"
        weights = load_file(path)
        weights["model.norm.weight"][3] = torch.nan
        save_file(weights, path, metadata={"format": "pt"})
        return room.run(pretrained="models/changed", tasks=task)

    return prepare


def a_file(room: Room) -> list[str]:
    (room.folder / "model.pth").write_bytes(b"GGUF")
    return room.run(pretrained="model.pth")


def no_dev(room: Room) -> list[str]:
    (room.folder / "data" / "dev.tsv").unlink()
    return room.run()


def keep_weights(*names: str) -> Callable[[Room], list[str]]:
    """Leave of the weights only those whose names begin so, beside one that no model knows."""

    def prepare(room: Room) -> list[str]:
        path = room.model() / "model.safetensors"
        kept = {name: weight for name, weight in load_file(path).items() if name.startswith(names)}
        save_file({**kept, "alien.weight": torch.zeros(2)}, path, metadata={"format": "pt"})
        return room.run(pretrained="models/changed")

    return prepare


def adapter_file(text: str) -> Callable[[Room], list[str]]:
    def prepare(room: Room) -> list[str]:
        adapter = room.adapter("models/good")
        (room.folder / adapter / "adapter_model.safetensors").write_text(text)
        return room.run(adapter=adapter)

    return prepare


def config_file(text: str) -> Callable[[Room], list[str]]:
    def prepare(room: Room) -> list[str]:
        (room.folder / "mine.yaml").write_text(text)
        return room.run(config="mine.yaml")

    return prepare


def out_is_a_file(room: Room) -> list[str]:
    (room.folder / "notes.txt").write_text("mine")
    return room.run(output_path="notes.txt")


def out_below_a_file(room: Room) -> list[str]:
    (room.folder / "notes.txt").write_text("mine")
    return room.run(output_path="notes.txt/out")


def empty_folder(flag: str) -> Callable[[Room], list[str]]:
    def prepare(room: Room) -> list[str]:
        (room.folder / "empty").mkdir()
        return room.run(**{flag: "empty"})

    return prepare


def run(*more: str, **flags: str | int | None) -> Callable[[Room], list[str]]:
    return lambda room: room.run(*more, **flags)


def dev(text: str | bytes) -> Callable[[Room], list[str]]:
    return lambda room: room.dev(text)


def build(**options: object) -> Callable[[Room], list[str]]:
    return lambda room: room.build(**options)


OFFLINE = ("Cannot reach the Hub", "Offline", "DATA_DIR=", "MODEL=path", "make eval")
Cases = dict[str, tuple[Callable[[Room], list[str]], tuple[str, ...]]]

MODEL: Cases = {
    "model_near_a_shipped_name": (run(pretrained="tiny-bse"), ("'tiny-bse'", "Did you mean", "tiny-base")),
    "model_near_a_folder": (run(pretrained="models/god"), ("'models/god'", "Did you mean", "good")),
    "model_near_a_deeper_folder": (run(pretrained="./models/god"), ("'./models/god'", "Did you mean", "good")),
    "model_empty": (run(pretrained=""), ("Model ''", "Hub id (owner/name)")),
    "model_unreachable": (run(pretrained="org/name"), ("'org/name'", *OFFLINE)),
    "model_a_file": (a_file, ("'model.pth'", "a file", "its folder")),
    "model_below_nobodys_home": (run(pretrained="~nobody-here/x"), ("'~nobody-here/x'",)),
    "model_of_a_long_name": (run(pretrained="x" * 300), ("xxx",)),
    "model_not_a_name": (run(pretrained="a b/c"), ("'a b/c'", "neither a folder nor a Hub id")),
    "folder_empty": (empty_folder("pretrained"), ("'empty'", "no config.json")),
    "folder_without_config": (remove("config.json"), ("models/changed'", "no config.json")),
    "folder_without_weights": (remove("*.safetensors"), ("models/changed'", "no weights", "*.safetensors")),
    "folder_without_tokenizer": (remove("token*"), ("models/changed'", "no tokenizer", "tokenizer.json")),
    "config_no_json": (replace("config.json", "{nope"), ("config.json'", "not valid JSON", "Download it again")),
    "config_no_utf8": (replace("config.json", b"\xff\xfe{}"), ("config.json'", "not valid JSON", "Download it again")),
    "config_a_list": (replace("config.json", "[1]"), ("config.json'", "list", "Download it again")),
    "config_a_pointer": (replace("config.json", POINTER), ("config.json'", "Git LFS pointer", "`git lfs pull`")),
    "weights_a_pointer": (
        replace("model.safetensors", POINTER),
        ("model.safetensors'", "Git LFS pointer", "`git lfs pull`"),
    ),
    "weights_cut_off": (replace("model.safetensors"), ("model.safetensors'", "cut off", "Download them again")),
    "weights_empty": (replace("model.safetensors", b""), ("model.safetensors'", "cut off", "Download them again")),
    "weights_lack_a_shard": (missing_shard, ("models/changed'", "lacks 1 of", "model-00002-of-")),
    "weights_index_of_no_form": (
        index_of_no_form,
        ("model.safetensors.index.json", "Download it again"),
    ),
    "weights_pickled": (pickled, ("pytorch_model.bin", "can run code", "safetensors", "--allow_pickle")),
    "tokenizer_no_json": (replace("tokenizer.json", "{nope"), ("tokenizer", "changed'", "not load")),
    "tokenizer_a_pointer": (replace("tokenizer.json", POINTER), ("tokenizer.json'", "Git LFS pointer", "`git lfs pull`")),
    "tokenizer_absent": (run(model_args="tokenizer=gone"), ("tokenizer", "gone")),
    "tokenizer_larger_than_the_model": (build(vocab_size=200), ("tokenizer", "200")),
    "encoder_bert": (build(architecture="bert"), ("'built'", "BertForMaskedLM", "cannot generate", "Qwen/Qwen2.5-0.5B")),
    "encoder_deberta": (build(architecture="deberta-v2"), ("'built'", "DebertaV2ForMaskedLM", "cannot generate")),
    "classifier_of_three": (
        build(architecture="deberta-v2", head="SequenceClassification", num_labels=3),
        ("'built'", "3 classes", "two"),
    ),
    "architecture_unknown": (
        lambda room: room.config(model_type="foo", architectures=["FooForCausalLM"]),
        ("'changed'", "foo"),
    ),
    "config_of_another_size": (lambda room: room.config(hidden_size=64), ("'changed'", "does not load", "size")),
    "logits_nan_generating": (nan_weights("sst2_01"), ("NaN", "damaged", "download")),
    "logits_nan_choosing": (nan_weights("sst2_01_choice"), ("NaN", "damaged", "download")),
    "adapter_absent": (run(adapter="nowhere"), ("'nowhere'", "not a folder")),
    "adapter_a_model": (run(adapter="models/good"), ("'models/good'", "no adapter_config.json", "PEFT")),
    "adapter_empty_folder": (empty_folder("adapter"), ("'empty'", "no adapter_config.json", "PEFT")),
    "adapter_whose_base_is_gone": (
        lambda room: room.run(pretrained=None, adapter=room.adapter("/gone/base")),
        ("'/gone/base'", "dapter", "MODEL="),
    ),
    "adapter_whose_base_is_not_cached": (
        lambda room: room.run(pretrained=None, adapter=room.adapter("org/base")),
        ("'org/base'", *OFFLINE),
    ),
    "adapter_of_another_model": (
        lambda room: [*room.build(architecture="gpt2"), f"--adapter={room.adapter('models/good')}"],
        ("adapter", "q_proj"),
    ),
}

# A loader that fills in random numbers, or leaves the adapter out, only warns; the score would look like any other.
LOADED_IN_PART: Cases = {
    "weights_without_a_layer": (
        keep_weights("model.layers.0", "model.embed", "model.norm", "lm_head"),
        ("'changed'", "layers.1"),
    ),
    "weights_of_another_model": (keep_weights(), ("'changed'",)),
    "adapter_of_other_names": (
        lambda room: room.run(adapter=room.adapter("models/good", layers="other.layers")),
        ("adapter", "q_proj"),
    ),
    "adapter_of_another_size": (
        lambda room: room.run(adapter=room.adapter("models/good", size=48)),
        ("adapter", "size mismatch"),
    ),
    "adapter_for_tokens": (
        lambda room: room.run(adapter=room.adapter("models/good", task_type="TOKEN_CLS")),
        ("'adapter'", "TOKEN_CLS", "SEQ_CLS"),
    ),
    "adapter_for_classification_without_its_head": (
        lambda room: room.run(adapter=room.adapter("models/good", task_type="SEQ_CLS")),
        ("adapter", "lack", "score.weight"),
    ),
    "adapter_of_another_copy_of_its_base": (adapter_of_other_weights, ("'adapter'", "another base", "MODEL=")),
    "adapter_a_pointer": (adapter_file(POINTER), ("adapter_model.safetensors'", "Git LFS pointer", "`git lfs pull`")),
    "adapter_cut_off": (adapter_file("1234"), ("adapter_model.safetensors'", "cut off", "Download them again")),
}

PROMPT: Cases = {
    "context_short_generating": (build(context=32), ("prompts are too long", "tokens", "context of 32", "longer context")),
    "context_short_choosing": (
        lambda room: [*room.build(context=32), "--tasks=sst2_01_choice"],
        ("prompt", "tokens", "context of 32", "longer context"),
    ),
    "context_shorter_than_the_answer": (
        lambda room: [*room.build(chat_template=THINKING_TEMPLATE), "--tasks=sst2_01_think"],
        ("32768 tokens", "512", "max_gen_toks"),
    ),
    "thinking_of_a_model_that_cannot": (run(tasks="sst2_01_think"), ("think", "thinking tag", "TASK=sst2_01")),
    "chat_template_raises": (build(chat_template=TEMPLATE_THAT_REFUSES), ("sst2_01", "built", "roles must alternate")),
    "chat_template_of_two_bos": (
        build(chat_template="{{ bos_token }}{{ bos_token }}{{ messages[0]['content'] }}", bos=True),
        ("two BOS tokens (<s>)", "chat template", "add_bos_token"),
    ),
    "chat_template_no_jinja": (build(chat_template="{% for %}"), ("sst2_01", "built", "template")),
    "chat_template_absent": (run("--apply_chat_template"), ("the tokenizer has none", "--apply_chat_template")),
    "chat_template_of_another_name": (
        lambda room: [*room.build(chat_template=CHAT_TEMPLATE), "--apply_chat_template=other"],
        ("template", "other"),
    ),
    "fewshot_negative": (run(num_fewshot=-1), ("num_fewshot -1",)),
    "fewshot_more_than_there_are": (run(num_fewshot=9), ("9", "8")),
    "fewshot_no_number": (run(num_fewshot="two"), ("num_fewshot", "'two'", "--help")),
}

VALUE: Cases = {
    "cache_requests": (run(cache_requests="true"), ("--cache_requests is refused", "not by its data or prompt")),
    "limit_negative": (run(limit=-1), ("LIMIT -1", "whole number above 0")),
    "limit_zero": (run(limit=0), ("LIMIT 0", "whole number above 0")),
    "limit_fraction_above_1": (run(limit="2.5"), ("LIMIT 2.5", "whole number above 0")),
    "limit_word": (run(limit="abc"), ("limit", "'abc'", "--help")),
    "limit_nan": (run(limit="nan"), ("LIMIT nan", "whole number above 0")),
    "limit_infinite": (run(limit="inf"), ("LIMIT inf", "whole number above 0")),
    "batch_word": (run(batch_size="abc"), ("BATCH 'abc'", "above 0", "'auto'")),
    "batch_zero": (run(batch_size=0), ("BATCH '0'", "above 0")),
    "batch_negative": (run(batch_size=-3), ("BATCH '-3'", "above 0")),
    "batch_auto_of_nothing": (run(batch_size="auto:x"), ("BATCH 'auto:x'", "'auto'")),
    "device_unknown": (run(device="nonsense"), ("'nonsense'", "this machine has", "cpu")),
    "device_cuda_of_high_number": (run(device="cuda:99"), ("'cuda:99'", "this machine has")),
    "dtype_unknown": (run(dtype="float7"), ("'float7'", "float32", "bfloat16")),
    "dtype_unknown_in_model_args": (run(model_args="dtype=float7"), ("'float7'", "float32", "bfloat16")),
    "samples_without_a_baseline": (run(train_samples=4), ("SAMPLES", "tfidf", "make finetune")),
    "samples_odd_of_a_baseline": (run("--model=tfidf", pretrained=None, train_samples=3), ("SAMPLES '3'", "even")),
    "seed_word": (run(seed="abc"), ("seed", "abc", "--help")),
    "seed_negative": (run(seed=-1), ("-1", "0")),
    "flag_unknown": (run("--batchsize=3"), ("--batchsize=3", "--help")),
    "command_unknown": (lambda room: ["evaluate"], ("evaluate", "run", "--help")),
    "model_args_without_value": (run("--model_args", "nonsense"), ("nonsense", "model_args")),
    "model_args_unknown_name": (run(model_args="nonsense=1"), ("nonsense",)),
    "gen_kwargs_without_value": (run("--gen_kwargs", "nonsense"), ("nonsense", "gen_kwargs")),
    "gen_kwargs_budget_word": (run(gen_kwargs="max_gen_toks=abc"), ("max_gen_toks", "abc")),
    "gen_kwargs_budget_zero": (run(gen_kwargs="max_gen_toks=0"), ("max_gen_toks", "0")),
    "gen_kwargs_temperature": (run(gen_kwargs="do_sample=True,temperature=-1"), ("temperature", "-1")),
    "gen_kwargs_unknown_name": (run(gen_kwargs="nonsense=1"), ("nonsense",)),
    "model_args_length_word": (run(model_args="max_length=abc"), ("max_length", "abc")),
    "model_args_template_word": (run(model_args="chat_template_args=hi"), ("chat_template_args", "hi")),
    "samples_no_json": (run(limit=None, samples="{nope"), ("--samples", "{nope")),
    "samples_out_of_range": (run(limit=None, samples='{"sst2_01": [100]}'), ("--samples", "8")),
    "backend_unknown": (run(model="nonsense"), ("nonsense", "hf")),
    "config_file_absent": (run(config="absent.yaml"), ("absent.yaml",)),
    "config_file_of_no_yaml": (config_file("limit: [4\n"), ("mine.yaml", "YAML")),
    "config_file_with_one_of_ours": (config_file("shots: 4\n"), ("mine.yaml: shots", "as flags")),
    "config_file_a_list": (config_file("- limit\n"), ("mine.yaml", "mapping")),
    "config_file_unknown_name": (config_file("nonsense: 1\n"), ("nonsense",)),
    "config_file_task_a_number": (config_file("tasks: 5\n"), ("tasks", "5")),
    "config_file_fewshot_a_word": (config_file("num_fewshot: two\n"), ("num_fewshot", "two")),
}

TASK: Cases = {
    "task_misspelt": (run(tasks="sst2_1"), ("'sst2_1'", "Did you mean", "sst2_01")),
    "task_of_a_broken_file": (
        lambda room: room.task("include: gone.yaml\n"),
        ("'sst2_01_mine'", "mine.yaml", "gone.yaml"),
    ),
    "task_of_no_yaml": (lambda room: room.task("output_type: [oh\n"), ("'sst2_01_mine'", "mine.yaml")),
    "task_without_data": (lambda room: room.task("doc_to_text: x\n"), ("sst2_01_mine", "does not build")),
    "task_empty": (run(tasks=","), ("names no task", "ls")),
    "task_file_absent": (run(tasks="absent.yaml"), ("'absent.yaml'",)),
    "task_folder_absent": (run(include_path="absent"), ("--include_path", "'absent'")),
}

DATA: Cases = {
    "data_unreachable": (run(data_dir=None), ("stanfordnlp/sst2", "Cannot reach the Hub", "DATA_DIR=", "TASK=sst2_01_mini")),
    "data_dir_absent": (run(data_dir="absent"), ("absent/", "train.tsv and dev.tsv")),
    "data_dir_a_file": (run(data_dir="data/dev.tsv"), ("data/dev.tsv/", "train.tsv and dev.tsv")),
    "data_dir_without_dev": (no_dev, ("data/dev.tsv", "train.tsv and dev.tsv")),
    "data_dir_for_the_embedded_task": (run(tasks="sst2_01_mini"), ("embedded", "DATA_DIR", "TASK=sst2_01")),
    "data_wrong_header": (dev("text\tlabel\na\t1\n"), ("data/dev.tsv, row 1", "text", "'sentence'", "'label'")),
    "data_without_header": (dev("good\t1\nbad\t0\n"), ("data/dev.tsv, row 1", "'sentence'", "'label'")),
    "data_no_line": (dev(""), ("data/dev.tsv, row 1", "'sentence'", "'label'")),
    "data_header_only": (dev("sentence\tlabel\n"), ("dev.tsv", "empty")),
    "data_label_2": (dev("sentence\tlabel\na\t1\nb\t2\n"), ("dev.tsv, row 3", "'2'", "0 or 1")),
    "data_label_missing": (dev("sentence\tlabel\na\t1\nb\t\n"), ("dev.tsv, row 3", "''", "0 or 1")),
    "data_empty_sentence": (dev("sentence\tlabel\na\t1\nb\t0\n  \t0\n"), ("dev.tsv, row 4", "sentence is empty")),
    "data_no_utf8": (dev(b"sentence\tlabel\na\t1\ncaf\xe9\t0\n"), ("data/dev.tsv, row 3", "UTF-8")),
    "data_missing_tab": (dev("sentence\tlabel\na\t1\nb 0\n"), ("data/dev.tsv, row 3", "1 tab", "header has 2")),
    "data_blank_line": (dev("sentence\tlabel\na\t1\n\nb\t0\n"), ("data/dev.tsv, row 3", "1 tab", "header has 2")),
    "data_of_no_form": (run(data_dir=None, metadata="dataset=imdb"), ("'imdb'", "owner/name")),
}

PLACE: Cases = {
    "out_a_file": (out_is_a_file, ("OUT", "notes.txt")),
    "out_below_a_file": (out_below_a_file, ("OUT", "notes.txt/out")),
    "out_read_only": (run(output_path="/proc/out"), ("OUT", "/proc/out")),
}

TABLE = MODEL | LOADED_IN_PART | PROMPT | VALUE | TASK | DATA | PLACE


@pytest.mark.parametrize("name", TABLE)
def test_bad_input_ends_in_one_line_and_writes_nothing(name: str, room: Room, door: Callable[..., Outcome]):
    prepare, fragments = TABLE[name]
    argv = prepare(room)
    before = files_of(room.folder)
    outcome = door(*argv)
    missing = [fragment for fragment in fragments if fragment not in outcome.error]
    assert not missing, f"{missing} not in: {outcome.error}"
    assert len(outcome.error) < 500, "a line that nobody reads"
    assert " object at 0x" not in outcome.error
    assert "functools" not in outcome.error
    assert {path: data for path, data in files_of(room.folder).items() if not path.startswith("out/unfinished/")} == before


def test_room_without_a_mistake_is_evaluated(room: Room, door: Callable[..., Outcome]):
    outcome = door(*room.run())
    assert outcome.code == 0, outcome.stderr
    assert len(list((room.folder / "out" / "runs").glob("good--sst2_01--*/run.json"))) == 1


def test_adapter_names_its_base_and_is_evaluated(room: Room, door: Callable[..., Outcome]):
    outcome = door(*room.run(pretrained=None, adapter=room.adapter(str(room.folder / "models" / "good"))))
    assert outcome.code == 0, outcome.stderr
    (manifest,) = (room.folder / "out" / "runs").glob("good--adapter--*/run.json")
    assert json.loads(manifest.read_text())["adapter"] == "adapter"


def test_pickled_weights_when_allowed_are_evaluated(room: Room, door: Callable[..., Outcome]):
    assert door(*pickled(room), "--allow_pickle").code == 0
    assert len(list((room.folder / "out" / "runs").glob("changed--*/run.json"))) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_device_cuda_without_a_gpu_says_what_there_is(room: Room, door: Callable[..., Outcome]):
    assert "Device 'cuda' is not there; this machine has cpu" in door(*room.run(device="cuda")).error


def test_train_row_is_named_as_well_as_a_dev_row(room: Room, door: Callable[..., Outcome]):
    tsv_folder(room.folder / "data", train=[*SENTENCES, ("more", "x")])
    assert "train.tsv, row 10: label 'x' is not 0 or 1" in door(*room.run()).error


def test_same_run_in_another_process_is_not_started_twice(room: Room, door: Callable[..., Outcome]):
    assert door(*room.run()).code == 0
    (done,) = (room.folder / "out" / "runs").glob("good--*")
    before = files_of(done)
    work = room.folder / "out" / "unfinished" / done.name
    work.mkdir(parents=True)
    with (work / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # as another process would; released when the file is closed
        assert "going on in another process" in door(*room.run("--force")).error
        assert files_of(done) == before
    assert door(*room.run("--force")).code == 0


def test_damaged_record_of_the_same_run_is_named_and_force_mends_it(room: Room, door: Callable[..., Outcome]):
    assert door(*room.run()).code == 0
    (record,) = (room.folder / "out" / "runs").glob("good--*/run.json")
    record.write_text("{")
    error = door(*room.run()).error
    assert record.parent.name in error
    assert "FORCE=1" in error
    assert door(*room.run("--force")).code == 0
    assert json.loads(record.read_text())["status"] == "complete"


def test_damaged_answers_of_an_interrupted_run_are_named_and_force_mends_it(room: Room, door: Callable[..., Outcome]):
    assert door(*room.run()).code == 0
    (done,) = (room.folder / "out" / "runs").glob("good--*")
    work = room.folder / "out" / "unfinished" / done.name
    work.mkdir(parents=True)
    key = json.loads((done / "run.json").read_text())["key"]
    shutil.rmtree(done)
    (work / f"answers-{key}_rank0.db").write_bytes(b"no database " * 1000)
    error = door(*room.run()).error
    assert "not a database" in error
    assert "FORCE=1" in error, "making room would not help"
    assert not done.exists()
    assert door(*room.run("--force")).code == 0
    assert done.is_dir()


# --- a full disk -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[None]:
    """Mount a file system of its own over a folder; skip where this is not permitted."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"mounting a tmpfs is not permitted here ({getattr(error, 'stderr', error)})")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(path: Path, leave: int) -> None:
    """Fill the disk of `path` but for `leave` bytes."""
    space = os.statvfs(path.parent)
    path.write_bytes(bytes(max(space.f_bavail * space.f_frsize - leave, 0)))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.95])
def test_full_disk_is_one_line_and_the_finished_run_stays(share: float, room: Room, door: Callable[..., Outcome]):
    """Room for a share of what the run will write: it fills up while answers are kept, or results written."""
    out = room.folder / "full"
    again = room.run("--force", output_path="full")
    with small_disk(out, 400):
        assert door(*again).code == 0
        (done,) = (out / "runs").glob("good--*")
        before = files_of(out / "runs")
        fill(out / "ballast", leave=int(share * sum(map(len, before.values()))))
        outcome = door(*again)
        assert "OUT" in outcome.error
        assert "Make room" in outcome.error
        assert files_of(out / "runs") == before
        (out / "ballast").unlink()
        assert door(*again).code == 0, "with room again the same command goes through"
        assert done.is_dir()
