"""The texts of documents: a run keeps their hashes alone, so they come from its samples.jsonl or from DATA_DIR."""

import contextlib
import hashlib
import json
from dataclasses import replace

from harness_ext.errors import UserError
from harness_ext.paths import as_path
from harness_ext.report import lm_eval_log
from harness_ext.report.logs import Log, Side
from harness_ext.task import tsv

SAMPLES = "samples.jsonl"
HINT = "DATA_DIR=folder (with dev.tsv) shows the sentences."


def with_texts(side: Side, data_dir: str | None) -> Side:
    """Add to the first log the texts of its documents, and what was written where the run itself did not keep it."""
    log, *others = side.logs
    if side.runs and (file := side.runs[0].folder / SAMPLES).is_file():
        with contextlib.suppress(UserError):  # a damaged one is no reason not to compare
            log = _with_samples(log, lm_eval_log.read(file))
    if not log.texts and data_dir:
        log = _with_data(log, data_dir)
    return replace(side, logs=(log, *others))


def doc_hash(sentence: str, label: int) -> str:
    """Hash a row of ours as lm-eval does (evaluator.py, ``doc_hash``)."""
    return hashlib.sha256(
        json.dumps({"sentence": sentence, "label": label}, indent=2, ensure_ascii=False).encode()
    ).hexdigest()


def _with_samples(log: Log, samples: Log) -> Log:
    place = {name: n for n, name in enumerate(samples.hashes)}
    if not set(log.hashes) <= place.keys():
        return log
    same = samples.take([place[name] for name in log.hashes])
    written = zip(log.responses, same.responses, strict=True)
    return replace(log, texts=same.texts, responses=tuple(kept if _is_kept(kept) else text for kept, text in written))


def _is_kept(response: str) -> bool:
    return bool(response) and not (response.startswith("[") and response.endswith("]"))


def _with_data(log: Log, data_dir: str) -> Log:
    path = as_path("DATA_DIR", data_dir) / "dev.tsv"
    rows = [(sentence.strip(), label.strip()) for _, sentence, label in tsv.read_columns(path, "sentence", "label")]
    known = {doc_hash(sentence, int(label)): sentence for sentence, label in rows if label in ("0", "1")}
    if log.hashes and not known.keys() & set(log.hashes):
        raise UserError(
            f"{path} holds none of the documents. Give the data that they were taken from, or leave DATA_DIR out."
        )
    return replace(log, texts=tuple(known.get(name, "") for name in log.hashes))
