"""What a record says beside the scores: hardware, memory, near ties, the self-check; whatever model and task are called."""

import json
import shutil
import sys
import types

import pytest
from builders import SENTENCES, tsv_folder
from test_identity import TASK

from harness_ext.backend import build
from harness_ext.model import memory
from harness_ext.results.records import read_runs
from harness_ext.run import worker


@pytest.mark.parametrize(
    ("model", "task"), [("模" * 80, "a/b"), ("28 [red] 模型", ".."), ("x" * 240, "red) t|<"), ("plain", "x y" * 60)]
)
def test_run_of_a_model_and_a_task_of_any_name_is_written(model, task, door, answering, eight_rows, elsewhere):
    shutil.copytree(answering, elsewhere / model)
    (elsewhere / "tasks").mkdir()
    (elsewhere / "tasks" / "odd.yaml").write_text(TASK.replace("mine", json.dumps(task)))
    said = door(
        "run", f"--pretrained=./{model}", "--tasks", task, "--include_path=tasks", "--data_dir", eight_rows, "--limit=2"
    )
    assert said.code == 0, said.stderr
    (record,) = read_runs(elsewhere / "results")
    assert (record["model"], record["task"]) == (model, task)
    (folder,) = elsewhere.glob("results/runs/*")
    assert {path.name for path in folder.iterdir()} >= {"results.json", "samples.jsonl", "run.json"}


def test_baseline_names_the_processor_that_fitted_it(door, elsewhere):
    data = tsv_folder(elsewhere / "data", train=SENTENCES * 3)
    assert door("run", "--model", "tfidf", "--data_dir", data).code == 0
    (record,) = read_runs(elsewhere / "results")
    assert record["hardware"].endswith("threads")
    assert record["training"]["data"] == "data/train.tsv"
    assert record["training"]["data_fingerprint"] != record["data_fingerprint"]


def test_record_holds_what_the_model_says_of_itself(door, answering, eight_rows, elsewhere, monkeypatch):
    check = {"prompts": 3, "difference": 1e-6, "tolerance": 1e-3, "passed": True}

    def create(*args):
        lm = build.create_model(*args)
        own = lm.generate_until

        def generate_until(*args, **kwargs):
            answers = own(*args, **kwargs)
            lm.account.near_ties, lm.account.self_check = 2, check
            return answers

        lm.generate_until = generate_until
        return lm

    monkeypatch.setattr(worker, "create_model", create)
    monkeypatch.setattr(worker, "adjust", lambda *_: None)
    assert door("run", "--pretrained", answering, "--data_dir", eight_rows).code == 0
    (record,) = read_runs(elsewhere / "results")
    assert record["self_check"] == check
    assert record["near_ties"] == 2


def test_peak_memory_is_that_of_all_gpus_and_begins_anew_with_a_run(monkeypatch):
    held = {0: 5, 1: 7}
    cuda = types.SimpleNamespace(
        is_available=lambda: True,
        device_count=lambda: 2,
        is_initialized=lambda: True,
        max_memory_allocated=held.__getitem__,
        reset_peak_memory_stats=lambda gpu: held.__setitem__(gpu, 0),
    )
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=cuda))
    assert memory.peak_memory_bytes()["gpu"] == 12
    memory.reset_peak_memory()
    assert memory.peak_memory_bytes()["gpu"] == 0


def test_peak_of_a_gpu_that_nothing_has_used_yet_is_not_reset(monkeypatch):
    """torch refuses that ("Invalid device argument") until something has been on a GPU."""

    def refuse(gpu: int) -> None:
        raise RuntimeError("Invalid device argument")

    cuda = types.SimpleNamespace(
        is_available=lambda: True, is_initialized=lambda: False, device_count=lambda: 1, reset_peak_memory_stats=refuse
    )
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=cuda))
    memory.reset_peak_memory()
