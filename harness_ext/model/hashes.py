"""SHA-256 over a file, computed once: reading 15 GB of weights takes longer than asking a model a few questions.

The hashes of large files are kept in the user's cache folder by path, inode, size and times. They save time and nothing
else: what cannot be read there counts as not kept, and where it cannot be written nothing is. Knows nothing of models.
"""

import contextlib
import hashlib
import json
import os
import tempfile
import time
from pathlib import Path

LARGE = 1_000_000  # bytes; a smaller file is read as fast as the kept hashes are
MOST_KEPT = 1000
# A file that is written twice so soon may have the same times after both: file systems count them in steps of up to 2 s.
SETTLED_NS = 2 * 10**9


def hash_file(path: Path) -> str:
    """Return SHA-256 over a file's bytes, 64 hex digits, without reading a large one again that has not changed."""
    state = _state(path.stat())
    if state[1] < LARGE:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    name, kept_in = str(path.resolve()), _kept_in()
    if kept_in and (kept := _read(kept_in).get(name)) and kept[:-1] == state:
        return kept[-1]
    begun = time.time_ns()
    with path.open("rb") as file:
        state = _state(os.fstat(file.fileno()))
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        is_whole = state == _state(os.fstat(file.fileno()))
    if kept_in and is_whole and max(state[2:]) < begun - SETTLED_NS:
        _keep(kept_in, name, [*state, digest])
    return digest


def _state(stat: os.stat_result) -> list[int]:
    return [stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]  # nobody can set the last one back


def _kept_in() -> Path | None:
    folder = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        folder = folder if folder.is_absolute() else Path.home() / ".cache"
    except RuntimeError:  # the user has no home
        return None
    return folder / "prompt-or-finetune" / "hashes.json"


def _read(file: Path) -> dict[str, list]:
    with contextlib.suppress(OSError, ValueError, RecursionError):
        kept = json.loads(file.read_bytes())
        if isinstance(kept, dict) and all(map(_is_entry, kept.values())):
            return kept
    return {}


def _is_entry(entry: object) -> bool:
    return isinstance(entry, list) and [type(value) for value in entry] == [int] * 4 + [str] and len(entry[-1]) == 64


def _keep(file: Path, name: str, entry: list) -> None:
    """Add a hash; of two processes that do so at once one may lose its own, and reads that file again next time."""
    entries = {**_read(file), name: entry}
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=file.parent, prefix=".hashes-", delete=False) as new:
            try:
                json.dump(dict(list(entries.items())[-MOST_KEPT:]), new)
                new.close()
                os.replace(new.name, file)
            except OSError:
                os.unlink(new.name)
