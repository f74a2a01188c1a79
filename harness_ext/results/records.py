"""Run records: the key that says when two runs are the same, and the folders that hold them.

``OUT/runs/<model>--<task>--<key8>/`` holds ``results.json`` and ``samples.jsonl`` (lm-eval's own schemas) and
``run.json`` (ours). It is written elsewhere under OUT and renamed into place, so it is complete or not there.
"""

import contextlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from harness_ext.errors import UserError, writing_to

SCHEMA = 1  # of run.json; goes up when a field changes its meaning
MANIFEST = "run.json"


def run_label(model: str, task: str) -> str:
    """Name a run but for its key, short enough that the key fits behind it."""
    return f"{plain(model, 100)}--{plain(task, 80)}"


def run_name(model: str, task: str, key: str) -> str:
    """Name a run's folder, as far as no other run has that name: see `place`."""
    return f"{run_label(model, task)}--{key[:8]}"


def plain(name: str, room: int) -> str:
    """Write a name so that it can be part of a file's: "/" becomes "__", what is no letter, digit or ``.+-`` becomes ``_``.

    Args:
        name: Anything.
        room: Bytes at most; of a longer name its end is kept. File systems count bytes, and a Chinese letter has three.
    """
    text = re.sub(r"[^\w.+-]", "_", name.replace("/", "__")).strip(".")
    return text.encode("utf-8", "replace")[-room:].decode("utf-8", "ignore").lstrip(".") or "_"


def run_folder(out: Path, name: str) -> Path:
    """Return where a finished run lies."""
    return out / "runs" / name


def place(parent: Path, label: str, key: str) -> Path:
    """Return the folder of a key: its label and the key's first 8 digits, or more if those are another key's.

    Args:
        parent: Such as ``OUT/runs`` or ``OUT/adapters``.
        label: As of `run_label`.
        key: All 64 digits.
    """
    for digits in (8, 16):
        folder = parent / f"{label}--{key[:digits]}"
        if not _is_anothers(folder, key):
            return folder
    return parent / f"{label}--{key}"


def is_complete(folder: Path, key: str | None = None) -> bool:
    """Tell whether a folder holds a finished run, and if a key is given, that of this very key.

    A record that cannot be read counts as finished: whoever reads it says what is wrong with it.
    """
    return (folder / MANIFEST).is_file() and not (key and _is_anothers(folder, key))


def _is_anothers(folder: Path, key: str) -> bool:
    try:
        return read_run(folder).get("key", key) != key
    except (OSError, ValueError):
        return False


def read_run(folder: Path) -> dict[str, Any]:
    """Read the manifest of a finished run.

    Raises:
        ValueError: It is no manifest of ours.
    """
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise ValueError(f"not a run record of schema {SCHEMA}")
    return manifest


def read_runs(out: Path) -> list[dict[str, Any]]:
    """Read every finished run under ``OUT/runs`` and, where the same key is not there too, ``OUT/published``.

    A record that cannot be read is named on standard error and left out: one damaged file must not hide
    the others.
    """
    runs: dict[str, dict[str, Any]] = {}
    for folder in (*sorted(out.glob("published/*")), *sorted(out.glob("runs/*"))):
        if is_complete(folder):
            try:
                manifest = read_run(folder)
                runs[manifest["key"]] = manifest
            except (OSError, ValueError, KeyError) as error:
                print(f"Left out {folder / MANIFEST}: {error}", file=sys.stderr)
    return list(runs.values())


@contextlib.contextmanager
def workspace(out: Path, name: str, keep: str = "answers*") -> Iterator[Path]:
    """Give a run the folder where it works until it is complete, and keep others with the same key out.

    The folder stays behind when a run is interrupted, with the answers so far; a lock held by a killed
    process is free again.

    Args:
        out: OUT.
        name: The run's folder name.
        keep: Pattern of the files that a next attempt can continue from.

    Raises:
        UserError: OUT cannot be written to, or the same run is going on elsewhere.
    """
    folder = out / "unfinished" / name
    lock = FileLock(folder / "lock", timeout=0)
    with writing_to(out):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout:
            raise UserError(f"The same run is going on in another process ({folder}). Wait for it, or stop it.") from None
    with lock:
        try:
            yield folder
        finally:
            if folder.is_dir() and not any(folder.glob(keep)):
                drop(folder)  # nothing that a next attempt could continue from


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON so that it is on disk when this returns."""
    with path.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=2, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


def publish(work: Path, finished: Path, target: Path) -> None:
    """Move a complete folder into place, replacing an earlier run of the same key, and drop its workspace.

    Args:
        work: The workspace.
        finished: The complete folder inside it.
        target: Where the run shall lie.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        target.rename(work / "replaced")
    finished.rename(target)
    drop(work)


def drop(work: Path) -> None:
    """Remove a workspace that is no longer needed, and its parent if it was the last."""
    shutil.rmtree(work)
    with contextlib.suppress(OSError):  # other runs may be working beside it
        work.parent.rmdir()
