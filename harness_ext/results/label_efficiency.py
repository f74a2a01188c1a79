"""How many labels does it take? Scores by number of training samples, several seeds each; a table and a picture.

Reads the leaderboard's rows; knows nothing of models.
"""

import json
from collections import Counter, defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

from harness_ext.keys import hash_of
from harness_ext.results.tables import markdown_cell, visible

Scores = dict[tuple[str, str], dict[str, list[float]]]  # (model, data) -> samples -> a score per seed


def by_samples(board: list[dict[str, Any]]) -> Scores:
    """Group the scores of whole runs of trained models; those at one number of samples only are left out.

    Runs are of one group if base, data and recipe are the same by content. Where two groups have one name, a hash
    stands behind it.

    Args:
        board: Rows of `leaderboard.rows`.
    """
    whole = [row for row in board if row["train_samples"] and not row["partial"]]
    batches: dict[str, set[int]] = defaultdict(set)  # by content: those that are the recipe's own
    for row in whole:
        if row["batch_size"] is not None and not _is_cut(row):
            batches[row["content"]].add(row["batch_size"])
    found: dict[tuple[str, str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in whole:
        batch = row["batch_size"]
        if _is_cut(row):  # the recipe's is this one or larger
            larger = [size for size in batches[row["content"]] if size >= batch]
            batch = larger[0] if len(larger) == 1 else batch
        group = hash_of([row["content"], batch])[:6]
        found[_name(row), f"{row['task']} on {row['data']}", group][str(row["train_samples"])].append(row["score"])
    twice = Counter((model, data) for model, data, _ in found)
    return {
        (f"{model} ({group})" if twice[model, data] > 1 else model, data): dict(sizes)
        for (model, data, group), sizes in sorted(found.items())
        if len(sizes) > 1
    }


def content(manifest: dict[str, Any]) -> str:
    """Write down what runs that are averaged as seeds have in common: base, data and recipe, by content, not by name.

    The batch size is left out: the recipe's is cut down where there are fewer samples.
    """
    training = manifest.get("training") or {}
    parts = manifest.get("key_parts") or {}
    settings = {name: value for name, value in (training.get("settings") or {}).items() if name != "batch_size"}
    weights = parts.get("weights")
    made_from = [training.get("base_version") or weights, training.get("data_fingerprint") or training.get("data"), settings]
    return json.dumps([weights, manifest.get("data_fingerprint"), *made_from], sort_keys=True, default=str)


def markdown(scores: Scores) -> list[str]:
    """Render a table: mean score in percent, lowest and highest seed, number of seeds."""
    sizes = _sizes(scores)
    lines = ["| model | data | " + " | ".join(sizes) + " |", "|" + " --- |" * (2 + len(sizes))]
    for (model, data), found in scores.items():
        cells = [_cell(found[size]) if size in found else "" for size in sizes]
        lines.append(f"| {markdown_cell(model)} | {markdown_cell(data)} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def draw(scores: Scores, path: Path) -> list[Path]:
    """Draw mean score against samples, with a bar from the lowest to the highest seed.

    Args:
        scores: From `by_samples`.
        path: Where to, without suffix.

    Returns:
        The PNG and the SVG file.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "efficiency"  # the same picture twice is the same file
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axis = figure.subplots()
    sizes = _sizes(scores)
    for number, ((model, _), found) in enumerate(scores.items()):
        points = [(sizes.index(size) + 0.04 * number, values) for size, values in found.items()]
        points.sort(key=lambda point: point[0])
        means = [mean(values) for _, values in points]
        below = [middle - min(values) for middle, (_, values) in zip(means, points, strict=True)]
        above = [max(values) - middle for middle, (_, values) in zip(means, points, strict=True)]
        axis.errorbar(
            [x for x, _ in points], means, [below, above], marker="o", capsize=3, linewidth=1.5, label=_label(model)
        )
    axis.axhline(0.5, color="grey", linewidth=0.8, linestyle=":")
    axis.set_xticks(range(len(sizes)), sizes)
    axis.set_xlabel("training samples")
    axis.set_ylabel("score (mean; bar: lowest to highest seed)")
    axis.legend(frameon=False, fontsize="small")
    axis.spines[["top", "right"]].set_visible(False)
    files = [path.with_name(f"{path.name}.{suffix}") for suffix in ("png", "svg")]
    for file in files:
        figure.savefig(file, dpi=150, metadata={"Date": None} if file.suffix == ".svg" else None)
    return files


def _label(name: str) -> str:
    """Write a name so that matplotlib reads no formula in it, and shows it although it begins with an underscore."""
    plain = visible(name).replace("$", r"\$")
    return f" {plain}" if plain.startswith("_") else plain


def _is_cut(row: dict[str, Any]) -> bool:
    """Whether a run's batch may have been cut down to the number of its samples."""
    return row["batch_size"] is not None and row["batch_size"] == row["train_samples"]


def _name(row: dict[str, Any]) -> str:
    return f"{row['model']} + {row['recipe']}" if row["recipe"] else str(row["model"])


def _sizes(scores: Scores) -> list[str]:
    sizes = {size for found in scores.values() for size in found}
    return sorted(sizes, key=lambda size: (size == "all", int(size) if size.isdecimal() else 0))


def _cell(values: list[float]) -> str:
    if len(values) == 1:
        return f"{100 * values[0]:.1f}"
    return f"{100 * mean(values):.1f} ({100 * min(values):.1f}-{100 * max(values):.1f}, {len(values)})"
