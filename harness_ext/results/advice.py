"""What a result table does not say by itself: outputs without a label, one answer to everything, texts seen in training.

Reads a run's record only. What a model wrote is untrusted text: it is cut, and control characters are made visible.
"""

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness_ext.paths import TASKS_DIR
from harness_ext.results.experiments import is_no_better
from harness_ext.results.names import is_own
from harness_ext.results.outcomes import Outcome, main_counts, one_answer
from harness_ext.results.tables import visible

NOTABLE = 0.1  # share of outputs without a label from which on something is said
LEAK = 0.01  # share of evaluation texts that also stand in the train split; of SST-2's 872 two do
LONGER = 2  # times the median words of what was trained on: SST-2's train rows have 7, its evaluation 19
LENGTH = 60  # characters of an example
_SAME = ("model", "method", "seed", "data", "n")  # of runs between which the task alone differs
KINDS = {
    "word": "in words",
    "empty": "empty",
    "unfinished_thinking": "with thinking that does not end",
    "other": "with neither answer",
}


def examples(rows: Iterable[Outcome]) -> dict[str, str]:
    """Keep the beginning of the first output of each kind that has no label under the lenient rule."""
    found: dict[str, str] = {}
    for row in rows:
        if row.kinds.get("lenient", "label") != "label":
            found.setdefault(row.kinds["lenient"], row.response.strip()[:LENGTH])
    return found


def lines(record: dict[str, Any], folder: Path | None = None) -> list[str]:
    """Say what should be known about the score of the run in a folder; nothing where there is nothing to say."""
    said = [_not_following(record, folder), _one_answer(record), _overlap(record), _no_better(record), _no_forecast(record)]
    return [line for line in said if line]


def format_tax(records: Iterable[dict[str, Any]]) -> list[str]:
    """Say what the digits cost: of runs of one command, by how much a model scores more where it chooses between words.

    That is said of a model that is prompted and writes digits for ``TASK``, and chooses for ``TASK_words_choice``.
    """
    prompted = [record for record in records if record.get("method") in ("prompted", "examples")]
    by_task = {(*(record[field] for field in _SAME), record["task"]): _score(record) for record in prompted}
    said = []
    for (model, *same, task), digits in by_task.items():
        words = by_task.get((model, *same, f"{task}_words_choice"))
        if words is not None and digits is not None:
            said.append(
                f"Format tax: {100 * (words - digits):+.1f} points ({model} scores {100 * words:.1f} where it chooses "
                f"between the words, {100 * digits:.1f} where it writes digits, {task})."
            )
    return said


def _score(record: dict[str, Any]) -> float | None:
    counts = main_counts(record)
    return counts["correct"] / record["n"] if counts else None


def _not_following(record: dict[str, Any], folder: Path | None) -> str:
    kinds, n = main_counts(record).get("not_following", {}), record["n"]
    missing = sum(kinds.values())
    if missing < NOTABLE * n or not missing:
        return ""
    order = sorted(kinds, key=lambda kind: -kinds[kind])
    by_kind = ", ".join(f"{kinds[kind]} {KINDS.get(kind, kind)}" for kind in order)
    kept = visible((record.get("examples") or {}).get(order[0], ""))
    shown = f', such as "{kept[:LENGTH]}{"…" if len(kept) >= LENGTH else ""}"' if kept else ""
    read = f" (make show RUN={shlex.quote(str(folder))} ONLY=not_following lists them)" if folder else ""
    return f"{missing} of {n} outputs give no label ({by_kind}){shown}{read}. {_what_may_help(record, order[0])}"


def _what_may_help(record: dict[str, Any], kind: str) -> str:
    choice = f"{record['task'].removesuffix('_think')}_choice"
    helps = {
        "a larger THINK_BUDGET=": kind == "unfinished_thinking",
        "examples (SHOTS=16)": not _shots(record),
        "words (TASK=sst2_01_words_choice)": record["task"] == "sst2_01" and record.get("settings"),
        "a forced choice (TASK=choice)": is_own(record) and record.get("settings"),
        # A server's answers have no likelihoods, and no settings.
        f"a forced choice (TASK={choice})": record.get("settings") and any(TASKS_DIR.glob(f"**/{choice}.yaml")),
        "fine-tuning (make finetune)": not record.get("adapter"),
    }
    said = " or ".join(each for each, can_be_tried in helps.items() if can_be_tried)
    return f"Try {said}." if said else ""


def _one_answer(record: dict[str, Any]) -> str:
    if (label := one_answer(record)) is None:
        return ""
    answers = main_counts(record)["positive" if label else "negative"]
    return f"All {answers} answers are {label}: the score is that label's share, and says nothing about the texts."


def _overlap(record: dict[str, Any]) -> str:  # said only where rows of the train split had a part in the score
    shared, n = record.get("train_overlap"), record["n_available"]
    if not shared or not (record.get("train_samples") or _shots(record)):
        return ""
    found = f"{shared} of {n} evaluation texts ({100 * shared / n:.1f}%) stand in the train split too"
    return f"Warning: {found}: the score is too high for new texts." if shared >= LEAK * n else f"{found}."


def _no_better(record: dict[str, Any]) -> str:
    made = record.get("training") or {}
    if not is_no_better(made):
        return ""
    after, before = made["held_out"], made["held_out_before"]
    return (
        f"The adapter is no better than its base: on the rows held out log-loss {after['loss']:.2f} and score "
        f"{100 * after['score']:.1f}, the base's {before['loss']:.2f} and {100 * before['score']:.1f}."
    )


def _no_forecast(record: dict[str, Any]) -> str:
    made = record.get("training") or {}
    words, here = made.get("median_words"), record.get("median_words")
    if not words or not here or here < LONGER * words or not made.get("held_out"):
        return ""
    score = 100 * made["held_out"]["score"]
    return (
        f"The adapter was trained on phrases (median {words:g} words), the evaluation is sentences ({here:g}): its "
        f"held-out score {score:.1f} is no forecast. ROWS=sentences trains on sentences."
    )


def _shots(record: dict[str, Any]) -> int:
    return (record.get("key_parts") or {}).get("num_fewshot") or 0  # the task's own examples among them
