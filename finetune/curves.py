"""Loss curves: training and held-out loss, and the held-out score, against optimiser steps; JSON, PNG and SVG."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness_ext.errors import UserError
from harness_ext.results import pictures

HISTORY = "history.json"
_NAMES = {"loss": "train_loss", "eval_loss": "held_out_loss", "eval_score": "held_out_score"}
_NAMES |= {"learning_rate": "learning_rate"}
_WIDE = 72  # letters that fit over a figure
_FOLDER = re.compile(r"(.+)--(\d+|all)--s(\d+)--[0-9a-f]{8}")  # an adapter's, as `finetune` names it
_MANY, _TOO_MANY = 6, 24  # runs that a figure can name in large letters, and at all


def history_of(log: Sequence[dict[str, Any]]) -> list[dict[str, float]]:
    """Reduce Trainer's log to one entry per step, our names for its fields."""
    steps: dict[int, dict[str, float]] = {}
    for entry in log:
        if found := {_NAMES[name]: value for name, value in entry.items() if name in _NAMES}:
            steps.setdefault(entry["step"], {"step": entry["step"]}).update(found)
    return [steps[step] for step in sorted(steps)]


def read_history(folder: Path) -> tuple[str, list[dict[str, float]]]:
    """Read the name and history of an adapter."""
    try:
        content = json.loads((folder / HISTORY).read_text(encoding="utf-8"))
        return content["name"], content["history"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = type(error).__name__
        raise UserError(f"No loss history in '{folder}' ({why}): pass folders that `make finetune` made.") from None


def draw(runs: Sequence[tuple[str, list[dict[str, float]]]], path: Path) -> list[Path]:
    """Draw loss and score of runs, given by name and history, as a PNG and an SVG file; the path is without suffix."""
    from matplotlib.figure import Figure

    titles = _titles([name for name, _ in runs])
    with pictures.style():
        figure = Figure(figsize=(7, 5.5), layout="constrained")
        losses, scores = figure.subplots(2, 1, sharex=True)
        is_one = len(runs) == 1
        for title, (_, history), style in zip(titles, runs, pictures.lines(), strict=False):
            thin = {"color": style.color, "linestyle": style.linestyle if len(runs) > 1 else "-", "linewidth": 1}
            thick = thin | {"linewidth": 2, "marker": style.marker, "markersize": 4}
            _line(losses, history, "train_loss", **thin, alpha=0.45, label="training rows" if is_one else None)
            _line(losses, history, "held_out_loss", **thick, label="rows held out" if is_one else title)
            _line(scores, history, "held_out_score", **thick)
        if len(runs) <= _TOO_MANY:
            small = {"fontsize": "x-small", "ncols": 2} if len(runs) > _MANY else {"fontsize": "small"}
            losses.legend(**small)
        scores.axhline(0.5, color=pictures.INK, linewidth=0.8, linestyle=":")
        losses.set(ylabel="loss", ylim=(0, None))
        scores.set(ylabel="score on rows held out", ylim=(0.4, 1.0), xlabel="optimiser steps")
        pictures.percent(scores.yaxis)
        losses.set_title(titles[0] if is_one else "Thin: loss on training rows. Thick: loss on rows held out.")
        return pictures.save(figure, path)


def _titles(names: Sequence[str]) -> list[str]:
    """Say model, labels and seed in place of folders' names, which keep their hash where two would be called the same."""
    found = [_FOLDER.fullmatch(name) for name in names]
    said = [f"{each[1].replace('__', '/')}, {_labels(each[2])}, seed {each[3]}" if each else "" for each in found]
    twice = Counter(said)
    kept = [title if title and twice[title] == 1 else name for title, name in zip(said, names, strict=True)]
    return [pictures.label(title, _WIDE) for title in kept]


def _labels(samples: str) -> str:
    return "all labels" if samples == "all" else f"{int(samples):,} labels"


def _line(axis: Any, history: list[dict[str, float]], name: str, **style: Any) -> None:
    if points := [(entry["step"], entry[name]) for entry in history if name in entry]:
        axis.plot(*zip(*points, strict=True), **style)
