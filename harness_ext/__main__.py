"""The door: `python -m harness_ext COMMAND`. Registers nothing and imports little until a command needs it.

Exit codes: 0 done; 2 the user's input is wrong (one line); 1 anything else.
"""

import argparse
import errno
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from lm_eval._cli.ls import List
from lm_eval._cli.run import Run
from lm_eval._cli.validate import Validate

from harness_ext.errors import UserError
from harness_ext.request import add_own_flags

KINDS = ("groups", "subtasks", "tags")  # what lm-eval's ls can list


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage and leaving."""
        message = re.sub(r"invalid functools\.partial\(.*\) value", "invalid value", message)  # lm-eval's --seed
        raise UserError(f"{message} (`{self.prog} --help` lists what there is)")


class RunCommand(Run):
    """lm-eval's ``run`` with our flags beside its own."""

    def _add_args(self) -> None:
        super()._add_args()
        self._parser.usage = "python -m harness_ext run [--pretrained <model>] [--tasks <task> ...] [options]"
        add_own_flags(self._parser)

    @staticmethod
    def _execute(args: argparse.Namespace) -> None:
        from harness_ext.run import execute

        execute(args)


class ListCommand(List):
    """lm-eval's ``ls``, of our tasks alone unless ``--all`` asks for the built-in ones too."""

    def _execute(self, args: argparse.Namespace) -> None:
        from harness_ext.tasks import task_manager

        manager = task_manager(None if args.all else [], args.include_path)
        what = args.what or "subtasks"
        print(manager.list_all_tasks(**{f"list_{kind}": what in (kind, "tasks") for kind in KINDS}).strip())

    def _add_args(self) -> None:
        super()._add_args()
        self._parser.usage = "python -m harness_ext ls [tasks|groups|subtasks|tags] [--all] [--include_path DIR]"
        self._parser.add_argument("--all", action="store_true", help="lm-eval's built-in tasks too (indexing takes a while)")


class ValidateCommand(Validate):
    """lm-eval's ``validate``, but it builds each task and renders one prompt."""

    def _execute(self, args: argparse.Namespace) -> None:
        from harness_ext.tasks import validate

        validate(args.tasks.split(","), args.include_path, args.data_dir)

    def _add_args(self) -> None:
        super()._add_args()
        self._parser.add_argument("--data_dir", help="Folder with GLUE's train.tsv and dev.tsv, instead of the Hub")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code.
    """
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # a progress bar in a log file is noise
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        args = _parser().parse_args(_unpack(sys.argv[1:] if argv is None else argv))
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


def _unpack(argv: Sequence[str]) -> list[str]:
    """Replace ``--args='...'`` (make's ARGS=) by the words in it, split as a shell would, but never by a shell."""
    words = []
    for word in argv:
        try:
            words += shlex.split(word.removeprefix("--args=")) if word.startswith("--args=") else [word]
        except ValueError as error:
            raise UserError(f"ARGS {word.removeprefix('--args=')!r} cannot be split into words: {error}.") from None
    return words


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m harness_ext", description=__doc__.splitlines()[0])
    parser.set_defaults(func=lambda args: parser.print_help())
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    RunCommand.create(commands)
    ListCommand.create(commands)
    ValidateCommand.create(commands)
    board = commands.add_parser("leaderboard", help="Write leaderboard.md and leaderboard.csv of all runs")
    board.add_argument(
        "--output_path", "-o", default="results", metavar="<dir>", help="Where the runs are (default: results)"
    )
    board.set_defaults(func=_leaderboard)
    return parser


def _leaderboard(args: argparse.Namespace) -> None:
    from harness_ext import leaderboard

    board, files = leaderboard.write(Path(args.output_path))
    leaderboard.show(board)
    print(f"Written: {' and '.join(map(str, files))}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
