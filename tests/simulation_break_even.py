"""How often break-even's 90% intervals hold the truth: a simulation, printed as the table of docs/evidence.md.

    python tests/simulation_break_even.py

A sentence has a difficulty that all methods share; a seed's score on endless sentences is normal about its size's mean, so
that the true mean, the score that 95% of seeds exceed, and both crossings are known.
"""

import math
import sys
from collections import Counter
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

from harness_ext.evidence.break_even import BreakEven, Crossing, break_even

SIZES = (16, 64, 256, 1024)
MEANS = (0.60, 0.70, 0.78, 0.84)  # of the trained method
DIFFICULTY = 1.2  # deviation of a sentence's difficulty, in that of one answer's own noise
PROMPTED = {"below": 0.50, "near the smallest": 0.61, "within": 0.74, "near the largest": 0.83, "above": 0.88}
DEVIATIONS = {"2 points": (0.02, 0.02, 0.02, 0.02), "7 points": (0.07, 0.05, 0.03, 0.02)}  # of the seeds, by size


@dataclass(frozen=True)
class Result:
    """Shares of simulated intervals that hold the truth, and their median width within what was run."""

    mean: float
    most: float
    mean_doublings: float
    most_doublings: float


def simulate(n: int, seeds: int, deviations: tuple[float, ...], prompted: float, times: int, seed: int = 0) -> Result:
    """Draw tables and count how often each interval holds its true crossing."""
    rng = np.random.default_rng([seed, n, seeds])
    truths = {
        "mean": _true_crossing(np.array(MEANS) - prompted),
        "most": _true_crossing(np.array(MEANS) - ndtri(0.95) * np.array(deviations) - prompted),
    }
    held: Counter[str] = Counter()
    widths: dict[str, list[float]] = {name: [] for name in truths}
    for _ in range(times):
        found = _estimate(rng, n, seeds, deviations, prompted)
        for name, truth in truths.items():
            low, high = (_place(getattr(found, f"{name}_{end}")) for end in ("low", "high"))
            held[name] += low <= truth <= high
            widths[name].append(np.clip(high, SIZES[0], SIZES[-1]) / np.clip(low, SIZES[0], SIZES[-1]))
    medians = {name: math.log2(float(np.median(each))) for name, each in widths.items()}
    return Result(held["mean"] / times, held["most"] / times, medians["mean"], medians["most"])


def _estimate(rng: np.random.Generator, n: int, seeds: int, deviations: tuple[float, ...], prompted: float) -> BreakEven:
    difficulty = DIFFICULTY * rng.standard_normal(n)

    def answers(scores: np.ndarray) -> np.ndarray:
        easy = ndtri(scores) * math.hypot(1, DIFFICULTY)  # so that the share right on endless sentences is the score
        return rng.random((len(scores), n)) < ndtr(easy[:, None] - difficulty)

    tables = [
        answers(np.clip(mean + deviation * rng.standard_normal(seeds), 0.01, 0.99))
        for mean, deviation in zip(MEANS, deviations, strict=True)
    ]
    found = break_even(SIZES, tables, answers(np.array([prompted])))
    assert found
    return found


def _true_crossing(curve: np.ndarray) -> float:
    if curve[0] >= 0:
        return 0.0
    return float(2 ** np.interp(0, curve, np.log2(SIZES), right=math.inf)) if curve[-1] >= 0 else math.inf


def _place(crossing: Crossing) -> float:
    return {"within": crossing.labels, "below": 0.0, "above": math.inf}[crossing.side]


def main(times: int) -> None:
    """Print the table: lowest and highest share held over the five prompted scores, and the width for the middle one."""
    print("| sentences | seeds | their SD at 16 labels | mean: held % | doublings | most: held % | doublings |")
    print("|" + " --- |" * 7)
    for n in (100, 872):
        for seeds in (3, 5, 10):
            for spread, deviations in DEVIATIONS.items():
                found = {where: simulate(n, seeds, deviations, score, times) for where, score in PROMPTED.items()}
                middle = found["within"]
                held = [[getattr(each, name) for each in found.values()] for name in ("mean", "most")]
                mean, most = (f"{100 * min(each):.1f}-{100 * max(each):.1f}" for each in held)
                widths = f"{middle.mean_doublings:.1f}", f"{middle.most_doublings:.1f}"
                print(f"| {n} | {seeds} | {spread} | {mean} | {widths[0]} | {most} | {widths[1]} |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
