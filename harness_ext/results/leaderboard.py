"""The leaderboard: every complete run as a row, sorted by score, beside what the original reported."""

import csv
import io
import os
from pathlib import Path
from typing import Any

from harness_ext.errors import UserError, writing_to
from harness_ext.model import presets, quantisation
from harness_ext.paths import ROOT
from harness_ext.results import label_efficiency, records
from harness_ext.results.intervals import wilson
from harness_ext.results.tables import Column, csv_cell, markdown_cell, show_table

REPORTED = ROOT / "results" / "reported.csv"
SST2_VALIDATION = "1693a5fbd9fa5b4a"  # data.fingerprint of GLUE's 872 validation sentences
COLUMNS = (
    "model", "adapter", "recipe", "train_samples", "seed", "optimiser_steps", "collapsed",
    "task", "data", "n", "n_available", "score", "low", "high",
    "not_following", "near_ties", "strict_score", "docs_per_s", "reported", "reported_inside",
)  # fmt: skip

# The original's models as they are called on the Hub, the task that asks as it did, and how they are quantised.
REPORTED_AS = {(preset.model, preset.task, preset.quantise): preset.reported for preset in presets.load().values()}
NOTE_N = (
    "The original write-up names 1,872 test sentences; its scores are fractions of 872, "
    "the SST-2 validation split, which is what n = 872 is here."
)


def rows(manifests: list[dict[str, Any]], reported: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Turn manifests into rows with `COLUMNS` and ``partial``, best score first.

    Runs of other tasks, which have no 0/1 counts, are left out.
    """
    scored = [_row(manifest, reported) for manifest in manifests if manifest.get("counts")]
    return sorted(scored, key=lambda row: (-row["score"], row["model"], str(row["adapter"]), row["task"]))


def read_reported(path: Path = REPORTED) -> list[dict[str, str]]:
    """Read the original's numbers."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write(out: Path) -> tuple[list[dict[str, Any]], list[Path]]:
    """Write ``leaderboard.md`` and ``leaderboard.csv`` of all complete runs under OUT, and a picture of scores by labels.

    Returns:
        The rows, and the files.

    Raises:
        UserError: There is no run, or OUT cannot be written to.
    """
    board = rows(records.read_runs(out), read_reported())
    if not board:
        raise UserError(f"No complete run under {out / 'runs'}. Run `make eval` first, or name another folder with OUT=.")
    files = [out / "leaderboard.md", out / "leaderboard.csv"]
    with writing_to(out):
        for path, text in zip(files, (markdown(board), as_csv(board)), strict=True):
            temporary = path.with_name(f".{path.name}.{os.getpid()}")
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(path)
        if scores := label_efficiency.by_samples(board):
            files += label_efficiency.draw(scores, out / "label-efficiency")
    return board, files


def markdown(board: list[dict[str, Any]]) -> str:
    """Render the leaderboard as Markdown, partial runs in a table of their own."""
    text = ["# Leaderboard", "", "Made by `make leaderboard`. Score: correct / all, with a Wilson 95% interval.", ""]
    if scores := label_efficiency.by_samples(board):
        text += ["## Score by number of labels", "", "Mean in percent (lowest-highest seed, number of seeds).", ""]
        text += [*label_efficiency.markdown(scores), "![](label-efficiency.svg)", "", "## All runs", ""]
    full = [row for row in board if not row["partial"]]
    partial = [row for row in board if row["partial"]]
    heads = [head.title for head in _heads(board)]
    if full:
        text += _table(full, heads)
    if partial:
        text += ["## Partial runs (LIMIT=): for trying out, not for comparing", "", *_table(partial, heads)]
    if any(row["n"] == 872 for row in full):
        text += [NOTE_N, ""]
    return "\n".join(text)


def as_csv(board: list[dict[str, Any]]) -> str:
    """Render the leaderboard as CSV: fractions in 0-1, an empty field where there is no value."""
    text = io.StringIO()
    writer = csv.DictWriter(text, (*COLUMNS, "partial"), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in board:
        writer.writerow({name: csv_cell(value) if isinstance(value, str) else value for name, value in row.items()})
    return text.getvalue()


def show(board: list[dict[str, Any]], more: str = "make leaderboard, or leaderboard.md", width: int | None = None) -> None:
    """Print rows as a table that fits the terminal; columns without any value are left out.

    Args:
        board: The rows.
        more: Where columns for which there is no room can be seen.
        width: As for `tables.show_table`.
    """
    cells = [_cells(row) | {"adapter": _short_adapter(row)} for row in board]
    heads = [head for head in _heads(board) if any(row[head.title] for row in cells)]
    show_table(heads, [[row[head.title] for head in heads] for row in cells], more, width)


# Score, interval, outputs that do not follow and what was run are always shown; the rest gives way in this order.
_HEADS = (
    Column("model", is_name=True),
    Column("adapter", is_name=True),
    Column("recipe", is_name=True, dropped=6),
    Column("train samples", dropped=9),
    Column("seed", dropped=5),
    Column("steps", dropped=3),
    Column("collapsed", dropped=13),
    Column("task", is_name=True, dropped=7),
    Column("data", is_name=True, dropped=4),
    Column("n", dropped=10),
    Column("score %"),
    Column("95% interval"),
    Column("not following"),
    Column("near ties", dropped=12),
    Column("strict %", dropped=11),
    Column("docs/s", dropped=8),
    Column("reported %", dropped=2),
    Column("inside", dropped=1),
)


def _heads(board: list[dict[str, Any]]) -> list[Column]:
    """The columns; that of near ties only where there are any."""
    has_ties = any(row["near_ties"] for row in board)
    return [head for head in _HEADS if head.title != "near ties" or has_ties]


def _short_adapter(row: dict[str, Any]) -> str:
    """An adapter's name without that of its base, which stands beside it."""
    base = row["model"].split(" (")[0].replace("/", "__")  # as its folder is called; behind it stands how it is quantised
    return str(row["adapter"] or "").removeprefix(f"{base}--")


def _cells(row: dict[str, Any]) -> dict[str, str]:
    """Format a row for people, by column head; percent with two digits, as 1/872 is 0.11."""
    speed = row["docs_per_s"]
    values = {
        "model": row["model"],
        "adapter": row["adapter"] or "",
        "recipe": row["recipe"] or "",
        "train samples": row["train_samples"] or "",
        "seed": "" if row["seed"] is None else row["seed"],
        "steps": row["optimiser_steps"] or "",
        "collapsed": "YES" if row["collapsed"] else "",
        "task": row["task"],
        "data": row["data"],
        "n": f"{row['n']}/{row['n_available']}" if row["partial"] else row["n"],
        "score %": _percent(row["score"]),
        "95% interval": f"{100 * row['low']:.1f}-{100 * row['high']:.1f}",
        "not following": row["not_following"],
        "near ties": "" if row["near_ties"] is None else row["near_ties"],
        "strict %": _percent(row["strict_score"]),
        "docs/s": "" if speed is None else f"{speed:.1f}",
        "reported %": _percent(row["reported"]),
        "inside": {True: "yes", False: "no", None: ""}[row["reported_inside"]],
    }
    return {head: str(value) for head, value in values.items()}


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f}"


def _table(board: list[dict[str, Any]], heads: list[str]) -> list[str]:
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for row in board:
        cells = _cells(row)
        lines.append("| " + " | ".join(markdown_cell(cells[head]) for head in heads) + " |")
    return [*lines, ""]


def _row(manifest: dict[str, Any], reported: list[dict[str, str]]) -> dict[str, Any]:
    counts = manifest["counts"]
    main = counts.get("lenient") or next(iter(counts.values()))
    n = manifest["n"]
    low, high = wilson(main["correct"], n)
    training = manifest.get("training") or {}
    quantisation = manifest.get("quantisation")
    row = {
        "model": f"{manifest['model']} ({quantisation})" if quantisation else manifest["model"],
        **{name: manifest.get(name) for name in ("adapter", "train_samples", "seed", "task", "data")},
        "recipe": training.get("recipe"),
        "optimiser_steps": training.get("optimiser_steps"),
        "collapsed": training.get("collapsed"),
        "n": n,
        "n_available": manifest["n_available"],
        "score": main["correct"] / n,
        "low": low,
        "high": high,
        "not_following": sum(main["not_following"].values()),
        "near_ties": manifest.get("near_ties"),
        "strict_score": counts["strict"]["correct"] / n if "strict" in counts else None,
        "docs_per_s": manifest.get("docs_per_s"),
        "reported": None,
        "reported_inside": None,
        "partial": n < manifest["n_available"],
        "content": label_efficiency.content(manifest),
        "batch_size": (training.get("settings") or {}).get("batch_size"),
    }
    score = _reported_score(manifest, reported)
    if score is not None and not row["partial"]:
        row |= {"reported": score, "reported_inside": low <= score <= high}
    return row


def _reported_score(manifest: dict[str, Any], reported: list[dict[str, str]]) -> float | None:
    """Find the original's score of the same model, training size and data, as the fraction of 872 it stands for."""
    how = (manifest.get("key_parts") or {}).get("quantisation")
    # A preset says what is asked for; how a checkpoint is stored, its own name says.
    name = REPORTED_AS.get((manifest["model"], manifest["task"], how if how in quantisation.ASKED else None))
    samples = str(manifest.get("train_samples") or 0)
    if manifest.get("data_fingerprint") != SST2_VALIDATION:
        return None
    found = [row for row in reported if row["model"] == name and row["train_samples"] == samples]
    if len(found) > 1:  # reported at two batch sizes: only a recipe that names one of them is the same experiment
        recipe = str((manifest.get("training") or {}).get("recipe"))
        found = [row for row in found if recipe.endswith(f"-b{row['batch_size']}")]
    return int(found[0]["correct_of_872"]) / 872 if found else None
