"""What the page opens on demand: every run with its documents, small enough to travel inside the page.

Everything a model wrote, and every name, is made visible here (`tables.visible`), as the page's script shows it as it is.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness_ext.evidence.calibration import reliability
from harness_ext.evidence.proportion import wilson
from harness_ext.results.names import settings_text
from harness_ext.results.runs import Answers, Run
from harness_ext.results.standings import Entry
from harness_ext.results.tables import visible

HASH = 12  # digits by which a document is found in the files
DIGITS = 2  # of a margin


class Pool(dict[Any, int]):
    """Numbers things in the order in which they come first."""

    def __missing__(self, thing: Any) -> int:
        self[thing] = len(self)
        return self[thing]


def details(entries: Sequence[Entry], texts: Mapping[str, str], out: Path) -> dict[str, Any]:
    """Collect all that the page's script draws from.

    Args:
        entries: The leaderboard.
        texts: Of documents by hash, as far as they are known.
        out: Where adapters have left their loss histories.

    Returns:
        ``entries``: the numbers of each one's runs. ``runs``: what `_run` says. ``sets``: each data set's documents.
        ``kinds`` and ``responses``: what runs refer to by number.
    """
    sets, kinds, responses = Pool(), Pool(), Pool()
    runs: list[dict[str, Any]] = []
    numbers = []
    for entry in entries:
        numbers.append(list(range(len(runs), len(runs) + len(entry.runs))))
        runs += [_run(run, bool(texts), out) | _answers(run, sets, kinds, responses) for run in entry.runs]
    return {
        "entries": numbers,
        "runs": runs,
        "sets": [_documents(documents, gold, texts) for documents, gold in sets],
        "kinds": [f"none ({visible(kind)})".replace("_", " ") for kind in kinds],
        "responses": [visible(response) for response in responses],
    }


def _documents(documents: tuple[str, ...], gold: bytes, texts: Mapping[str, str]) -> dict[str, Any]:
    known = [visible(texts.get(document, "")) for document in documents]
    return {
        "hashes": [visible(document[:HASH]) for document in documents],
        "gold": "".join(map(str, np.frombuffer(gold, np.int8))),
        "texts": known if any(known) else None,
    }


def _answers(run: Run, sets: Pool, kinds: Pool, responses: Pool) -> dict[str, Any]:
    """Write what was said as one character a document: the label, or the letter of why there is none."""
    answers = run.answers
    if answers is None or not answers.documents:
        return {}
    others = {kind: chr(ord("a") + kinds[kind]) for kind in sorted(set(answers.kinds) - {"label"})}
    said = [str(label) if label >= 0 else others[kind] for label, kind in zip(answers.labels, answers.kinds, strict=True)]
    found = {
        "set": sets[answers.documents, answers.gold.tobytes()],
        "said": "".join(said),
        "score": _score(answers),
        "margins": _hundredths(run.margins) if np.isfinite(run.margins).any() else None,
        "responses": [responses[each] for each in answers.responses] if any(answers.responses) else None,
    }
    if bins := reliability(run.margins, answers.gold):
        filled = zip(bins.confidence, bins.right, bins.counts, strict=True)
        found["reliability"] = {
            "error": round(bins.error, 4),
            "bins": [[round(float(sure), 4), round(float(right), 4), int(n)] for sure, right, n in filled if n],
        }
    return found


def _score(answers: Answers) -> str:
    n, right = len(answers.gold), int(answers.correct.sum())
    low, high = wilson(right, n)
    return f"{right} of {n} right: {100 * right / n:.2f}% (95% interval of this run {100 * low:.1f}–{100 * high:.1f})."


def _hundredths(margins: np.ndarray) -> list[int | None]:
    whole = np.rint(margins * 10**DIGITS).tolist()
    return [int(each) if np.isfinite(each) else None for each in whole]


def _run(run: Run, with_prompt: bool, out: Path) -> dict[str, Any]:
    """Say how a run was made; its prompt holds a sentence, so it is shown where sentences are."""
    record = run.record
    return {
        "seed": visible(str(record.get("seed"))),
        "facts": [[name, visible(str(value))] for name, value in _facts(run).items() if value not in (None, "")],
        "command": visible(str(record.get("command") or "")),
        "prompt": visible(str((record.get("prompt") or {}).get("first") or "")) if with_prompt else "",
        "loss": _loss(out, record.get("adapter")),
    }


def _facts(run: Run) -> dict[str, Any]:
    record = run.record
    settings, training = record.get("settings") or {}, record.get("training") or {}
    memory = (record.get("peak_memory_bytes") or {}).get("process")
    speed, versions = record.get("docs_per_s"), (record.get("key_parts") or {}).get("versions") or {}
    return {
        "model": record["model"],
        "method": record.get("method"),
        "adapter": record.get("adapter"),
        "labels": record.get("train_samples"),
        "recipe": record.get("recipe"),
        "training": _listed(training.get("recipe_settings") or {}),
        "task": record["task"],
        "data": record.get("data"),
        "settings": settings_text(record.get("not_default") or {}) or "all at their defaults",
        "device": _listed({name: settings.get(name) for name in ("device", "dtype", "quantisation", "batch_size")}),
        "machine": record.get("hardware"),
        "speed": f"{speed:.1f} documents/s" if speed else None,
        "memory": f"{memory / 2**30:.1f} GiB at most" if memory else None,
        "commit": record.get("commit"),
        "versions": _listed(versions),
        "started": record.get("started"),
        "key": record.get("key"),
    }


def _listed(settings: Mapping[str, Any]) -> str:
    """Write settings in one line; those that are not set, or hold further settings, are left out."""
    plain = {name: value for name, value in settings.items() if value is not None and not isinstance(value, dict | list)}
    return " · ".join(f"{name.replace('_', ' ')} {value}" for name, value in plain.items())


def _loss(out: Path, adapter: str | None) -> list[dict[str, float]] | None:
    """Read the history that `make finetune` left beside an adapter, where it is still there."""
    try:
        path = out / "adapters" / str(adapter).split("/")[0] / "history.json"
        steps = json.loads(path.read_text(encoding="utf-8"))["history"]
        names = ("train_loss", "held_out_loss", "held_out_score")
        known = [{"step": step["step"]} | {name: float(step[name]) for name in names if name in step} for step in steps]
        return [{name: value for name, value in step.items() if math.isfinite(value)} for step in known]
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None
