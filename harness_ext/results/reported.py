"""What the original experiment reported: its scores, beside the model, task and quantisation that ours are compared with.

Reads two files as plain data; knows nothing of how presets are used.
"""

import csv
from dataclasses import dataclass
from typing import Any

import yaml

from harness_ext.paths import ROOT

FILE = ROOT / "results" / "reported.csv"
PRESETS = ROOT / "harness_ext" / "model" / "presets.yaml"
N = 872  # sentences of which each score is a share
SST2_VALIDATION = "1693a5fbd9fa5b4a"  # data.fingerprint of GLUE's 872 validation sentences
_WHILE_LOADING = ("nf4", "int8")  # a preset says what is asked for; how a checkpoint is stored, its own name says


@dataclass(frozen=True)
class Score:
    """A reported score."""

    model: str  # Hub id
    task: str  # that asks as the original did
    quantisation: str | None  # while the model is loaded
    train_samples: str  # a number, 0 where the model was prompted, or "all"
    batch_size: str  # in training
    correct: int  # of 872 sentences


def table() -> list[dict[str, str]]:
    """Read the original's numbers as they stand in their file."""
    with FILE.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def scores() -> list[Score]:
    """Read the original's scores of the models that have a preset."""
    found = []
    for preset in yaml.safe_load(PRESETS.read_text(encoding="utf-8")).values():
        asked = preset["model"], preset.get("task", "sst2_01"), preset.get("quantise")
        lines = [line for line in table() if line["model"] == preset["reported"]]
        found += [Score(*asked, each["train_samples"], each["batch_size"], int(each["correct_of_872"])) for each in lines]
    return found


def score_of(record: dict[str, Any], reported: list[Score]) -> float | None:
    """Find the original's score of the same model, task, training size and data, in 0-1; None where there is none."""
    how = record.get("quantisation")
    asked = record["model"], record["task"], how if how in _WHILE_LOADING else None, str(record.get("train_samples") or 0)
    found = [each for each in reported if (each.model, each.task, each.quantisation, each.train_samples) == asked]
    if len(found) > 1:  # reported at two batch sizes: only a recipe that names one of them is the same experiment
        found = [each for each in found if str(record.get("recipe")).endswith(f"-b{each.batch_size}")]
    return found[0].correct / N if found and record.get("data_fingerprint") == SST2_VALIDATION else None
