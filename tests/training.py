"""What tests of training share: rows that can be told apart, flags for a few steps, and a trainer called in this process."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

from builders import SENTENCES, tsv_folder
from conftest import Outcome

import finetune.__main__

SHORT = ("--samples=8", "--set=steps={2: 4}", "--set=evaluations=2", "--set=batch_size=4")
ADJECTIVES = ("good", "warm", "funny", "clever", "fine", "bright", "rich", "bold")
OTHERS = ("bad", "cold", "dull", "silly", "poor", "dark", "thin", "weak")


def words_folder(folder: Path) -> Path:
    """Write 64 balanced rows to train on and 8 to score."""
    rows = [(f"a {word} film {n}", label) for n in range(4) for label in (0, 1) for word in (OTHERS, ADJECTIVES)[label]]
    return tsv_folder(folder, SENTENCES, rows)


def train(*argv: object) -> Outcome:
    """Call the trainer: ``train("--samples=8")``."""
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        code = finetune.__main__.main([str(word) for word in argv])
    return Outcome(code, out.getvalue(), error.getvalue())


def flags(model: object, data: Path, out: Path, *more: str) -> list[str]:
    """Return a command line of a few steps."""
    return [f"--model={model}", f"--data_dir={data}", f"--output_path={out}", *SHORT, *more]


def adapters(out: Path) -> dict[Path, dict[str, Any]]:
    """Return the records of the adapters under OUT, by folder."""
    return {path.parent: json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob("adapters/*/run.json"))}


def only_adapter(out: Path) -> tuple[Path, dict[str, Any]]:
    """Return the folder and the record of the only adapter under OUT."""
    (found,) = adapters(out).items()
    return found
