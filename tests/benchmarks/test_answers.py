"""`hf-answer` beside stock lm-eval: the same prompts, machine and run, and the same labels, checked on the spot.

Every side is a whole process (`answer_once.py`); the figures stand in extra_info. The models are `bench_models.py`'s.
"""

import importlib.util
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from bench_models import body_parameters, build

from harness_ext.paths import ROOT
from harness_ext.task.labels import read

SCRIPT = Path(__file__).with_name("answer_once.py")
SST2 = ROOT.parent / "shared" / "data" / "sst2"
CASES = [  # size, variant, dtype, stock's batch, ours ("" is what it chooses), documents
    ("28M", "answers", "float32", "1", "1", 40),
    ("28M", "answers", "float32", "8", "8", 100),
    ("28M", "answers", "float32", "32", "", 256),
    ("28M", "answers", "bfloat16", "32", "", 40),
    ("28M", "late", "float32", "32", "", 128),
    ("28M", "never", "float32", "32", "32", 128),
    ("150M", "answers", "float32", "32", "", 48),
    ("150M", "answers", "bfloat16", "32", "", 12),
]


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Return a function that builds a model once."""
    built: dict[tuple, Path] = {}

    def get(size="28M", variant="answers", dtype="float32"):
        key = (size, variant, dtype)
        if key not in built:
            built[key] = build(tmp_path_factory.mktemp("models") / "-".join(key), *key)
        return built[key]

    return get


@pytest.fixture(scope="session")
def sst2():
    if not SST2.is_dir():
        pytest.skip(f"needs SST-2 in {SST2}")
    return SST2


def all_cores() -> dict[str, str]:
    """Return the environment without the one thread that tests keep to."""
    return {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}


def measure(side: str, model: Path | str, data: Path, out: Path, **settings: object) -> dict:
    given = [f"{name}={value}" for name, value in settings.items() if value]
    command = [sys.executable, str(SCRIPT), side, str(model), str(data), str(out), *given]
    done = subprocess.run(command, capture_output=True, text=True, env=all_cores())
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def labels(out: Path) -> list[tuple]:
    (log,) = out.rglob("samples*.jsonl")
    rows = map(json.loads, log.read_text(encoding="utf-8").splitlines())
    return sorted((row["doc_id"], row["filter"], *row["filtered_resps"]) for row in rows)


@pytest.mark.parametrize(("size", "variant", "dtype", "theirs", "ours", "limit"), CASES)
def test_answers_beside_stock(benchmark, models, sst2, tmp_path, size, variant, dtype, theirs, ours, limit):
    model = models(size, variant, dtype)
    sides = {
        "stock": measure("stock", model, sst2, tmp_path / "stock", batch=theirs, limit=limit, system="yes"),
        "ours": benchmark.pedantic(
            measure, ("ours", model, sst2, tmp_path / "ours"), {"batch": ours, "limit": limit, "system": "yes"}, rounds=1
        ),
    }
    same = sum(a == b for a, b in zip(labels(tmp_path / "ours"), labels(tmp_path / "stock"), strict=True))
    benchmark.extra_info |= {"documents": limit, "labels_equal": same, "labels": 2 * limit, **sides}
    if dtype == "float32":  # of bfloat16 stock rounds, and ours computes in float32 here
        assert same == 2 * limit


def test_examples_beside_stock(benchmark, models, sst2, tmp_path):
    model, limit = models(), 40
    settings = {"limit": limit, "shots": "16"}
    stock = measure("stock", model, sst2, tmp_path / "stock", batch="8", **settings)
    ours = benchmark.pedantic(measure, ("ours", model, sst2, tmp_path / "ours"), settings, rounds=1)
    same = sum(a == b for a, b in zip(labels(tmp_path / "ours"), labels(tmp_path / "stock"), strict=True))
    benchmark.extra_info |= {"documents": limit, "labels_equal": same, "labels": 2 * limit, "stock": stock, "ours": ours}
    assert same == 2 * limit


def test_answers_beside_inspect_ai(benchmark, models, sst2, tmp_path):
    if importlib.util.find_spec("inspect_ai") is None:
        pytest.skip("needs inspect_ai: .venv/bin/pip install -c constraints.txt inspect_ai")
    model, limit = models(), 200
    command = [sys.executable, str(SCRIPT.with_name("inspect_once.py")), str(model), str(sst2), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=all_cores())
    assert done.returncode == 0, done.stderr[-2000:]
    theirs = json.loads(done.stdout.splitlines()[-1])
    ours = benchmark.pedantic(measure, ("ours", model, sst2, tmp_path / "ours"), {"limit": limit}, rounds=1)
    found = [row for row in labels(tmp_path / "ours") if row[1] == "lenient"]
    same = sum((read(text).label or "none") == row[2] for text, row in zip(theirs.pop("answers"), found, strict=True))
    benchmark.extra_info |= {"documents": limit, "labels_equal": same, "inspect_ai": theirs, "ours": ours}


def gigaflops(dtype: torch.dtype = torch.float32) -> float:
    """The machine's matrix-product rate: the best of several products of 1024 x 1024."""
    torch.set_num_threads(os.cpu_count() or 1)
    a, b = torch.randn(1024, 1024).to(dtype), torch.randn(1024, 1024).to(dtype)
    best = float("inf")
    for _ in range(20):
        start = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - start)
    return 2 * 1024**3 / best / 1e9


def measure_share(benchmark, model: Path, data: Path, out: Path, limit: int, dtype: str) -> None:
    """Measure the share of the machine's rate that the necessary work is done at.

    That is every token of a prompt once, the common beginning once in all, and what is written but the last.
    """
    before = gigaflops(getattr(torch, dtype))
    given = {"limit": limit, "dtype": dtype, "tokens": 1}
    seen = benchmark.pedantic(measure, ("ours", model, data, out), given, rounds=1)
    rate = max(before, gigaflops(getattr(torch, dtype)))
    (path,) = out.rglob("run.json")
    record = json.loads(path.read_text(encoding="utf-8"))
    prefix = record["engine"]["prefix_tokens"]
    tokens = prefix + record["tokens"]["in"] - limit * prefix + record["tokens"]["out"] - limit
    flops = 2 * body_parameters(model) * tokens
    benchmark.extra_info |= {
        "documents": limit, "docs_per_s": seen["docs_per_s"], "tokens": tokens, "machine_gflops": rate,
        "gflops": flops / seen["answer_s"] / 1e9, "share": flops / seen["answer_s"] / 1e9 / rate,
    }  # fmt: skip


@pytest.mark.parametrize("size", ["28M", "150M", "0.5B"])
def test_share_of_the_machines_matrix_product_rate(benchmark, models, sst2, tmp_path, size):
    measure_share(benchmark, models(size), sst2, tmp_path, {"28M": 872, "150M": 200, "0.5B": 64}[size], "float32")


@pytest.fixture(scope="session")
def sentences(tmp_path_factory):
    """Return a function that writes `count` sentences of `words` words, each other, as GLUE's files."""

    def write(count, words=19):
        folder = tmp_path_factory.mktemp("data")
        vocabulary = ["a", "the", "film", "plot", "is", "was", "good", "bad", "warm", "dull", "long", "and", "but", "never"]
        rng = random.Random(0)
        lines = [
            f"{' '.join(rng.choices(vocabulary, k=max(1, words + rng.randint(-words // 2, words // 2))))} {row} \t{row % 2}"
            for row in range(count)
        ]
        for name in ("train.tsv", "dev.tsv"):
            (folder / name).write_text("sentence\tlabel\n" + "\n".join(lines) + "\n")
        return folder

    return write


@pytest.mark.parametrize("documents", [872, 10_000, 100_000])
def test_growth_with_documents(benchmark, sentences, tmp_path, documents):
    """`tiny`, so that what does not depend on the model shows."""
    data = sentences(documents)
    seen = benchmark.pedantic(measure, ("ours", ROOT / "models" / "tiny", data, tmp_path), rounds=1)
    benchmark.extra_info |= {"documents": documents, **seen}


@pytest.mark.parametrize("words", [10, 40, 160])
def test_growth_with_prompt_length(benchmark, models, sentences, tmp_path, words):
    seen = benchmark.pedantic(measure, ("ours", models(), sentences(128, words), tmp_path), rounds=1)
    benchmark.extra_info |= {"documents": 128, "words": words, **seen}


@pytest.mark.parametrize("side", ["stock", "ours"])
def test_tiny_on_872(benchmark, sst2, tmp_path, side):
    """Start to first answer, and the whole, where the model costs next to nothing."""
    model = ROOT / "models" / "tiny"
    benchmark.extra_info |= benchmark.pedantic(measure, (side, model, sst2, tmp_path), rounds=1)
