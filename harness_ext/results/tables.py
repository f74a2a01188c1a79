"""Tables for people: fitted to any terminal, and cells of Markdown and CSV that hold what others have named.

A name is untrusted text: control characters are made visible, and nothing in it is read as markup.
"""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

COMFORTABLE = 18  # ten and a key of eight


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    title: str  # its head; two words stand on two lines
    is_name: bool = False  # it holds names, which may be shortened in their middle; others are shown whole or not at all
    is_left: bool = False  # it is aligned to the left, as names are
    comfortable: int = COMFORTABLE  # cells that a name keeps before columns are dropped
    dropped: int = 0  # when it is left out for want of room: 1 first, then 2, ...; never where it is 0

    @property
    def width(self) -> int:
        """Cells that its head takes."""
        return max(map(len, self.title.split(" ")))


def show_table(
    columns: Sequence[Column | str], rows: Sequence[Sequence[str]], more: str = "a wider window", width: int | None = None
) -> None:
    """Print a table that fits: names are shortened, then columns left out in their declared order, and that is said.

    A text among the columns is one that is never left out; `more` says where others can be seen. Without a `width` in
    cells it is the terminal's, or as many as are needed where there is none.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    heads = [Column(column) if isinstance(column, str) else column for column in columns]
    lines = [[visible(str(cell)) for cell in row] for row in rows]
    if width is None and sys.stdout.isatty():
        width = Console().width
    widths = fit(heads, lines, width)
    table = Table(box=None, padding=(0, 1, 0, 0))
    kept = [n for n, room in enumerate(widths) if room]
    for n in kept:
        side: Any = "left" if heads[n].is_name or heads[n].is_left else "right"
        table.add_column(Text(heads[n].title.replace(" ", "\n")), justify=side, no_wrap=True, min_width=widths[n])
    for line in lines:
        table.add_row(*(Text(shorten(line[n], widths[n])) for n in kept))
    out = Console(width=sum(widths) + len(widths) + 1, highlight=False)
    out.print(table, new_line_start=True)
    if left_out := widths.count(0):
        print(f"(+ {left_out} column{'s'[: left_out > 1]}: {more})")


def fit(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None) -> list[int]:
    """Decide how many terminal cells each column gets, 0 where it is left out; without a `width` as many as it needs."""
    from rich.cells import cell_len

    wanted = [max([column.width, *(cell_len(row[n]) for row in rows)]) for n, column in enumerate(columns)]
    if width is None:
        return wanted
    least = [
        min(wanted[n], max(each.comfortable, each.width)) if each.is_name else wanted[n] for n, each in enumerate(columns)
    ]
    kept = {n for n, column in enumerate(columns) if not column.dropped}
    for n in sorted(set(range(len(columns))) - kept, key=lambda n: -columns[n].dropped):
        if sum(least[each] + 1 for each in (*kept, n)) <= width:
            kept.add(n)
    widths = [least[n] if n in kept else 0 for n in range(len(columns))]
    names = [n for n in kept if columns[n].is_name]
    spare = width - sum(room + 1 for room in widths if room)
    step = -1 if spare < 0 else 1  # nothing left to drop: names give way further; or they get what is left
    while spare and (able := [n for n in names if (widths[n] < wanted[n] if step > 0 else widths[n] > 3)]):
        widths[min(able, key=lambda n: step * widths[n])] += step
        spare -= step
    return widths


def shorten(text: str, width: int) -> str:
    """Cut a text in its middle to so many cells; the ends, where names differ, stay."""
    from rich.cells import cell_len, set_cell_size

    if cell_len(text) <= width:
        return text
    mark = "…" if (sys.stdout.encoding or "").lower().startswith("utf") else "~"
    head = set_cell_size(text, (width - 1) // 2).rstrip()  # half of a wide character would be a blank
    return head + mark + set_cell_size(text[::-1], width - 1 - cell_len(head)).rstrip()[::-1]


def visible(text: str) -> str:
    """Write control characters, line ends and invisible characters as escapes, as Python does."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Write the lines of a Markdown table, an empty one behind it."""
    lines = [heads, ["---"] * len(heads), *([markdown_cell(cell) for cell in row] for row in rows)]
    return [*(f"| {' | '.join(line)} |" for line in lines), ""]


def markdown_cell(text: str) -> str:
    """Write a text so that it stays in its cell of a Markdown table and is shown as it is."""
    plain = visible(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\|`*\[\]~$]|(?<!\w)_|_(?!\w))", r"\\\1", plain)  # within a word an underscore is only itself


def csv_cell(text: str) -> str:
    """Write a text so that a spreadsheet does not take it for a formula: with an apostrophe before it."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
