"""The models of the original experiment: short names, and what cannot be detected of each (`presets.yaml`)."""

import dataclasses
import difflib
import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harness_ext.errors import UserError

FILE = Path(__file__).with_name("presets.yaml")


@dataclass(frozen=True)
class Preset:
    """A model of the original experiment.

    Attributes:
        name: Short name.
        model: Hub id.
        parameters: In billions.
        memory_gb: Estimated need on a GPU with the preset's task, at `batch` or 64 rows.
        reported: Its name in ``results/reported.csv``.
        task: That asks as the original did.
        revision: Hub commit; the newest where it is None.
        quantise: How the weights are quantised while they load, as `loading.quantisation` names it.
        stored: How the checkpoint itself is quantised.
        batch: Rows per batch for `task`, where the batch that is otherwise chosen might not fit 24 GB.
        gated: The Hub asks for a licence to be accepted.
        finetune: It cannot be prompted, only fine-tuned.
        pickled: Its weights are no safetensors.
    """

    name: str
    model: str
    parameters: float
    memory_gb: float
    reported: str
    task: str = "sst2_01"
    revision: str | None = None
    quantise: str | None = None
    stored: str | None = None
    batch: int | None = None
    gated: bool = False
    finetune: bool = False
    pickled: bool = False

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
    """Read and check the presets.

    Returns:
        By short name.

    Raises:
        UserError: A field is unknown (names the near misses), missing, or of the wrong type; two presets share a model.
    """
    presets = {name: _read(name, fields) for name, fields in yaml.safe_load(path.read_text(encoding="utf-8")).items()}
    models = [preset.model for preset in presets.values()]
    if twice := {model for model in models if models.count(model) > 1}:
        raise UserError(f"{path.name}: {', '.join(sorted(twice))} has more than one preset.")
    return presets


def show(width: int | None = None) -> None:
    """Print the presets as a table that fits the terminal.

    Args:
        width: As for `tables.show_table`.
    """
    from harness_ext.results import reported
    from harness_ext.results.tables import Column, show_table

    prompted = {row["model"]: row["score"] for row in reported.table() if row["group"] == "zero-shot"}
    columns = [
        Column("MODEL=", is_left=True),
        Column("Hub id", is_name=True),
        Column("size"),
        Column("memory"),
        Column("reported %"),
        Column("4 bits", is_left=True, dropped=3),
        Column("gated", is_left=True, dropped=4),
        Column("task", is_name=True, dropped=1),
        Column("command", is_left=True, dropped=2),
    ]
    rows = []
    for preset in load().values():
        score = prompted.get(preset.reported)
        rows.append(
            (
                preset.name,
                preset.model,
                f"{preset.parameters:g}B",
                f"{preset.memory_gb:g} GB",
                "by labels" if score is None else f"{100 * float(score):.2f}",
                preset.quantise or preset.stored or "",
                "yes" if preset.gated else "",
                preset.task,
                preset.command,
            )
        )
    show_table(columns, rows, "make models in a wider window; what to type is make eval MODEL=its short name", width)


def _read(name: str, fields: Any) -> Preset:
    known = {field.name: field.type for field in dataclasses.fields(Preset) if field.name != "name"}
    if not isinstance(fields, dict):
        raise UserError(f"Preset {name!r} is no mapping of fields.")
    for unknown in fields.keys() - known.keys():
        near = difflib.get_close_matches(str(unknown), known, n=1) or sorted(known)
        raise UserError(f"Preset {name!r} has no field {unknown!r}. Did you mean {' or '.join(near)}?")
    for field, value in fields.items():
        allowed = float | int if known[field] is float else known[field]
        if not isinstance(value, allowed):  # type: ignore[arg-type]
            raise UserError(f"Preset {name!r}: {field} {value!r} is of the wrong type.")
    try:
        return Preset(name, **fields)
    except TypeError as error:
        raise UserError(f"Preset {name!r} lacks a field: {error}.") from None
