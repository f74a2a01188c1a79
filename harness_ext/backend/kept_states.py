"""States of a frozen model, kept from one run to the next: ten probes of one model read each sentence once.

A SQLite file for each model in the user's cache folder, beside the hashes of weights; a row a text. It saves time and
nothing else: it may be deleted at any time, a damaged or foreign one is made anew, and where nothing can be written the
states are held in memory. Knows numpy; nothing of models.
"""

import contextlib
import hashlib
import os
import sqlite3
import time
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from harness_ext.keys import hash_of
from harness_ext.model.hashes import cache_folder

EVERY_S = 0.5  # between two writings to the disk, each of which waits for it
PATIENCE_S = 20.0  # for another process that writes
_KIND = 0x50F5  # SQLite's application_id, by which a file is told to be one of these


class KeptStates:
    """The states of texts, ``(layers, hidden)`` in float32 each, for one key: all that can change them, but for the text."""

    def __init__(self, key: dict[str, Any], layers: int) -> None:
        folder, self._layers = cache_folder(), layers
        self._path = folder / "states" / f"{hash_of(key)[:16]}.sqlite" if folder else None
        self._open: sqlite3.Connection | None = None
        self._waiting: dict[bytes, np.ndarray] = {}  # not yet written
        self._unwritten: dict[bytes, np.ndarray] = {}  # that cannot be
        self._written = time.monotonic()
        self.problem: str | None = None  # why nothing more is written

    def find(self, texts: Iterable[str]) -> dict[str, np.ndarray]:
        """Return the states of those texts that are known."""
        names = {_name(text): text for text in texts}
        found = {text: kept for name, text in names.items() if (kept := self._in_memory(name)) is not None}
        with self._quietly():
            connection = self._connection()
            for name, text in names.items() if connection else ():
                row = connection.execute("SELECT state, crc FROM states WHERE text = ?", (name,)).fetchone()
                if row and (state := _read(*row)) is not None:
                    found[text] = state.reshape(self._layers, -1)
        return found

    def keep(self, states: dict[str, np.ndarray]) -> None:
        """Keep states; they are on the disk after `EVERY_S`, or when `flush` is called."""
        self._waiting |= {_name(text): np.ascontiguousarray(state, dtype=np.float32) for text, state in states.items()}
        if time.monotonic() - self._written >= EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Write what has come in the meantime."""
        rows = [(name, state.tobytes(), zlib.crc32(state.data)) for name, state in self._waiting.items()]
        if rows and self.problem is None:
            with self._quietly():
                if connection := self._connection():
                    with connection:
                        connection.executemany("INSERT OR REPLACE INTO states VALUES (?, ?, ?)", rows)
                    self._waiting.clear()
        self._unwritten |= self._waiting
        self._waiting.clear()
        self._written = time.monotonic()

    def close(self) -> None:
        """Write the last, and let go of the file."""
        self.flush()
        if self._open:
            self._open.close()
            self._open = None

    def _in_memory(self, name: bytes) -> np.ndarray | None:
        return self._waiting.get(name, self._unwritten.get(name))

    def _connection(self) -> Any:
        """Return the open file, made anew where it is damaged or not one of ours; None where there can be none."""
        if self._open is None and self._path is not None and self.problem is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._open = _connect(self._path)
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise
                self._remove()
                self._open = _connect(self._path)
        return self._open

    @contextlib.contextmanager
    def _quietly(self) -> Any:
        """Go on without the file where it cannot be read or written; a damaged one is removed, and made anew next time."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
                self._remove()
            else:
                self.problem = " ".join(str(error).split())

    def _remove(self) -> None:
        if self._open:
            self._open.close()
            self._open = None
        if self._path:
            for end in ("", "-journal"):
                with contextlib.suppress(OSError):
                    os.unlink(f"{self._path}{end}")


def _connect(path: Path) -> sqlite3.Connection:
    """Open a file, or make it; a `DatabaseError` says that it is damaged or not one of ours."""
    connection = sqlite3.connect(path, timeout=PATIENCE_S)
    try:
        with connection:
            connection.execute("BEGIN IMMEDIATE")  # of two processes that make it at once one waits
            (kind,) = connection.execute("PRAGMA application_id").fetchone()
            names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
            if not names:
                connection.execute("CREATE TABLE states (text BLOB PRIMARY KEY, state BLOB, crc INTEGER)")
                connection.execute(f"PRAGMA application_id = {_KIND}")
            elif kind != _KIND or "states" not in names:
                raise sqlite3.DatabaseError("not a file of states")
    except BaseException:
        connection.close()
        raise
    return connection


def _name(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()


def _read(state: Any, crc: Any) -> np.ndarray | None:
    """Return what a row holds; None where that is not what was written."""
    is_whole = isinstance(state, bytes) and state and zlib.crc32(state) == crc
    return np.frombuffer(state, dtype=np.float32) if is_whole else None
