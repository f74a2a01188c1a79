"""What stands in the environment, or where a command is called from, changes nothing: schedulers, warnings, git."""

import os
from pathlib import Path

import pytest

from harness_ext.run import provenance, shards

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
def fresh_place(monkeypatch):
    """Find the process's place anew, whatever this one's environment holds."""
    for name in (*shards._NAMES, *shards._OTHERS, shards._MEETING, shards._LAUNCHER):
        monkeypatch.delenv(name, raising=False)
    shards.place.cache_clear()
    yield
    shards.place.cache_clear()


@pytest.mark.parametrize(
    "stray", [STRAY, SLURM, {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}, {"RANK": "one"}]
)
def test_variables_of_a_scheduler_make_no_helper_and_reach_no_library(stray, fresh_place, monkeypatch):
    for name, value in stray.items():
        monkeypatch.setenv(name, value)
    assert shards.place() == shards.Place(0, 1, 0)
    assert shards.read_size(None) == 1
    assert not {*shards._NAMES, *shards._OTHERS} & os.environ.keys()


@pytest.mark.parametrize("sign", [shards._LAUNCHER, shards._MEETING])
def test_process_that_a_launcher_or_ours_started_knows_its_place(sign, fresh_place, monkeypatch):
    for name, value in {**STRAY, sign: "x"}.items():
        monkeypatch.setenv(name, value)
    assert shards.place() == shards.Place(1, 2, 1)


def test_nothing_is_read_from_the_environment_on_import():
    names = [name for name, value in vars(shards).items() if isinstance(value, int) and not isinstance(value, bool)]
    assert names == []


@pytest.mark.parametrize(
    "command", [("models",), ("ls",), ("validate", "--tasks=sst2_01_mini"), ("--help",), ("doctor", "--limit=4")]
)
def test_command_in_a_schedulers_job_ends_as_elsewhere(command, cli):
    said = cli(*command, env=os.environ | STRAY | SLURM, timeout=60)
    assert said.code == 0, said.stderr
    assert said.stdout


@pytest.mark.slow
def test_run_in_a_schedulers_job_with_warnings_as_errors_outside_any_repository_is_quiet(cli, tmp_path):
    said = cli("run", "--limit=4", env=os.environ | STRAY | SLURM | {"PYTHONWARNINGS": "error"}, timeout=100)
    assert said.code == 0, said.stderr
    assert len(list(tmp_path.glob("results/runs/*/run.json"))) == 1
    assert [line.split()[0] for line in said.stderr.splitlines()] == ["device", "Written:"], said.stderr


@pytest.mark.slow
def test_training_in_a_schedulers_job_ends_as_elsewhere(tmp_path):
    import subprocess
    import sys

    command = [sys.executable, "-m", "finetune", "--model=tiny-base", "--samples=16", "--set", "steps={16: 5}"]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | STRAY | SLURM, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("results/adapters/*/run.json"))) == 1


def test_commit_in_lm_evals_results_is_this_projects(monkeypatch):
    from lm_eval import evaluator

    monkeypatch.chdir(Path("/"))
    provenance.spare_git_elsewhere()
    assert evaluator.get_git_commit_hash() == provenance.commit()
