"""What every command line of this project does alike: one-line errors, exit codes, make's ARGS=."""

import argparse
import contextlib
import errno
import logging
import os
import re
import shlex
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from harness_ext.errors import UserError
from harness_ext.launcher import launched

PATIENCE_S = 5.0  # in which a second signal is taken for the same wish: make hands on what a scheduler sends to all


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage and leaving."""
        message = re.sub(r"invalid functools\.partial\(.*\) value", "invalid value", message)  # lm-eval's --seed
        raise UserError(f"{message} (`{self.prog} --help` lists what there is)")


def run_command(build_parser: Callable[[], argparse.ArgumentParser], argv: Sequence[str]) -> int:
    """Parse the words after a program's name, call the ``func`` that its parser sets, and return the exit code.

    It is 0 where all is done, 2 where the user's input is wrong (one line), 1 where the command was interrupted.
    """
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", "") == "strict":  # a console that is not UTF-8 lacks some of what we say
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # a progress bar in a log file is noise
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # SWIG's types, sentencepiece's among them, warn when they are made; with PYTHONWARNINGS=error that ends in a crash.
    warnings.filterwarnings("ignore", message="builtin type .* has no __module__ attribute", category=DeprecationWarning)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # peft imports it, and it advises on a faster CPU kernel
    try:
        with _signals_interrupt():
            here = launched()
            if here.rank:
                return 0  # the first process does it all, and starts as many as the launcher has
            args = build_parser().parse_args(_unpack(argv))
            args.launched = here.size
            args.func(args)
    except UserError as error:
        if os.environ.get("LMEVAL_LOG_LEVEL", "").upper() == "DEBUG":
            raise
        print("Error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        print(f"Error: {str(error.filename)[:80]!r}... is too long for a file name.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted. The same command continues where this one stopped.", file=sys.stderr)
        return 1
    return 0


@contextlib.contextmanager
def for_a_reader() -> Iterator[None]:
    """Let whoever reads what is printed leave before its end, as `head` and `less` do."""
    try:
        yield
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit):  # rich makes the one into the other
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains when it ends


@contextlib.contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Let SIGTERM (a scheduler) and SIGHUP (a closed session) do what Ctrl-C does: end, and leave what can be continued.

    A signal that is ignored stays so (nohup).
    """
    first: list[float] = []

    def interrupt(number: int, frame: Any) -> None:
        if not first:
            first.append(time.monotonic())
            raise KeyboardInterrupt
        if time.monotonic() - first[0] > PATIENCE_S:  # it did not end; whoever asks again means it
            os._exit(1)

    numbers = (signal.SIGTERM, signal.SIGHUP) if threading.current_thread() is threading.main_thread() else ()
    with contextlib.ExitStack() as undo:
        for number in numbers:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                undo.callback(signal.signal, number, signal.signal(number, interrupt))
        yield


def _unpack(argv: Sequence[str]) -> list[str]:
    """Replace ``--args='...'`` (make's ARGS=) by the words in it, split as a shell would, but never by a shell."""
    words = []
    for word in argv:
        try:
            words += shlex.split(word.removeprefix("--args=")) if word.startswith("--args=") else [word]
        except ValueError as error:
            raise UserError(f"ARGS {word.removeprefix('--args=')!r} cannot be split into words: {error}.") from None
    return words
