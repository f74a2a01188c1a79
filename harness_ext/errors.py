"""The one exception that means: the user's input is wrong; and what turns other libraries' errors into it."""

import contextlib
import errno
import sqlite3
from collections.abc import Iterator
from pathlib import Path


class UserError(ValueError):
    """Ends a command with one line and exit code 2.

    The message says what is wrong, which value, and what to do. Anything else that is raised is our
    fault, keeps its traceback and ends with exit code 1.
    """


@contextlib.contextmanager
def one_line_errors(loading: str | None = None) -> Iterator[None]:
    """Turn errors whose cause is the machine or the checkpoint into a `UserError`.

    Args:
        loading: What to say before any error while something is loaded; elsewhere only known causes count.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())
        if "out of memory" in said.lower():
            raise UserError(f"Out of memory ({said[:120]}). Try a smaller BATCH=.") from error
        if isinstance(error, sqlite3.Error) or "disk is full" in said or getattr(error, "errno", None) == errno.ENOSPC:
            raise UserError(f"Answers could not be kept ({said}). Make room, or choose another folder with OUT=.") from error
        if loading:
            raise UserError(f"{loading}{type(error).__name__}: {said[:300]}") from error
        raise


@contextlib.contextmanager
def writing_to(out: Path) -> Iterator[None]:
    """Turn a failure to write under OUT into a `UserError`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"Cannot write to OUT={out}: {reason}. Make room, or choose another folder with OUT=.") from error
