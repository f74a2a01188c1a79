"""The leaderboard's files: read every run under OUT, write what is made of them."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

from harness_ext.errors import UserError, writing_to
from harness_ext.results import (
    board,
    label_efficiency,
    label_figure,
    leaderboard,
    prices,
    records,
    render,
    reported,
    reported_tables,
    runs,
    standings,
    unlabelled,
)
from harness_ext.results.prices import Prices, per_1000
from harness_ext.results.runs import Run
from harness_ext.results.standings import Entry
from harness_ext.results.words import counted

PICTURE = "label-efficiency"
_DIGITS = 6  # that mean something, of a number in JSON


def write_leaderboard(out: Path, priced: Prices | None = None) -> tuple[list[Entry], list[Path], str]:
    """Write the leaderboard of all complete runs under OUT, and a picture of scores by labels.

    Returns:
        The entries, the files, and in a sentence what was counted.
    """
    found = runs.read_all(out)
    entries = standings.entries(found)
    if not entries:
        raise UserError(f"No complete run under {out / 'runs'}. Run `make eval` first, or name another folder with OUT=.")
    prices.say_unused(priced, (run.record for run in found))
    with writing_to(out):
        pictures = label_figure.write(entries, out / PICTURE)
        texts = {
            out / "leaderboard.md": markdown(entries, priced, has_picture=bool(pictures)),
            out / "leaderboard.csv": render.as_csv(_rows(entries, priced)),
            out / "leaderboard.json": json.dumps(as_json(entries, priced), indent=1, ensure_ascii=False) + "\n",
        }
        for path, text in texts.items():
            with records.replacing(path) as new:
                new.write_text(text, encoding="utf-8")
    return entries, [*texts, *pictures], _counted(out, found, entries)


def markdown(entries: Sequence[Entry], priced: Prices | None, *, has_picture: bool) -> str:
    """Render the leaderboard as Markdown: score by labels, the tables, ways to ask without labels, the original's scores."""
    by_labels, ways = label_efficiency.markdown(entries), unlabelled.markdown(entries)
    beside = reported_tables.beside(entries)
    text = ["# Leaderboard", "", "Made by `make leaderboard`; every run by itself is in leaderboard.csv.", ""]
    if by_labels:
        text += ["## Score by number of labels", "", label_efficiency.EXPLAINED, "", *by_labels]
        text += [f"![Score by number of labels]({PICTURE}.svg)", ""] * has_picture
    text += ["## How to read the tables", "", board.EXPLAINED, "", *board.markdown(entries, reported.scores(), priced)]
    if ways:
        text += ["## Asked without a label", "", unlabelled.EXPLAINED, "", *ways]
    text += ["## What the original experiment reports", "", reported_tables.EXPLAINED, "", *reported_tables.alone()]
    if beside:
        text += ["### Reproduced", "", "Runs of the same models on the same data.", "", *beside]
    return "\n".join([*text, reported_tables.NOTE_N, ""])


def _rows(entries: Sequence[Entry], priced: Prices | None) -> list[dict[str, Any]]:
    """Return a row a run, best score first, with what its entry adds."""
    scores, more = reported.scores(), {}
    for entry in entries:
        for run in (*entry.runs, *entry.repeated):
            more[run.record["key"]] = {
                "entry": entry.name,
                "stale": entry.stale,
                "counted": run not in entry.repeated,
                "price_per_1000": per_1000(priced, run.record),
            }
    found = [run.record for entry in entries for run in (*entry.runs, *entry.repeated)]
    return [row | more[row["key"]] for row in leaderboard.rows(found, scores)]


def as_json(entries: Sequence[Entry], priced: Prices | None) -> dict[str, Any]:
    """Return the entries as data, best score first; shares in 0-1, null where there is no value."""
    scores = reported.scores()
    return {"currency": priced and priced.currency, "entries": [_rounded(_entry(each, scores, priced)) for each in entries]}


def _entry(entry: Entry, scores: list[reported.Score], priced: Prices | None) -> dict[str, Any]:
    low, high = entry.interval or (None, None)
    as_it_is = {name: entry.record.get(name) for name in ("task", "data", "data_fingerprint", "n", "n_available")}
    return {
        "name": entry.name,
        **as_it_is,
        "labels": entry.samples,
        "group": entry.rank,
        "why_no_group": entry.unranked or None,
        "score": entry.score.mean,
        "low": low,
        "high": high,
        "seeds": entry.seeds,
        "collapsed": entry.collapsed,
        "no_better_than_base": entry.no_better,
        "partial": entry.partial,
        "stale": entry.stale,
        "not_following": entry.not_following,
        "near_ties": entry.over_runs(mean, "near_ties"),
        "strict_score": entry.strict,
        "docs_per_s": entry.over_runs(median, "docs_per_s"),
        "peak_memory_bytes": entry.peak_memory,
        "train_s": entry.over_runs(median, "training.train_s"),
        "price_per_1000": board.price(entry, priced),
        "reported": reported.score_of(entry.record, scores),
        "runs": [
            {"key": run.record["key"], "seed": standings.seed_of(run.record), "score": score}
            for run, score in zip(entry.runs, entry.scores, strict=True)
        ],
        "repeated": [run.record["key"] for run in entry.repeated],
    }


def _rounded(value: Any) -> Any:
    """Round what a library's last digit could change."""
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value


def _counted(out: Path, found: Sequence[Run], entries: Sequence[Entry]) -> str:
    """Say how many runs there are, and what became of those that are in no mean."""
    repeated = sum(len(entry.repeated) for entry in entries)
    used = sum(len(entry.runs) for entry in entries)
    folders = {path.parent.name for path in records.manifests(out)}
    said = [
        f"{counted(used, 'run')} in {len(entries)} entr{'ies' if len(entries) > 1 else 'y'}",
        f"{repeated} with the seed of a later one" * bool(repeated),
        f"{len(found) - used - repeated} of other tasks" * (len(found) > used + repeated),
        f"{len(folders) - len(found)} left out as said above" * (len(folders) > len(found)),
    ]
    return ", ".join(each for each in said if each) + "."
