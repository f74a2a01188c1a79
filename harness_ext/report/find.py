"""What a user means by A=, B= or RUN=: a file, a run's folder or key, or an entry of the leaderboard."""

import difflib
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from harness_ext.errors import UserError
from harness_ext.paths import as_path
from harness_ext.report import csv_log, inspect_log, lm_eval_log, texts
from harness_ext.report.logs import Log, Side, of_answers
from harness_ext.results import outcomes, records
from harness_ext.results.experiments import draw_of
from harness_ext.results.runs import Run, read, read_all
from harness_ext.results.standings import Entry, entries
from harness_ext.results.tables import visible

_READERS: dict[str, Callable[[Path], Log]] = {
    ".jsonl": lm_eval_log.read,
    ".eval": inspect_log.read,
    ".json": inspect_log.read,
    ".csv": csv_log.read,
    ".tsv": csv_log.read,
}
_MOST = 8  # names in an error line


@dataclass(frozen=True)
class Results:
    """The runs under OUT, read when they are needed."""

    out: Path

    @cached_property
    def runs(self) -> list[Run]:
        """All finished runs."""
        return read_all(self.out)

    @cached_property
    def entries(self) -> list[Entry]:
        """The leaderboard."""
        return entries(self.runs)

    def find(self, variable: str, name: str) -> Side:
        """Find what is called by a name; `variable` is how the user gave it."""
        if not name.strip():
            raise UserError(f"{variable} is empty. Give a file, or the folder, key or name of a run.")
        path = as_path(variable, name)
        if path.is_file() and path.name != records.MANIFEST:
            return Side(name, (_read_log(path),))
        if path.exists():
            return of_run(_read_run(path if path.is_dir() else path.parent))
        if by_key := [run for run in self.runs if run.folder.name == name or _is_key(run, name)]:
            if len(by_key) > 1:
                raise UserError(
                    f"{variable} {name!r} begins {_listed([run.folder.name for run in by_key])}. Give more of the key."
                )
            return of_run(by_key[0])
        return of_entry(self._named(variable, name))

    def two_best(self) -> tuple[Side, Side]:
        """Take the two best entries, of those on the largest data set that several were asked the whole of."""
        same: dict[tuple[str, ...], list[Entry]] = defaultdict(list)
        for entry in self.entries:  # the best comes first
            if entry.comparable and entry.documents:
                same[entry.documents].append(entry)
        if not (several := [documents for documents, found in same.items() if len(found) > 1]):
            raise UserError(
                f"{self.out} has no two runs on the same whole data set. Name what to compare: make compare A=... B=..."
            )
        best, second, *_ = same[max(several, key=lambda documents: (len(documents), len(same[documents])))]
        return of_entry(best), of_entry(second)

    def _named(self, variable: str, name: str) -> Entry:
        if exact := [entry for entry in self.entries if entry.name.casefold() == name.strip().casefold()]:
            return exact[0]
        words = [re.escape(word) for word in name.casefold().split()]
        whole = [rf"(?<!\w){word}(?!\w)" for word in (" ".join(words), *words)]  # 16 is none of 1016
        for parts in (whole[:1], whole[1:], words):
            found = [entry for entry in self.entries if all(re.search(each, entry.name.casefold()) for each in parts)]
            if len(found) > 1:
                said = _listed([entry.name for entry in found])
                raise UserError(f"{variable} {name!r} may mean {said}. Give more words of the name.")
            if found:
                return found[0]
        known = {entry.name.casefold(): entry.name for entry in self.entries}
        near = difflib.get_close_matches(name.casefold(), known, n=3, cutoff=0.3)
        raise UserError(
            f"{variable} {name!r} is no file, no folder or key of a run, and no name on the leaderboard of {self.out}."
            + (f" Near: {_listed([known[each] for each in near])}." if near else "")
        )


def of_run(run: Run) -> Side:
    """Read a single run."""
    return _side(run.folder.resolve().name, (run,))


def of_entry(entry: Entry) -> Side:
    """Read an experiment with its seeds."""
    return _side(entry.name, entry.runs)


def _side(name: str, runs: tuple[Run, ...]) -> Side:
    seeds = tuple(seed for run in runs if (seed := draw_of(run.record)) is not None)
    return Side(name, tuple(map(_log, runs)), seeds or None, runs)


def _log(run: Run) -> Log:
    samples = run.folder / texts.SAMPLES
    if run.answers is None and not samples.is_file():
        raise UserError(
            f"{run.folder} holds neither {outcomes.FILE} nor {texts.SAMPLES}: what it said of each document was not kept."
        )
    try:
        return of_answers(run.answers) if run.answers else lm_eval_log.read(samples)
    except UserError as error:
        raise UserError(f"{run.folder}: {error}") from None


def _read_log(path: Path) -> Log:
    if (suffix := path.suffix.lower()) not in _READERS:
        raise UserError(f"{path} is no log that can be read, which are {' '.join(_READERS)} files.")
    try:
        return _READERS[suffix](path)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _read_run(folder: Path) -> Run:
    try:
        return read(folder, records.read_checked(folder))
    except FileNotFoundError:
        raise UserError(f"{folder} is no run: it has no {records.MANIFEST}. Give a run's folder, or a file.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} is no run that can be read: {error}") from None


def _is_key(run: Run, name: str) -> bool:
    return re.fullmatch("[0-9a-f]{4,64}", name) is not None and run.record["key"].startswith(name)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return "; ".join(map(visible, names[:_MOST])) + more
