"""Speed of the parts that users wait for; `make bench` writes the figures to results/bench.json.

Ratios between rows of one run mean something; absolute times are this machine's.
"""

import json
import subprocess
import sys

import pytest

from harness_ext.paths import ROOT
from harness_ext.results import records
from harness_ext.results.write import write_leaderboard
from harness_ext.task.labels import read

TEXTS = {"plain": "so it is ", "blocks": "<think>0</think>", "never closed": "<think>0 "}


@pytest.mark.parametrize("size", [10_000, 100_000])
@pytest.mark.parametrize("text", TEXTS)
def test_read_label(benchmark, text, size):
    """Linear in length: the 100 kB rows take about ten times the 10 kB rows."""
    response = (TEXTS[text] * size)[:size]
    benchmark(read, response)


def test_read_872_short_answers(benchmark):
    answers = [" 1", " 0\n\nSentence: it", "positive", "The answer is 1."] * 218
    benchmark(lambda: [read(answer, rule) for answer in answers for rule in ("lenient", "strict")])


@pytest.fixture
def thousand_runs(tmp_path):
    """1,000 complete runs, as one manifest with other keys."""
    sys.path.insert(0, str(ROOT / "tests"))
    from test_leaderboard import manifest

    for number in range(1000):
        folder = tmp_path / "runs" / f"run{number}"
        folder.mkdir(parents=True)
        records.write_json(folder / "run.json", manifest(f"model {number}", number % 873))
    return tmp_path


def test_leaderboard_of_1000_runs(benchmark, thousand_runs):
    board, _ = benchmark(write_leaderboard, thousand_runs)
    assert len(board) == 1000


COMMANDS = {
    "help": ["--help"],
    "error": ["run", "--limit=-1"],
    "ls": ["ls"],
    "validate": ["validate", "--tasks", "sst2_01_mini"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_command(benchmark, name):
    """A whole process, Python's own start included."""
    command = [sys.executable, "-m", "harness_ext", *COMMANDS[name]]
    benchmark.pedantic(subprocess.run, [command], {"capture_output": True}, rounds=5, warmup_rounds=1)


def test_run_tiny_on_the_embedded_sample(benchmark, tmp_path):
    """`make eval`: the whole process; the record says where its time went."""
    command = [sys.executable, "-m", "harness_ext", "run", "--force", "-o", str(tmp_path)]
    benchmark.pedantic(subprocess.run, [command], {"capture_output": True, "check": True}, rounds=3, warmup_rounds=1)
    (path,) = tmp_path.glob("runs/*/run.json")
    record = json.loads(path.read_text(encoding="utf-8"))
    benchmark.extra_info |= {"time_s": record["time_s"], "docs_per_s": record["docs_per_s"], "hardware": record["hardware"]}
