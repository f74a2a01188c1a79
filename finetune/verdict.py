"""What the losses on the rows held out say of an adapter: whether it beat its base, and when it was best. Numbers only."""

from collections.abc import Sequence
from typing import Any

from harness_ext.results.experiments import is_no_better

NOTABLE = 1.1  # times the lowest loss: of 500 rows, a mean log-loss has a standard error of about 5%


def verdict(kind: str, history: Sequence[dict[str, float]], final: dict[str, Any]) -> dict[str, Any]:
    """Return for a record what the rows held out say, from a history and the `final` loss and score.

    Returns:
        ``held_out_before`` (loss and score at step 0), ``held_out_lowest`` (the step, from 0 on, of the lowest loss, with
        loss and score), and ``no_better_than_base`` (`is_no_better`).
    """
    scored = [_scored(entry) for entry in history if "held_out_loss" in entry]
    before = next((_without_step(entry) for entry in scored if entry["step"] == 0), None)
    lowest = min(scored, key=lambda entry: entry["loss"], default=None)
    found = {"kind": kind, "held_out": final, "held_out_before": before}
    return {"held_out_before": before, "held_out_lowest": lowest, "no_better_than_base": is_no_better(found)}


def remarks(name: str, made: dict[str, Any]) -> list[str]:
    """Say of an adapter, given by name and record, what its table does not: that it is no better, or was better before."""
    before, lowest, final = made["held_out_before"], made["held_out_lowest"], made["held_out"]
    said = []
    if made["no_better_than_base"]:
        said.append(
            f"Warning: {name} is no better than its base: held-out log-loss {final['loss']:.2f}, before training "
            f"{before['loss']:.2f} (score {100 * final['score']:.1f}, before {100 * before['score']:.1f})."
        )
    if lowest and 0 < lowest["step"] < made["optimiser_steps"] and final["loss"] > NOTABLE * lowest["loss"]:
        step = lowest["step"]
        said.append(
            f"{name}: held-out loss was lowest at step {step} ({lowest['loss']:.2f}; {final['loss']:.2f} at the end): it "
            f"overfits; try --set steps={step}."
        )
    return said


def _scored(entry: dict[str, float]) -> dict[str, Any]:
    return {"step": entry["step"], "loss": entry["held_out_loss"], "score": entry["held_out_score"]}


def _without_step(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name != "step"}
