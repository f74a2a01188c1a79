"""The leaderboard: every complete run as a row, sorted by score, beside what the original reported.

A pure function from records to rows; how rows are shown is `render`'s.
"""

from collections.abc import Iterable
from typing import Any

from harness_ext.evidence.proportion import wilson
from harness_ext.results.experiments import is_no_better, seed_of
from harness_ext.results.names import model_of, settings_text
from harness_ext.results.outcomes import main_counts
from harness_ext.results.reported import Score, score_of


def rows(records: Iterable[dict[str, Any]], reported: list[Score]) -> list[dict[str, Any]]:
    """Turn records, and the original's scores, into rows, best score first; runs without 0/1 counts are left out.

    A row has what `render.CSV_COLUMNS` names, shares in 0-1, and ``experiment`` and ``curve``.
    """
    scored = [_row(record, reported) for record in records if main_counts(record) and record["n"]]
    return sorted(scored, key=lambda row: (-row["score"], row["model"], str(row["adapter"]), row["task"], row["key"]))


def _row(record: dict[str, Any], reported: list[Score]) -> dict[str, Any]:
    main, strict, n = main_counts(record), record["counts"].get("strict"), record["n"]
    low, high = wilson(main["correct"], n)
    is_partial = n < record["n_available"]
    score = None if is_partial else score_of(record, reported)
    training, memory = record.get("training") or {}, record.get("peak_memory_bytes") or {}
    as_they_are = ("adapter", "recipe", "train_samples", "seed", "task", "data", "n", "n_available", "near_ties",
                   "docs_per_s", "method", "experiment", "curve", "key")  # fmt: skip
    return {
        **{name: record.get(name) for name in as_they_are},
        "seed": seed_of(record) if record.get("seed") is None else record["seed"],
        "model": model_of(record),
        "auroc": (record.get("margins") or {}).get("auroc"),
        "settings": settings_text(record.get("not_default") or {}),
        "optimiser_steps": training.get("optimiser_steps"),
        "collapsed": training.get("collapsed"),
        "no_better_than_base": is_no_better(training),
        "score": main["correct"] / n,
        "low": low,
        "high": high,
        "not_following": sum(main["not_following"].values()),
        "strict_score": strict["correct"] / n if strict else None,
        "reported": score,
        "reported_inside": None if score is None else low <= score <= high,
        "partial": is_partial,
        "peak_memory_bytes": memory.get("gpu") or memory.get("process"),
        "train_s": training.get("train_s"),
    }
