"""lm-eval's results of a run: written by its own tracker, checked, and read by filter."""

import contextlib
import hashlib
import json
import logging
import shutil
from collections.abc import Iterable, Iterator
from datetime import datetime
from logging.handlers import BufferingHandler
from pathlib import Path
from typing import Any

from lm_eval.loggers import evaluation_tracker

from harness_ext.errors import UserError
from harness_ext.results.records import plain
from harness_ext.run.provenance import replaced
from harness_ext.run.redaction import hide
from harness_ext.run.samples import Samples

LOG = "samples.jsonl"


def save(tracker: Any, results: dict[str, Any], samples: Samples, task: str, work: Path, secrets: Iterable[str]) -> Path:
    """Let lm-eval write its two files and check that they are there and whole; it only warns if they are not.

    Returns:
        The folder with ``results.json`` and `LOG`, inside the workspace.
    """
    shutil.rmtree(work / "lm_eval", ignore_errors=True)
    names = tracker.general_config_tracker  # it names a folder after the model, whatever that is called
    names.model_name_sanitized = plain(names.model_name or "model", 100)
    digest = hashlib.sha256()

    def lines() -> Iterator[dict[str, Any]]:
        for sample in samples:
            digest.update((sample["doc_hash"] + sample["prompt_hash"] + sample["target_hash"]).encode())
            yield hide(sample, secrets)

    with _heard(evaluation_tracker.__name__) as heard:
        # The log first, after which nothing of it is held. lm-eval, which names both files by the time of the other one,
        # would join the hashes of all lines before it hashes them.
        tracker.date_id = f"{datetime.now():%Y-%m-%dT%H-%M-%S.%f}"
        tracker.save_results_samples(task_name=plain(task, 80), samples=lines())
        with replaced(evaluation_tracker, hash_string=lambda joined: digest.hexdigest()):
            tracker.save_results_aggregated(results=hide(results, secrets), samples={task: ()})
    found = [*work.glob("lm_eval/*/results_*.json"), *work.glob("lm_eval/*/samples_*.jsonl")]
    try:
        summary, log = found
        json.loads(summary.read_text(encoding="utf-8"))
        with log.open(encoding="utf-8") as file:
            if sum(1 for _ in file) != len(samples):
                raise ValueError("samples are missing")
    except ValueError:
        reasons = [record.getMessage() for record in heard if "Error(" in record.getMessage()]
        raise UserError(
            f"Results could not be written to {work}: {' '.join(reasons) or 'files are missing or cut off'}. "
            "Make room, or choose another folder with OUT=; the answers so far are kept."
        ) from None
    finished = summary.parent
    summary.rename(finished / "results.json")
    log.rename(finished / LOG)
    return finished


def read_log(folder: Path) -> Iterator[dict[str, Any]]:
    """Read what `save` has written of the documents, line by line."""
    with (folder / LOG).open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def by_filter(results: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Turn lm-eval's ``metric,filter`` keys into metrics by filter."""
    metrics: dict[str, dict[str, float]] = {}
    for name, value in results.items():
        metric, comma, kind = name.partition(",")
        if comma and isinstance(value, int | float):
            metrics.setdefault(kind, {})[metric] = float(value)
    return metrics


@contextlib.contextmanager
def _heard(name: str) -> Iterator[list[logging.LogRecord]]:
    """Collect what a logger says, and keep it from being printed."""
    logger, handler = logging.getLogger(name), BufferingHandler(capacity=1000)
    before = logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield handler.buffer
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before
