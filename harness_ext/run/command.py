"""`python -m harness_ext run`: plan, execute, and print the table and what it does not say by itself."""

import argparse
import logging

from harness_ext.errors import UserError
from harness_ext.run.spec import several_from_args


def run(args: argparse.Namespace) -> None:
    """Run what the command line asks for, task after task with one loaded model.

    Raises:
        UserError: Something the user gave is wrong.
    """
    quieten(args.verbosity)
    first, *more = several_from_args(args)
    from harness_ext.run.plan import plan

    planned = plan(first)
    if planned.checks.problems:
        raise UserError(planned.checks.problems[0].said)
    from harness_ext.results import advice, leaderboard, render, reported
    from harness_ext.run.execute import execute
    from harness_ext.run.shards import worker_for

    worker = worker_for(planned)
    try:
        records = [done.record for done in execute(planned, worker)]
        for spec in more:
            if worker.size > 1:  # its processes have planned the spec before
                worker.close()
                worker = worker_for(plan(spec))
            records += [done.record for done in execute(plan(spec), worker)]
    finally:
        worker.close()
    if rows := leaderboard.rows(records, reported.scores()):
        render.show(rows)
    for record in records:
        for line in advice.lines(record):
            print(f"{record['task']}: {line}" if len(records) > 1 else line)
    for line in advice.format_tax(records):
        print(line)


def quieten(verbosity: str | None) -> None:
    """Let lm-eval say errors only, unless the user wants more (--verbosity or LMEVAL_LOG_LEVEL)."""
    from lm_eval.utils import setup_logging

    setup_logging(getattr(logging, verbosity or "ERROR", logging.ERROR))
