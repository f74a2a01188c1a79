"""`make bench-gpu`: `hf-answer` on one CUDA GPU beside stock lm-eval at batch 64, and beside vLLM where it is installed.

A random model of Qwen2.5-0.5B's shape, which answers at once, and one of 28M that thinks; 872 sentences of 19 words, or
those of DATA_DIR. Each side is a whole process (`answer_once.py`) with a time limit; what has been measured is written after
each, so that what is cut short is not lost.
"""

import json
import os
import platform
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from bench_models import build

from harness_ext.paths import ROOT

SCRIPT = Path(__file__).with_name("answer_once.py")
OUT = ROOT / "results" / "bench-gpu.json"
LIMIT_S = 40.0  # for each side: 6 minutes in all
WORDS = ("a", "the", "film", "plot", "is", "was", "good", "bad", "warm", "dull", "long", "and", "but", "never")
CASES = {  # size, variant, settings of both sides, stock's batch
    "answers": ("0.5B", "answers", {"dtype": "bfloat16"}, "64"),
    "examples": ("0.5B", "answers", {"dtype": "bfloat16", "shots": "16", "limit": "128"}, "64"),
    "thinks": ("28M", "thinks", {"dtype": "bfloat16", "think": "yes", "limit": "256"}, "64"),
}


def write_data(folder: Path) -> Path:
    """Write sentences as GLUE's files."""
    rng = random.Random(0)
    lines = [f"{' '.join(rng.choices(WORDS, k=rng.randint(10, 28)))} {row} \t{row % 2}" for row in range(872)]
    for name in ("train.tsv", "dev.tsv"):
        (folder / name).write_text("sentence\tlabel\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return folder


def measure(side: str, model: Path, data: Path, out: Path, **settings: str) -> dict:
    """Run one side, and return what it says, or what it ended with."""
    given = [f"{name}={value}" for name, value in settings.items()]
    command = [sys.executable, str(SCRIPT), side, str(model), str(data), str(out), "device=cuda", *given]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {LIMIT_S:.0f} s"}
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {"error": done.stderr[-500:]}


def main() -> None:
    """Measure, and leave results/bench-gpu.json."""
    if not torch.cuda.is_available():
        sys.exit("make bench-gpu needs a CUDA GPU, and torch sees none.")
    found: dict = {
        "gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "transformers": transformers.__version__,
        "python": platform.python_version(), "cases": {},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        data = Path(os.environ["DATA_DIR"]) if os.environ.get("DATA_DIR") else write_data(folder)
        for name, (size, variant, settings, batch) in CASES.items():
            model = build(folder / f"{size}-{variant}", size, variant, "bfloat16")
            case = found["cases"].setdefault(
                name, {"model": f"{size}, {variant}", "settings": settings, "stock_batch": batch}
            )
            for side, more in (("stock", {"batch": batch}), ("ours", {}), ("vllm", {})):
                case[side] = measure(side, model, data, folder / f"{name}-{side}", **settings, **more)
                OUT.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
            print(name, {side: case[side].get("docs_per_s", case[side].get("error")) for side in ("stock", "ours", "vllm")})


if __name__ == "__main__":
    main()
