"""What the fields of a run's record may hold: someone else's program may have written it, or half of it.

Knows records; nothing of files. Fields that nothing is computed from may hold anything.
"""

from typing import Any

_EXACT = 2**53  # whole numbers up to here are exact in a float
_MUST_BE_THERE = ("key", "model", "task", "n", "n_available", "counts")
_TOGETHER = {  # what else is there where the first is
    "calibration": ("slope", "intercept"),
    "training.held_out": ("loss", "score"),
    "training.held_out_before": ("loss", "score"),
}
_MAPPINGS = (  # each before what it holds
    "calibration", "counts", "key_parts", "key_parts.generation", "key_parts.model_args", "key_parts.versions", "margins",
    "not_default", "peak_memory_bytes", "prompt", "settings", "settings.reasons", "choices", "choices.reasons", "tokens",
    "training", "training.held_out", "training.held_out_before", "training.recipe_settings", "training.settings",
)  # fmt: skip
_TEXTS = (
    "key", "model", "task", "adapter", "curve", "data", "data_fingerprint", "experiment", "hardware", "method",
    "quantisation", "recipe", "started", "training.curve", "training.data_fingerprint", "training.experiment",
)  # fmt: skip
_WHOLE = ("n", "n_available", "seed", "key_parts.num_fewshot", "key_parts.task_version", "training.settings.batch_size")
_AMOUNTS = (
    "docs_per_s", "near_ties", "peak_memory_bytes.gpu", "peak_memory_bytes.process", "tokens.in", "tokens.out",
    "training.median_words", "training.optimiser_steps", "training.train_s",
)  # fmt: skip
_NUMBERS = (
    "calibration.intercept", "calibration.slope", "margins.auroc", "margins.best_score", "training.held_out.loss",
    "training.held_out.score", "training.held_out_before.loss", "training.held_out_before.score",
)  # fmt: skip


def check(record: dict[str, Any]) -> None:
    """Check whatever is computed with; ValueError says what is wrong."""
    for names, is_right in (
        (_MAPPINGS, lambda value: isinstance(value, dict)),
        (_TEXTS, lambda value: isinstance(value, str)),
        (_WHOLE, _is_whole),
        (_AMOUNTS, lambda value: _is_number(value) and value >= 0),
        (_NUMBERS, _is_number),
        (("key_parts.seeds",), _are_seeds),
        (("train_samples",), lambda value: value == "all" or _is_count(value)),
    ):
        for name in names:
            if (value := at(record, name)) is not None and not is_right(value):
                raise _wrong(name, value)
    for name in (
        *_MUST_BE_THERE,
        *(f"{one}.{more}" for one, each in _TOGETHER.items() if at(record, one) for more in each),
    ):
        if at(record, name) is None:
            raise _wrong(name, None)
    for counts in record["counts"].values():
        _check_counts(counts, record["n"], record["n_available"])


def _check_counts(counts: Any, n: int, available: int) -> None:
    kinds = counts.get("not_following") if isinstance(counts, dict) else None
    if not isinstance(kinds, dict) or "correct" not in counts:
        raise ValueError(f"no run record, its counts are {str(counts)[:40]}")
    for what, count in (*counts.items(), *kinds.items()):
        if count is not kinds and not (_is_count(count) and count <= n <= available):
            raise ValueError(f"no run record, {str(count)[:40]} of {n} are {what}")


def at(record: dict[str, Any], name: str) -> Any:
    """Look up a dotted name, as in ``training.train_s``; None where it, or what should hold it, is not there."""
    found: Any = record
    for part in name.split("."):
        found = (found or {}).get(part)
    return found


def _wrong(name: str, value: Any) -> ValueError:
    return ValueError(f"no run record, its {name} is {str(value)[:40]!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _EXACT  # so neither is nan


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and _is_number(value)


def _is_count(value: Any) -> bool:
    return _is_whole(value) and value >= 0


def _are_seeds(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(each is None or _is_whole(each) for each in value)
