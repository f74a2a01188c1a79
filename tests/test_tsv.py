"""Files with and without quoting; what Python's own csv module wrote is the reference for those with it."""

import csv
import io

import pytest

from harness_ext.errors import UserError
from harness_ext.task.tsv import read_columns

HARD = [  # texts that a spreadsheet quotes
    'Hello team, the "quoted" text',
    "two\nlines",
    "a\ttab",
    '"so" he said, "dull',
    '"all of it"',
    "plain",
    "with, a comma",
]


def written(quoting, texts=HARD, line_end="\r\n"):
    file = io.StringIO()
    writer = csv.writer(file, "excel-tab", quoting=quoting, lineterminator=line_end)
    writer.writerows([["sentence", "label"], *([text, number % 2] for number, text in enumerate(texts))])
    return file.getvalue()


def read(folder, content):
    path = folder / "dev.tsv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_columns(path, "sentence", "label")


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
@pytest.mark.parametrize("line_end", ["\r\n", "\n"])
def test_file_of_a_csv_writer_gives_the_texts_that_were_written(quoting, line_end, tmp_path):
    rows = read(tmp_path, written(quoting, line_end=line_end))
    assert [text for _, text, _ in rows] == HARD
    assert [label for *_, label in rows] == ["0", "1"] * 3 + ["0"]


@pytest.mark.parametrize("text", HARD)
def test_single_text_that_needs_quotes_is_read_back(text, tmp_path):
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL):
        assert [row[1] for row in read(tmp_path, written(quoting, [text, "other"]))] == [text, "other"]


def test_excel_quotes_cells_with_a_comma_and_nothing_else(tmp_path):
    rows = read(tmp_path, 'sentence\tlabel\r\n"good, really"\t1\r\nbad\t0\r\n')
    assert [row[1] for row in rows] == ["good, really", "bad"]


RAW = {
    "as GLUE writes it": ["it 's `` great ''", 'a "fine" film', "no quotes"],
    "quotes at both ends of parts": ['"so" he said, "dull', "fine"],
    "a whole text in quotes beside bare ones": ['"A fine film"', 'not "bad" at all'],
    "a quote that never closes": ['"never closed', "fine"],
    "quotes that seem to span rows": ['"so good', 'he said bad"', "fine"],
    "a quote behind": ['he said "so"', "fine"],
    "an inch": ['6" of snow', '5"'],
}


@pytest.mark.parametrize("texts", RAW.values(), ids=RAW)
@pytest.mark.parametrize("end", ["", " "])
def test_quotes_of_an_unquoted_file_are_text(texts, end, tmp_path):
    content = "sentence\tlabel\n" + "".join(f"{text}{end}\t1\n" for text in texts)
    assert [row[1].rstrip(" ") for row in read(tmp_path, content)] == texts


REFUSED = {
    "quotes that nothing needs in one text of two": ('a\t1\n"fine film"\t0\n', "row 3", "quote every text or none"),
    "quoted and bare": ('"the ""best"" of"\t1\na "bad" one\t0\n', "row 2", "quotes"),
    "one broken cell": ('"the ""best"" of"\t1\n"a "bad" one"\t0\n', "row 3", "row 2 is quoted"),
    "backslashes": ('"the \\"best\\" of"\t1\n"bad"\t0\n', "row 2", "quotes do not match"),
    "a line break without quotes": ("two\nlines\t1\n", "row 2", "1 tab-separated field where"),
    "a tab without quotes": ("two\tcells\t1\n", "row 2", "3 tab-separated fields where"),
    "NUL": ("a\0b\t1\n", "row 2", "NUL"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_could_be_read_in_two_ways_is_refused_with_its_row(name, tmp_path):
    rows, *fragments = REFUSED[name]
    with pytest.raises(UserError) as refused:
        read(tmp_path, f"sentence\tlabel\n{rows}")
    assert [fragment for fragment in fragments if fragment not in str(refused.value)] == []


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_named(encoding, tmp_path):
    with pytest.raises(UserError, match=r"UTF-16.*[Ss]ave (it|the file) as UTF-8"):
        read(tmp_path, "sentence\tlabel\na\t1\n".encode(encoding))


@pytest.mark.parametrize(("separator", "called"), [(",", "commas"), (";", "semicolons"), ('","', "commas")])
def test_table_without_tabs_is_named(separator, called, tmp_path):
    mark = separator[0] if len(separator) > 1 else ""
    with pytest.raises(UserError, match=f"row 1: .*separated by {called}"):
        read(tmp_path, f"{mark}sentence{separator}label{mark}\n{mark}a{separator}1{mark}\n")


@pytest.mark.parametrize(
    "content",
    [
        "sentence\tlabel\r\ngood\t1\r\n",
        "sentence\tlabel\rgood\t1\r",  # as old spreadsheets on a Mac
        "\ufeffsentence\tlabel\ngood\t1",
        "Sentence\tLabel \ngood\t1\n",
        "sentence\tlabel\t\ngood\t1\t\n",
        "sentence\tlabel\ngood\t1\t\t\n\n\t\n",
        "id\tsentence\tlabel\n0\tgood\t1\n",
    ],
)
def test_marks_ends_and_headers_of_other_programs_change_nothing(content, tmp_path):
    assert [row[1:] for row in read(tmp_path, content)] == [("good", "1")]


def test_row_number_is_the_line_even_behind_a_line_break(tmp_path):
    assert [row[0] for row in read(tmp_path, 'sentence\tlabel\n"two\nlines"\t1\nbad\t0\n')] == [2, 4]
