"""What the GPU tier shares: the device, commands in this process, models built here, and the report it leaves.

On a bare CUDA machine: ``PYTHONPATH=/tmp/site:. python3 -m pytest -m gpu tests/gpu``; what is not installed there is
skipped. ``GPU_TIER_DEVICE=cpu`` runs the tests' own logic where there is no GPU. The report goes to results/gpu.json, or
where ``GPU_TIER_REPORT=`` says; without a GPU it is written only then.
"""

import gc
import importlib.util
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from builders import answering_model, build_tokenizer, tsv_folder
from conftest import ROOT, Outcome

DEVICE = os.environ.get("GPU_TIER_DEVICE", "cuda")
DTYPES = ("float32", "bfloat16")
WORDS = (
    ("bad", "cold", "dull", "silly", "poor", "dark", "thin", "weak"),
    ("good", "warm", "funny", "clever", "fine", "bright", "rich", "bold"),
)
ROWS = [(f"a {word} film {n}", label) for n in range(4) for label in (0, 1) for word in WORDS[label]]
_tests: list[dict[str, Any]] = []


def pytest_collection_finish(session: pytest.Session) -> None:
    """Without a device end in one line, or skip these tests where others run too."""
    chosen = [item for item in session.items if "gpu" in item.keywords]
    if not chosen or DEVICE != "cuda" or torch.cuda.is_available() or session.config.option.collectonly:
        return
    if len(chosen) == len(session.items):
        pytest.exit(f"no CUDA device, which {len(chosen)} tests need (GPU_TIER_DEVICE=cpu tries them without)", 2)
    for item in chosen:
        item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep each test's outcome, seconds and figures for the report."""
    if "gpu" not in report.keywords or (report.when != "call" and report.passed):
        return
    name = report.nodeid.rpartition("/")[2]
    entry: dict[str, Any] = {"test": name, "outcome": report.outcome, "seconds": round(report.duration, 2)}
    if report.skipped and isinstance(report.longrepr, tuple):
        entry["why"] = report.longrepr[2]
    _tests.append(entry | ({"figures": figures} if (figures := dict(report.user_properties)) else {}))


def pytest_sessionfinish() -> None:
    """Write the report, if there is anything to report."""
    place = os.environ.get("GPU_TIER_REPORT") or (str(ROOT / "results" / "gpu.json") if DEVICE == "cuda" else None)
    if _tests and place:
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        report = {**_machine(), "seconds": round(sum(test["seconds"] for test in _tests)), "tests": _tests}
        Path(place).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Run:
    """One finished run: its record, and for each document the lenient label or, of a forced choice, the scores of both."""

    record: dict[str, Any]
    predictions: list[Any]


@pytest.fixture(scope="session")
def device() -> str:
    """Where the tests run."""
    return DEVICE


@pytest.fixture(autouse=True)
def _nothing_left_on_the_device() -> Iterator[None]:
    yield
    free()


@pytest.fixture(autouse=True)
def _no_picture_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        monkeypatch.setattr("finetune.curves.draw", lambda runs, path: [])


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `ROWS` to train on and to score."""
    return tsv_folder(tmp_path_factory.mktemp("data") / "words", ROWS, ROWS)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The model that answers " 0" or " 1", by the dtype it is stored in."""
    folder = tmp_path_factory.mktemp("answering")
    return {dtype: answering_model(folder / dtype, "llama", dtype=dtype) for dtype in DTYPES}


@pytest.fixture(scope="session")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 155 million random weights in bfloat16, built on the device; a small one where that is the CPU."""
    folder = tmp_path_factory.mktemp("larger") / "model"
    tokenizer = build_tokenizer("llama")
    sizes: dict[str, Any] = {
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_hidden_layers": 12,
        "num_attention_heads": 16,
    }
    if DEVICE == "cpu":
        sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, **sizes
    )
    torch.manual_seed(0)
    with torch.device(DEVICE):
        model: Any = transformers.LlamaForCausalLM(config)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    del model
    free()
    return folder


@pytest.fixture
def evaluate(door: Callable[..., Outcome], data: Path, tmp_path: Path, device: str) -> Callable[..., Run]:
    """Evaluate in this process: ``evaluate("name", "--pretrained=folder")``."""

    def call(name: str, *flags: str, on: str = device) -> Run:
        out = tmp_path / name
        done = door("run", f"--data_dir={data}", f"--output_path={out}", f"--device={on}", *flags)
        assert done.code == 0, done.stderr
        return read_run(out)

    return call


@pytest.fixture
def train(capfd: pytest.CaptureFixture[str], data: Path, tmp_path: Path, device: str) -> Callable[..., Path]:
    """Train in this process and return the adapter's folder: ``train("--model=folder")``."""
    from finetune.__main__ import main

    def call(*flags: str, on: str = device) -> Path:
        short = ("--samples=16", "--set=steps={2: 8}", "--set=evaluations=2", "--set=batch_size=8")
        place = (f"--data_dir={data}", f"--output_path={tmp_path / 'out'}", f"--device={on}")
        code = main([*short, *place, *flags])
        assert code == 0, capfd.readouterr().err
        (manifest,) = tmp_path.glob("out/adapters/*/run.json")
        return manifest.parent

    return call


def read_run(out: Path) -> Run:
    """Read the only run under OUT."""
    (folder,) = (path.parent for path in out.glob("runs/*/run.json"))
    samples = [json.loads(line) for line in (folder / "samples.jsonl").open(encoding="utf-8")]
    chosen = sorted((s for s in samples if s["filter"] in ("lenient", "none")), key=lambda sample: sample["doc_id"])
    predictions = [s["filtered_resps"][0] if s["filter"] == "lenient" else s["filtered_resps"] for s in chosen]
    return Run(json.loads((folder / "run.json").read_text(encoding="utf-8")), predictions)


def free() -> None:
    """Give back what this process holds on the device and does not use."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _machine() -> dict[str, Any]:
    """Say what the tests ran on; nothing that names the machine itself."""
    cuda = DEVICE.startswith("cuda")
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())] if cuda else []
    return {
        "devices": names or [DEVICE],
        "driver": _driver() if cuda else None,
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _driver() -> str | None:
    try:
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(asked, capture_output=True, text=True, check=True, timeout=20).stdout.split("\n")[0]
    except (OSError, subprocess.SubprocessError):
        return None
