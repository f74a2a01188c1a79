"""`python -m harness_ext run`: plan, execute, and print the table and what it does not say by itself."""

import argparse
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from harness_ext.errors import UserError
from harness_ext.run.spec import several_from_args

if TYPE_CHECKING:
    from harness_ext.run.execute import Run


def run(args: argparse.Namespace) -> None:
    """Run what the command line asks for, task after task with one loaded model.

    Raises:
        UserError: Something the user gave is wrong.
    """
    quieten(args.verbosity)
    specs = several_from_args(args)
    from harness_ext.run.plan import plan

    for spec in reversed(specs):  # the last of fifty should not fail after hours; a plan holds its rows, so one is kept
        planned = plan(spec)
        if planned.checks.problems:
            raise UserError(planned.checks.problems[0].said)
    from harness_ext.run.execute import execute
    from harness_ext.run.shards import worker_for

    worker = worker_for(planned)
    done: list[Run] = []
    said: set[str] = set()  # what holds for several specs is said once
    try:
        for number, spec in enumerate(specs):
            planned = plan(spec) if number else planned
            if number and worker.size > 1:  # its processes have planned the spec before
                worker.close()
                worker = worker_for(planned)
            unsaid = tuple(note for note in planned.notes if note not in said)
            done += execute(replace(planned, notes=unsaid), worker)
            said |= set(unsaid)
    finally:
        worker.close()
        _show(done)  # also where a later one has failed


def _show(done: list["Run"]) -> None:
    """Print the table, and what it does not say by itself."""
    from harness_ext.results import advice, leaderboard, render, reported

    records = [run.record for run in done]
    if rows := leaderboard.rows(records, reported.scores()):
        render.show(rows)
    for run in done:
        for line in advice.lines(run.record, run.folder):
            print(f"{run.record['task']}: {line}" if len(done) > 1 else line)
    for line in advice.format_tax(records):
        print(line)


def quieten(verbosity: str | None) -> None:
    """Let lm-eval say errors only, unless the user wants more (--verbosity or LMEVAL_LOG_LEVEL)."""
    from lm_eval.utils import setup_logging

    setup_logging(getattr(logging, verbosity or "ERROR", logging.ERROR))
