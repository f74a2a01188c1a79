"""Loss curves: training and held-out loss, and the held-out score, against optimiser steps; JSON, PNG and SVG."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness_ext.errors import UserError
from harness_ext.results.tables import shorten, visible

HISTORY = "history.json"
_NAMES = {"loss": "train_loss", "eval_loss": "held_out_loss", "eval_score": "held_out_score"}
_NAMES |= {"learning_rate": "learning_rate"}
_WIDE = 72  # letters that fit over a figure
_MORE_LETTERS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "Microsoft YaHei", "PingFang SC")
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
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.font_manager import get_font_names

    mpl.rcParams["svg.hashsalt"] = "curve"  # the same picture twice is the same file
    mpl.rcParams["svg.fonttype"] = "none"  # text stays text: whatever shows it has the letters that the font here lacks
    mpl.rcParams["font.family"] = ["DejaVu Sans", *(font for font in _MORE_LETTERS if font in get_font_names())]
    runs = [(_title(name), history) for name, history in runs]
    figure = Figure(figsize=(7, 5.5), layout="constrained")
    losses, scores = figure.subplots(2, 1, sharex=True)
    is_one = len(runs) == 1
    for number, (name, history) in enumerate(runs):
        thin = {"color": mpl.colormaps["viridis"](number / len(runs) * 0.9), "linewidth": 1}
        thick = thin | {"linewidth": 2, "marker": "o", "markersize": 3}
        _line(losses, history, "train_loss", **thin, alpha=0.45, label="training" if is_one else None)
        _line(losses, history, "held_out_loss", **thick, label="held out" if is_one else name)
        _line(scores, history, "held_out_score", **thick)
    if len(runs) <= _TOO_MANY:
        small = {"fontsize": "x-small", "ncols": 2} if len(runs) > _MANY else {"fontsize": "small"}
        for text in losses.legend(frameon=False, **small).get_texts():
            text.set_parse_math(False)
    scores.axhline(0.5, color="grey", linewidth=0.8, linestyle=":")
    losses.set(ylabel="loss", ylim=(0, None))
    scores.set(ylabel="score, held out", ylim=(0.4, 1.0), xlabel="optimiser steps")
    title = runs[0][0] if is_one else "thin: training loss · thick: loss on rows held out"
    losses.set_title(title, fontsize="medium", parse_math=False)  # "$" is a character of a name
    for axis in (losses, scores):
        axis.spines[["top", "right"]].set_visible(False)
    files = [path.with_name(f"{path.name}.{suffix}") for suffix in ("png", "svg")]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the PNG has a box there, the SVG the letter
        for file in files:
            figure.savefig(file, dpi=150, metadata={"Date": None} if file.suffix == ".svg" else None)
    return files


def _title(name: str) -> str:
    """Write a name so that it fits; matplotlib leaves out of a legend what begins with an underscore."""
    short = shorten(visible(name), _WIDE)
    return f" {short}" if short.startswith("_") else short


def _line(axis: Any, history: list[dict[str, float]], name: str, **style: Any) -> None:
    if points := [(entry["step"], entry[name]) for entry in history if name in entry]:
        axis.plot(*zip(*points, strict=True), **style)
