"""A user's table as columns of text: CSV, TSV, JSON, JSON lines, Parquet or Excel.

Every row keeps the number by which people find it: a spreadsheet's, in which the header is row 1, or a line of JSON. The
csv module reads rather than pandas, which fills up short rows in silence and names lines where cells hold line breaks.
"""

import contextlib
import csv
import functools
import importlib.util
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness_ext.errors import DataError, did_you_mean
from harness_ext.paths import as_path

MOST_NAMED = 5  # rows in one line
_SEPARATORS = (",", ";", "\t")


@dataclass(frozen=True, eq=False)
class Table:
    """What stands in a file; equal to itself alone."""

    name: str  # of the file
    columns: dict[str, list[str]]  # "" where nothing stands
    numbers: list[int]  # of its rows, as people count them
    notes: tuple[str, ...] = ()  # how it was read, where that goes without saying

    def named(self, rows: Iterable[int]) -> str:
        """Name rows for people: ``rows 3, 7``, the first few of many."""
        return _named(self.numbers[row] for row in rows)

    def find(self, variable: str, column: str) -> str:
        """Find the column that the user named, whatever its case and the blanks around it."""
        wanted = column.strip().casefold()
        found = [column] if column in self.columns else [name for name in self.columns if name.casefold() == wanted]
        if len(found) != 1:
            near = did_you_mean(column.strip(), self.columns)
            raise DataError(f"{variable}={column}: {self.name} has no such column.{near} It has {', '.join(self.columns)}.")
        return found[0]


Rows = list[tuple[int, Sequence[Any]]]  # each with its number


def read_table(variable: str, name: str) -> Table:
    """Read the file that the user named, once as long as it stays as it is.

    Raises:
        DataError: It is not there, of no known kind, damaged, or no table; rows are named.
    """
    path = find_file(variable, name)
    stat = path.stat()
    return _read(path, stat.st_mtime_ns, stat.st_size)


def find_file(variable: str, name: str) -> Path:
    """Find the file that the user named, and check that it is of a known kind."""
    path = as_path(variable, name)
    if not path.is_file():
        near = did_you_mean(path.name, (each.name for each in path.parent.glob("*") if each.suffix in _READERS))
        raise DataError(f"{variable}={name} is no file.{near}")
    if path.suffix.lower() not in _READERS:
        raise DataError(f"{variable}={name}: a table ends in {', '.join(_READERS)}; save it as one of these.")
    return path


@functools.lru_cache(maxsize=4)
def _read(path: Path, *stamp: int) -> Table:
    return as_table(path, *read_rows(path))


def read_rows(path: Path) -> tuple[list[Any], Rows, tuple[str, ...]]:
    """Read a file's header and its rows, blank ones too, each with as many cells; and what should be said of it."""
    try:
        rows, notes = _READERS[path.suffix.lower()](path)
    except OSError as error:
        raise DataError(f"{path.name} cannot be read ({error.strerror or error}).") from None
    if not rows:
        raise DataError(f"{path.name} is empty.")
    header, rows = list(rows[0][1]), [(number, cells) for number, cells in rows[1:] if cells]
    while header and not as_text(header[-1]).strip():
        header.pop()
    width = len(header)
    if uneven := [n for n, (_, cells) in enumerate(rows) if len(cells) != width and not _fits(cells, width)]:
        raise DataError(
            f"{path.name}: the header names {width} columns, but {_named(rows[n][0] for n in uneven[:1])} has "
            f"{len(rows[uneven[0]][1])} cells (so do not fit: {_named(rows[n][0] for n in uneven)}). A text with the "
            "separator in it is put in quotes."
        )
    rows = [(n, cells if len(cells) == width else [*cells[:width], *[""] * (width - len(cells))]) for n, cells in rows]
    return header, rows, notes


def as_table(path: Path, first: Sequence[Any], rows: Rows, notes: tuple[str, ...]) -> Table:
    """Make columns of text of what `read_rows` returns, without blank rows."""
    header = [as_text(name).strip() for name in first]
    if twice := [name for name in dict.fromkeys(header) if name and header.count(name) > 1]:
        raise DataError(f"{path.name}: two columns are called {twice[0]!r}. Rename one.")
    filled = [(number, list(map(as_text, cells))) for number, cells in rows]
    filled = [(number, cells) for number, cells in filled if "".join(cells).strip()]
    if not filled:
        raise DataError(f"{path.name} has a header, {', '.join(header)}, and no rows below it.")
    columns = {name: [cells[n] for _, cells in filled] for n, name in enumerate(header) if name}
    return Table(path.name, columns, [number for number, _ in filled], notes)


def _fits(cells: Sequence[Any], width: int) -> bool:
    """Whether a row is blank, or has nothing beyond the header's columns."""
    filled = [n for n, cell in enumerate(cells) if as_text(cell).strip()]
    return not filled or (len(cells) >= width > filled[-1])


def _named(numbers: Iterable[int]) -> str:
    found = list(numbers)
    more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
    return f"row{'s'[: len(found) > 1]} {', '.join(map(str, found[:MOST_NAMED]))}{more}"


def _delimited(path: Path) -> tuple[Rows, tuple[str, ...]]:
    """Read text with a comma, semicolon or tab between cells; quotes that are no quoting, as GLUE writes them, are text."""
    content, notes = _decode(path)
    separator = _separator(path, content)
    try:
        return _split(content, separator, csv.QUOTE_MINIMAL), notes
    except DataError as error:
        plain = _split(content, separator, csv.QUOTE_NONE) if separator == "\t" else []
        if not plain or any(cells and len(cells) != len(plain[0][1]) for _, cells in plain):
            raise DataError(f"{path.name}, {error}") from None
        return plain, (*notes, f"{path.name}: its quotes are part of the texts")


def _split(content: str, separator: str, quoting: Any) -> Rows:
    rows: Rows = []
    try:
        for cells in csv.reader(io.StringIO(content, newline=""), delimiter=separator, quoting=quoting, strict=True):
            rows.append((len(rows) + 1, cells))
    except csv.Error as error:
        raise DataError(
            f"row {len(rows) + 1}: the quotes do not match ({error}). Put the cell in quotes and double those inside."
        ) from None
    return rows


def separator_of(path: Path) -> str:
    """Return what parts the cells of a file, a comma where it is of another kind."""
    return _separator(path, _decode(path)[0]) if _READERS[path.suffix.lower()] is _delimited else ","


def _separator(path: Path, content: str) -> str:
    """Choose what parts the header into the most columns."""

    def columns(separator: str) -> int:
        try:
            return len(next(csv.reader(io.StringIO(content, newline=""), delimiter=separator), []))
        except csv.Error:
            return 0

    if path.suffix.lower() == ".tsv" and columns("\t") > 1:
        return "\t"
    return max(_SEPARATORS, key=columns)


def _decode(path: Path) -> tuple[str, tuple[str, ...]]:
    data = path.read_bytes()
    for encoding in ("utf-16",) if data.startswith((b"\xff\xfe", b"\xfe\xff")) else ("utf-8-sig", "windows-1252"):
        with contextlib.suppress(UnicodeDecodeError):
            if "\0" not in (content := data.decode(encoding)):
                said = f"{path.name} is not UTF-8: it is read as Windows-1252"
                return content, (said,) if encoding == "windows-1252" else ()
    raise DataError(f"{path.name} is no text in UTF-8, UTF-16 or Windows-1252: save it as UTF-8, or by its true ending.")


def _json_lines(path: Path) -> tuple[Rows, tuple[str, ...]]:
    content, notes = _decode(path)
    lines = [(number, line) for number, line in enumerate(content.split("\n"), start=1) if line.strip()]
    return _records(path, [(number, _parsed(path, line, number)) for number, line in lines]), notes


def _json(path: Path) -> tuple[Rows, tuple[str, ...]]:
    content, notes = _decode(path)
    found = _parsed(path, content, 0)
    if not isinstance(found, list):
        raise DataError(f"{path.name} is no list of objects: [{{...}}, ...]. One object a line is called .jsonl.")
    return _records(path, list(enumerate(found, start=1))), notes


def _parsed(path: Path, content: str, line: int) -> Any:
    try:
        found = json.loads(content)
        json.dumps(found, ensure_ascii=False).encode()  # half of a surrogate pair is no text
        return found
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path.name}{f', row {line}' if line else ''} is no JSON: {error}.") from None


def _records(path: Path, found: list[tuple[int, Any]]) -> Rows:
    if wrong := [number for number, record in found if not isinstance(record, dict)]:
        raise DataError(f"{path.name}, row {wrong[0]}: that is no object, {{...}}.")
    names = list(dict.fromkeys(name for _, record in found for name in record))
    return [(0, names), *((number, [record.get(name) for name in names]) for number, record in found)] if names else []


def _parquet(path: Path) -> tuple[Rows, tuple[str, ...]]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(path).read()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path.name} is no Parquet: {' '.join(str(error).split())[:120]}") from None
    rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
    return [(0, table.column_names), *enumerate(rows, start=1)], ()


def _excel(path: Path) -> tuple[Rows, tuple[str, ...]]:
    if importlib.util.find_spec("openpyxl") is None:
        raise DataError(f"{path.name}: Excel needs `.venv/bin/pip install openpyxl`; or save the sheet as CSV UTF-8.")
    import pandas

    try:
        frame = pandas.read_excel(path, header=None, dtype=object, keep_default_na=False)
    except Exception as error:  # zipfile's, openpyxl's and pandas' own
        raise DataError(f"{path.name} is no Excel table: {' '.join(str(error).split())[:120]}") from None
    return list(enumerate(frame.itertuples(index=False, name=None), start=1)), ()


def as_text(value: Any) -> str:
    """Write a cell as a CSV file would hold it."""
    if value is None or value != value:  # NaN
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


_READERS = {
    ".csv": _delimited,
    ".tsv": _delimited,
    ".txt": _delimited,
    ".jsonl": _json_lines,
    ".json": _json,
    ".parquet": _parquet,
    ".xlsx": _excel,
}
