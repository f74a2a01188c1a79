"""Run records: the folders that hold them, how one comes into place, and how it is read.

``OUT/runs/<model>--<task>--<key8>/`` holds ``results.json`` and ``samples.jsonl`` (lm-eval's own schemas), ``outcomes.csv``
and ``run.json`` (ours). It is written elsewhere under OUT and renamed into place, so it is complete or not there.
"""

import contextlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from filelock import FileLock, Timeout

from harness_ext.errors import UserError, writing_to
from harness_ext.results.fields import check
from harness_ext.results.schema1 import upgrade

SCHEMA = 2  # of run.json; goes up when a field changes its meaning
MANIFEST = "run.json"


def run_label(
    model: str, task: str, method: str = "prompted", train_samples: int | str | None = 0, seed: int | None = None
) -> str:
    """Name a run but for its key, short enough that the key fits behind it, as in ``tiny-base--lora-64-s0--sst2_01``.

    A method that asks a model as it stands is not mentioned, nor are labels and a seed that do not exist or are not known.
    """
    labels = f"{method}{f'-{train_samples}' if train_samples else ''}{'' if seed is None else f'-s{seed}'}"
    asked = [] if method in ("prompted", "classifier") else [plain(labels, 36)]
    return "--".join([*([] if method == model else [plain(model, 80)]), *asked, plain(task, 60)])


def plain(name: str, room: int) -> str:
    """Write a name so that it can be part of a file's: "/" becomes "__", what is no letter, digit or ``.+-`` becomes ``_``.

    `room` is in bytes; of a longer name its end is kept. File systems count bytes, and a Chinese letter has three.
    """
    text = re.sub(r"[^\w.+-]", "_", name.replace("/", "__")).strip(".")
    return text.encode("utf-8", "replace")[-room:].decode("utf-8", "ignore").lstrip(".") or "_"


def place(parent: Path, label: str, key: str) -> Path:
    """Return the folder of a key of 64 digits under ``OUT/runs`` or ``OUT/adapters``.

    It is the one that has the key, as earlier versions called runs otherwise; or it is called by its label and the key's
    first 8 digits, and more digits if those are another key's.
    """
    if kept := [folder for folder in sorted(parent.glob(f"*--{key[:8]}*")) if _key_in(folder) == key]:
        return kept[0]
    places = [parent / f"{label}--{key[:digits]}" for digits in (8, 16, 64)]
    return next((folder for folder in places if _key_in(folder) in (None, key)), places[-1])


def is_complete(folder: Path, key: str) -> bool:
    """Tell whether a folder holds the finished run of a key.

    A record that cannot be read counts as finished: whoever reads it says what is wrong with it.
    """
    return (folder / MANIFEST).is_file() and _key_in(folder) in (None, key)


def _key_in(folder: Path) -> str | None:
    try:
        return _read(folder).get("key")
    except (OSError, ValueError):
        return None


def read_run(folder: Path) -> dict[str, Any]:
    """Read the record of a finished run or adapter; one of schema 1 gets the fields of schema 2.

    Raises OSError where there is none, ValueError where it is none of ours.
    """
    return upgrade([_read(folder)])[0]


def read_checked(folder: Path) -> dict[str, Any]:
    """Read the record of a finished run as `read_run` does; ValueError also where it is not what a run's record is."""
    record = _read(folder)
    check(record)
    return upgrade([record])[0]


def read_runs(out: Path) -> list[dict[str, Any]]:
    """Read every finished run's record, as `read_folders` finds them."""
    return [record for _, record in read_folders(out)]


def manifests(out: Path) -> list[Path]:
    """Find the record of every finished run under OUT, published ones first."""
    return [*sorted(out.glob(f"published/*/{MANIFEST}")), *sorted(out.glob(f"runs/*/{MANIFEST}"))]


def read_folders(out: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Read every finished run under ``OUT/runs`` and, where the same key is not there too, ``OUT/published``.

    A record that cannot be read, is none of a run or has the key of another is named on standard error and left out: one
    damaged file must not hide the others.
    """
    runs: dict[str, tuple[Path, dict[str, Any]]] = {}
    for file in manifests(out):
        try:
            record = _read(file.parent)
            check(record)
            other = runs.get(record["key"])
            if other and other[0].parent == file.parent.parent:
                raise ValueError(f"the same run as {other[0].name}")
            runs[record["key"]] = file.parent, record
        except (OSError, ValueError) as error:
            print(f"Left out {file}: {error}", file=sys.stderr)
    return list(zip((folder for folder, _ in runs.values()), upgrade(record for _, record in runs.values()), strict=True))


def _read(folder: Path) -> dict[str, Any]:
    text = (folder / MANIFEST).read_text(encoding="utf-8")
    record = json.loads(text)
    if "\\u" in text:
        json.dumps(record, ensure_ascii=False).encode()  # half a character, that can be written nowhere, is a ValueError
    if not isinstance(record, dict) or record.get("schema") not in (1, SCHEMA):
        raise ValueError(f"not a run record of schema 1 or {SCHEMA}")
    return record


@contextlib.contextmanager
def held(folder: Path, out: Path, variable: str = "OUT", *, taken: str) -> Iterator[None]:
    """Make a folder, and keep other processes out of it.

    Args:
        folder: Where the lock lies.
        out: What the user named, by a make variable, for an error in making the folder.
        variable: Its name.
        taken: What is said where another process holds the folder.
    """
    lock = FileLock(folder / "lock", timeout=0)
    with writing_to(out, variable):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout:
            raise UserError(taken) from None
    with lock:
        yield


@contextlib.contextmanager
def workspace(out: Path, name: str, keep: str = "answers*") -> Iterator[Path]:
    """Give a run the folder where it works until it is complete, and keep others with the same key out.

    The folder stays behind when a run is interrupted, with the files of the pattern `keep`, from which a next attempt can
    continue; a lock held by a killed process is free again.
    """
    folder = out / "unfinished" / name
    with held(folder, out, taken=f"The same run is going on in another process ({folder}). Wait for it, or stop it."):
        try:
            yield folder
        finally:
            if folder.is_dir() and not any(folder.glob(keep)):
                drop(folder)  # nothing that a next attempt could continue from


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a place to write a file that takes the place of `path` when the block ends: that is whole, or as it was."""
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON so that it is on disk when this returns."""
    with on_disk(path) as file:
        json.dump(content, file, indent=2, ensure_ascii=False)
        file.write("\n")


@contextlib.contextmanager
def on_disk(path: Path) -> Iterator[TextIO]:
    """Open a file for writing that is on disk, and not only on its way there, when the block ends."""
    with path.open("w", encoding="utf-8", newline="") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def publish(work: Path, finished: Path, target: Path) -> None:
    """Move a complete folder from its workspace into place, replacing a run of the same key, and drop the workspace."""
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
