"""What stands beside a run's numbers so that they can be trusted: versions, machine, code, command. Knows no run."""

import contextlib
import functools
import platform
import re
import shlex
import subprocess
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from typing import Any

from harness_ext import __version__
from harness_ext.paths import ROOT
from harness_ext.run.redaction import hide_in_command

PACKAGES = ("lm_eval", "transformers", "tokenizers", "torch", "peft")
KERNELS = ("bitsandbytes", "gptqmodel", "optimum")  # of quantised models


def versions(*more: str) -> dict[str, str | None]:
    """Return the versions of the packages that can change a run's numbers, this project's first, `more` last."""
    return {"harness": __version__} | {name: _version(name) for name in (*PACKAGES, *more)}


def hardware(device: str | None) -> str:
    """Name the processor that did the work, without anything that tells whose it is."""
    if device is not None and device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    return f"{_cpu_name()}, {_threads()} threads" if device == "cpu" else device or "elsewhere"


@functools.cache
def machine_description() -> Future[str]:
    """Begin to describe the machine as lm-eval does after each task, by `pip list` and ten other programs; once."""
    from torch.utils import collect_env

    own = collect_env.run

    def run(command: Any) -> Any:  # what pip takes half a second to list, another process, is known here
        return (0, _installed(), "") if "-mpip" in command else own(command)

    collect_env.run = run
    return ThreadPoolExecutor(1).submit(collect_env.get_pretty_env_info)


@contextlib.contextmanager
def known_to_lm_eval() -> Iterator[None]:
    """Let lm-eval find what it looks up after each task already made, within the block.

    That is the description of the machine, and this project's commit: it asks for that of the working folder, which may be
    none and then shouts.
    """
    from lm_eval import evaluator
    from torch.utils import collect_env

    found = machine_description().result
    with replaced(evaluator, get_git_commit_hash=commit), replaced(collect_env, get_pretty_env_info=found):
        yield


@contextlib.contextmanager
def replaced(module: Any, **ours: Any) -> Iterator[None]:
    """Let a module have functions of ours in place of its own within the block."""
    theirs = {name: getattr(module, name) for name in ours}
    vars(module).update(ours)
    try:
        yield
    finally:
        vars(module).update(theirs)


@functools.cache
def commit() -> str | None:
    """Return this project's commit, ``+changes`` behind it if files differ from it; None outside a checkout."""

    def git(*args: str) -> str:
        return subprocess.run(["git", "-C", str(ROOT), *args], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def command(module: str, words: Iterable[str]) -> str:
    """Return a command line as it can be pasted; of absolute paths, which tell whose machine it is, only the end.

    Secrets become ``***``.
    """
    return shlex.join(["python", "-m", module, *(without_folders(hide_in_command(word)) for word in words)])


def flags(values: Iterable[tuple[str, Any]]) -> list[str]:
    """Write what was asked for as the words of a command line; nothing for what is None, False or empty."""
    words = []
    for name, value in values:
        if isinstance(value, dict):
            value = ",".join(f"{key}={each}" for key, each in value.items())
        elif isinstance(value, list | tuple):
            value = ",".join(map(str, value))
        if value is True:
            words.append(f"--{name}")
        elif value not in (None, False, ""):
            words.append(f"--{name}={value}")
    return words


def without_folders(word: str) -> str:
    """Cut an absolute path, or a flag's, down to its end: the rest tells whose machine it is."""
    return re.sub(r"^(-\S*=)?(?:/|~).*/(?=[^/]+/?$)", r"\g<1>.../", word)


def _installed() -> str:
    """List all packages as `pip list --format=freeze` does."""
    lines = {f"{each.metadata['Name']}=={each.version}" for each in distributions()}
    return "\n".join(sorted(lines, key=lambda line: re.sub("[-_.]+", "-", line.partition("==")[0]).lower()))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _threads() -> int:
    import torch

    return torch.get_num_threads()
