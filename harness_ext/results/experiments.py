"""Which runs are one experiment: they differ in the seed alone, so their scores may be averaged.

Knows no files. A curve is what experiments have in common that differ in the number of labels alone.
"""

import re
from collections.abc import Mapping
from typing import Any

from harness_ext.keys import hash_of

CLASSIFIER = "hf-classifier"
_METHODS = {CLASSIFIER: "classifier", "probe": "probe", "tfidf": "tfidf", "majority": "majority"}  # by backend
# An adapter's version is a hash of its weights, and so of the seed.
_OF_THE_SEED = ("seeds", "train_rows", "adapter")
_OF_AN_ADAPTERS_SEED = ("seed", "subset", "texts")  # the texts are those of the subset


def method_of(parts: Mapping[str, Any]) -> str:
    """Name how a model answers: ``prompted``, ``examples``, ``calibrated``, ``lora``, ``classifier``, ``probe``, a baseline.

    Whatever has an adapter is ``lora``; a ``classifier`` is one that was made elsewhere. `parts` are those of the run's key.
    """
    if parts.get("adapter"):
        return "lora"
    if parts.get("calibration"):
        return "calibrated"
    return _METHODS.get(str(parts.get("backend"))) or ("examples" if parts.get("num_fewshot") else "prompted")


def experiment_of(
    parts: Mapping[str, Any], training: Mapping[str, Any] | None, train_samples: int | str | None, adapter: str | None
) -> tuple[str, str]:
    """Return a run's experiment and curve, 64 hex digits each: its key without the seed, then without the number of labels.

    In place of what follows from the seed stands how the run was trained: an adapter's own experiment and curve; for a
    record of schema 1 base, data and settings; for an adapter that was made elsewhere its version, as no more is known.
    `parts` are those of the run's key, `training` and `train_samples` as the record has them; the name of an adapter that
    is a checkpoint ends in ``/checkpoint-<steps>``, and it is no seed of the whole one.
    """
    made = training or {}
    left_out = _OF_THE_SEED + (("prompts", "requests") if "system_instruction" in parts else ())  # examples are drawn by it
    if "shots" in parts:  # examples that are the rows of a subset: their number is that of the labels
        left_out += ("num_fewshot",)
    kept = {name: part for name, part in parts.items() if name not in left_out}
    steps = re.search(r"/checkpoint-(\d+)$", adapter or "")
    common = [kept, steps and steps[1]]
    if made.get("experiment") and made.get("curve"):
        return hash_of([*common, made["experiment"]]), hash_of([*common, made["curve"]])
    if settings := made.get("recipe_settings") or made.get("settings"):
        data = made.get("data_fingerprint") or made.get("data")
        common.append([made.get("base_version"), made.get("task"), data, settings])
    else:
        common.append(parts.get("adapter"))
    return hash_of([*common, train_samples]), hash_of(common)


def is_no_better(made: Mapping[str, Any]) -> bool:
    """Tell whether training was for nothing: neither loss nor score on the rows held out is better than the base's.

    Of a record with what `finetune` says of an adapter. At step 0 a generative model is its base, asked without examples; a
    classifier's head is new, so that it has none. (The loss alone would mark adapters that are right more often, and surer
    of their mistakes: SmolLM2-135M with 16 labels.)
    """
    before, after = made.get("held_out_before"), made.get("held_out")
    if made.get("kind") != "generative" or not before or not after:
        return False
    return bool(after["loss"] >= before["loss"] and after["score"] <= before["score"])


def draw_of(record: Mapping[str, Any]) -> int | str | None:
    """Name what a run drew: labelled rows by their seed, so that methods share it; anything else so that they do not."""
    seed = seed_of(record)
    return seed if seed is None or record.get("train_samples") else f"draw {seed}"


def adapter_experiment(parts: Mapping[str, Any]) -> tuple[str, str]:
    """Return an adapter's experiment and curve, from the parts of its key."""
    kept = {name: part for name, part in parts.items() if name not in _OF_AN_ADAPTERS_SEED}
    return hash_of(kept), hash_of({name: part for name, part in kept.items() if name != "samples"})


def seed_of(record: Mapping[str, Any]) -> int | None:
    """Return the seed that can change a run's numbers: of training rows, examples, unlabelled rows, or drawn tokens.

    None where there is none: a prompted model, and the majority, which is the same of any rows.
    """
    parts = record.get("key_parts") or {}
    seeds = parts.get("seeds") or [None] * 4  # Python's, numpy's, torch's and that of lm-eval's examples
    if record.get("seed") is not None or record.get("method") == "majority":
        return None if record.get("method") == "majority" else record["seed"]
    if parts.get("calibration") == "batch":  # at first only the key had it
        return seeds[0]
    if parts.get("num_fewshot"):
        return seeds[3]
    return seeds[2] if (parts.get("generation") or {}).get("do_sample") else None
