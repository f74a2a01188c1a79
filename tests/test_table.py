"""Tables of one's own: pandas and datasets, which read the same files by other code, are the reference."""

import csv
import importlib.util
import io
import json

import pandas
import pytest
from datasets import Dataset, Features, Value

from harness_ext.errors import UserError
from harness_ext.task.table import read_table

HARD = [
    ("Printer on fire 🔥,\nplease help", "Urgent"),
    ('She said "now", twice', "normal"),
    ("  blanks around  ", "normal"),
    ("naïve; café\tand a tab", "Urgent"),
    ('"all of it in quotes"', "normal"),
    ("NA", "None"),  # no missing value
    ("007", "1.0"),
    ("é中ß\u2028line separator", "x"),
]
FRAME = pandas.DataFrame(HARD, columns=["Message", "status"])


def read(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_table("DATA", str(path))


def written(separator=",", quoting=csv.QUOTE_MINIMAL, line_end="\r\n", frame=FRAME):
    return frame.to_csv(index=False, sep=separator, quoting=quoting, lineterminator=line_end)


def as_pandas_reads_it(content, **options):
    found = pandas.read_csv(io.StringIO(content), dtype=str, keep_default_na=False, **options)
    return {name: list(found[name]) for name in found.columns}


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_text_table_is_read_as_pandas_reads_it(separator, quoting, line_end, tmp_path):
    content = written(separator, quoting, line_end)
    table = read(tmp_path, "a.csv", content)
    assert table.columns == as_pandas_reads_it(content, sep=separator)
    assert list(zip(*table.columns.values(), strict=True)) == HARD
    assert table.numbers == list(range(2, 2 + len(HARD)))
    assert table.notes == ()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_byte_order_marks_are_understood(encoding, tmp_path):
    mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
    table = read(tmp_path, "a.csv", f"{mark}{written()}".encode(encoding))
    assert table.columns == as_pandas_reads_it(written())


def test_windows_1252_is_read_and_said(tmp_path):
    frame = pandas.DataFrame({"text": ["“naïve” café", "10 €"], "label": ["1", "0"]})
    table = read(tmp_path, "a.csv", written(frame=frame).encode("windows-1252"))
    assert table.columns["text"] == list(frame["text"])
    assert table.notes == ("a.csv is not UTF-8: it is read as Windows-1252",)


def test_csv_json_and_parquet_are_read_as_datasets_reads_them(tmp_path):
    FRAME.to_json(tmp_path / "a.jsonl", orient="records", lines=True, force_ascii=False)
    FRAME.to_json(tmp_path / "a.json", orient="records")
    FRAME.to_parquet(tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text(written(), newline="")
    plain = {"features": Features(dict.fromkeys(FRAME, Value("string"))), "keep_default_na": False}
    theirs = Dataset.from_csv(str(tmp_path / "a.csv"), cache_dir=tmp_path / "cache", **plain)
    for name in ("a.csv", "a.jsonl", "a.json", "a.parquet"):
        assert read_table("DATA", str(tmp_path / name)).columns == theirs.to_dict(), name


def test_same_cells_are_the_same_in_every_format(tmp_path):
    rows = [{"text": "a", "label": True, "n": 1.0, "x": None}, {"text": "b", "label": False, "n": 2.5, "x": None}]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    pandas.DataFrame(rows).to_parquet(tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("text,label,n,x\na,true,1,\nb,false,2.5,\n")
    first, *others = (read_table("DATA", str(tmp_path / f"a.{ending}")).columns for ending in ("csv", "json", "parquet"))
    assert all(other == first for other in others)


def test_excel_is_read_where_its_reader_is_installed_and_says_how_where_not(tmp_path, monkeypatch):
    path = tmp_path / "a.xlsx"
    path.write_bytes(b"PK")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install openpyxl`; or save the sheet as CSV"):
        read_table("DATA", str(path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(pandas, "read_excel", lambda *_, **__: pandas.DataFrame([["text", "y"], ["a", 1], ["b", 0.0]]))
    table = read_table("DATA", str(path))
    assert (table.columns, table.numbers) == ({"text": ["a", "b"], "y": ["1", "0"]}, [2, 3])


def test_quotes_of_a_file_that_quotes_nothing_are_text(tmp_path):
    table = read(tmp_path, "a.tsv", 'text\tlabel\n"so" he said, "dull\t0\n6" of snow\t1\n')
    assert table.columns["text"] == ['"so" he said, "dull', '6" of snow']
    assert table.notes == ("a.tsv: its quotes are part of the texts",)


def test_rows_are_numbered_as_a_spreadsheet_does_it(tmp_path):
    table = read(tmp_path, "a.csv", 'text,label\n"one\ntwo",1\n\n , \nb,0\n')
    assert table.columns["text"] == ["one\ntwo", "b"]
    assert table.numbers == [2, 5]
    assert read(tmp_path, "b.jsonl", '\n{"text": "a"}\n\n{"text": "b"}\n').numbers == [2, 4]


def test_blank_cells_behind_the_header_and_columns_without_a_name_are_left_alone(tmp_path):
    table = read(tmp_path, "a.csv", ",text,label,,\n0,a,1,,\n1,b,0,,\n")
    assert table.columns == {"text": ["a", "b"], "label": ["1", "0"]}


def test_file_that_changes_is_read_again(tmp_path):
    assert read(tmp_path, "a.csv", "text,label\na,1\n").columns["text"] == ["a"]
    assert read(tmp_path, "a.csv", "text,label\nab,1\n").columns["text"] == ["ab"]
