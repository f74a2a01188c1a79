"""A GGUF file beside the folder of its unpacked weights: speed, memory and labels, each run in a process of its own.

python tests/benchmarks/gguf_beside_folder.py MODELS SST2 OUT [LIMIT] [THREADS], where MODELS holds smollm2.gguf, gemma3.gguf
and the folders that `../shared/models/fetch` has unpacked from them into bfloat16.
"""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

PAIRS = {"smollm2.gguf": "SmolLM2-135M-Instruct", "gemma3.gguf": "gemma-3-270m"}


def run(model: Path, dtype: str, data: str, out: Path, limit: str, threads: str) -> Path:
    """Evaluate a model where that has not been done, and return the run's folder."""
    command = [sys.executable, "-m", "harness_ext", "run", f"--pretrained={model}", f"--dtype={dtype}", f"--data_dir={data}"]
    subprocess.run(
        [*command, f"--limit={limit}", f"-o={out}"], check=True, env={**os.environ, "OMP_NUM_THREADS": threads}
    )  # fmt: skip
    (folder,) = (file.parent for file in out.glob("runs/*/run.json"))
    return folder


def labels(folder: Path) -> list[str]:
    """Return what was read of each answer."""
    with (folder / "outcomes.csv").open(encoding="utf-8", newline="") as file:
        return [row["lenient"] for row in csv.DictReader(file)]


def main(models: str, data: str, out: str, limit: str = "872", threads: str = "2") -> None:
    """Print a row for each run."""
    print("| model | dtype | docs/s | load s | peak memory | score | labels other than the folder's | near ties |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for pair in PAIRS.items():
        for dtype in ("float32", "bfloat16"):
            folders = [run(Path(models, name), dtype, data, Path(out, f"{name}-{dtype}"), limit, threads) for name in pair]
            both = [labels(folder) for folder in folders]
            for name, folder in zip(pair, folders, strict=True):
                done = json.loads((folder / "run.json").read_text(encoding="utf-8"))
                other = sum(a != b for a, b in zip(*both, strict=True)) if name in PAIRS else ""
                memory, lenient = done["peak_memory_bytes"]["process"] / 1e9, done["metrics"]["lenient"]["acc"]
                cells = [name, dtype, f"{done['docs_per_s']:.1f}", f"{done['time_s']['load']:.1f}", f"{memory:.2f} GB"]
                print("|", " | ".join([*cells, f"{100 * lenient:.2f}", str(other), str(done["near_ties"])]), "|", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
