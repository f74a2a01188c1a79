"""What the original experiment reported: its scores, beside the model, task and quantisation that ours are compared with.

Reads two files as plain data; knows nothing of how presets are used.
"""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness_ext.paths import ROOT

FILE = ROOT / "results" / "reported.csv"
PRESETS = ROOT / "harness_ext" / "model" / "presets.yaml"
SST2_VALIDATION = "1693a5fbd9fa5b4a"  # data.fingerprint of GLUE's 872 validation sentences
_WHILE_LOADING = ("nf4", "int8")  # a preset says what is asked for; how a checkpoint is stored, its own name says


@dataclass(frozen=True)
class Score:
    """A reported score.

    Attributes:
        model: Hub id.
        task: The task that asks as the original did.
        quantisation: As the model is quantised while it loads.
        train_samples: As the file has it: a number, 0 where the model was prompted, or ``all``.
        batch_size: In training, as the file has it.
        correct: Of 872 sentences.
    """

    model: str
    task: str
    quantisation: str | None
    train_samples: str
    batch_size: str
    correct: int


def table(path: Path = FILE) -> list[dict[str, str]]:
    """Read the original's numbers as they stand in their file."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def scores() -> list[Score]:
    """Read the original's scores of the models that have a preset."""
    import yaml

    lines = table()
    return [
        Score(
            preset["model"],
            preset.get("task", "sst2_01"),
            preset.get("quantise"),
            line["train_samples"],
            line["batch_size"],
            int(line["correct_of_872"]),
        )
        for preset in yaml.safe_load(PRESETS.read_text(encoding="utf-8")).values()
        for line in lines
        if line["model"] == preset["reported"]
    ]


def score_of(record: dict[str, Any], reported: list[Score]) -> float | None:
    """Find the original's score of the same model, task, training size and data, in 0-1; None where there is none."""
    how = record.get("quantisation")
    asked = record["model"], record["task"], how if how in _WHILE_LOADING else None, str(record.get("train_samples") or 0)
    found = [each for each in reported if (each.model, each.task, each.quantisation, each.train_samples) == asked]
    if len(found) > 1:  # reported at two batch sizes: only a recipe that names one of them is the same experiment
        found = [each for each in found if str(record.get("recipe")).endswith(f"-b{each.batch_size}")]
    return found[0].correct / 872 if found and record.get("data_fingerprint") == SST2_VALIDATION else None
