"""REPORT_TO=: what loggers write survives with the adapter, and every job has a run of its own.

No logger is installed; stand-ins with the calls that transformers makes lie on the path.
"""

import json
import sys

import pytest
from builders import SENTENCES, tsv_folder
from training import train
from transformers.integrations import integration_utils

# TensorBoard's writer, under the name that transformers falls back to.
TENSORBOARDX = """
import json, pathlib
class SummaryWriter:
    def __init__(self, log_dir=None):
        self.file = pathlib.Path(log_dir) / "events.jsonl"
        self.file.parent.mkdir(parents=True, exist_ok=True)
    def add_scalar(self, *entry):
        with self.file.open("a") as file: file.write(json.dumps(entry) + "\\n")
    def add_text(self, *entry): pass
    def flush(self): pass
    def close(self): pass
"""
# What wandb, SwanLab and Trackio have in common: a run that is open until it is finished, and takes what is logged.
TRACKER = """
import contextvars
__version__ = "0.0"
runs, run = [], None
class Settings(dict):
    def update(self, *args, **kwargs): super().update(*args)
config = Settings()
class context_vars: current_space_id = contextvars.ContextVar("space", default=None)
class Run:
    def __init__(self, name): self.name, self.logged, self.summary = name, [], {}
    def _label(self, **kwargs): pass
def init(project=None, name=None, experiment_name=None, **kwargs):
    global run
    run = Run(name or experiment_name); runs.append(run)
def get_run(): return run
def log(entry, **kwargs): run.logged.append(entry)
def finish():
    global run
    run.finished, run = True, None
"""


@pytest.fixture
def job(tmp_path, random_model):
    rows = [(f"a {word} film {n}", label) for n in range(6) for label, word in enumerate(("bad", "good"))]
    data = tsv_folder(tmp_path / "data", SENTENCES, rows)

    def call(*more):
        argv = [f"--model={random_model}", f"--data_dir={data}", f"--output_path={tmp_path / 'out'}", "--samples=4",
                "--set=steps={2: 3}", "--set=evaluations=1", "--set=batch_size=2", *more]  # fmt: skip
        done = train(*argv)
        return done.code, done.stderr

    yield call
    for name in ("tensorboardX", "wandb", "swanlab", "trackio"):
        for loaded in [each for each in sys.modules if each.partition(".")[0] == name]:
            del sys.modules[loaded]


def install(name, source, folder, monkeypatch):
    package = folder / "path" / name
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(source)
    monkeypatch.syspath_prepend(folder / "path")
    monkeypatch.setattr(integration_utils, f"is_{name.removesuffix('X')}_available", lambda: True)
    return package


def test_tensorboards_logs_end_in_the_adapters_folder_without_the_machines_name(job, tmp_path, monkeypatch):
    install("tensorboardX", TENSORBOARDX, tmp_path, monkeypatch)
    code, said = job("--report_to=tensorboard", "--seed=0,1")
    assert code == 0, said
    adapters = sorted(path.parent for path in (tmp_path / "out").glob("adapters/*/run.json"))
    assert len(adapters) == 2
    for adapter in adapters:
        entries = [json.loads(line) for line in (adapter / "logs" / "events.jsonl").read_text().splitlines()]
        assert {step for name, _, step in entries if name == "train/loss"} == {1, 2, 3}
    assert not (tmp_path / "out" / "unfinished").exists()


def test_tensorboards_own_variable_gets_a_folder_for_each_adapter(job, tmp_path, monkeypatch):
    install("tensorboardX", TENSORBOARDX, tmp_path, monkeypatch)
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    code, said = job("--report_to=tensorboard", "--seed=0,1")
    assert code == 0, said
    names = {path.parent.name for path in (tmp_path / "out").glob("adapters/*/run.json")}
    assert {path.parent.name for path in (tmp_path / "board").glob("*/events.jsonl")} == names


@pytest.mark.parametrize("name", ["wandb", "swanlab", "trackio"])
def test_each_job_has_a_run_of_its_own_that_is_finished(name, job, tmp_path, monkeypatch):
    package = install(name, TRACKER, tmp_path, monkeypatch)
    (package / "sdk" / "lib").mkdir(parents=True)
    for folder in (package / "sdk", package / "sdk" / "lib"):
        (folder / "__init__.py").touch()
    (package / "sdk" / "lib" / "config_util.py").write_text("class ConfigError(Exception): pass\n")
    code, said = job(f"--report_to={name}", "--seed=0,1")
    assert code == 0, said
    module = sys.modules[name]
    adapters = {path.parent.name for path in (tmp_path / "out").glob("adapters/*/run.json")}
    assert {run.name for run in module.runs} == adapters
    assert len(adapters) == 2
    assert all(run.finished for run in module.runs)
    assert module.run is None
    for adapter in adapters:
        logged = [entry for run in module.runs if run.name == adapter for entry in run.logged]
        assert {entry["train/global_step"] for entry in logged if "train/loss" in entry} == {1, 2, 3}
        assert any("test/loss" in entry for entry in logged)  # of the finished adapter


def test_run_is_finished_although_training_fails(job, tmp_path, monkeypatch):
    from finetune.trainers import PromptTrainer
    from harness_ext.errors import UserError

    def fails(*args, **kwargs):
        raise UserError("The loss is nan.")

    install("trackio", TRACKER, tmp_path, monkeypatch)
    monkeypatch.setattr(PromptTrainer, "training_step", fails)
    code, said = job("--report_to=trackio")
    assert code == 2
    assert "The loss is nan." in said
    assert all(run.finished for run in sys.modules["trackio"].runs)


@pytest.mark.parametrize(("variable", "name"), [("WANDB_RUN_ID", "wandb"), ("SWANLAB_RUN_ID", "swanlab")])
def test_one_run_named_for_several_jobs_is_refused(variable, name, job, monkeypatch):
    monkeypatch.setenv(variable, "mine")
    code, said = job(f"--report_to={name}", "--seed=0,1")
    assert code == 2
    assert f"{variable} names one run, but there are 2 adapters to make" in said
