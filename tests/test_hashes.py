"""Hashes of large files are kept: none is read twice, none that changed is taken for what it was."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness_ext.model import files, hashes
from harness_ext.paths import ROOT

SIZE = 2_000_000


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where hashes are kept, ten seconds from now, when what is written now has settled."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    now = time.time_ns
    monkeypatch.setattr(hashes.time, "time_ns", lambda: now() + 10**10)
    return tmp_path / "cache" / "prompt-or-finetune" / "hashes.json"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read whole, as they are."""
    names: list[str] = []
    digest = hashlib.file_digest

    def watched(file, name):
        names.append(Path(file.name).name)
        return digest(file, name)

    monkeypatch.setattr(hashlib, "file_digest", watched)
    return names


def write(path: Path, byte: bytes, size: int = SIZE) -> str:
    path.write_bytes(byte * size)
    return hashlib.sha256(byte * size).hexdigest()


def test_large_file_is_read_once_and_a_small_one_always(tmp_path: Path, kept: Path, read: list[str]):
    expected = {name: write(tmp_path / name, b"a", size) for name, size in (("large", SIZE), ("small", 10))}
    for _ in range(3):
        assert {name: hashes.hash_file(tmp_path / name) for name in expected} == expected
    assert read == ["large", "small", "small", "small"]


def test_folder_is_hashed_without_reading_its_weights_again(tmp_path: Path, kept: Path, read: list[str]):
    (tmp_path / "config.json").write_text("{}")
    write(tmp_path / "model.safetensors", b"a")
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    first = files.hash_folder(tmp_path)
    assert files.hash_folder(tmp_path) == files.hash_folder(tmp_path / "link") == first
    assert read.count("model.safetensors") == 1


def test_change_that_keeps_size_and_time_is_seen(tmp_path: Path, kept: Path):
    path = tmp_path / "weights"
    write(path, b"a")
    hashes.hash_file(path)
    before = path.stat()
    expected = write(path, b"b")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert hashes.hash_file(path) == expected


def test_another_file_put_in_its_place_is_seen(tmp_path: Path, kept: Path):
    path, other = tmp_path / "weights", tmp_path / "other"
    write(path, b"a")
    expected = write(other, b"b")
    hashes.hash_file(path)
    os.replace(other, path)
    assert hashes.hash_file(path) == expected


def test_file_written_a_moment_ago_is_not_kept(tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    expected = write(tmp_path / "weights", b"a")
    assert hashes.hash_file(tmp_path / "weights") == expected
    assert not kept.exists()


def test_file_that_changes_while_it_is_read_is_not_kept(tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch):
    path, digest = tmp_path / "weights", hashlib.file_digest
    write(path, b"a")

    def disturbed(file, name):
        found = digest(file, name)
        write(path, b"b", SIZE + 1)
        return found

    with monkeypatch.context() as patched:
        patched.setattr(hashlib, "file_digest", disturbed)
        hashes.hash_file(path)
    assert not kept.exists()
    assert hashes.hash_file(path) == hashlib.sha256(b"b" * (SIZE + 1)).hexdigest()


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[]", b"\xff\xfe", b'{"x": 1}', b"[" * 100_000, ["0"], 1, "0"],
    ids=["empty", "cut", "list", "bytes", "other", "deep", "list for a hash", "number for a hash", "short hash"],
)
def test_damaged_cache_counts_as_empty_and_is_mended(damage: Any, tmp_path: Path, kept: Path, read: list[str]):
    path = tmp_path / "weights"
    expected = write(path, b"a")
    assert hashes.hash_file(path) == expected
    if not isinstance(damage, bytes):  # in place of the hash
        damage = json.dumps(dict.fromkeys(json.loads(kept.read_bytes()), damage)).encode()
    kept.write_bytes(damage)
    assert hashes.hash_file(path) == hashes.hash_file(path) == expected
    assert read == ["weights", "weights"]


@pytest.mark.parametrize("obstacle", ["file_in_the_way", "no_home"])
def test_folder_that_cannot_be_had_keeps_nothing(
    obstacle: str, tmp_path: Path, kept: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
):
    if obstacle == "no_home":
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    else:
        (tmp_path / "cache").write_text("a file")
    expected = write(tmp_path / "weights", b"a")
    assert [hashes.hash_file(tmp_path / "weights") for _ in range(2)] == [expected] * 2
    assert read == ["weights", "weights"]


def test_disk_that_is_full_leaves_the_kept_hashes_as_they_were(tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("one", "two"):
        write(tmp_path / name, name[0].encode())
    hashes.hash_file(tmp_path / "one")
    before = kept.read_bytes()

    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(json, "dump", full)
    hashes.hash_file(tmp_path / "two")
    assert kept.read_bytes() == before
    assert [path.name for path in kept.parent.iterdir()] == ["hashes.json"]


def test_no_more_than_so_many_are_kept(tmp_path: Path, kept: Path, read: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hashes, "MOST_KEPT", 2)
    for name in ("one", "two", "three"):
        write(tmp_path / name, name[0].encode())
    for name in ("one", "two", "three", "three", "two", "one"):
        hashes.hash_file(tmp_path / name)
    assert read == ["one", "two", "three", "one"]


def test_processes_at_once_do_each_other_no_harm(tmp_path: Path, kept: Path, read: list[str]):
    expected = {name: write(tmp_path / name, name.encode()) for name in "abcdef"}
    code = (
        "import sys, pathlib; from harness_ext.model import hashes; hashes.SETTLED_NS = -10**12\n"
        "for _ in range(20):\n"
        "    for name in sys.argv[1:]:\n"
        "        pathlib.Path(name).touch(); print(hashes.hash_file(pathlib.Path(name)))\n"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, *names], cwd=tmp_path, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        for names in ("abc", "def")
    ]  # fmt: skip
    said = [process.communicate(timeout=60)[0].split() for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert said == [[expected[name] for name in names] * 20 for names in ("abc", "def")]
    found = json.loads(kept.read_bytes())
    assert found
    assert {(Path(state.split()[0]).name, digest) for state, digest in found.items()} <= expected.items()
    assert [path.name for path in kept.parent.iterdir()] == ["hashes.json"]


def test_second_command_reads_no_weights(
    answering: Path, eight_rows: Path, elsewhere: Path, kept: Path, read: list[str], door: Callable, monkeypatch
):
    monkeypatch.setattr(hashes, "LARGE", 1000)
    for out in ("first", "second"):
        outcome = door("run", f"--pretrained={answering}", f"--data_dir={eight_rows}", "--limit=2", f"--output_path={out}")
        assert outcome.code == 0, outcome.stderr
    assert read.count("model.safetensors") == 1
    keys = {json.loads(path.read_text())["key"] for path in elsewhere.glob("*/runs/*/run.json")}
    assert len(keys) == 1
