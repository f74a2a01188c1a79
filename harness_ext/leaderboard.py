"""The leaderboard: every complete run as a row, sorted by score, beside what the original reported."""

import csv
import io
import os
from pathlib import Path
from typing import Any

from harness_ext import efficiency, presets, quantised, records
from harness_ext.errors import UserError, writing_to
from harness_ext.models import ROOT
from harness_ext.stats import wilson

REPORTED = ROOT / "results" / "reported.csv"
SST2_VALIDATION = "1693a5fbd9fa5b4a"  # data.fingerprint of GLUE's 872 validation sentences
COLUMNS = (
    "model", "adapter", "recipe", "train_samples", "seed", "optimiser_steps", "collapsed",
    "task", "data", "n", "n_available", "score", "low", "high",
    "not_following", "strict_score", "docs_per_s", "reported", "reported_inside",
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
        if scores := efficiency.by_samples(board):
            files += efficiency.draw(scores, out / "label-efficiency")
    return board, files


def markdown(board: list[dict[str, Any]]) -> str:
    """Render the leaderboard as Markdown, partial runs in a table of their own."""
    text = ["# Leaderboard", "", "Made by `make leaderboard`. Score: correct / all, with a Wilson 95% interval.", ""]
    if scores := efficiency.by_samples(board):
        text += ["## Score by number of labels", "", "Mean in percent (lowest-highest seed, number of seeds).", ""]
        text += [*efficiency.markdown(scores), "![](label-efficiency.svg)", "", "## All runs", ""]
    full = [row for row in board if not row["partial"]]
    partial = [row for row in board if row["partial"]]
    if full:
        text += _table(full)
    if partial:
        text += ["## Partial runs (LIMIT=): for trying out, not for comparing", "", *_table(partial)]
    if any(row["n"] == 872 for row in full):
        text += [NOTE_N, ""]
    return "\n".join(text)


def as_csv(board: list[dict[str, Any]]) -> str:
    """Render the leaderboard as CSV: fractions in 0-1, an empty field where there is no value."""
    text = io.StringIO()
    writer = csv.DictWriter(text, (*COLUMNS, "partial"), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(board)
    return text.getvalue()


def show(board: list[dict[str, Any]]) -> None:
    """Print rows as a table that fits the terminal; columns without any value are left out."""
    from rich.console import Console
    from rich.table import Table

    cells = [_cells(row) for row in board]
    names = ("model", "adapter", "task", "data")
    table = Table(box=None, padding=(0, 1, 0, 0))
    heads = [head for head in _HEADS if any(row[head] for row in cells)]
    for head in heads:
        title = head.replace(" ", "\n")
        if head in names:
            table.add_column(title, overflow="fold", min_width=9)  # a name that is folded stays readable
        else:
            table.add_column(title, justify="right", no_wrap=True)
    for row in cells:
        table.add_row(*(row[head].replace("[", "\\[") for head in heads))
    Console().print(table, new_line_start=True)


_HEADS = (
    "model", "adapter", "train samples", "seed", "steps", "collapsed", "task", "data", "n", "score %", "95% interval",
    "not following", "strict %", "docs/s", "reported %", "inside",
)  # fmt: skip


def _cells(row: dict[str, Any]) -> dict[str, str]:
    """Format a row for people, by column head; percent with two digits, as 1/872 is 0.11."""
    speed = row["docs_per_s"]
    values = (
        row["model"],
        row["adapter"] or "",
        row["train_samples"] or "",
        "" if row["seed"] is None else row["seed"],
        row["optimiser_steps"] or "",
        "YES" if row["collapsed"] else "",
        row["task"],
        row["data"],
        f"{row['n']}/{row['n_available']}" if row["partial"] else row["n"],
        _percent(row["score"]),
        f"{100 * row['low']:.1f}-{100 * row['high']:.1f}",
        row["not_following"],
        _percent(row["strict_score"]),
        "" if speed is None else f"{speed:.1f}",
        _percent(row["reported"]),
        {True: "yes", False: "no", None: ""}[row["reported_inside"]],
    )
    return dict(zip(_HEADS, map(str, values), strict=True))


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f}"


def _table(board: list[dict[str, Any]]) -> list[str]:
    lines = ["| " + " | ".join(_HEADS) + " |", "|" + " --- |" * len(_HEADS)]
    for row in board:
        # A model's name is the user's text: it must not break out of its cell or become markup.
        cells = (cell.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;") for cell in _cells(row).values())
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def _row(manifest: dict[str, Any], reported: list[dict[str, str]]) -> dict[str, Any]:
    counts = manifest["counts"]
    main = counts.get("lenient") or next(iter(counts.values()))
    n = manifest["n"]
    low, high = wilson(main["correct"], n)
    training = manifest.get("training") or {}
    quantisation = (manifest.get("choices") or {}).get("quantisation")
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
        "strict_score": counts["strict"]["correct"] / n if "strict" in counts else None,
        "docs_per_s": manifest.get("docs_per_s"),
        "reported": None,
        "reported_inside": None,
        "partial": n < manifest["n_available"],
        "content": efficiency.content(manifest),
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
    name = REPORTED_AS.get((manifest["model"], manifest["task"], how if how in quantised.ASKED else None))
    samples = str(manifest.get("train_samples") or 0)
    if manifest.get("data_fingerprint") != SST2_VALIDATION:
        return None
    found = [row for row in reported if row["model"] == name and row["train_samples"] == samples]
    if len(found) > 1:  # reported at two batch sizes: only a recipe that names one of them is the same experiment
        recipe = str((manifest.get("training") or {}).get("recipe"))
        found = [row for row in found if recipe.endswith(f"-b{row['batch_size']}")]
    return int(found[0]["correct_of_872"]) / 872 if found else None
