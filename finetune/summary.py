"""What is printed when training is over: a table of the adapters, and the commands that score them."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness_ext.paths import ROOT
from harness_ext.results.tables import Column, show_table

MOST = 8  # commands; more are said as one
_LOOPED = "the loop's folder"
_FLAGS = {"ADAPTER": "--adapter", "TASK": "--tasks", "DATA_DIR": "--data_dir", "OUT": "--output_path", "ARGS": "--args"}
_COLUMNS = (
    Column("base", is_name=True),
    *(Column(title) for title in ("samples", "seed", "steps", "held-out loss", "held-out score%", "samples/s", "collapsed")),
)


def show(rows: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """Print a table of adapters.

    Args:
        rows: The base's name and the adapter's manifest.
    """
    lines = [
        [
            base,
            str(manifest["train_samples"]),
            str(manifest["seed"]),
            str(manifest["optimiser_steps"]),
            f"{manifest['held_out']['loss']:.3f}",
            f"{100 * manifest['held_out']['score']:.1f}",
            f"{manifest['samples_per_s']:.0f}",
            "YES" if manifest["collapsed"] else "no",
        ]
        for base, manifest in rows
    ]
    show_table(_COLUMNS, lines, "each adapter's run.json")


def next_steps(folders: Sequence[str], args: argparse.Namespace) -> list[str]:
    """Write the commands that score adapters, to be pasted into a shell as they are.

    Args:
        folders: The adapters.
        args: The trainer's command line; what it says of task, data and OUT holds for the evaluation too.

    Returns:
        Lines, a heading first.
    """
    common = {
        "TASK": args.task,
        "DATA_DIR": args.data_dir,
        "OUT": args.output_path if args.output_path != "results" else None,
    }
    more = [f"--include_path {shlex.quote(args.include_path)}"] if args.include_path else []
    more += ["--allow_pickle"] if args.allow_pickle else []
    common["ARGS"] = " ".join(more)
    given = {name: value for name, value in common.items() if value}
    folders = list(dict.fromkeys(folders))
    if len(folders) > MOST:
        parent = shlex.quote(folders[0].rpartition("/")[0])
        command = _command({"ADAPTER": _LOOPED, **given}).replace(shlex.quote(_LOOPED), '"$folder"')
        return [f"Score all adapters in {parent}:", f"  for folder in {parent}/*/; do {command}; done"]
    commands = [f"  {_command({'ADAPTER': folder, **given})}" for folder in folders]
    return ["Score them:" if len(folders) > 1 else "Score it:", *commands]


def _command(values: dict[str, str]) -> str:
    """Write the evaluation's command: by make where its Makefile is at hand, else by Python."""
    if Path.cwd() == ROOT:
        return " ".join(["make eval", *(f"{name}={shlex.quote(value)}" for name, value in values.items())])
    words = (f"{_FLAGS[name]}={shlex.quote(value)}" for name, value in values.items())
    return " ".join([shlex.quote(sys.executable), "-m harness_ext run", *words])
