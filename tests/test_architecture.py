"""The house: no file, class or function is too long to take in, each file says what it is for, and the page is true."""

import ast
import re

import pytest

from harness_ext.paths import ROOT

FILES = sorted((*ROOT.glob("harness_ext/**/*.py"), *ROOT.glob("finetune/*.py")))
LONGEST_FILE, LONGEST_CLASS, LONGEST_FUNCTION = 300, 150, 50
ROOMS = ("task", "model", "backend", "run", "results", "evidence", "report")
# A reason stands beside each.
LONGER = {
    "evaluate_task": "one call of lm-eval's simple_evaluate, an argument a line",
    "__init__": "the arguments that lm-eval passes, each with what it means",
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_file_can_be_taken_in(path):
    text = path.read_text()
    assert text.count("\n") <= LONGEST_FILE
    assert ast.get_docstring(ast.parse(text)), "it does not open with what it is for"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            most = LONGEST_CLASS if isinstance(node, ast.ClassDef) else LONGEST_FUNCTION
            assert lines <= most or node.name in LONGER, f"{node.name} has {lines} lines"


def test_page_names_every_file_and_none_that_is_not_there():
    page = (ROOT / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"`((?:harness_ext|finetune)/[\w/]+\.py)`", page))
    for room in (*(f"harness_ext/{room}" for room in ROOMS), "harness_ext", "finetune"):
        section = page.split(f"### `{room}/`")[1].split("\n### ")[0].split("\n## ")[0]
        named |= {f"{room}/{file}" for file in re.findall(r"`(\w+\.py)`", section)}
    there = {str(path.relative_to(ROOT)) for path in FILES if path.name != "__init__.py"}
    assert named == there


def test_nothing_but_the_command_lines_reads_argv_and_no_module_reads_the_environment_while_it_is_imported():
    for path in FILES:
        if path.name != "__main__.py":
            assert "sys.argv" not in path.read_text(), path
        for node in ast.parse(path.read_text()).body:
            if not isinstance(node, ast.FunctionDef | ast.ClassDef):
                assert "environ" not in ast.dump(node), path
