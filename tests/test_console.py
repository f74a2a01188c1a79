"""Consoles that are not UTF-8: what they cannot show is replaced, and nothing fails for it. Files are UTF-8 always."""

import io
import shutil
import sys

import pytest
from builders import tsv_folder

from harness_ext.__main__ import main


@pytest.fixture
def console(monkeypatch):
    """Call the command line on a console of an encoding: ``console("cp932", "models")`` gives exit code and output."""

    def call(encoding, *argv):
        said = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
        monkeypatch.setattr(sys, "stdout", said)
        monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True))
        try:
            code = main([str(word) for word in argv])
        except SystemExit as left:
            code = int(left.code or 0)
        return code, said.buffer.getvalue().decode(encoding)

    return call


@pytest.mark.parametrize("encoding", ["ascii", "cp932", "cp1252", "latin-1"])
def test_every_command_speaks_on_any_console(encoding, answering, elsewhere, console):
    rows = [(f"naïve 模型 · {number}", number % 2) for number in range(8)]
    model = shutil.copytree(answering, elsewhere / "naïve 模型")
    options = ("--pretrained", model, "--data_dir", tsv_folder(elsewhere / "data", rows, rows))
    for argv in (
        ["--help"],
        ["run", "--help"],
        ["ls"],
        ["models"],
        ["doctor", *options],
        ["run", *options],
        ["leaderboard"],
    ):
        code, said = console(encoding, *argv)
        assert code == 0, argv
        assert said.strip()
    assert "naïve 模型" in (elsewhere / "results" / "leaderboard.md").read_text(encoding="utf-8")
