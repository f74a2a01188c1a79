"""How many labels does it take? Scores by number of training samples, several seeds each; a table and a picture.

Reads the leaderboard's rows; knows nothing of models.
"""

from collections import Counter, defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

from harness_ext.results.tables import markdown_table, visible

NAMED = ("examples", "calibrated", "probe")  # methods that are said beside a model's name
Scores = dict[tuple[str, str], dict[str, list[float]]]  # (model, data) -> samples -> a score per seed


def by_samples(board: list[dict[str, Any]]) -> Scores:
    """Group the scores of whole runs of trained models by curve; those at one number of samples only are left out.

    A cell holds the seeds of one experiment: a curve's runs with the same number of samples.
    """
    curves: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in board:
        if row["curve"] and row["train_samples"] and not row["partial"]:
            curves[row["curve"]].append(row)
    names = _names([rows[0] for rows in curves.values() if len({str(row["train_samples"]) for row in rows}) > 1])
    return {name: _by_seed(curves[curve]) for curve, name in sorted(names.items(), key=lambda each: each[1])}


def _names(firsts: list[dict[str, Any]]) -> dict[str, tuple[str, str]]:
    """Name curves by model and data; where two are called the same by their settings too, and a hash is the last resort."""
    names = {}
    for row in firsts:
        how = f"LoRA {row['recipe']}" if row["recipe"] else row["method"] if row["method"] in NAMED else None
        model = f"{row['model']} + {how}" if how else row["model"]
        names[row["curve"]] = (model, f"{row['task']} on {row['data']}")
    for more in ({row["curve"]: row["settings"] for row in firsts}, {row["curve"]: row["curve"][:6] for row in firsts}):
        twice = Counter(names.values())
        for curve, (model, data) in names.items():
            if twice[model, data] > 1 and more[curve]:
                names[curve] = (f"{model} ({more[curve]})", data)
    return names


def _by_seed(rows: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Collect one score per seed; what was trained twice with one seed counts once."""
    found: dict[str, dict[Any, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        found[str(row["train_samples"])][row["seed"]].append(row["score"])
    return {samples: [mean(scores) for scores in seeds.values()] for samples, seeds in found.items()}


def markdown(scores: Scores) -> list[str]:
    """Render a table: mean score in percent, lowest and highest seed, number of seeds."""
    sizes = _sizes(scores)
    rows = [[*names, *(_cell(found[size]) if size in found else "" for size in sizes)] for names, found in scores.items()]
    return markdown_table(["model", "data", *sizes], rows)


def draw(scores: Scores, path: Path) -> list[Path]:
    """Draw mean score against samples, a bar from lowest to highest seed, as PNG and SVG; the path is without suffix."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "efficiency"  # the same picture twice is the same file
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axis = figure.subplots()
    sizes = _sizes(scores)
    for number, ((model, _), found) in enumerate(scores.items()):
        places = [place + 0.04 * number for place, size in enumerate(sizes) if size in found]
        values = [found[size] for size in sizes if size in found]
        bars = [mean(each) - min(each) for each in values], [max(each) - mean(each) for each in values]
        style: dict[str, Any] = {"marker": "o", "capsize": 3, "linewidth": 1.5}
        axis.errorbar(places, list(map(mean, values)), bars, **style, label=_label(model))
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


def _sizes(scores: Scores) -> list[str]:
    sizes = {size for found in scores.values() for size in found}
    return sorted(sizes, key=lambda size: (size == "all", int(size) if size.isdecimal() else 0))


def _cell(values: list[float]) -> str:
    if len(values) == 1:
        return f"{100 * values[0]:.1f}"
    return f"{100 * mean(values):.1f} ({100 * min(values):.1f}-{100 * max(values):.1f}, {len(values)})"
