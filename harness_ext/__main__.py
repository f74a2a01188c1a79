"""The door: `python -m harness_ext COMMAND`. Registers nothing and imports little until a command needs it.

Exit codes: 0 done; 2 the user's input is wrong (one line); 1 anything else.
"""

import argparse
import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval._cli.ls import List
from lm_eval._cli.run import Run
from lm_eval._cli.validate import Validate

from harness_ext.cli import Parser, for_a_reader, run_command
from harness_ext.errors import UserError
from harness_ext.run.spec import add_flags
from harness_ext.task import own_data

if TYPE_CHECKING:
    from harness_ext.results.prices import Prices

PRICES = "prices.yaml"
KINDS = ("groups", "subtasks", "tags")  # what lm-eval's ls can list


class RunCommand(Run):
    """lm-eval's ``run`` with our flags beside its own."""

    def _add_args(self) -> None:
        super()._add_args()
        self._parser.usage = "python -m harness_ext run [--pretrained <model>] [--tasks <task> ...] [options]"
        add_flags(self._parser)

    @staticmethod
    def _execute(args: argparse.Namespace) -> None:
        from harness_ext.run.command import run

        run(args)


class ListCommand(List):
    """lm-eval's ``ls``, of our tasks alone unless ``--all`` asks for the built-in ones too."""

    def _execute(self, args: argparse.Namespace) -> None:
        from harness_ext.task.find import task_manager

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
        from harness_ext.task import own_task
        from harness_ext.task.find import validate

        own = own_data.given(vars(args))
        names = (args.tasks or (own_task.FORMS[0] if own else "sst2_01_mini")).split(",")
        configs = own_task.build_configs(own_data.OwnData(**own), names) if own else names
        validate(configs, args.include_path, args.data_dir)

    def _add_args(self) -> None:
        super()._add_args()
        self._parser.add_argument("--data_dir", help="Folder with GLUE's train.tsv and dev.tsv, instead of the Hub")
        _add_own_data(self._parser)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, and return the exit code."""
    return run_command(_parser, sys.argv[1:] if argv is None else argv)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m harness_ext", description="Score models on a yes/no question, and see the results")
    parser.set_defaults(func=lambda args: parser.print_help())
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    run = RunCommand.create(commands)
    ListCommand.create(commands)
    ValidateCommand.create(commands)
    task = commands.add_parser("task", help="Write a task on a table of your own as YAML")
    task.add_argument("--tasks", default="digits", metavar="<form>", help="digits, choice, words or words_choice")
    task.add_argument("--out_task", required=True, metavar="<file>", help="The YAML file")
    task.add_argument("--force", action="store_true", help="Write it anew where it is there")
    _add_own_data(task)
    task.set_defaults(func=_task)
    board = commands.add_parser("leaderboard", help="Write leaderboard.md, .csv and .json of all runs")
    where = "Where the runs are (default: results)"
    board.add_argument("--output_path", "-o", default="results", metavar="<dir>", help=where)
    board.add_argument("--prices", metavar="<file>", help=f"What machines and tokens cost (default: {PRICES}, if there)")
    board.set_defaults(func=_leaderboard)
    page = commands.add_parser("report", help="Write report.html, one page of all runs")
    page.add_argument("--output_path", "-o", default="results", metavar="<dir>", help=where)
    page.add_argument("--data_dir", metavar="<dir>", help="Folder with the dev.tsv that holds the texts")
    page.add_argument("--prices", metavar="<file>", help=f"What machines and tokens cost (default: {PRICES}, if there)")
    page.set_defaults(func=_report)
    _add_reports(commands, where)
    commands.add_parser("models", help="List the models of the original experiment").set_defaults(func=_models)
    doctor = commands.add_parser(
        "doctor",
        parents=[run._parser],
        add_help=False,  # the parent has it
        usage="python -m harness_ext doctor [--pretrained <model>] [--json] [options of run]",
        description="Say what would stop a run of the same options, before anything large is loaded.",
        help="Say what would stop a run, before it starts",
    )
    doctor.add_argument("--json", action="store_true", help="Print one JSON object")
    doctor.set_defaults(func=_doctor)
    predict = commands.add_parser(
        "predict",
        parents=[run._parser],
        add_help=False,
        usage="python -m harness_ext predict --data <file> [--pretrained <model>] [--adapter <dir>] [options of run]",
        description="Ask a model of every text in a table without labels, and write the rows with its answers.",
        help="Write a table without labels again, with a model's answers",
    )
    predict.add_argument("--out_file", metavar="<file>", help="The .csv, .tsv or .jsonl (default: <data>-answers beside it)")
    predict.set_defaults(func=_predict)
    return parser


def _add_reports(commands: Any, where: str) -> None:
    """Add the commands that show what runs have said, and take anyone's logs."""
    compare = commands.add_parser("compare", help="Compare two runs, experiments or logs on the same documents")
    show = commands.add_parser("show", help="Print what a run said of its documents")
    named = "A run's folder or key, a name on the leaderboard, or a log (.jsonl .eval .json .csv .tsv)"
    compare.add_argument("--a", metavar="<run>", help=f"{named} (default, with --b: the two best of the leaderboard)")
    compare.add_argument("--b", metavar="<run>", help="The other one")
    compare.add_argument("--show", default="10", metavar="<n>", help="Documents of either side on which they differ, or all")
    show.add_argument("--run", metavar="<run>", help=named)
    show.add_argument("--only", metavar="<kind>", help="not_following, wrong, right or near_ties (default: all documents)")
    show.add_argument("--limit", default="20", metavar="<n>", help="Documents that are shown, or all")
    for parser, call in ((compare, _compare), (show, _show)):
        parser.add_argument("--data_dir", metavar="<dir>", help="Folder with the dev.tsv that holds the texts")
        parser.add_argument("--output_path", "-o", default="results", metavar="<dir>", help=where)
        parser.set_defaults(func=call)


def _add_own_data(parser: argparse.ArgumentParser) -> None:
    for name, shown, said in own_data.FLAGS:
        parser.add_argument(f"--{name}", metavar=shown, help=said)


def _task(args: argparse.Namespace) -> None:
    from harness_ext.task import own_task

    if not (own := own_data.given(vars(args))):
        raise UserError("DATA is missing: make task DATA=file.csv OUT_TASK=my_tasks/name.yaml.")
    file = own_task.write(own_data.OwnData(**own), args.tasks, args.out_task, args.force)
    print(f"Written: {file}. Score a model on it with TASK={file}.", file=sys.stderr)


def _models(args: argparse.Namespace) -> None:
    from harness_ext.model import presets

    presets.show()


def _doctor(args: argparse.Namespace) -> None:
    from harness_ext.run import doctor

    doctor.examine(args)


def _predict(args: argparse.Namespace) -> None:
    os.environ.setdefault("TQDM_LEAVE", "")  # a chunk's bars go when it is done; tqdm reads that as it is imported
    from harness_ext.run.predict import predict

    predict(args)


def _compare(args: argparse.Namespace) -> None:
    from harness_ext.report import cells, compare

    with for_a_reader():
        compare.run(args.a, args.b, Path(args.output_path), args.data_dir, cells.rows("--show", args.show))


def _show(args: argparse.Namespace) -> None:
    from harness_ext.report import cells, show

    with for_a_reader():
        show.run(args.run, args.only, Path(args.output_path), args.data_dir, cells.rows("--limit", args.limit))


def _leaderboard(args: argparse.Namespace) -> None:
    from harness_ext.results import board, reported
    from harness_ext.results.write import write_leaderboard

    priced = _prices(args.prices)
    entries, files, said = write_leaderboard(Path(args.output_path), priced)
    with for_a_reader():
        board.show(entries, reported.scores(), priced, more=f"in {files[0]}")
    print(f"{said} Written: {', '.join(map(str, files))}", file=sys.stderr)


def _report(args: argparse.Namespace) -> None:
    from harness_ext.report.page import write_report

    file = write_report(Path(args.output_path), args.data_dir, _prices(args.prices))
    print(f"Written: {file} ({file.stat().st_size / 1e6:.1f} MB). Open it in a browser.", file=sys.stderr)


def _prices(path: str | None) -> "Prices | None":
    """Read the file that was named, or the usual one where there is one."""
    from harness_ext.results import prices

    found = prices.read(Path(path or PRICES))
    if path and found is None:
        raise UserError(f"No prices in {path!r}: there is no such file. docs/evidence.md shows what it holds.")
    return found


if __name__ == "__main__":
    if sys.argv[1:2] in (["run"], ["doctor"], ["predict"]):
        gc.disable()  # else it looks through what is imported, a million objects, again and again; the worker enables it
    code = main()
    gc.freeze()  # else it looks through all of them once more before Python ends
    sys.exit(code)
