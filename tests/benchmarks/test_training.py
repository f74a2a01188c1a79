"""Training with the shared prefix beside plain Trainer and, where it is installed, TRL: steps/s and peak memory.

And what a classifier's command takes beside its steps.
"""

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness_ext.paths import ROOT

SCRIPT = Path(__file__).with_name("train_once.py")


@pytest.mark.parametrize("variant", ["ours", "plain", "trl"])
def test_train(benchmark, variant):
    """A process each, as peak memory never falls; the figures of the steps alone stand in extra_info."""
    if variant == "trl" and importlib.util.find_spec("trl") is None:
        pytest.skip("needs trl: .venv/bin/pip install trl")
    found = []

    def run():
        done = subprocess.run([sys.executable, str(SCRIPT), variant], capture_output=True, text=True, check=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))

    benchmark.pedantic(run, rounds=2)
    benchmark.extra_info |= max(found, key=lambda each: each["steps_per_s"])


@pytest.mark.parametrize(("recipe", "samples"), [("encoder", 64), ("setfit", 1024)])
def test_train_classifier(benchmark, real_models, tmp_path, recipe, samples):
    """MiniLM on SST-2, 300 steps of 16 rows; `ratio` is the whole process's seconds by its steps'."""
    data = ROOT.parent / "shared" / "data" / "sst2"
    if not data.is_dir():
        pytest.skip(f"needs SST-2 in {data}")
    command = [sys.executable, str(SCRIPT), "command", f"--model={real_models / 'all-MiniLM-L6-v2'}", f"--data_dir={data}"]
    command += [f"--output_path={tmp_path}", f"--recipe={recipe}", f"--samples={samples}", "--set=steps=300"]

    def run():
        begun = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1]) | {"whole_s": time.perf_counter() - begun}

    found = benchmark.pedantic(run, rounds=1)
    benchmark.extra_info |= found | {"ratio": found["whole_s"] / found["steps_s"]}
