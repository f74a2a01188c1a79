"""Speed of the parts that users wait for; `make bench` writes the figures to results/bench.json.

Ratios between rows of one run mean something; absolute times are this machine's.
"""

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest

from harness_ext.paths import ROOT
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


@pytest.fixture(scope="session")
def thousand_runs(tmp_path_factory):
    """1,000 runs of 872 documents: 100 prompted models, and 180 methods with five seeds each at three numbers of labels."""
    sys.path.insert(0, str(ROOT / "tests"))
    from test_board import publish
    from test_standings import run

    out = tmp_path_factory.mktemp("thousand")
    rng = np.random.default_rng(0)
    found = [run(rng.random(872) < 0.5, n=872, n_available=872, model=f"prompted {number}") for number in range(100)]
    for number in range(180):
        about = {"model": f"trained {number}", "train_samples": (16, 64, 256)[number % 3], "curve": f"curve {number // 3}"}
        found += [run(rng.random(872) < 0.8, n=872, n_available=872, seed=seed, **about) for seed in range(5)]
    publish(out, *found, documents=[hashlib.sha256(bytes([n % 256, n // 256])).hexdigest() for n in range(872)])
    return out


def test_leaderboard_of_1000_runs(benchmark, thousand_runs):
    entries, _, _ = benchmark.pedantic(write_leaderboard, [thousand_runs], rounds=3, warmup_rounds=1)
    assert len(entries) == 280


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
