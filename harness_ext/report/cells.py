"""What stands in the cells of comparisons and lists of documents."""

from collections.abc import Callable, Mapping, Sequence

from harness_ext.errors import whole_number
from harness_ext.report.logs import UNTOLD, Log, Side
from harness_ext.results.tables import Column, shorten, show_table

LONGEST = 300  # characters of a text where there is no terminal to fit it to
_SHORT = 60  # of what was written in place of a label
Rows = int | None  # how many are shown; None: all


def rows(name: str, text: str) -> Rows:
    """Read how many rows the user wants."""
    return None if text == "all" else whole_number(name, text, least=0)


def signed(share: float) -> str:
    """Write a difference in percentage points with its sign; none has none."""
    rounded = round(100 * share, 1)
    return f"{rounded:+.1f}" if rounded else "0.0"


def answer(side: Side) -> Callable[[int], str]:
    """Return what says what was answered to a document: the label, or what was written; of seeds how many are right."""
    if len(side.logs) > 1:
        return lambda n: f"{sum(bool(log.correct[n]) for log in side.logs)} of {len(side.logs)}"
    log = side.logs[0]
    return lambda n: log.said[n] if log.said[n] not in ("", UNTOLD) else written(log, n)[:_SHORT] or "no label"


def written(log: Log, n: int) -> str:
    """Say what was written, if that is known."""
    return log.responses[n].strip() if log.responses else ""


def show_documents(
    log: Log,
    texts: Sequence[str],
    places: Sequence[int],
    columns: Mapping[Column, Callable[[int], str]],
    most: Rows,
    head: str,
) -> None:
    """Say how many documents there are, and print one a row.

    Args:
        log: Names the documents and their labels.
        texts: Of all documents, or none.
        places: Of the documents to show, in order.
        columns: Further ones, with what gives the cell of a document.
        most: How many are shown.
        head: What they are, and how many.
    """
    shown, cells = places[:most], {Column("doc", is_name=True): lambda n: log.ids[n]}
    if any(texts):
        cells[Column("text", is_name=True)] = lambda n: shorten(texts[n], LONGEST)
    cells |= {Column("label"): lambda n: log.gold[n], **columns}
    print(f"\n{head}" + (f" ({len(shown)} shown)" if 0 < len(shown) < len(places) else "") + ".:"[bool(shown)])
    if shown:
        show_table(list(cells), [[cell(n) for cell in cells.values()] for n in shown])
