"""Answers of a run, kept as they come in lm-eval's cache, and made to survive a power cut."""

import contextlib
import glob
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlitedict import SqliteDict

from harness_ext.backend.account import MARGIN

PATIENCE_S = 5.0  # for answers to be written when a run is interrupted
EVERY_S = 0.5  # between two writings to the disk, each of which waits for it: 5 to 30 ms


class _Kept(SqliteDict):
    """What lm-eval's cache becomes: answers go to the disk together, in order, and the file is whole at any moment.

    sqlitedict itself hands every answer to the operating system and waits for no disk (``synchronous=OFF``): after a power
    cut the file may be unreadable.
    """

    _last = 0.0

    def begin(self) -> None:
        """Take over from sqlitedict, which commits after each statement."""
        self.autocommit = self.conn.autocommit = False
        self.conn.execute("PRAGMA synchronous=FULL")
        self._open()

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        if time.monotonic() - self._last >= EVERY_S:
            self.commit()

    def commit(self, blocking: bool = True) -> None:
        """Write what has come in the meantime."""
        self.conn.select_one("COMMIT")  # conn.commit() would wait for ever where that fails
        self.conn.check_raise_error()
        self._open()

    def close(self, do_log: bool = True, force: bool = False) -> None:
        """Write what has come in the meantime, and close."""
        if self.conn is not None and not force:
            self.commit()
        super().close(do_log, force)

    def _open(self) -> None:
        self.conn.execute("BEGIN")
        self._last = time.monotonic()


@contextlib.contextmanager
def kept_safely(lm: Any) -> Iterator[None]:
    """Let what lm-eval keeps of a model's answers within the block survive anything but its last second."""
    own = lm.set_cache_hook
    kept: list[Any] = []

    def set_cache_hook(hook: Any) -> None:
        answers: Any = getattr(hook, "dbdict", None)
        if type(answers) is SqliteDict:
            answers.__class__ = _Kept
            answers.begin()
            kept.append(answers)
        own(hook)

    lm.set_cache_hook = set_cache_hook
    try:
        yield
    except BaseException:
        for answers in kept:  # an interruption may have hit sqlitedict's thread of its own, which then never answers
            closing = threading.Thread(target=_close_quietly, args=(answers,), daemon=True)
            closing.start()
            closing.join(PATIENCE_S)
        raise
    else:
        for answers in kept:
            answers.close()
    finally:
        lm.set_cache_hook = own


def _close_quietly(answers: SqliteDict) -> None:
    with contextlib.suppress(Exception):  # what went wrong first is what is said
        answers.close()


def take_over(cache: str) -> None:
    """Move the answers that processes have kept to where the run looks for answers (lm-eval's ``use_cache``)."""
    prefix = Path(f"{cache}_rank")
    for file in prefix.parent.glob(f"{glob.escape(prefix.name)}[1-9]*.db"):
        with SqliteDict(f"{prefix}0.db") as kept, SqliteDict(str(file)) as more:
            kept.update(more)
            kept.commit()
        file.unlink()


def kept_margins(cache: str) -> dict[int, float]:
    """Return the margins that were kept beside answers, by document."""
    with SqliteDict(f"{cache}_rank0.db", flag="r") as kept:
        return {int(name.removeprefix(MARGIN)): margin for name, margin in kept.items() if name.startswith(MARGIN)}
