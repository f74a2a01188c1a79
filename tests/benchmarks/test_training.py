"""Training with the shared prefix beside plain Trainer and, where it is installed, TRL: steps/s and peak memory."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

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
