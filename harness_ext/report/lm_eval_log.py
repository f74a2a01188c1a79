"""lm-eval's ``samples_*.jsonl``: of its own tasks, and of ours with their filters.

Of a task with several filters the lenient one counts, else the one that comes first.
"""

from pathlib import Path
from typing import Any

import numpy as np

from harness_ext.errors import UserError
from harness_ext.report.logs import UNTOLD, Log
from harness_ext.report.text_files import parse_json, read_text
from harness_ext.results import outcomes
from harness_ext.task.label_values import plain

_METRICS = ("acc", "exact_match")  # that say of one document whether it is right


def read(path: Path) -> Log:
    """Read a log; the label is taken from what was predicted where that is in it, else from which answers were right."""
    lines = read_text(path).split("\n")  # what else ends a line elsewhere may stand in a text
    samples = [parse_json(line, f"line {number}") for number, line in enumerate(lines, start=1) if line.strip()]
    for number, sample in enumerate(samples, start=1):
        if not isinstance(sample, dict) or not {"doc_id", "target", "filtered_resps"} <= sample.keys():
            raise UserError(f"line {number} is no sample of lm-eval's, with doc_id, target and filtered_resps.")
    filters = [sample.get("filter") for sample in samples]
    kept = "lenient" if "lenient" in filters else filters[0]
    samples = [sample for sample in samples if sample.get("filter") == kept]
    try:
        return _ours(samples) if "acc_following" in samples[0] else _stock(samples)
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"its samples are not as lm-eval writes them ({type(error).__name__}: {str(error)[:80]!r})."
        ) from None


def _ours(samples: list[dict[str, Any]]) -> Log:
    rows = [row for sample in samples for row in outcomes.rows([sample], {})]
    labels = [next(iter(row.labels.values())) for row in rows]
    return Log(
        ids=tuple(str(row.doc) for row in rows),
        gold=tuple(str(row.gold) for row in rows),
        said=tuple("" if label is None else str(label) for label in labels),
        correct=np.array([label == row.gold for label, row in zip(labels, rows, strict=True)]),
        responses=tuple(row.response for row in rows),
        margins=np.array([np.nan if row.margin is None else row.margin for row in rows]),
        hashes=tuple(row.hash for row in rows),
        texts=tuple(_text(sample["doc"]) for sample in samples),
    )


def _stock(samples: list[dict[str, Any]]) -> Log:
    right = [_is_right(sample) for sample in samples]
    gold = tuple(plain(sample["target"]) for sample in samples)
    two = set(gold) <= {"0", "1"}
    said, margins = [], []
    for sample, is_right, label in zip(samples, right, gold, strict=True):
        likelihoods = _likelihoods(sample["filtered_resps"])
        chosen = str(int(np.argmax(likelihoods))) if likelihoods else ""
        if (chosen == label) != is_right or not chosen:
            chosen = label if is_right else str(1 - int(label)) if two else UNTOLD
        said.append(chosen)
        margins.append(likelihoods[1] - likelihoods[0] if len(likelihoods) == 2 else np.nan)
    texts = [sample["resps"][0][0] if not _likelihoods(sample["filtered_resps"]) else "" for sample in samples]
    return Log(
        ids=tuple(str(sample["doc_id"]) for sample in samples),
        gold=gold,
        said=tuple(said),
        correct=np.array(right),
        responses=tuple(str(text)[: outcomes.LONGEST] for text in texts),
        margins=np.array(margins),
        hashes=tuple(str(sample["doc_hash"]) for sample in samples) if "doc_hash" in samples[0] else (),
        texts=tuple(_text(sample["doc"]) for sample in samples),
        tells_following=not any(texts),
    )


def _is_right(sample: dict[str, Any]) -> bool:
    for metric in (*_METRICS, *sample.get("metrics", ())):
        if isinstance(sample.get(metric), int | float) and sample[metric] in (0, 1):
            return bool(sample[metric])
    raise UserError(f"document {str(sample['doc_id'])[:40]!r} has no metric that says whether it is right, such as acc.")


def _likelihoods(predictions: list[Any]) -> list[float]:
    """Read the pairs (log-likelihood, is greedy) of a choice; nothing of an answer that was written."""
    if not all(isinstance(each, list | tuple) and len(each) == 2 for each in predictions):
        return []
    return [float(likelihood) for likelihood, _ in predictions]


def _text(doc: Any) -> str:
    """Take a document's text: our own column, or whichever comes first."""
    if not isinstance(doc, dict):
        return str(doc)
    texts = [value for value in doc.values() if isinstance(value, str)]
    return str(doc.get("sentence") or next(iter(texts), ""))
