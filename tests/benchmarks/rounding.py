"""How much of a model's score is rounding: the same sentences, asked in other batches and in another precision.

    python tests/benchmarks/rounding.py MODEL DATA_DIR [LIMIT]

prints a Markdown table. In float32 all ways agree; in bfloat16 a greedy answer depends on the batch's shape. For each way:
how many labels differ from those of float32, and how many documents were counted as near ties.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from harness_ext.__main__ import main
from harness_ext.results.records import read_runs

WAYS = {
    "ours, bfloat16": ("bfloat16", "shared", "auto"),
    "stock, batch 1, bfloat16": ("bfloat16", "stock", "1"),
    "stock, batch 32, bfloat16": ("bfloat16", "stock", "32"),
    "ours, float32": ("float32", "shared", "auto"),
    "stock, batch 32, float32": ("float32", "stock", "32"),
}
EXACT = "ours, float32"


def answers(out: Path) -> tuple[dict[int, str | None], dict[str, Any]]:
    """Return the label of each document, None where it has none, and the record, of the only run under a folder."""
    (log,) = out.glob("runs/*/samples.jsonl")
    samples = map(json.loads, log.read_text(encoding="utf-8").splitlines())
    predictions = {each["doc_id"]: each["filtered_resps"][0] for each in samples if each["filter"] == "lenient"}
    labels = {document: said if said in ("0", "1") else None for document, said in predictions.items()}
    return labels, read_runs(out)[0]


def table(found: dict[str, tuple[dict[int, str | None], dict[str, Any]]]) -> str:
    """Lay out what was found as Markdown."""
    exact, _ = found[EXACT]
    lines = ["| way | score | not following | labels unlike float32's | near ties |", "| --- | --: | --: | --: | --: |"]
    for way, (labels, record) in found.items():
        counts = record["counts"]["lenient"]
        unlike = sum(label != exact[document] for document, label in labels.items())
        ties = record.get("near_ties")
        row = (way, f"{100 * counts['correct'] / record['n']:.2f}", sum(counts["not_following"].values()), unlike)
        lines.append(f"| {' | '.join(map(str, row))} | {'not counted' if ties is None else ties} |")
    return "\n".join(lines)


def measure(model: str, data: str, limit: str | None = None) -> str:
    """Run a model in all ways, and return the table."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (way, (dtype, engine, batch)) in enumerate(WAYS.items()):
            out = Path(folder, str(number))
            words = ["run", "--pretrained", model, "--data_dir", data, "--tasks", "sst2_01", "-o", str(out)]
            words += ["--dtype", dtype, "--engine", engine, "-b", batch, *(["--limit", limit] if limit else [])]
            if code := main(words):
                sys.exit(code)
            found[way] = answers(out)
    return table(found)


if __name__ == "__main__":
    print(measure(*sys.argv[1:]))
