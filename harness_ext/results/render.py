"""Runs as rows: as CSV, and as a table in a terminal. Writes no files."""

import csv
import io
from collections.abc import Callable
from typing import Any

from harness_ext.results.tables import Column, csv_cell, show_table
from harness_ext.results.words import hundredths, span

CSV_COLUMNS = (
    "entry", "model", "method", "adapter", "recipe", "train_samples", "seed", "optimiser_steps", "collapsed",
    "no_better_than_base",
    "task", "data", "settings", "n", "n_available", "score", "low", "high",
    "not_following", "near_ties", "strict_score", "auroc", "docs_per_s", "peak_memory_bytes", "train_s", "price_per_1000",
    "reported", "reported_inside", "partial", "stale", "counted", "key",
)  # fmt: skip
Row = dict[str, Any]
_NAMED = ("examples", "calibrated", "probe")  # methods that nothing else in a row says
_OPTIONAL = ("method", "near ties", "settings", "AUROC")


def as_csv(board: list[Row]) -> str:
    """Render the leaderboard as CSV: fractions in 0-1, an empty field where there is no value."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in board:
        writer.writerow({name: csv_cell(value) if isinstance(value, str) else value for name, value in row.items()})
    return text.getvalue()


def show(board: list[Row], more: str = "make leaderboard, or leaderboard.csv", width: int | None = None) -> None:
    """Print rows as a table that fits the terminal (`tables.show_table`); columns without any value are left out."""
    short = [row | {"adapter": _short_adapter(row)} for row in board]
    columns = {column: [cell(row) for row in short] for column, cell in _columns(board).items()}
    filled = {column: cells for column, cells in columns.items() if any(cells)}
    show_table(list(filled), list(zip(*filled.values(), strict=True)), more, width)


def verdict_of_training(made: dict[str, Any]) -> str | None:
    """Say what is wrong with how an adapter answers the rows held out, given its row or record; None if nothing is."""
    return "YES" if made.get("collapsed") else "no better" if made.get("no_better_than_base") else None


def _columns(board: list[Row]) -> dict[Column, Callable[[Row], str]]:
    """The columns; some only where there is anything in them."""
    shown = {column: cell for column, cell in _COLUMNS.items() if column.title in _OPTIONAL}
    empty = [column for column, cell in shown.items() if all(cell(row) in ("", "0") for row in board)]
    return {column: cell for column, cell in _COLUMNS.items() if column not in empty}


def _short_adapter(row: Row) -> str:
    """An adapter's name without that of its base, which stands beside it."""
    base = row["model"].split(" (")[0].replace("/", "__")  # as its folder is called; behind it stands how it is quantised
    return str(row["adapter"] or "").removeprefix(f"{base}--")


def _of(field: str, form: str = "{}") -> Callable[[Row], str]:
    return lambda row: "" if row[field] is None else form.format(row[field])


# Score, interval, outputs that do not follow and what was run are always shown; the rest gives way in this order.
_COLUMNS: dict[Column, Callable[[Row], str]] = {
    Column("model", is_name=True): _of("model"),
    Column("method", dropped=15): lambda row: row["method"] if row["method"] in _NAMED else "",
    Column("adapter", is_name=True): _of("adapter"),
    Column("recipe", is_name=True, dropped=6): _of("recipe"),
    Column("train samples", dropped=9): lambda row: str(row["train_samples"] or ""),
    Column("seed", dropped=5): _of("seed"),
    Column("steps", dropped=3): _of("optimiser_steps"),
    Column("collapsed", dropped=13): lambda row: verdict_of_training(row) or "",
    Column("task", is_name=True, dropped=7): _of("task"),
    Column("data", is_name=True, dropped=4): _of("data"),
    Column("settings", is_name=True, dropped=14): _of("settings"),
    Column("n", dropped=10): lambda row: f"{row['n']}/{row['n_available']}" if row["partial"] else str(row["n"]),
    Column("score %"): lambda row: hundredths(row["score"]),
    Column("95% interval"): lambda row: span((row["low"], row["high"])),
    Column("not following"): _of("not_following"),
    Column("near ties", dropped=12): _of("near_ties"),
    Column("strict %", dropped=11): lambda row: hundredths(row["strict_score"]),
    Column("AUROC", dropped=2): _of("auroc", "{:.3f}"),
    Column("docs/s", dropped=8): _of("docs_per_s", "{:.1f}"),
    Column("reported %", dropped=2): lambda row: hundredths(row["reported"]),
}
