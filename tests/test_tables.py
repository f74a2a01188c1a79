"""Tables at any width: nothing is cut off that matters, and a name is shown as it is."""

import re

import pytest
from markdown_it import MarkdownIt
from rich.cells import cell_len

from harness_ext.model import presets
from harness_ext.results import tables
from harness_ext.results.tables import Column, csv_cell, markdown_cell, shorten, show_table, visible

HOSTILE = "28 [red] 模型 \x1b[31m|<b>`*_[x](y)\n\u202eevil"


@pytest.mark.parametrize("width", [3, 10, 11, 20])
@pytest.mark.parametrize("text", ["tiny-base--all--s2--9ba9feee", "模型" * 20, "a模b型" * 10])
def test_shortened_name_keeps_both_ends_and_fits(text, width, monkeypatch):
    short = shorten(text, width)
    head, tail = short.split("…") if "…" in short else short.split("~")
    assert width - 1 <= cell_len(short) <= width
    assert text.startswith(head)
    assert text.endswith(tail)


def test_name_that_fits_is_left_alone():
    assert shorten("模型", 4) == "模型"


@pytest.mark.parametrize("width", [60, None])
def test_name_with_markup_and_control_characters_is_shown_as_it_is(width, capsys):
    show_table(["name", "score"], [["28 [red] 模型", "1"], ["a\x1b[31m\tb\u202e", "2"]], width=width)
    said = capsys.readouterr().out
    assert "28 [red] 模型" in said
    assert r"a\x1b[31m\tb\u202e" in said
    assert "\x1b" not in said


def test_columns_are_left_out_in_their_declared_order(capsys):
    first, second = Column("first", dropped=1), Column("second", dropped=2)
    columns = [Column("name", is_name=True), first, second, Column("kept")]
    rows = [["n" * 30, "1" * 10, "2" * 10, "3" * 10]]
    shown = {}
    for width in (70, 60, 50, 40, 30, 20):
        show_table(columns, rows, width=width)
        said = capsys.readouterr().out
        shown[width] = "".join(digit for digit in "123" if digit * 10 in said)
    assert shown == {70: "123", 60: "123", 50: "23", 40: "3", 30: "3", 20: "3"}


def test_markdown_cell_is_shown_as_the_text_by_a_markdown_reader():
    (table,) = [MarkdownIt("gfm-like", {"linkify": False}).render(f"| head |\n| --- |\n| {markdown_cell(HOSTILE)} |\n")]
    (cell,) = [line for line in table.splitlines() if line.startswith("<td>")]
    text = cell.removeprefix("<td>").removesuffix("</td>")
    for entity, char in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&amp;", "&")):
        text = text.replace(entity, char)
    assert text == visible(HOSTILE)


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\tx"])
def test_csv_cell_that_a_spreadsheet_would_compute_is_text(text):
    assert csv_cell(text) == "'" + text
    assert csv_cell("a" + text) == "a" + text


@pytest.mark.parametrize("width", [60, 80, 120, 200, None])
def test_presets_fit_and_keep_what_is_typed(width, capsys):
    presets.show(width)
    said = capsys.readouterr().out
    lines = [line for line in said.splitlines() if not line.startswith("(+")]
    assert [name for name in presets.load() if not any(line.startswith(name) for line in lines)] == []
    assert max(map(cell_len, lines)) <= (width or 10_000)


def test_terminal_is_asked_for_its_width(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(tables.sys.stdout, "isatty", lambda: True, raising=False)
    show_table([Column("name", is_name=True), "score"], [["n" * 100, "50.00"]])
    lines = re.sub(r"\x1b\[\d*m", "", capsys.readouterr().out).splitlines()  # the head is bold
    assert max(map(len, lines)) <= 40
