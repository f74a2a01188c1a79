"""An adapter is scored on what it was made on, in the dtype it was made in, unless another is asked for, which is said."""

import json
import shutil

import pytest
from builders import SENTENCES, tsv_folder
from test_identity import TASK

from harness_ext.results.records import read_runs
from harness_ext.task.data import fingerprint
from harness_ext.task.find import build_tasks

OTHERS = [(f"please note: {sentence}", label) for sentence, label in SENTENCES]


@pytest.fixture(scope="module")
def lora(answering, tmp_path_factory):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    folder = tmp_path_factory.mktemp("adapters") / "lora"
    get_peft_model(AutoModelForCausalLM.from_pretrained(answering), config).save_pretrained(folder)
    return folder


@pytest.fixture
def room(lora, tmp_path, monkeypatch):
    """A working folder with tickets, the task on them, and an adapter made on both."""
    monkeypatch.chdir(tmp_path)
    tsv_folder(tmp_path / "tickets", train=OTHERS, dev=OTHERS)
    tsv_folder(tmp_path / "sst2")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "tickets_01.yaml").write_text(TASK.replace("mine", "tickets_01"))
    shutil.copytree(lora, tmp_path / "adapter")
    (task,) = build_tasks(["tickets_01"], "tasks", {"data_dir": "tickets"})
    record(tmp_path, data="tickets/train.tsv", key_parts={"data": fingerprint(task.dataset["train"])})
    return tmp_path


def record(folder, **fields):
    made = {
        "schema": 1,
        "task": "tickets_01",
        "dtype": "bfloat16",
        "train_samples": 16,
        "seed": 0,
        "base_version": "v",
        **fields,
    }
    (folder / "adapter" / "run.json").write_text(json.dumps(made))


def test_task_and_dtype_come_from_the_adapters_record(room, door):
    said = door("run", "--adapter", "adapter", "--include_path", "tasks", "--data_dir", "tickets")
    assert said.code == 0, said.stderr
    assert "dtype bfloat16 (the adapter was trained in it)" in said.stderr
    assert "was trained on" not in said.stderr
    (run,) = read_runs(room / "results")
    assert (run["task"], run["data"], run["trained_on"]) == ("tickets_01", "tickets/dev.tsv", None)
    assert run["training"]["base_version"] == "v"
    assert run["training"]["data_fingerprint"] == run["data_fingerprint"], "dev and train hold the same rows here"


def test_record_does_not_tell_in_which_folders_a_run_was_made(room, door):
    record(room, base=str(room / "bases" / "answering"))
    folders = ("--adapter", room / "adapter", "--data_dir", room / "sst2", "--output_path", room / "out")
    assert door("run", *folders, "--tasks=sst2_01", "--limit=2").code == 0
    (run,) = read_runs(room / "out")
    assert run["training"]["base"] == ".../answering"
    (file,) = (room / "out").glob("runs/*/run.json")  # the other files are lm-eval's own
    assert str(room) not in file.read_text(encoding="utf-8")


def test_dtype_that_is_asked_for_comes_before_the_adapters(room, door):
    said = door("run", "--adapter=adapter", "--include_path=tasks", "--data_dir=tickets", "--dtype=float32", "--limit=2")
    assert "dtype float32 ·" in said.stderr


def test_other_task_that_is_asked_for_is_said_and_recorded(room, door):
    said = door("run", "--adapter", "adapter", "--tasks", "sst2_01", "--data_dir", "sst2", "--limit", "4")
    assert "The adapter was trained on tickets_01 (tickets/train.tsv)." in said.stderr
    (run,) = read_runs(room / "results")
    assert run["trained_on"] == {"task": "tickets_01", "data": "tickets/train.tsv"}
    doctor = door("doctor", "--adapter", "adapter", "--tasks", "sst2_01", "--data_dir", "sst2")
    assert "the adapter was trained on tickets_01 (tickets/train.tsv)" in doctor.stdout


def test_other_data_under_the_same_task_are_said_too(room, door):
    said = door("run", "--adapter", "adapter", "--include_path", "tasks", "--data_dir", "sst2", "--limit", "4")
    assert "The adapter was trained on tickets_01 (tickets/train.tsv)." in said.stderr


@pytest.mark.parametrize("command", ["run", "doctor"])
def test_adapter_of_data_that_are_not_given_is_refused_in_one_line(command, room, door):
    error = door(command, "--adapter", "adapter", "--include_path", "tasks").error
    assert "'adapter' was trained on tickets/train.tsv: give that folder with DATA_DIR=" in error
    assert "TASK=tickets_01" in error


def test_adapters_task_that_is_not_known_here_is_named_with_the_flag_that_makes_it_known(room, door, monkeypatch):
    from harness_ext.task import find

    monkeypatch.setattr(
        find, "task_manager", lambda names, *_: (_ for _ in ()).throw(find.UserError(f"Unknown task {names}."))
    )
    error = door("run", "--adapter", "adapter", "--data_dir", "tickets").error
    assert "made on the task 'tickets_01', which is not known here" in error
    assert "--include_path" in error


def test_adapter_of_the_embedded_sample_is_scored_on_it_and_with_data_on_those(room, door):
    record(room, task="sst2_01_mini", data="embedded sst2_01/mini/train.tsv", dtype="float32")
    door("run", "--adapter", "adapter", "--limit", "2")
    door("run", "--adapter", "adapter", "--limit", "2", "--data_dir", "sst2")
    assert {run["task"] for run in read_runs(room / "results")} == {"sst2_01_mini", "sst2_01"}


def test_adapter_without_a_record_is_scored_on_sst2_as_it_is_stored(room, door):
    (room / "adapter" / "run.json").unlink()
    said = door("run", "--adapter", "adapter", "--data_dir", "sst2", "--limit", "2")
    assert "dtype float32 (stored as float32)" in said.stderr
    (run,) = read_runs(room / "results")
    assert (run["task"], run["trained_on"]) == ("sst2_01", None)
