"""`make show`: what a run said of its documents, one a row."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness_ext.errors import UserError, did_you_mean
from harness_ext.report.cells import LONGEST, Rows, show_documents, written
from harness_ext.report.find import Results
from harness_ext.report.logs import Log
from harness_ext.report.texts import HINT, with_texts
from harness_ext.results.tables import Column, shorten, visible

ONLY = ("not_following", "wrong", "right", "near_ties")


def run(name: str | None, only: str | None, out: Path, data_dir: str | None, most: Rows) -> None:
    """Print the documents of a run, of a kind or all."""
    if name is None:
        raise UserError("RUN is missing. Give a run's folder or key, or its name on the leaderboard: make show RUN=...")
    if only is not None and only not in ONLY:
        raise UserError(f"ONLY={only!r} is none of {', '.join(ONLY)}.{did_you_mean(only, ONLY)}")
    side = with_texts(Results(out).find("RUN", name), data_dir)
    log = side.logs[0]
    if len(side.logs) > 1 and side.seeds:
        print(f"Seed {side.seeds[0]} of {', '.join(map(str, side.seeds))}: {side.runs[0].folder}")
    else:
        print(visible(side.name))
    places, head = _chosen(log, only, side.runs[0].record if side.runs else {})
    columns: dict[Column, Callable[[int], str]] = {
        Column("said"): lambda n: log.said[n],
        Column("margin", dropped=1): lambda n: (
            "" if log.margins is None or np.isnan(log.margins[n]) else f"{log.margins[n]:+.2f}"
        ),
        Column("written", is_name=True): lambda n: (
            "" if (text := written(log, n)) == log.said[n] else shorten(text, LONGEST)
        ),
    }
    kept = {column: cell for column, cell in columns.items() if any(cell(n) for n in places[:most])}
    show_documents(log, log.texts, places, kept, most, head)
    if places and log.hashes and not any(log.texts):
        print(HINT)


def _chosen(log: Log, only: str | None, record: dict[str, Any]) -> tuple[Sequence[int], str]:
    """Return the places of the documents to show, and what they are."""
    everything, of = range(len(log.ids)), f"of {len(log.ids)} documents"
    if only is None:
        return everything, f"All {len(log.ids)} documents"
    if only == "near_ties":
        return _near_ties(log, record)
    right = [n for n in everything if log.correct[n]]
    wrong = [n for n in everything if log.said[n] and not log.correct[n]]
    missing = [n for n in everything if not log.said[n]]
    if only == "not_following":
        if not log.tells_following:
            raise UserError("This log does not tell which outputs follow. ONLY=wrong shows all that are not right.")
        return missing, f"No label on {len(missing)} {of}"
    if only == "right":
        return right, f"Right on {len(right)} {of}"
    more = f"; {len(missing)} more have no label, which ONLY=not_following shows" if missing else ""
    return wrong, f"A wrong label on {len(wrong)} {of}{more}"


def _near_ties(log: Log, record: dict[str, Any]) -> tuple[Sequence[int], str]:
    """Return the documents with the smallest margins: a record counts near ties, and does not say which they are."""
    if log.margins is None or np.isnan(log.margins).all():
        raise UserError("This run keeps no margins: which answers are nearly ties is not known.")
    known = np.flatnonzero(~np.isnan(log.margins))
    order = [int(n) for n in known[np.argsort(np.abs(log.margins[known]), kind="stable")]]
    counted = record.get("near_ties")
    said = "" if counted is None else f"; the run counted {counted} near ties, and did not keep which"
    return order, f"The smallest margins of {len(order)} documents, nearest to a tie first{said}"
