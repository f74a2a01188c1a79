"""The folded leaderboard: runs that differ in the seed alone are one entry, and entries that can be compared are ranked.

Knows runs and evidence; nothing of how entries are shown.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import mean
from typing import Any

import numpy as np

from harness_ext.evidence.contrast import Method
from harness_ext.evidence.proportion import wilson
from harness_ext.evidence.ranks import rank_ranges
from harness_ext.evidence.seeds import FEWEST_SEEDS, Estimate
from harness_ext.results import fields, names, versions
from harness_ext.results.experiments import draw_of, is_no_better, seed_of
from harness_ext.results.outcomes import main_counts, one_answer
from harness_ext.results.runs import Run
from harness_ext.results.words import counted


@dataclass(frozen=True, eq=False)
class Entry:
    """An experiment: its runs, one a seed.

    Attributes:
        name: No other entry's, and stable: see `names`.
        runs: By seed.
        repeated: Runs that do not count, as a later one has the same seed.
        samples: Labels used: a number, "all", or None where it is not known.
        method: What was right, document by document; None where that was not kept.
        score: Its mean, and an interval where there is one; see `Method.score`.
        rank: The best and the worst rank that it may have in its table, or None; then `unranked` says why.
        stale: An older version of the task was asked.
    """

    name: str
    runs: tuple[Run, ...]
    repeated: tuple[Run, ...]
    samples: int | str | None
    method: Method | None
    score: Estimate
    stale: bool
    rank: tuple[int, int] | None = None

    @property
    def record(self) -> dict[str, Any]:
        """The first run's, for what all have in common."""
        return self.runs[0].record

    @property
    def documents(self) -> tuple[str, ...] | None:
        """What it was asked, by hash; None where that was not kept."""
        answers = self.runs[0].answers
        return answers.documents if answers else None

    @property
    def comparable(self) -> bool:
        """Whether it can be compared with others, document by document: it was asked all of today's task."""
        return self.method is not None and not self.partial and not self.stale

    @property
    def too_few(self) -> bool:
        """Whether it has seeds, and so few that nothing can be said of others."""
        return self.seeds is not None and self.seeds < FEWEST_SEEDS

    @property
    def partial(self) -> bool:
        """Whether it was asked only part of the documents (LIMIT=)."""
        return self.record["n"] < self.record["n_available"]

    @property
    def seeds(self) -> int | None:
        """How many seeds; None of a method without."""
        return len(self.runs) if seed_of(self.record) is not None else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95% interval of the score; None where it would say nothing of other seeds, or documents were not kept."""
        if self.score.low is None or self.score.high is None or self.too_few:
            return None
        return self.score.low, self.score.high

    @property
    def unranked(self) -> str:
        """Why it has no rank."""
        if self.stale or self.partial:
            return "old task" if self.stale else "partial"
        if self.too_few:
            return counted(len(self.runs), "seed")
        if self.samples is None:
            return "labels ?"
        return "no outcomes" if self.method is None else ""

    @cached_property
    def scores(self) -> list[float]:
        """The score of each run."""
        return [main_counts(run.record)["correct"] / run.record["n"] for run in self.runs]

    @property
    def collapsed(self) -> int:
        """How many runs gave one answer to everything, in evaluation or on the rows that training held out."""
        return sum(_has_collapsed(run.record) for run in self.runs)

    @property
    def no_better(self) -> int:
        """How many runs were trained for nothing."""
        return sum(is_no_better(run.record.get("training") or {}) for run in self.runs)

    @property
    def not_following(self) -> dict[str, float]:
        """Documents without a label, the mean over runs, by kind; the most frequent first."""
        kinds: Counter[str] = Counter()
        for run in self.runs:
            kinds.update(main_counts(run.record)["not_following"])
        return {kind: count / len(self.runs) for kind, count in kinds.most_common()}

    @property
    def strict(self) -> float | None:
        """The mean score by the strict rule; None where there is no such rule."""
        found = [run.record["counts"].get("strict") for run in self.runs]
        return mean(each["correct"] / self.record["n"] for each in found) if all(found) else None

    def over_runs(self, take: Callable[[list[float]], float], name: str) -> float | None:
        """Take the median, for example, over runs of a field (`fields.at`) that has a number; None where none has one."""
        values = [value for run in self.runs if (value := fields.at(run.record, name)) is not None]
        return take(values) if values else None

    @property
    def peak_memory(self) -> float | None:
        """Bytes, of the run that needed most: on the GPU where there is one."""
        return self.over_runs(max, "peak_memory_bytes.gpu") or self.over_runs(max, "peak_memory_bytes.process")


def entries(read: Iterable[Run]) -> list[Entry]:
    """Fold runs of 0/1 tasks into entries and rank those that can be compared; best score first, and by name."""
    folded: dict[Any, list[Run]] = defaultdict(list)
    for run in read:
        if run.record["n"] and main_counts(run.record):
            documents = run.answers and run.answers.documents
            has_seed = seed_of(run.record) is not None
            experiment = run.record.get("experiment") or run.record["key"]
            folded[experiment, run.record["n"], documents, has_seed].append(run)
    kept = [_one_a_seed(same) for same in folded.values()]
    stale = [versions.is_stale(runs[0].record) for runs in kept]
    called = names.names([runs[0].record for runs in kept], stale)
    found = []
    for name, runs, same, is_stale in zip(called, kept, folded.values(), stale, strict=True):
        method, repeated = _method(runs), tuple(run for run in same if run not in runs)
        samples = names.labels_of(runs[0].record)
        found.append(Entry(name, runs, repeated, samples, method, _score(runs, method), is_stale))
    return sorted(_ranked(found), key=lambda entry: (-entry.score.mean, entry.name))


def _one_a_seed(runs: Sequence[Run]) -> tuple[Run, ...]:
    """Keep the run that was started last of each seed; without a seed the last one alone."""
    order = sorted(runs, key=lambda run: (str(run.record.get("started") or ""), run.record["key"]))
    last = {seed_of(run.record): run for run in order}
    return tuple(last[seed] for seed in sorted(last, key=lambda seed: (seed is None, seed)))


def _method(runs: Sequence[Run]) -> Method | None:
    correct = [run.answers.correct for run in runs if run.answers]
    if len(correct) < len(runs) or not correct[0].size:
        return None
    seeds = tuple(seed for run in runs if (seed := draw_of(run.record)) is not None)
    return Method(np.stack(correct), seeds or None)


def _score(runs: Sequence[Run], method: Method | None) -> Estimate:
    if method:
        return method.score
    counts, n = [main_counts(run.record)["correct"] for run in runs], runs[0].record["n"]
    low, high = wilson(counts[0], n) if len(runs) == 1 else (None, None)
    return Estimate(mean(counts) / n, low, high, len(runs), n)


def _ranked(found: list[Entry]) -> list[Entry]:
    """Rank within one number of labels and the same documents; those that have seeds need three."""
    peers: dict[Any, list[int]] = defaultdict(list)
    for number, entry in enumerate(found):
        if not entry.unranked:
            peers[entry.record.get("data_fingerprint"), entry.documents, entry.samples].append(number)
    for same in peers.values():
        ranks = rank_ranges([method for number in same if (method := found[number].method)])
        for number, rank in zip(same, ranks, strict=True):
            found[number] = replace(found[number], rank=rank)
    return found


def _has_collapsed(record: dict[str, Any]) -> bool:
    return bool((record.get("training") or {}).get("collapsed")) or one_answer(record) is not None
