"""Who competes on one data set: methods that need no label, and methods by number of labels.

Made of the leaderboard's entries; what a picture and a verdict speak of. Knows nothing of how they are shown.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from harness_ext.evidence.break_even import BreakEven, break_even
from harness_ext.evidence.contrast import Contrast, Method, contrast
from harness_ext.results import names
from harness_ext.results.standings import Entry
from harness_ext.results.words import in_order

SST2_ROWS = 67349  # of its train split
ALL_ROWS = {"033f91a9b0ae6c0b": SST2_ROWS}  # what "all" labels are, by data.fingerprint
_LABEL_FREE = ("prompted", "calibrated")
_ASKED = {"": "digits written", "choice": "digits chosen", "words": "words written", "words_choice": "words chosen"}


@dataclass(frozen=True, eq=False)
class Curve:
    """A method by number of labels."""

    name: str
    model: str
    how: str
    by_labels: dict[int | str, Entry]  # "all" last

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The same without their numbers."""
        return tuple(self.by_labels.values())

    @property
    def last(self) -> Entry:
        """With the most labels."""
        return self.entries[-1]

    @property
    def sure(self) -> tuple[Entry, ...]:
        """Those with seeds enough, "all" left out."""
        return tuple(entry for entry in self.measured.values() if not entry.too_few)

    @property
    def measured(self) -> dict[int, Entry]:
        """Those with a known number of labels, "all" left out."""
        return {samples: entry for samples, entry in self.by_labels.items() if isinstance(samples, int)}


@dataclass(frozen=True, eq=False)
class Contest:
    """All methods on one data set."""

    data: str
    label_free: tuple[Entry, ...]  # best first
    curves: tuple[Curve, ...]  # the best with the most labels first
    other: tuple[Entry, ...]  # no side of the question: what has no labels and is no model asked, such as the majority

    @property
    def trained(self) -> tuple[Entry, ...]:
        """All points of its curves."""
        return tuple(entry for curve in self.curves for entry in curve.entries)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All of them."""
        return (*self.label_free, *self.other, *self.trained)

    @cached_property
    def ranked(self) -> tuple[Entry, ...]:
        """The label-free ways that can be compared: one that draws unlabelled rows has been drawn three times."""
        return tuple(entry for entry in self.label_free if not entry.too_few)

    @cached_property
    def prompted(self) -> tuple[Entry, ...]:
        """The best of them for each model, best first."""
        best: dict[str, Entry] = {}
        for entry in self.ranked:
            best.setdefault(model_of(entry), entry)
        return tuple(best.values())

    @property
    def n(self) -> int:
        """Number of documents."""
        return self.entries[0].score.n

    @property
    def majority(self) -> float:
        """Score of always giving the commoner label."""
        answers = self.entries[0].runs[0].answers
        assert answers  # an entry has outcomes
        ones = float(np.mean(answers.gold == 1))
        return max(ones, 1 - ones)

    @property
    def all_rows(self) -> int | None:
        """How many labels "all" are, where that is known."""
        made = [run.record.get("training") or {} for entry in self.entries if entry.samples == "all" for run in entry.runs]
        return next((ALL_ROWS[each["data_fingerprint"]] for each in made if each.get("data_fingerprint") in ALL_ROWS), None)


def contests(entries: Iterable[Entry]) -> list[Contest]:
    """Sort entries by data set, the one with the most runs first; those of a part of it or of an older task are left out."""
    by_data: dict[Any, list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.comparable:
            by_data[entry.record.get("data_fingerprint"), entry.documents].append(entry)
    found = sorted(by_data.values(), key=lambda each: -sum(len(entry.runs) for entry in each))
    return [_contest(each) for each in found]


def asked(entry: Entry) -> str:
    """Say how a model was asked, as in ``words chosen, calibrated by context``."""
    record = entry.record
    how = _ASKED.get(names.form_of(record), record["task"])
    calibrated = (record.get("not_default") or {}).get("calibrated")
    return f"{how}, calibrated {calibrated}" if calibrated else how


def model_of(entry: Entry) -> str:
    """Name its model, without whose it is, and how it is quantised."""
    return names.model_of(entry.record).rsplit("/", 1)[-1]


def first_crossing(curves: Iterable[Curve], prompted: Entry) -> tuple[Curve, BreakEven] | None:
    """Find the curve that catches a prompted model with the fewest labels, and where."""
    found = [(curve, where) for curve in curves if (where := crossing_of(curve, prompted)) and where.mean.side != "above"]
    return min(found, key=lambda each: 0 if each[1].mean.side == "below" else each[1].mean.labels, default=None)


def crossing_of(curve: Curve, prompted: Entry) -> BreakEven | None:
    """Find where a curve catches a prompted model; of one that draws rows without labels the mean over its draws."""
    tables = [method_of(entry).correct for entry in curve.measured.values()]
    return break_even(list(curve.measured), tables, method_of(prompted).correct.mean(axis=0, keepdims=True))


def compare(a: Entry, b: Entry) -> Contrast:
    """Compare two entries of a contest."""
    return contrast(method_of(a), method_of(b))


def method_of(entry: Entry) -> Method:
    """Return what it got right, which every entry of a contest has."""
    assert entry.method
    return entry.method


def _contest(entries: Sequence[Entry]) -> Contest:
    free, other, curves = [], [], defaultdict(list)
    for entry in sorted(entries, key=lambda each: (-each.score.mean, each.name)):
        method = entry.record.get("method")
        if entry.record.get("train_samples") and method != "majority":
            curves[entry.record.get("curve") or entry.name].append(entry)
        elif method in _LABEL_FREE and not entry.samples:
            free.append(entry)
        else:
            other.append(entry)
    drawn = sorted(_curves(curves.values()), key=lambda curve: (-curve.last.score.mean, curve.name))
    return Contest(str(entries[0].record.get("data")), tuple(free), tuple(drawn), tuple(other))


def _curves(groups: Iterable[list[Entry]]) -> list[Curve]:
    found = []
    for group in groups:
        by_labels = {entry.samples: entry for entry in group if entry.samples is not None}
        ordered = {samples: by_labels[samples] for samples in sorted(by_labels, key=in_order)}
        model, how = model_of(group[0]), names.method_text(group[0].record)
        found.append(Curve(f"{model} + {how}" if how else model, model, how, ordered))
    for detail in (
        lambda record: names.settings_text(names.settings_of(record)),
        lambda record: str(record.get("curve"))[:6],
    ):
        twice = Counter(curve.name for curve in found)
        found = [_apart(curve, detail(curve.last.record)) if twice[curve.name] > 1 else curve for curve in found]
    return found


def _apart(curve: Curve, detail: str) -> Curve:
    """Give a curve that shares its name what may tell it apart: settings or, as a last resort, a hash."""
    return replace(curve, name=f"{curve.name} ({detail})") if detail else curve
