"""What a result table does not say by itself: outputs without a label, one answer to everything, texts seen in training.

Reads a run's record only. What a model wrote is untrusted text: it is cut, and control characters are made visible.
"""

from collections.abc import Iterable
from typing import Any

from harness_ext.results.tables import visible

NOTABLE = 0.1  # share of outputs without a label from which on something is said
LEAK = 0.01  # share of evaluation texts that also stand in the train split; of SST-2's 872 two do
FEW = 10  # so few answers may be alike by chance
LENGTH = 60  # characters of an example
KINDS = {
    "word": "in words",
    "empty": "empty",
    "unfinished_thinking": "with thinking that does not end",
    "other": "without a digit",
}


def examples(samples: Iterable[dict[str, Any]]) -> dict[str, str]:
    """Keep the first output of each kind that has no label.

    Args:
        samples: Rows of lm-eval's ``samples``.

    Returns:
        The beginning of an output, by kind.
    """
    found: dict[str, str] = {}
    for sample in samples:
        prediction = sample["filtered_resps"][0]
        if sample["filter"] == "lenient" and isinstance(prediction, str) and prediction.startswith("["):
            found.setdefault(prediction.strip("[]"), str(sample["resps"][0][0]).strip()[:LENGTH])
    return found


def lines(manifest: dict[str, Any]) -> list[str]:
    """Say what should be known about a run's score; nothing where there is nothing to say.

    Args:
        manifest: Its record.
    """
    said = [_not_following(manifest), _one_answer(manifest), _overlap(manifest)]
    return [line for line in said if line]


def _not_following(manifest: dict[str, Any]) -> str:
    kinds, n = _counts(manifest).get("not_following", {}), manifest["n"]
    missing = sum(kinds.values())
    if missing < NOTABLE * n or not missing:
        return ""
    by_kind = ", ".join(
        f"{count} {KINDS.get(kind, kind)}" for kind, count in sorted(kinds.items(), key=lambda each: -each[1])
    )
    main = max(kinds, key=lambda kind: kinds[kind])
    kept = visible((manifest.get("examples") or {}).get(main, ""))
    shown = f', such as "{kept[:LENGTH]}{"…" if len(kept) >= LENGTH else ""}"' if kept else ""
    helps = _what_may_help(manifest, main)
    return f"{missing} of {n} outputs give no label ({by_kind}){shown}. {helps}"


def _what_may_help(manifest: dict[str, Any], kind: str) -> str:
    from harness_ext.paths import TASKS_DIR

    asked, task = manifest.get("key_parts") or {}, manifest["task"]
    helps = ["a larger THINK_BUDGET="] if kind == "unfinished_thinking" else []
    if not asked.get("num_fewshot"):
        helps.append("examples (ARGS='--num_fewshot 4')")
    choice = f"{task.removesuffix('_think')}_choice"
    if asked.get("weights") and any(TASKS_DIR.glob(f"**/{choice}.yaml")):
        helps.append(f"a forced choice (TASK={choice})")
    if not manifest.get("adapter"):
        helps.append("fine-tuning (make finetune)")
    return f"Try {' or '.join(helps)}." if helps else ""


def _one_answer(manifest: dict[str, Any]) -> str:
    counts = _counts(manifest)
    given = {"1": counts.get("positive", 0), "0": counts.get("negative", 0)}
    answers = sum(given.values())
    if answers < FEW or 0 not in given.values() or (manifest.get("key_parts") or {}).get("backend") == "majority":
        return ""
    label = max(given, key=lambda name: given[name])
    return f"All {answers} answers are {label}: the score is that label's share, and says nothing about the texts."


def _overlap(manifest: dict[str, Any]) -> str:
    """Only where rows of the train split had a part in the score."""
    shared, n = manifest.get("train_overlap"), manifest["n_available"]
    uses_them = manifest.get("train_samples") or (manifest.get("key_parts") or {}).get("num_fewshot")
    if not shared or not uses_them:
        return ""
    found = f"{shared} of {n} evaluation texts ({100 * shared / n:.1f}%) stand in the train split too"
    return f"Warning: {found}: the score is too high for new texts." if shared >= LEAK * n else f"{found}."


def _counts(manifest: dict[str, Any]) -> dict[str, Any]:
    """Counts under the rule whose score is shown."""
    counts = manifest.get("counts") or {}
    return counts.get("lenient") or next(iter(counts.values()), {})
