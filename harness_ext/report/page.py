"""The page: what the runs under OUT show, written as one file that needs nothing else."""

import base64
import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from harness_ext.errors import UserError, writing_to
from harness_ext.report import answer, claims, collect, figures, verdict
from harness_ext.report.find import of_run
from harness_ext.report.matrix import Matrix, Pair, matrices
from harness_ext.report.texts import SAMPLES, with_texts
from harness_ext.results import board, prices, records, reported, reported_tables, runs, unlabelled
from harness_ext.results.contest import method_of
from harness_ext.results.prices import Prices
from harness_ext.results.runs import Run
from harness_ext.results.standings import Entry, entries
from harness_ext.results.tables import Column, visible
from harness_ext.results.words import in_order

TEMPLATES = Path(__file__).parent / "templates"
FILE = "report.html"
SCRIPTS = ("tablesort.min.js", "parts.js", "views.js", "page.js")
FIRST = ("score %", "95% interval", "group", "labels")  # columns that a telephone shows without scrolling
FOLDED = ("kinds", "near ties", "memory GB", "machine")  # columns of leaderboard.md for which a page has no room
COMMAND = "make report"


def write_report(out: Path, data_dir: str | None = None, priced: Prices | None = None) -> Path:
    """Write ``OUT/report.html`` of all complete runs under OUT.

    It shows the texts of documents whose run has a log beside it, or that stand in `data_dir`.
    """
    found = entries(runs.read_all(out))
    if not found:
        raise UserError(f"No complete run under {out / 'runs'}. Run `make eval` first, or name another folder with OUT=.")
    prices.say_unused(priced, (run.record for entry in found for run in entry.runs))
    page = render(found, read_texts(found, data_dir), out, priced)
    with writing_to(out), records.replacing(out / FILE) as new:
        new.write_text(page, encoding="utf-8", newline="\n")
    return out / FILE


def read_texts(entries: Sequence[Entry], data_dir: str | None) -> dict[str, str]:
    """Read the texts of documents by hash: of each data set from a run's log, else from `data_dir`."""
    by_data: dict[tuple[str, ...], list[Run]] = {}
    for run in (run for entry in entries for run in entry.runs):
        if run.answers:
            by_data.setdefault(run.answers.documents, []).append(run)
    found: dict[str, str] = {}
    refused, helped = None, False
    for same in by_data.values():
        run = next((run for run in same if (run.folder / SAMPLES).is_file()), same[0])
        try:
            log, *_ = with_texts(of_run(run), data_dir).logs
            found |= {name: text for name, text in zip(log.hashes, log.texts, strict=False) if text}
            helped |= any(log.texts) and not (run.folder / SAMPLES).is_file()
        except UserError as error:
            refused = error
    if refused and not helped:  # not one data set has its texts from there
        raise refused
    return found


def render(entries: Sequence[Entry], texts: Mapping[str, str], out: Path, priced: Prices | None) -> str:
    """Render the page of a leaderboard.

    Args:
        entries: The leaderboard.
        texts: Of documents by hash, as far as they are known.
        out: Where adapters have left their loss histories.
        priced: What machines or tokens cost.
    """
    tables = matrices(entries)
    content = collect.details(entries, texts, out) | {"pairs": _verdicts(entries, tables)}
    templates = {each.name: each.read_text(encoding="utf-8") for each in TEMPLATES.iterdir()}
    script = '"use strict";\n' + "\n".join(templates[name] for name in SCRIPTS)
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    environment.filters |= {"cell": _cell, "svg": Markup}
    columns, rows = _rows(entries, priced)
    return environment.from_string(templates["page.html"]).render(
        about=_about(entries),
        verdict=answer.sentences(entries),
        figures=pictures(entries, priced),
        columns=columns,
        explained=[" ".join(line.split()) for line in board.EXPLAINED.removeprefix("- ").split("\n- ")],
        board=rows,
        labels=sorted({entry.samples for entry in entries if entry.samples is not None}, key=in_order),
        ways=unlabelled.rows(entries),
        ways_heads=unlabelled.HEADS,
        ways_explained=" ".join(unlabelled.EXPLAINED.split()),
        matrices=[_titled(each, tables) for each in tables],
        claims=claims.restated(entries),
        note=claims.NOTE,
        reported=reported_tables.rows(),
        reported_heads=reported_tables.HEADS,
        command=COMMAND,
        newest=max(str(run.record.get("started") or "") for entry in entries for run in entry.runs)[:10],
        has_texts=bool(texts),
        style=Markup(templates["page.css"]),  # noqa: S704
        script=Markup(script),  # noqa: S704
        script_hash=f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}",
        payload=_packed(content),
    )


def pictures(entries: Sequence[Entry], priced: Prices | None = None) -> list[figures.Drawn]:
    """Draw the page's pictures, that of score by labels first."""
    return [each for each in (figures.label_efficiency(entries), *figures.others(entries, priced)) if each]


def _packed(content: Any) -> str:
    plain = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    return base64.b64encode(gzip.compress(plain, 6, mtime=0)).decode()


def _verdicts(entries: Sequence[Entry], tables: Sequence[Matrix]) -> dict[str, tuple[str, bool]]:
    """Say of each pair, called by the numbers of its entries, what `make compare` says, and whether that tells it apart."""
    said = {}
    for (a, b), pair in (each for table in tables for each in table.pairs.items()):
        words = verdict.sentences(method_of(entries[a]), method_of(entries[b]), pair.contrast)
        said[f"{a}-{b}"] = " ".join(words), pair.alone
    return said


def _about(entries: Sequence[Entry]) -> str:
    """Say what the page is made of."""
    count = sum(len(entry.runs) for entry in entries)
    data = {(str(entry.record.get("data")), entry.record["n_available"]) for entry in entries}
    named = "; ".join(f"{name}, {n} documents" for name, n in sorted(data))
    return f"{count} runs of {len(entries)} methods, on {named}."


def _rows(entries: Sequence[Entry], priced: Prices | None) -> tuple[list[Column], list[dict[str, Any]]]:
    """Write entries as the leaderboard has them, the name first, and the ends of a bar for each."""
    columns = board.filled(entries, reported.scores(), priced)
    names = [column for column in columns if column.is_name]
    others = [column for title in FIRST for column in columns if column.title == title]
    others += [column for column in columns if not column.is_name and column not in others and column.title not in FOLDED]
    shown = [replace(column, title="group (same labels)") if column.title == "group" else column for column in others]
    several = len({str(entry.record.get("data")) for entry in entries}) > 1
    rows = []
    for entry in entries:
        low, high = entry.interval or (entry.score.mean, entry.score.mean)
        bar = [round(100 * each, 1) for each in (low, high, entry.score.mean)]
        cells = [columns[column](entry) for column in others] + [str(entry.record.get("data"))] * several
        rows.append({"name": columns[names[0]](entry), "samples": entry.samples, "cells": cells, "bar": bar})
    return shown + [Column("data", is_left=True)] * several, rows


def _titled(matrix: Matrix, tables: Sequence[Matrix]) -> dict[str, Any]:
    labels = "Any number of labels" if matrix.samples is None else f"{matrix.samples or 'No'} labels".capitalize()
    labels += " or none" if matrix.samples else ""
    where = f", {matrix.data}" if len({each.data for each in tables}) > 1 else ""
    title = f"{labels}{where}: the best {len(matrix.numbers)}"
    return {"title": title, "numbers": matrix.numbers, "pairs": matrix.pairs}


def _cell(pair: Pair) -> str:
    if pair.contrast.p is None:
        return "–"
    return f"{100 * pair.contrast.difference:+.1f}{'' if pair.alone else '?'}"
