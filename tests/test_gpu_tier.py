"""The GPU tier where there is no GPU: it is not empty, asks for little, and its own logic holds on the CPU."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

# What a bare CUDA machine lacks. It must not be asked for before a test is skipped for it.
ABSENT = (
    "hypothesis",
    "bitsandbytes",
    "gptqmodel",
    "matplotlib",
    "sentencepiece",
    "xdist",
    "pytest_benchmark",
    "trl",
    "vllm",
)
START = f"import sys; sys.modules |= dict.fromkeys({ABSENT!r}); import pytest; sys.exit(pytest.main(sys.argv[1:]))"


def tier(*words: str, **variables: str) -> subprocess.CompletedProcess:
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **variables}
    command = [sys.executable, *words, "-m", "gpu", "-p", "no:cacheprovider", "tests/gpu"]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=900, stdin=subprocess.DEVNULL)


@pytest.mark.slow
def test_tier_has_tests_and_without_a_device_ends_in_one_line():
    done = tier("-c", START)
    said = re.findall(r"no CUDA device, which (\d+) tests need", done.stdout + done.stderr)
    assert (done.returncode, len(said)) == (2, 1), done.stdout + done.stderr
    assert int(said[0]) >= 15
    assert len(done.stdout.strip().splitlines()) <= 2  # pytest adds that it ran none


@pytest.mark.slow
def test_tier_holds_on_the_cpu_and_leaves_its_report(tmp_path: Path):
    report = tmp_path / "gpu.json"
    done = tier("-m", "pytest", GPU_TIER_DEVICE="cpu", GPU_TIER_REPORT=str(report))
    assert done.returncode == 0, done.stdout
    written = json.loads(report.read_text())
    tests = {test["test"]: test for test in written["tests"]}
    assert written["devices"] == ["cpu"]
    assert {test["outcome"] for test in tests.values()} == {"passed", "skipped"}
    assert all("why" in test for test in tests.values() if test["outcome"] == "skipped")
    assert tests["test_evaluation.py::test_speed_against_the_stock_path_is_measured"]["figures"]["ratio"] > 0
