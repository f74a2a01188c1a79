"""The page of a thousand runs of 872 documents: how long it takes to write, and how much memory."""

import hashlib
import json
import resource
import shutil
import subprocess
import sys

import pytest

from harness_ext.paths import ROOT

MOST_CPU_S, MOST_BYTES, MOST_MEMORY = 10, 20e6, 1e9


@pytest.fixture
def thousand_runs(tmp_path):
    """The published runs over and over, each time of other models."""
    published = sorted((ROOT / "results" / "published").iterdir())
    for number in range(1000):
        again, which = divmod(number, len(published))
        record = json.loads((published[which] / "run.json").read_text(encoding="utf-8"))
        record |= {"model": f"{record['model']}-{again}"}
        for name in ("key", "experiment", "curve"):
            record[name] = hashlib.sha256(f"{record[name]}{again}".encode()).hexdigest()
        folder = tmp_path / "runs" / f"run{number}"
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
        shutil.copy(published[which] / "outcomes.csv", folder)
    return tmp_path


def test_report_of_1000_runs(benchmark, thousand_runs):
    """A whole process, on one core: its processor time is what a busy machine cannot change."""
    command = [sys.executable, "-m", "harness_ext", "report", "-o", str(thousand_runs)]
    benchmark.pedantic(subprocess.run, [command], {"check": True, "capture_output": True}, rounds=1)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    size = (thousand_runs / "report.html").stat().st_size
    cpu = used.ru_utime + used.ru_stime
    benchmark.extra_info |= {"cpu_s": round(cpu, 1), "memory_mb": used.ru_maxrss // 1024, "page_mb": round(size / 1e6, 1)}
    assert cpu < MOST_CPU_S
    assert size < MOST_BYTES
    assert used.ru_maxrss * 1024 < MOST_MEMORY
