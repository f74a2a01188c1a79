"""README shows what the commands make of the published runs."""

import pytest
import readme

from harness_ext.paths import ROOT
from harness_ext.results import runs, standings


@pytest.fixture(scope="module")
def blocks():
    return readme.blocks(standings.entries(runs.read_all(ROOT / "results")))


@pytest.mark.parametrize("name", ["verdict", "labels", "unlabelled"])
def test_readme_is_as_the_commands_made_it(blocks, name):
    (shown,) = readme.between(name).findall(readme.README.read_text(encoding="utf-8"))
    assert shown == blocks[name], "python tests/readme.py writes it anew"


def test_tables_of_readme_are_those_of_the_leaderboard(blocks):
    board = (ROOT / "results" / "leaderboard.md").read_text(encoding="utf-8")
    for name in ("labels", "unlabelled"):
        assert blocks[name] in board
