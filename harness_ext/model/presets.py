"""The models of the original experiment: short names, and what cannot be detected of each (`presets.yaml`)."""

import dataclasses
import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harness_ext.errors import UserError, did_you_mean

FILE = Path(__file__).with_name("presets.yaml")


@dataclass(frozen=True)
class Preset:
    """A model of the original experiment."""

    name: str
    model: str  # Hub id; of a GGUF file with its name
    parameters: float  # in billions
    memory_gb: float  # estimated need on a GPU with `task`, at `batch` or 64 rows
    reported: str  # its name in results/reported.csv
    task: str = "sst2_01"  # that asks as the original did
    revision: str | None = None  # Hub commit; the newest where it is None
    quantise: str | None = None  # as the weights are quantised while they load: a key of `quantisation.ASKED`
    stored: str | None = None  # as the checkpoint itself is quantised
    batch: int | None = None  # rows per batch for `task`, where the batch that is otherwise chosen might not fit 24 GB
    gated: bool = False  # the Hub asks for a licence to be accepted
    finetune: bool = False  # it cannot be prompted, only fine-tuned
    pickled: bool = False  # its weights are no safetensors
    unverified: bool = False  # nobody here could look whether the Hub has it under this name

    @property
    def command(self) -> str:
        """What to type."""
        if self.finetune:
            return f"make finetune MODEL={self.name} SAMPLES=64" + (" ARGS=--allow_pickle" if self.pickled else "")
        return f"make eval MODEL={self.name}"


def find(text: str) -> Preset | None:
    """Find the preset of a short name or Hub id; a folder of that name is the user's own model, and has none."""
    if os.path.isdir(os.path.expanduser(text)):
        return None
    return load().get(text.lower()) or next((preset for preset in load().values() if preset.model == text), None)


@functools.cache
def load(path: Path = FILE) -> dict[str, Preset]:
    """Read and check the presets, by short name."""
    presets = {name: _read(name, fields) for name, fields in yaml.safe_load(path.read_text(encoding="utf-8")).items()}
    models = [preset.model for preset in presets.values()]
    if twice := {model for model in models if models.count(model) > 1}:
        raise UserError(f"{path.name}: {', '.join(sorted(twice))} has more than one preset.")
    return presets


def show(width: int | None = None) -> None:
    """Print the presets as a table that fits so many cells, by default the terminal's."""
    from harness_ext.results import reported
    from harness_ext.results.tables import Column, show_table

    prompted = {row["model"]: f"{100 * float(row['score']):.2f}" for row in reported.table() if row["group"] == "zero-shot"}
    table: list[tuple[Column, Callable[[Preset], str]]] = [
        (Column("MODEL=", is_left=True), lambda each: each.name),
        (Column("Hub id", is_name=True), lambda each: each.model),
        (Column("size"), lambda each: f"{each.parameters:g}B"),
        (Column("memory"), lambda each: f"{each.memory_gb:g} GB"),
        (Column("reported %"), lambda each: prompted.get(each.reported, "by labels")),
        (
            Column("4 bits", is_left=True, dropped=3),
            lambda each: (each.quantise or each.stored or "") + ", unverified" * each.unverified,
        ),
        (Column("gated", is_left=True, dropped=4), lambda each: "yes" if each.gated else ""),
        (Column("task", is_name=True, dropped=1), lambda each: each.task),
        (Column("command", is_left=True, dropped=2), lambda each: each.command),
    ]
    rows = [[cell(each) for _, cell in table] for each in load().values()]
    more = "make models in a wider window; what to type is make eval MODEL=its short name"
    show_table([column for column, _ in table], rows, more, width)


def _read(name: str, fields: Any) -> Preset:
    known = {field.name: field.type for field in dataclasses.fields(Preset) if field.name != "name"}
    if not isinstance(fields, dict):
        raise UserError(f"Preset {name!r} is no mapping of fields.")
    for field, value in fields.items():
        if field not in known:
            raise UserError(f"Preset {name!r} has no field {field!r}.{did_you_mean(str(field), known)}")
        allowed = float | int if known[field] is float else known[field]
        if not isinstance(value, allowed):  # type: ignore[arg-type]
            raise UserError(f"Preset {name!r}: {field} {value!r} is of the wrong type.")
    try:
        return Preset(name, **fields)
    except TypeError as error:
        raise UserError(f"Preset {name!r} lacks a field: {error}.") from None
