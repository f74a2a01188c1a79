"""What was found out about a run before it begins, line by line: good to know, or a reason why it would stop."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from harness_ext.errors import DataError, UserError

OK, NOTE, PROBLEM = "ok", "note", "problem"


@dataclass(frozen=True)
class Check:
    """One line of the list."""

    name: str  # what was looked at
    state: str  # ok, note (worth knowing) or problem (the run would stop)
    said: str  # what was found; for a problem also what to do


@dataclass
class Checks:
    """The list, as it grows."""

    lines: list[Check] = field(default_factory=list)

    def say(self, name: str, said: str, state: str = OK) -> None:
        """Add a line."""
        self.lines.append(Check(name, state, " ".join(said.split())))

    @contextlib.contextmanager
    def problem(self, name: str) -> Iterator[None]:
        """Turn an error of the user's within the block into a line."""
        try:
            yield
        except UserError as error:
            self.say("data" if isinstance(error, DataError) else name, str(error), PROBLEM)

    def has(self, name: str) -> bool:
        """Tell whether anything is said about this."""
        return any(line.name == name for line in self.lines)

    @property
    def problems(self) -> list[Check]:
        """Why the run would stop; the first is what it would say."""
        return [line for line in self.lines if line.state == PROBLEM]
