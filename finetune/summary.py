"""What is printed when training is over: a table of the adapters, and the commands that score them."""

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from finetune.spec import TrainSpec
from harness_ext.paths import ROOT
from harness_ext.results.render import verdict_of_training
from harness_ext.results.tables import Column, show_table
from harness_ext.run.provenance import without_folders

MOST = 8  # commands; more are said as one
_FLAGS = {"ADAPTER": "--adapter", "TASK": "--tasks", "DATA_DIR": "--data_dir", "OUT": "--output_path", "ARGS": "--args"}
_MEASURED = ("samples", "seed", "steps", "held-out loss", "held-out score%", "samples/s", "collapsed")


def show(base: str, manifests: Sequence[dict[str, Any]]) -> None:
    """Print a table of a base's adapters."""
    lines = [
        [
            base,
            str(made["train_samples"]),
            str(made["seed"]),
            str(made["optimiser_steps"]),
            f"{made['held_out']['loss']:.3f}",
            f"{100 * made['held_out']['score']:.1f}",
            f"{made['samples_per_s']:.0f}",
            verdict_of_training(made) or "no",
        ]
        for made in manifests
    ]
    show_table([Column("base", is_name=True), *_MEASURED], lines, "each adapter's run.json")


def next_steps(folders: Sequence[str], spec: TrainSpec) -> list[str]:
    """Write the commands that score adapters, to be pasted into a shell as they are; a heading first.

    What was asked of task, data and OUT for training holds for the evaluation too.
    """
    if len(folders) > MOST:
        parent, looped = shlex.quote(folders[0].rpartition("/")[0]), "the loop's folder"
        command = scoring_command(looped, spec).replace(shlex.quote(looped), '"$folder"')
        return [f"Score all adapters in {parent}:", f"  for folder in {parent}/*/; do {command}; done"]
    commands = [f"  {scoring_command(folder, spec)}" for folder in folders]
    return ["Score them:" if len(folders) > 1 else "Score it:", *commands]


def scoring_command(folder: str, spec: TrainSpec) -> str:
    """Write the command that scores an adapter: by make where its Makefile is at hand, else by Python."""
    if Path.cwd() == ROOT:
        return " ".join(["make eval", *(f"{name}={value}" for name, value in _scoring(folder, spec).items())])
    return _by_python(sys.executable, _scoring(folder, spec))


def portable_command(folder: str, spec: TrainSpec) -> str:
    """Write it for other people's eyes: of absolute paths, which tell whose machine it is, only the end."""
    return _by_python("python", _scoring(folder, spec, without_folders))


def _by_python(python: str, values: dict[str, str]) -> str:
    return " ".join([shlex.quote(python), "-m harness_ext run", *(f"{_FLAGS[name]}={values[name]}" for name in values)])


def _scoring(folder: str, spec: TrainSpec, shown: Callable[[str], str] = str) -> dict[str, str]:
    """What to ask of the evaluation, by make's names and quoted for a shell, its paths as they are to be shown."""
    more = ["--include_path", shown(spec.include_path)] if spec.include_path else []
    more += ["--allow_pickle"] if spec.allow_pickle else []
    out = spec.out if spec.out != TrainSpec.out else None
    task = None if spec.data else spec.task  # the adapter's record says all of a table
    values = {"ADAPTER": folder, "TASK": task, "DATA_DIR": spec.data_dir, "OUT": out, "ARGS": shlex.join(more)}
    return {name: shlex.quote(shown(value)) for name, value in values.items() if value}
