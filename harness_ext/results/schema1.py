"""Records of schema 1, read as if they were of schema 2: what they do not say is derived from what they hold.

Published results and old run folders are of schema 1. Only what is certain is derived; where runs may be of different
experiments, they are.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from harness_ext.results.experiments import CLASSIFIER, adapter_experiment, experiment_of, method_of

THINK_BUDGET = {"sst2_01_think": 32768}  # the task's own, in all its versions


def upgrade(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give records of schema 1 the fields of schema 2; others stay as they are.

    A record of schema 1 has its batch cut down to the number of its labels, not the recipe's batch. The records of the same
    training with more labels say what it was, so records are best upgraded together.
    """
    found = list(records)
    batches: dict[str, set[int]] = defaultdict(set)  # by training without its batch: those that are a recipe's own
    for record in found:
        if record["schema"] == 1 and (batch := _batch(record)) is not None and not _is_cut(record):
            batches[_experiment(record, None)[1]].add(batch)
    return [_upgraded(record, batches) if record["schema"] == 1 else record for record in found]


def _upgraded(record: dict[str, Any], batches: dict[str, set[int]]) -> dict[str, Any]:
    parts, training, settings = (record.get(name) or {} for name in ("key_parts", "training", "choices"))
    if "base" in record:  # an adapter's own
        experiment, curve = adapter_experiment(parts) if parts else (None, None)
        return record | {"schema": 2, "experiment": experiment, "curve": curve, "recipe_settings": record.get("settings")}
    batch = _batch(record)
    if batch is not None and _is_cut(record):  # the recipe's is this one or larger
        larger = [size for size in batches[_experiment(record, None)[1]] if size >= batch]
        batch = larger[0] if len(larger) == 1 else batch
    experiment, curve = _experiment(record, batch)
    return {name: value for name, value in record.items() if name != "choices"} | {
        "schema": 2,
        "experiment": experiment,
        "curve": curve,
        "method": method_of(parts),
        "recipe": training.get("recipe"),
        "quantisation": settings.get("quantisation"),
        "settings": record.get("choices"),
        "not_default": _not_default(parts, settings),
    }


def _not_default(parts: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Tell what was asked for, as far as the record shows it: what has a reason was chosen by the program."""
    found: dict[str, Any] = {}
    if shots := parts.get("num_fewshot"):
        found["shots"] = shots
    forced = "float32" if parts.get("backend") == CLASSIFIER else None
    if settings and "dtype" not in settings.get("reasons", {}) and settings.get("dtype") != forced:
        found["dtype"] = settings.get("dtype")
    if (parts.get("model_args") or {}).get("engine") == "stock":
        found["engine"] = "stock"
    budget = (parts.get("generation") or {}).get("max_gen_toks")
    if budget != THINK_BUDGET.get(str(parts.get("task")), budget):
        found["think_budget"] = budget
    return found


def _batch(record: dict[str, Any]) -> int | None:
    return ((record.get("training") or {}).get("settings") or {}).get("batch_size")


def _is_cut(record: dict[str, Any]) -> bool:  # or as large as that by chance
    return _batch(record) == record.get("train_samples")


def _experiment(record: dict[str, Any], batch: int | None) -> tuple[str, str]:
    training = record.get("training") or {}
    if batch != _batch(record):
        training = training | {"settings": training["settings"] | {"batch_size": batch}}
    return experiment_of(record.get("key_parts") or {}, training, record.get("train_samples"), record.get("adapter"))
