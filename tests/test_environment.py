"""What stands in the environment, or where a command is called from, changes nothing: schedulers, warnings, git."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness_ext import launcher
from harness_ext.errors import UserError
from harness_ext.run import provenance

STRAY = {
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29500",
}
SLURM = {
    "SLURM_PROCID": "1",
    "SLURM_NTASKS": "2",
    "SLURM_LOCALID": "1",
    "SLURM_JOB_ID": "7",
    "PMI_RANK": "1",
    "PMI_SIZE": "2",
}


@pytest.fixture
def no_launcher(monkeypatch):
    """Begin without what this process's environment may hold of a launcher."""
    for name in (*STRAY, *SLURM, "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "stray", [STRAY, SLURM, {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}, {"RANK": "one"}]
)
def test_variables_of_a_scheduler_make_no_helper_and_reach_no_library(stray, no_launcher, monkeypatch):
    for name, value in stray.items():
        monkeypatch.setenv(name, value)
    assert launcher.launched() == launcher.Place(0, 1)
    read = {name for name in stray if not name.startswith(("SLURM_", "MASTER_"))}
    assert read
    assert not read & os.environ.keys()


def test_process_that_a_launcher_started_knows_its_place(no_launcher, monkeypatch):
    for name, value in {**STRAY, "TORCHELASTIC_RUN_ID": "x"}.items():
        monkeypatch.setenv(name, value)
    assert launcher.launched() == launcher.Place(1, 2)


def test_launcher_on_several_machines_is_refused(no_launcher, monkeypatch):
    for name, value in {**STRAY, "TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="PROCS= is for one machine"):
        launcher.launched()


@pytest.mark.slow
def test_commands_in_a_schedulers_job_end_as_elsewhere(in_turn):
    commands = [["models"], ["ls"], ["validate", "--tasks=sst2_01_mini"], ["--help"], ["doctor", "--limit=4"]]
    for argv, said in zip(commands, in_turn(commands, env=os.environ | STRAY | SLURM), strict=True):
        assert said.code == 0, (argv, said.stderr)
        assert said.stdout, argv


@pytest.mark.slow
def test_run_in_a_schedulers_job_with_warnings_as_errors_outside_any_repository_is_quiet(cli, tmp_path):
    said = cli("run", "--limit=4", env=os.environ | STRAY | SLURM | {"PYTHONWARNINGS": "error"}, timeout=100)
    assert said.code == 0, said.stderr
    assert len(list(tmp_path.glob("results/runs/*/run.json"))) == 1
    assert [line.split()[0] for line in said.stderr.splitlines()] == ["device", "Written:"], said.stderr


@pytest.mark.slow
def test_training_in_a_schedulers_job_ends_as_elsewhere(tmp_path):
    command = [sys.executable, "-m", "finetune", "--model=tiny-base", "--samples=16", "--set", "steps={16: 5}"]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | STRAY | SLURM, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("results/adapters/*/run.json"))) == 1


def test_commit_in_lm_evals_results_is_this_projects(monkeypatch):
    from lm_eval import evaluator

    monkeypatch.chdir(Path("/"))
    own = evaluator.get_git_commit_hash
    with provenance.known_to_lm_eval():
        assert evaluator.get_git_commit_hash() == provenance.commit() != own()
    assert evaluator.get_git_commit_hash is own


def test_packages_that_describe_the_machine_are_those_that_pip_lists():
    from torch.utils import collect_env

    command = [sys.executable, "-mpip", "list", "--format=freeze"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    provenance.machine_description()
    assert collect_env.run(command) == (0, listed.strip(), "")
