"""The leaderboard: every complete run as a row, sorted by score, beside what the original reported.

A pure function from records to rows; how rows are shown is `render`'s.
"""

from collections.abc import Iterable
from typing import Any

from harness_ext.evidence.proportion import wilson
from harness_ext.results.experiments import is_no_better
from harness_ext.results.outcomes import main_counts
from harness_ext.results.reported import Score, score_of

_LONG = 20  # characters that are shown of what someone has written


def rows(records: Iterable[dict[str, Any]], reported: list[Score]) -> list[dict[str, Any]]:
    """Turn records, and the original's scores, into rows, best score first; runs without 0/1 counts are left out.

    A row has what `render.CSV_COLUMNS` names, shares in 0-1, and ``experiment`` and ``curve``.
    """
    scored = [_row(record, reported) for record in records if record.get("counts")]
    return sorted(scored, key=lambda row: (-row["score"], row["model"], str(row["adapter"]), row["task"]))


def settings_text(not_default: dict[str, Any]) -> str:
    """Say what was asked for that is no default, as in ``4 shots · system "Be brief." · float32``."""
    return " · ".join(_setting(name, value) for name, value in not_default.items())


def _setting(name: str, value: Any) -> str:
    words, said = name.replace("_", " "), str(value)
    if isinstance(value, bool):
        return words if value else f"no {words}"
    said = f"{said[:_LONG]}…" if len(said) > _LONG else said
    shots = f"{said} shot{'s' * (value != 1)}"
    forms = {"shots": shots, "system": f'system "{said}"', "dtype": said, "engine": f"{said} engine"}
    return forms.get(name, f"{words} {said}")


def _seed(record: dict[str, Any]) -> int | None:
    """Return the seed by which rows were drawn; of unlabelled rows only the key had it at first."""
    parts = record.get("key_parts") or {}
    drawn = record.get("seed") is None and parts.get("calibration") == "batch"
    return parts["seeds"][0] if drawn else record.get("seed")


def _row(record: dict[str, Any], reported: list[Score]) -> dict[str, Any]:
    main, strict, n = main_counts(record), record["counts"].get("strict"), record["n"]
    low, high = wilson(main["correct"], n)
    is_partial = n < record["n_available"]
    score = None if is_partial else score_of(record, reported)
    training, quantisation = record.get("training") or {}, record.get("quantisation")
    as_they_are = ("adapter", "recipe", "train_samples", "seed", "task", "data", "n", "n_available", "near_ties",
                   "docs_per_s", "method", "experiment", "curve")  # fmt: skip
    return {
        **{name: record.get(name) for name in as_they_are},
        "seed": _seed(record),
        "model": f"{record['model']} ({quantisation})" if quantisation else record["model"],
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
    }
