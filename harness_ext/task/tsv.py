"""Reading a tab-separated file: without quoting, as GLUE writes it, or with quotes around cells, as a spreadsheet does.

GLUE's files hold quotes that are text, so a cell that begins with one proves nothing. A file counts as quoted where it
reads so from end to end and every text is in quotes, or some cell shows that its writer quoted (a doubled quote, a line
break) and no other text holds a bare quote. Where the quotes could be either, the file is refused.
"""

import re
from pathlib import Path
from typing import NamedTuple

from harness_ext.errors import DataError

_BEGINS = re.compile(r'(?:^|\t)"', re.MULTILINE)  # some cell begins with a quote
_CELL = re.compile(r'(?:"([^"]*(?:""[^"]*)*)"|([^"\t\n][^\t\n]*)?)(\t|\n|\Z)')
_WHOLE = re.compile(r'"(?:[^"]|"")*""(?:[^"]|"")*"')  # a cell in quotes with doubled ones inside


class Quoted(str):
    """A cell that stood in quotes, without them."""


class Row(NamedTuple):
    """The line on which a row begins, and its cells."""

    line: int
    cells: list[str]


def read_columns(path: Path, text: str, label: str) -> list[tuple[int, str, str]]:
    """Read line number, text and label of every row; in the header capitals and space around a name do not count."""
    content = _decode(path)
    raw = _split_raw(content)
    quoted, stopped_at = _split_quoted(content) if _BEGINS.search(content) else ([], 1)
    first, second = _find_columns(path, (quoted or raw)[0].cells, text, label)
    rows = _choose(path, raw, quoted, stopped_at, first)
    return [(line, cells[first], cells[second]) for line, cells in rows[1:]]


def _decode(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"Cannot read {path} ({error.strerror}). DATA_DIR must be a folder with GLUE's train.tsv and dev.tsv."
        ) from None
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path} is UTF-16 (a spreadsheet's 'Unicode text'). Save it as UTF-8, separated by tabs.")
    data = data.removeprefix(b"\xef\xbb\xbf")
    if b"\0" in data:
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
        raise DataError(f"{path}, row {line}: there is a NUL character, as in UTF-16. Save the file as UTF-8.")
    try:
        content = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line, begin = data.count(b"\n", 0, error.start) + 1, data.rfind(b"\n", 0, error.start) + 1
        at = error.start - begin + 1
        raise DataError(f"{path}, row {line}: byte {at} is not valid UTF-8. Save the file as UTF-8.") from None
    content = content.replace("\r\n", "\n")
    return content if "\n" in content else content.replace("\r", "\n")


def _find_columns(path: Path, header: list[str], text: str, label: str) -> tuple[int, int]:
    names = [name.strip() for name in header]
    folded = [name.casefold() for name in names]
    found = []
    for wanted in (text, label):
        if wanted in names:
            found.append(names.index(wanted))
        elif folded.count(wanted.casefold()) == 1:
            found.append(folded.index(wanted.casefold()))
    if len(found) == 2:
        return found[0], found[1]
    shown = "\t".join(names)[:80]
    for separator, called in ((",", "commas"), (";", "semicolons")):
        if len(names) == 1 and {text.casefold(), label.casefold()} <= {
            name.strip(' "') for name in folded[0].split(separator)
        }:
            raise DataError(f"{path}, row 1: {shown!r} is separated by {called}. Save the file separated by tabs.")
    raise DataError(f"{path}, row 1: the header is {shown!r}; it must name the columns {text!r} and {label!r}.")


def _choose(path: Path, raw: list[Row], quoted: list[Row], stopped_at: int, column: int) -> list[Row]:
    """Decide between two readings of a file: its rows with quotes as text, or as CSV up to the line where it is none."""
    raw_error, quoted_error = _even_out(path, raw), _even_out(path, quoted)
    texts = [(row.line, row.cells[column]) for row in quoted[1:] if len(row.cells) > column]
    breaks = any(isinstance(cell, Quoted) and re.search("[\t\n]", cell) for row in quoted for cell in row.cells)
    if stopped_at or quoted_error or (breaks and not raw_error):
        if raw_error:
            raise raw_error
        if place := _looks_quoted(raw, column):
            raise DataError(
                f"{path}, row {stopped_at or place}: the quotes do not match, though row {place} is quoted as a spreadsheet "
                "does it. Put the whole cell in quotes and double those inside, or quote no cell."
            )
        return raw
    in_quotes = [(line, text) for line, text in texts if isinstance(text, Quoted)]
    bare = any('"' in text and not isinstance(text, Quoted) for _, text in texts)
    doubled = [(line, text) for line, text in in_quotes if '"' in text]
    if raw_error or len(in_quotes) == len(texts) or not (in_quotes or bare) or (doubled and not bare):
        return quoted
    if bare and not doubled:
        return raw
    if not bare and all(("," in text) == isinstance(text, Quoted) for _, text in texts):  # what Excel quotes
        return quoted
    line, _ = (doubled or in_quotes)[0]
    raise DataError(
        f"{path}, row {line}: the text is in quotes, but not every text that could be is: are they part of it? If not, "
        'quote every text or none; if so, double them and quote the cell: """so""".'
    )


def _split_raw(content: str) -> list[Row]:
    return [Row(number, line.split("\t")) for number, line in enumerate(content.removesuffix("\n").split("\n"), start=1)]


def _split_quoted(content: str) -> tuple[list[Row], int]:
    """Split as CSV with tabs, up to the line of the first cell that is none, which is returned too; 0 if there is none."""
    rows: list[Row] = []
    cells: list[str] = []
    line, begun_at, at, end = 1, 1, 0, len(content.removesuffix("\n"))
    while found := _CELL.match(content, at, end):
        in_quotes, plain, then = found.groups()
        cells.append(plain or "" if in_quotes is None else Quoted(in_quotes.replace('""', '"')))
        at, line = found.end(), line + found[0].count("\n")
        if then != "\t":
            rows.append(Row(begun_at, cells))
            cells, begun_at = [], line
        if not then:
            return rows, 0
    return rows, line


def _even_out(path: Path, rows: list[Row]) -> DataError | None:
    """Drop blank rows at the end and blank cells behind the header's last; return what is wrong with the others."""
    while rows and not "".join(rows[-1].cells).strip():
        rows.pop()
    header = rows[0].cells if rows else []
    while header and not header[-1].strip():
        header.pop()
    for row in rows:
        n = len(row.cells)
        if n < len(header) or "".join(row.cells[len(header) :]).strip():
            return DataError(
                f"{path}, row {row.line}: {n} tab-separated field{'s'[: n > 1]} where the header has {len(header)}."
            )
    return None


def _looks_quoted(rows: list[Row], column: int) -> int:
    """Return a line that shows that a file was written with quoting; 0 if none does."""
    texts = [(row.line, row.cells[column].strip()) for row in rows[1:]]
    if texts and all(len(text) > 1 and text[0] == text[-1] == '"' for _, text in texts):
        return texts[0][0]
    return next((line for line, text in texts if _WHOLE.fullmatch(text)), 0)
