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
    found = path.stat()
    folder = cache_folder() if found.st_size >= LARGE else None
    kept_in = folder and folder / "hashes.json"
    if kept_in and (kept := _read(kept_in).get(_state(path, found))):
        return kept
    begun = time.time_ns()
    with path.open("rb") as file:
        before = os.fstat(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        after = os.fstat(file.fileno())
    is_settled = max(after.st_mtime_ns, after.st_ctime_ns) < begun - SETTLED_NS
    if kept_in and is_settled and _state(path, before) == _state(path, after):
        _keep(kept_in, _state(path, after), digest)
    return digest


def cache_folder() -> Path | None:
    """Return where the user's cache keeps what is ours; None where the user has no home."""
    folder = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        folder = folder if folder.is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        return None
    return folder / "prompt-or-finetune"


def _state(path: Path, found: os.stat_result) -> str:
    # Nobody can set the last one, the time of any change, back.
    return f"{path.resolve()} {found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"


def _read(file: Path) -> dict[str, str]:
    with contextlib.suppress(OSError, ValueError, RecursionError, AttributeError):
        kept = json.loads(file.read_bytes()).items()
        return {state: digest for state, digest in kept if isinstance(digest, str) and len(digest) == 64}
    return {}


def _keep(file: Path, state: str, digest: str) -> None:
    """Add a hash; of two processes that do so at once one may lose its own, and reads that file again next time."""
    kept = [*_read(file).items(), (state, digest)][-MOST_KEPT:]
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent, prefix=".hashes-") as folder:
            new = Path(folder, file.name)
            with new.open("w") as written:
                json.dump(dict(kept), written)
            new.replace(file)
