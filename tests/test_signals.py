"""SIGTERM and SIGHUP end a command as Ctrl-C does: what is done is kept, that is said, and no process stays behind."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from builders import SENTENCES, tsv_folder
from conftest import ROOT

from harness_ext import cli

SAID = "Interrupted. The same command continues where this one stopped."
LONG = ["--samples=8", "--set=steps={2: 5000}", "--set=evaluations=500", "--set=batch_size=4"]
# Stands in for .venv/bin/python in a copy of the Makefile: the program gets make's arguments, whatever the interpreter.
PROGRAM = f"""#!/bin/sh
cd "{ROOT}" && PYTHONPATH="{ROOT}" exec "{sys.executable}" "$@"
"""


@pytest.fixture
def ended():
    """Start commands; whatever of them is left at the end of the test is killed."""
    started: list[psutil.Process] = []

    def start(command, **options):
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
        )
        started.append(psutil.Process(process.pid))
        return process

    yield start
    for process in started:
        for each in (*descendants(process), process):
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()


def descendants(process):
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def command_line(process):
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # it ended since it was listed, reaped or not
        return ""


def wait_for(condition, process, seconds=90):
    for _ in range(seconds * 20):
        if condition():
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    pytest.fail("it did not come to that")


def rows(folder):
    words = ("bad", "good", "cold", "warm")
    return tsv_folder(folder, SENTENCES, [(f"a {word} film {n}", k % 2) for n in range(8) for k, word in enumerate(words)])


def training(random_model, tmp_path, *more):
    data = rows(tmp_path / "data")
    return [f"--model={random_model}", f"--data_dir={data}", f"--output_path={tmp_path / 'out'}", *LONG, *more]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.slow
def test_sigterm_to_make_alone_leaves_no_process_and_what_continues(random_model, ended, tmp_path):
    copy = tmp_path / "copy"
    (copy / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", copy)
    for name in ("pyproject.toml", "constraints.txt", ".venv/ready"):
        (copy / name).touch()
    program = copy / ".venv" / "bin" / "python"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    data, out = rows(tmp_path / "data"), tmp_path / "out"
    values = [f"MODEL={random_model}", f"DATA_DIR={data}", f"OUT={out}", "SAMPLES=8", "ARGS=" + " ".join(
        f"'{word}'" for word in LONG[1:])]  # fmt: skip
    make = ended(["make", "finetune", *values], cwd=copy)
    wait_for(lambda: list(out.glob("unfinished/*/checkpoint-*/trainer_state.json")), make)
    family = [psutil.Process(make.pid), *descendants(psutil.Process(make.pid))]
    assert len(family) == 2, family  # make and the program: no shell between them, no process beside it
    make.terminate()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive
    assert SAID in make.communicate()[0]
    assert list(out.glob("unfinished/*/checkpoint-*"))
    assert not list(out.glob("adapters/*"))


def test_training_that_was_terminated_continues(random_model, tmp_path, monkeypatch, capfd):
    """In this process: the signal comes in the middle of a step, and the handlers are taken back afterwards."""
    import finetune.__main__
    from finetune.trainers import PromptTrainer

    argv = training(random_model, tmp_path, "--set=steps={2: 6}", "--set=evaluations=6")
    step = PromptTrainer.training_step

    def terminated(self, *args, **kwargs):
        if self.state.global_step == 3:
            signal.raise_signal(signal.SIGTERM)
        return step(self, *args, **kwargs)

    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]
    with monkeypatch.context() as patch:
        patch.setattr(PromptTrainer, "training_step", terminated)
        assert finetune.__main__.main(argv) == 1
    assert SAID in capfd.readouterr().err
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)] == before
    assert finetune.__main__.main(argv) == 0
    assert '"steps_resumed": 3' in next((tmp_path / "out").glob("adapters/*/run.json")).read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signal_runs_what_stands_in_finally_and_gives_one(number, capfd):
    seen = []
    before = signal.signal(number, signal.SIG_DFL)  # these tests may run under nohup, where SIGHUP is ignored

    def work(args):
        try:
            signal.raise_signal(number)
            seen.append("went on")
        finally:
            seen.append("cleaned up")

    def parser():
        made = cli.Parser()
        made.set_defaults(func=work)
        return made

    try:
        assert cli.run_command(parser, []) == 1
    finally:
        signal.signal(number, before)
    assert seen == ["cleaned up"]
    assert SAID in capfd.readouterr().err


def test_second_signal_while_it_ends_is_the_same_wish(capfd):
    """make hands on a SIGTERM that a scheduler has sent to the program too."""
    seen = []

    def work(args):
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGHUP)
            seen.append("cleaned up")

    def parser():
        made = cli.Parser()
        made.set_defaults(func=work)
        return made

    assert cli.run_command(parser, []) == 1
    assert seen == ["cleaned up"]


def test_signal_that_is_ignored_stays_ignored(monkeypatch):
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        made = cli.Parser()
        made.set_defaults(func=lambda args: signal.raise_signal(signal.SIGHUP))
        assert cli.run_command(lambda: made, []) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
@pytest.mark.parametrize("when", ["loading", "answering"])
def test_sigterm_to_process_0_of_several_leaves_none(when, answering, ended, tmp_path):
    rows_ = [(f"film {n} was good", n % 2) for n in range(3000)]
    data = tsv_folder(tmp_path / "data", rows_, SENTENCES)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "harness_ext", "run", f"--pretrained={answering}", f"--data_dir={data}", "--procs=2",
               f"--output_path={out}", "--batch_size=1"]  # fmt: skip
    run = ended(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"})
    me = psutil.Process(run.pid)

    def helpers():
        return [each for each in descendants(me) if "harness_ext" in command_line(each)]

    wait_for(helpers, run)
    if when == "answering":
        wait_for(lambda: list(Path(out).glob("unfinished/*/answers*")), run)
    family = [me, *descendants(me)]
    assert len(family) >= 2
    run.terminate()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive
    assert run.returncode == 1 or SAID in run.communicate()[0]
