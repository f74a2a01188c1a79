"""How often the evidence's intervals cover a truth that is known, and how often its tests claim what is not there.

`python tests/simulation.py` prints the tables of docs/evidence.md; tests/test_simulation.py holds their bounds.

A document has a difficulty, a seed an effect on all documents, both normal, and whether a run is right is a throw with the
probability expit(mean + effect of the seed + 2 · difficulty). The truth is the mean of that probability over all seeds and
all documents: 80%. Two trained methods have seeds of their own and difficulties that correlate by 0.8; a prompted method
answers the same whatever the seed.
"""

from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit, roots_hermitenorm
from scipy.stats import binom

from harness_ext.evidence.contrast import Method
from harness_ext.evidence.paired import mcnemar, tango
from harness_ext.evidence.proportion import newcombe, unpaired_p, wilson
from harness_ext.evidence.ranks import rank_ranges
from harness_ext.evidence.seeds import Estimate, estimate, spread_apart, two_way, two_way_score

SCORE, DIFFICULTY, ALIKE = 0.8, 2.0, 0.8
SIZES, SEEDS, SEED_SD = (100, 872), (3, 5, 10), (0.0, 0.02, 0.07)
TABLES, BLOCK = 10_000, 500
POINTS, WEIGHTS = roots_hermitenorm(61)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


class Cell(NamedTuple):
    """What was simulated, and the share of tables for which it held."""

    what: str
    n: int
    k: int
    seed_sd: float
    share: float


@cache
def population(seed_sd: float) -> tuple[float, float]:
    """Return the mean and the SD of the seeds' effect, as logits, for which scores of seeds have mean 80% and this SD."""

    def moments(mean: float, sd: float) -> tuple[float, float]:
        scores = (expit(mean + sd * POINTS[:, None] + DIFFICULTY * POINTS) * WEIGHTS).sum(1)
        average = float(scores @ WEIGHTS)
        return average, float(((scores - average) ** 2 @ WEIGHTS) ** 0.5)

    mean, sd = 0.0, 0.0
    for _ in range(30):
        mean = brentq(lambda value, sd=sd: moments(value, sd)[0] - SCORE, -9, 9)
        sd = brentq(lambda value, mean=mean: moments(mean, value)[1] - seed_sd, 0, 9) if seed_sd else 0.0
    return mean, sd


def difficulties(rng: np.random.Generator, shared: NDArray) -> NDArray:
    """Return difficulties for one more method, as alike to the shared ones as all others' are."""
    return ALIKE**0.5 * shared + (1 - ALIKE) ** 0.5 * rng.standard_normal(shared.shape, dtype=np.float32)


def answers(rng: np.random.Generator, difficulty: NDArray, k: int, seed_sd: float) -> NDArray[np.int8]:
    """Return ``(tables, k, n)``: right or wrong, for difficulties ``(tables, n)``."""
    mean, sd = population(seed_sd)
    effect = sd * rng.standard_normal((len(difficulty), k, 1), dtype=np.float32)
    probability = expit(np.float32(mean) + effect + np.float32(DIFFICULTY) * difficulty[:, None])
    return (rng.random(probability.shape, dtype=np.float32) < probability).astype(np.int8)


def coverage_over_seeds(tables: int = TABLES) -> Iterator[Cell]:
    """Yield the coverage of the intervals of a score, of differences: seeds shared, seeds apart, from a prompted method."""
    rng = np.random.default_rng(1)
    for n, k, sd in product(SIZES, SEEDS, SEED_SD):
        covered: dict[str, int] = dict.fromkeys(("one method", "two trained", "seeds apart", "trained, prompted"), 0)
        for _ in range(tables // BLOCK):
            shared = rng.standard_normal((BLOCK, n), dtype=np.float32)
            a = answers(rng, difficulties(rng, shared), k, sd)
            b = answers(rng, difficulties(rng, shared), k, sd)
            trained = a - b
            prompted = a - answers(rng, difficulties(rng, shared), 1, 0.0)
            covered["one method"] += sum(covers(two_way_score(table), SCORE) for table in a)
            covered["two trained"] += sum(covers(two_way(table), 0.0) for table in trained)
            apart = (estimate(one.mean() - two.mean(), spread_apart(one, two), k, n) for one, two in zip(a, b, strict=True))
            covered["seeds apart"] += sum(covers(found, 0.0) for found in apart)
            covered["trained, prompted"] += sum(covers(two_way(table), 0.0) for table in prompted)
        for what, count in covered.items():
            yield Cell(what, n, k, sd, count / tables)


def covers(found: Estimate, truth: float) -> bool:
    assert found.low is not None
    assert found.high is not None
    return found.low <= truth <= found.high


def false_claims_among_equals(tables: int = 2000, methods: int = 8) -> Iterator[Cell]:
    """Yield how often any of eight methods that are equal is told from another; k = 1: prompted methods, one run each."""
    rng = np.random.default_rng(2)
    for n, (k, sd) in product(SIZES, ((1, 0.0), *product(SEEDS, SEED_SD))):
        false = 0
        for _ in range(tables):
            shared = np.repeat(rng.standard_normal((1, n), dtype=np.float32), methods, axis=0)
            drawn = answers(rng, difficulties(rng, shared), k, sd)
            ranges = rank_ranges([Method(table, tuple(range(k)) if k > 1 else None) for table in drawn])
            false += set(ranges) != {(1, methods)}
        yield Cell("eight equal", n, k, sd, false / tables)


def two_runs(tables: int = TABLES) -> Iterator[tuple[int, float, float, float, float]]:
    """Yield n, the share of discordant documents, and for equal runs: type I error, exact and mid-p; Tango's coverage.

    The errors are no simulation but the sum over all outcomes.
    """
    rng = np.random.default_rng(3)
    for n in SIZES:
        for share in (0.01, 0.02, 0.05, 0.1, 0.3):
            wrong = np.zeros(2)
            for discordant in range(n + 1):
                only_a = np.arange(discordant + 1)
                weight = binom.pmf(discordant, n, share) * binom.pmf(only_a, discordant, 0.5)
                wrong += [weight[p < 0.05].sum() for p in mcnemar(only_a, discordant - only_a)]
            ends = [tango(int(b), int(c), n) for b, c, _ in rng.multinomial(n, [share / 2, share / 2, 1 - share], tables)]
            yield n, share, *wrong, float(np.mean([low <= 0 <= high for low, high in ends]))


def single_runs() -> Iterator[tuple[int, float, float, float, float]]:
    """Yield n, a score, and summed over all outcomes: coverage of Wilson and Newcombe, error of the unpaired test."""
    for n in SIZES:
        for score in (0.5, 0.8, 0.95):
            counts = np.arange(n + 1)
            weight = binom.pmf(counts, n, score)
            likely = counts[weight > 1e-7]
            inside = [low <= score <= high for low, high in (wilson(int(x), n) for x in likely)]
            pairs = [(int(x), int(y)) for x in likely for y in likely]
            both = np.array([weight[x] * weight[y] for x, y in pairs])
            held = np.array([low <= 0 <= high for low, high in (newcombe(x, n, y, n) for x, y in pairs)])
            claimed = np.array([unpaired_p(x, n, y, n) < 0.05 for x, y in pairs])
            yield n, score, float(weight[likely] @ inside), float(both @ held), float(both @ claimed)


def main() -> None:
    """Print the tables."""
    print(
        "| documents | score | Wilson covers | Newcombe covers | unpaired test errs |\n| ---: | ---: | ---: | ---: | ---: |"
    )
    for n, score, *shares in single_runs():
        print(f"| {n} | {score:.0%} | {' | '.join(f'{share:.1%}' for share in shares)} |")
    print("\n| documents | discordant | exact errs | mid-p errs | Tango covers |\n| ---: | ---: | ---: | ---: | ---: |")
    for n, share, *shares in two_runs():
        print(f"| {n} | {share:.0%} | {' | '.join(f'{share:.1%}' for share in shares)} |")
    cells = [*coverage_over_seeds(), *false_claims_among_equals()]
    names = ("one method", "two trained", "seeds apart", "trained, prompted", "eight equal")
    heads = ["documents", "seeds", "SD of seeds", *names[:-1], f"{names[-1]}: any false claim"]
    print(f"\n| {' | '.join(heads)} |\n|{' ---: |' * len(heads)}")
    for n, k, sd in dict.fromkeys(cell[1:4] for cell in cells):
        found = {cell.what: f"{cell.share:.1%}" for cell in cells if cell[1:4] == (n, k, sd)}
        print(f"| {n} | {k} | {100 * sd:.0f} | {' | '.join(found.get(name, '') for name in names)} |")


if __name__ == "__main__":
    main()
