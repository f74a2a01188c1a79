"""Runs as files, made up, for the tests of the page; nothing is loaded and nothing is asked."""

import zlib
from pathlib import Path
from typing import Any

from harness_ext.results import outcomes
from harness_ext.results.records import SCHEMA, write_json

COUNT = 120  # documents
HOSTILE = (
    "<script>document.title='x';alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)" x="',
    "&lt;b&gt; &amp; **bold** [a](javascript:alert(1)) `code` | {{ 7 * 7 }}",
    "a\u202egnp.exe\u2066 \u200b\u2028next\x00\x1b[31m\r\nline",
)


def sentence(number: int) -> str:
    return f"sentence number {number} of them"


def write_data(folder: Path) -> Path:
    """Write a dev.tsv with the texts of the documents."""
    lines = [f"{sentence(number)}\t{number % 2}\n" for number in range(COUNT)]
    (folder / "dev.tsv").write_text("sentence\tlabel\n" + "".join(lines), encoding="utf-8")
    return folder


def write_run(out: Path, number: int, *, response: str = "", hashes: str = "", **more: Any) -> Path:
    """Write a run: it says what a hash of its number and the document's says, and to every tenth document no label.

    Args:
        out: Under which it is written.
        number: Decides what it says.
        response: What it wrote where there is no label.
        hashes: Before each document's hash, so that its documents are others.
        more: Fields of its record.
    """
    from harness_ext.report.texts import doc_hash

    rows = []
    for doc in range(COUNT):
        gold, said = doc % 2, zlib.crc32(f"{number} {doc}".encode()) % 10
        label, kind = (gold if said > number % 3 else 1 - gold, "label") if doc % 10 else (None, "word")
        labels, kinds = {"lenient": label, "strict": label}, {"lenient": kind, "strict": kind}
        margin, wrote = (said + 1) * (1 if label == 1 else -1) / 3, response if label is None else ""
        rows.append(outcomes.Outcome(doc, hashes + doc_hash(sentence(doc), gold), gold, labels, kinds, margin, wrote))
    folder = out / "runs" / f"run-{number}"
    folder.mkdir(parents=True)
    outcomes.write(folder / "outcomes.csv", rows)
    record = {
        "schema": SCHEMA,
        "key": f"{number:064}",
        "experiment": f"experiment {number}",
        "curve": f"curve {number}",
        "method": "prompted",
        "model": f"model {number}",
        "not_default": {},
        "train_samples": 0,
        "seed": None,
        "task": "sst2_01",
        "data": "made up",
        "data_fingerprint": hashes or "x",
        "prompt": {"first": f"Sentence: {sentence(0)}\nAnswer:"},
        "n": COUNT,
        "n_available": COUNT,
        "counts": outcomes.counts(rows),
        "docs_per_s": 10.0,
        "hardware": "abacus",
        "command": f"python -m harness_ext run --pretrained=model-{number}",
        "started": f"2026-01-{1 + number % 28:02}T00:00:00+00:00",
    }
    write_json(folder / "run.json", record | more)
    return folder
