"""The one exception that means: the user's input is wrong; and what turns other libraries' errors into it."""

import contextlib
import difflib
import errno
import re
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

MOST_SAID = 300  # characters of another library's error
_INSTALL = re.compile(r"pip install (?:-U |--upgrade |-q )*['\"]?([A-Za-z0-9_.\[\],-]*[A-Za-z0-9_\]])")
_GATED = re.compile(r"gated repo|access to model .* is restricted", re.IGNORECASE)


class UserError(ValueError):
    """Ends a command with one line and exit code 2.

    The message says what is wrong, which value, and what to do. Anything else that is raised is our
    fault, keeps its traceback and ends with exit code 1.
    """


class DataError(UserError):
    """The labelled texts cannot be had, or are not what they should be."""


def did_you_mean(name: str, known: Iterable[str], most: int = 2, cutoff: float = 0.6) -> str:
    """Suggest what a mistyped name may have meant, as a sentence behind a blank; empty where nothing is near."""
    near = difflib.get_close_matches(name, list(known), n=most, cutoff=cutoff)
    return f" Did you mean {' or '.join(near)}?" if near else ""


def whole_number(name: str, text: object, least: int = 1) -> int:
    """Read a whole number, at least `least`, as the user typed it."""
    digits = str(text)
    if isinstance(text, bool) or not (digits.isascii() and digits.isdecimal()) or int(digits) < least:
        raise UserError(f"{name} {digits!r} is not a whole number from {least} up.")
    return int(digits)


@contextlib.contextmanager
def one_line_errors(*, loading: str | None = None, running: str | None = None) -> Iterator[None]:
    """Turn errors whose cause is the machine, the checkpoint or what was handed on into a `UserError`.

    What `loading` says comes before any error, ours included, while something is loaded; what `running` says before other
    libraries' errors where the user handed something on to them. With neither, only the machine's faults count, and any
    other error passes.
    """
    try:
        yield
    except UserError as error:
        if loading:
            raise UserError(f"{loading}{error}") from error
        raise
    except Exception as error:
        said = " ".join(str(error).split())
        if "out of memory" in said.lower():
            raise UserError(f"Out of memory ({said[:120]}). Try a smaller BATCH=.") from error
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
            raise UserError(
                f"The answers kept of an interrupted run are damaged ({said}). Start anew with FORCE=1."
            ) from error
        if isinstance(error, sqlite3.Error) or "disk is full" in said or getattr(error, "errno", None) == errno.ENOSPC:
            raise UserError(f"Answers could not be kept ({said}). Make room, or choose another folder with OUT=.") from error
        if loading or running:
            raise UserError(f"{loading or running}{_in_short(type(error).__name__, said)}") from error
        raise


@contextlib.contextmanager
def writing_to(out: Path, variable: str = "OUT") -> Iterator[None]:
    """Turn a failure to write to where a variable says into a `UserError`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"Cannot write to {variable}={out}: {reason}. Make room, or choose another place with {variable}=."
        ) from error


def _in_short(kind: str, said: str) -> str:
    """Say another library's error in one line, what to do about it first: there it often comes last, after much else."""
    if "trust_remote_code" in said:
        return "it needs code of its own: read that, then accept it with ARGS=--trust_remote_code."
    advice = ""
    if found := _INSTALL.search(said):
        advice = f"it needs a package that is not installed: `.venv/bin/pip install -c constraints.txt {found[1]}`. "
    elif _GATED.search(said):
        advice = "it is gated: accept its licence on its Hub page, then run `hf auth login` or set HF_TOKEN. "
    room = max(120, MOST_SAID - len(advice))
    return f"{advice}{kind}: {said if len(said) <= room else said[: room - 1] + '…'}"
