"""The Makefile: help at once, and every value reaches the program as typed and is never run.

Most tests use a copy of the Makefile whose ``.venv/bin/python`` writes down its arguments: what counts is what
the program receives. One test goes through the real program.
"""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from conftest import ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")

OWN_FLAGS = {
    "DATA": "--data", "TEXT": "--text", "LABEL": "--label", "POSITIVE": "--positive", "TEST": "--test",
    "QUESTION": "--question",
}  # fmt: skip
FLAGS = {  # make's variable: the flag of `run` that it becomes
    "MODEL": "--pretrained", "GGUF": "--gguf", "ADAPTER": "--adapter", "TASK": "--tasks", "DATA_DIR": "--data_dir",
    "LIMIT": "--limit", "BATCH": "--batch_size", "DEVICE": "--device", "DTYPE": "--dtype", "QUANT": "--quantise",
    "BACKEND": "--model", "SEED": "--seeds", "BASE_URL": "--base_url", "ENGINE": "--engine",
    "THINK_BUDGET": "--think_budget", "PROCS": "--procs", "SAMPLES": "--train_samples", "OUT": "--output_path",
    "ARGS": "--args", **OWN_FLAGS,
}  # fmt: skip
TRAINING_FLAGS = {  # the same of `make finetune`
    "MODEL": "--model", "GGUF": "--gguf", "SAMPLES": "--samples", "SEED": "--seed", "RECIPE": "--recipe", "TASK": "--task",
    "DATA_DIR": "--data_dir", "DEVICE": "--device", "DTYPE": "--dtype", "REPORT_TO": "--report_to",
    "OUT": "--output_path", "ARGS": "--args", **OWN_FLAGS,
}  # fmt: skip
TASK_FLAGS = {"TASK": "--tasks", "OUT_TASK": "--out_task", "ARGS": "--args", **OWN_FLAGS}
_LABELLED = ("DATA_DIR", "LABEL", "POSITIVE", "TEST", "SAMPLES", "OUT")
PREDICT_FLAGS = {name: flag for name, flag in FLAGS.items() if name not in _LABELLED} | {"OUT_FILE": "--out_file"}
COMPARE_FLAGS = {"A": "--a", "B": "--b", "DATA_DIR": "--data_dir", "OUT": "--output_path", "ARGS": "--args"}
SHOW_FLAGS = {
    "RUN": "--run", "ONLY": "--only", "LIMIT": "--limit", "DATA_DIR": "--data_dir", "OUT": "--output_path", "ARGS": "--args",
}  # fmt: skip
VALUES = {
    "space": "two  words",
    "quotes": """it's a "name" """,
    "dollar": "$HOME ${HOME} $$ $(HOME)",
    "make_shell": "$(shell touch sentinel)",
    "make_eval": "$(eval $(shell touch sentinel))",
    "shell_substitution": "$(touch sentinel)",
    "backtick": "`touch sentinel`",
    "semicolon": "x; touch sentinel",
    "quote_and_semicolon": """x"; touch sentinel; echo '""",
    "pipe": "x | touch sentinel && touch sentinel & touch sentinel",
    "redirection": "x > sentinel",
    "glob": "*",
    "backslash": "a\\b\\",
    "hash": "a#b",
    "percent": "%s %",
    "flag": "--help",
    "option": "-n",
    "equals": "a=b:=c",
    "unicode": "naïve 😀",
    "newline": "x\ntouch sentinel",
}


SPEAKERS = {"__init__.py", "variables.py"}  # what says that a variable is not read


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A folder with the Makefile and a program that writes its arguments, each ended by NUL, to ``argv``."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for name in ("python", "pip"):
        program = tmp_path / ".venv" / "bin" / name
        program.write_text("""#!/bin/sh\nprintf '%s\\0' "$@" > argv\n""")
        program.chmod(0o755)
    shutil.copytree(ROOT / "harness_ext", tmp_path / "harness_ext", ignore=lambda folder, names: set(names) - SPEAKERS)
    for name in ("pyproject.toml", "constraints.txt", ".venv/ready"):  # in this order: .venv is newer than its inputs
        (tmp_path / name).touch()
    return tmp_path


def make(folder: Path, *argv: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *argv], cwd=folder, env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=60
    )


def received(folder: Path) -> list[str]:
    """Return the arguments that the program received, and forget them."""
    path = folder / "argv"
    words = path.read_text(encoding="utf-8").split("\0")[:-1]
    path.unlink()
    return words


def test_make_alone_prints_help_at_once_and_without_a_venv(copy: Path):
    shutil.rmtree(copy / ".venv")
    start = time.perf_counter()
    done = make(copy)
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - start < 2
    for target in ("setup", "eval", "leaderboard", "test", "lint"):
        assert f"\n  {target} " in done.stdout
    assert all(name in done.stdout for name in FLAGS)
    assert not (copy / ".venv").exists()


def test_help_names_every_target_of_the_makefile():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = text.split(".PHONY:")[1].split("\n")[0].split()
    shown = make(ROOT).stdout
    assert [target for target in targets if f"\n  {target} " not in shown] == []


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize(
    ("target", "source", "flags", "before_flags"),
    [
        ("eval", "command line", FLAGS, 3),
        ("eval", "environment", {name: flag for name, flag in FLAGS.items() if name not in OWN_FLAGS}, 3),
        ("finetune", "command line", TRAINING_FLAGS, 2),
        ("doctor", "command line", FLAGS, 3),
        ("task", "command line", TASK_FLAGS, 3),
        ("predict", "command line", PREDICT_FLAGS, 3),
        ("compare", "command line", COMPARE_FLAGS, 3),
        ("show", "command line", SHOW_FLAGS, 3),
    ],
)
def test_value_reaches_the_program_as_typed_and_is_never_run(
    value: str, target: str, source: str, flags: dict[str, str], before_flags: int, copy: Path
):
    before = sorted(copy.iterdir())
    if source == "environment":
        done = make(copy, target, env=dict.fromkeys(flags, value))
    else:
        done = make(copy, target, *(f"{name}={value}" for name in flags))
    assert done.returncode == 0, done.stderr
    assert sorted(received(copy)[before_flags:]) == sorted(f"{flag}={value}" for flag in flags.values())
    assert sorted(copy.iterdir()) == before, "something in the value was run"


@pytest.mark.parametrize(
    "target",
    ["models", "leaderboard", "report", "curves", "validate", "tiny", "setup", "test", "test-slow", "bench", "lint"],
)
def test_value_is_never_run_by_any_other_target(target: str, copy: Path):
    for name in ("ruff", "mypy", "lint-imports"):
        shutil.copy(copy / ".venv" / "bin" / "python", copy / ".venv" / "bin" / name)
    before = sorted(copy.iterdir())
    names = [*FLAGS, "EXTRAS", "INDEX", "PRICES"]
    hostile = "".join(VALUES[name] for name in ("make_shell", "shell_substitution", "backtick"))
    for value in (hostile, VALUES["quote_and_semicolon"]):
        assert make(copy, target, env=dict.fromkeys(names, value)).returncode == 0
        assert make(copy, target, *(f"{name}={value}" for name in names if name in reads(target))).returncode == 0
        (copy / "argv").unlink()
        assert make(copy, target, *(f"{name}={value}" for name in names)).returncode == 2
        assert sorted(copy.iterdir()) == before, "something in the value was run"


def reads(target: str) -> set[str]:
    """The variables that the recipe of a target names, itself or by RUN_FLAGS and OWN_FLAGS."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    (recipe,) = re.findall(rf"^{target}: .*\n((?:\t.*\n)+)", text, re.MULTILINE)
    if "$(RUN_FLAGS)" in recipe:
        recipe = text.split("RUN_FLAGS := ")[1].split("\n\n")[0]
    if "$(OWN_FLAGS)" in recipe:
        recipe += text.split("OWN_FLAGS := ")[1].split("\n\n")[0]
    return set(re.findall(r"\$\$\{?([A-Z_]+)", recipe))


EVERY = [
    "eval",
    "doctor",
    "finetune",
    "curves",
    "leaderboard",
    "report",
    "compare",
    "show",
    "models",
    "validate",
    "task",
    "tiny",
    "test",
    "test-slow",
    "test-gpu",
]


@pytest.mark.parametrize("target", [*EVERY, "test-real", "setup", "bench", "lint"])
def test_each_target_declares_what_its_recipe_reads(target: str):
    text = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", "")
    declared = dict(re.findall(r"^([a-z-]+)\.reads := (.*)$", text, re.MULTILINE))
    (run,) = re.findall(r"^RUN_READS := (.*)$", text, re.MULTILINE)
    (own,) = re.findall(r"^OWN := (.*)$", text, re.MULTILINE)
    names = set(declared.get(target, "").replace("$(RUN_READS)", run).replace("$(OWN)", own).split())
    assert names - {"REAL_MODELS"} == reads(target)  # pytest reads that one itself


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["eval", "LIMT=40"], "make eval does not read LIMT (did you mean LIMIT?). It reads ADAPTER ARGS "),
        (["eval", "model=x"], "model (did you mean MODEL?)"),
        (["finetune", "LIMIT=5"], "make finetune does not read LIMIT"),
        (["leaderboard", "MODEL=x"], "make leaderboard does not read MODEL. It reads ARGS OUT PRICES."),
        (["lint", "OUT=x", "NEW=`touch s`"], "make lint does not read "),
        (["setup", "EXTRA=awq"], "EXTRA (did you mean EXTRAS?)"),
    ],
)
def test_variable_that_has_no_effect_is_refused_in_one_line_before_anything_happens(argv: list[str], said: str, copy: Path):
    (copy / ".venv" / "ready").unlink()
    before = sorted(copy.rglob("*"))
    done = make(copy, *argv, env={"PYTHONDONTWRITEBYTECODE": "1"})
    assert done.returncode == 2
    (error,) = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert error.startswith("Error: make ")
    assert said in error
    assert sorted(copy.rglob("*")) == before


def test_variable_of_another_target_of_the_same_call_is_read(copy: Path):
    assert make(copy, "models", "eval", "MODEL=x").returncode == 0


def test_variables_of_the_environment_are_nobodys_mistake(copy: Path):
    assert make(copy, "leaderboard", env={"LIMT": "4", "MODEL": "x"}).returncode == 0


def test_a_table_is_named_on_the_command_line_alone(copy: Path):
    assert make(copy, "eval", "MODEL=x", env=dict.fromkeys(OWN_FLAGS, "another program's")).returncode == 0
    assert received(copy) == ["-m", "harness_ext", "run", "--pretrained=x"]


@pytest.mark.parametrize("target", ["validate", "leaderboard", "compare", "show", "models", "doctor"])
def test_args_are_handed_on_by_every_target_of_ours(target: str, copy: Path):
    assert make(copy, target, "ARGS=--include_path my_tasks").returncode == 0
    assert received(copy)[-1] == "--args=--include_path my_tasks"


def test_variable_left_out_or_empty_gives_no_flag(copy: Path):
    for argv in ([], [f"{name}=" for name in (*FLAGS, "FORCE")]):
        assert make(copy, "eval", *argv).returncode == 0
        assert received(copy) == ["-m", "harness_ext", "run"]


def test_force_gives_the_flag_alone(copy: Path):
    assert make(copy, "eval", "FORCE=1").returncode == 0
    assert received(copy) == ["-m", "harness_ext", "run", "--force"]


@pytest.mark.parametrize(("extras", "adds"), [("awq", True), ("dev,awq", True), ("awqs", False), ("vllm", False)])
def test_setup_adds_gptqmodel_without_its_dependencies_for_the_extra_alone(copy: Path, extras: str, adds: bool):
    assert make(copy, "setup", f"EXTRAS={extras}").returncode == 0
    last = received(copy)  # of pip's last call
    assert last == ["install", "-q", "-c", "constraints.txt", *(["--no-deps", "gptqmodel"] if adds else last[4:])]
    assert adds or last[4:] == ["-e", f".[dev,{extras}]"]


@pytest.fixture
def ready() -> None:
    """The repository with its .venv; skip rather than let `make` install anything."""
    if not (ROOT / ".venv" / "ready").is_file() or make(ROOT, "-q", ".venv/ready").returncode:
        pytest.skip("needs .venv, up to date (make setup)")


def test_hostile_model_name_is_named_in_the_error_line(ready: None, tmp_path: Path):
    value = f"""a "b" $HOME `touch {tmp_path}/s` $(shell touch {tmp_path}/s); touch {tmp_path}/s"""
    done = make(ROOT, "eval", f"MODEL={value}", f"OUT={tmp_path}/out")
    assert done.returncode == 2
    (error,) = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert error.startswith("Error: ")
    assert value in error
    assert list(tmp_path.iterdir()) == []


def test_args_are_split_as_a_shell_would_but_by_no_shell(ready: None, tmp_path: Path):
    value = f"--limit '3 $(touch {tmp_path}/s)'"
    done = make(ROOT, "eval", f"OUT={tmp_path}/out", env={"ARGS": value})
    assert done.returncode == 2
    assert f"'3 $(touch {tmp_path}/s)'" in done.stderr
    assert list(tmp_path.iterdir()) == []
    unclosed = make(ROOT, "eval", f"OUT={tmp_path}/out", "ARGS=--limit '3")
    assert unclosed.returncode == 2
    assert "ARGS" in unclosed.stderr
    assert "Traceback" not in unclosed.stderr
