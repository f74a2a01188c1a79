"""`make doctor`: the plan of a run, printed, with what would stop it, before anything large is downloaded or loaded."""

import argparse
import json
import sys
from dataclasses import asdict

from harness_ext.backend.subject import ANSWER, CHECKPOINT_BACKENDS
from harness_ext.errors import UserError
from harness_ext.model.loading import quieten_libraries
from harness_ext.run.checks import PROBLEM
from harness_ext.run.command import quieten
from harness_ext.run.estimate import estimate
from harness_ext.run.plan import plan
from harness_ext.run.spec import several_from_args


def examine(args: argparse.Namespace) -> None:
    """Plan what the command line asks for and print the list, the first prompt and the verdict.

    Raises:
        UserError: The command line is so wrong that nothing can be examined.
        SystemExit: With code 2, if the run would stop.
    """
    as_json = vars(args).pop("json")
    quieten(args.verbosity)
    quieten_libraries()
    spec, *others = several_from_args(args)  # they differ in rows or adapter alone, so that the first one is shown
    if (spec.model or ANSWER) not in CHECKPOINT_BACKENDS:
        raise UserError(f"doctor examines models that are loaded here; BACKEND {spec.model!r} is not for it.")
    planned = plan(spec, fetch=False)
    memory = estimate(planned)
    for other in others:
        if not planned.checks.problems:
            with planned.checks.problem("others"):
                if found := plan(other, fetch=False).checks.problems:
                    raise UserError(found[0].said)
    checks, problems = planned.checks.lines, planned.checks.problems
    prompts = [run.prompts[0] for run in planned.runs if not run.asked.subject.reads_sentence]
    named = ", ".join(check.name for check in problems)
    verdict = f"would not run: {len(problems)} problem{'s'[: len(problems) > 1]} ({named})" if problems else "would run"
    for run in [] if problems else planned.runs:
        planned.checks.say("folder", str(run.folder))
    if as_json:
        said = {"runs": not problems, "verdict": verdict, "checks": [asdict(check) for check in checks]}
        print(json.dumps(said | {"prompt": prompts[0] if prompts else None, "memory": memory}, indent=2))
    else:
        for check in checks:
            print(f"{check.state.upper() if check.state == PROBLEM else check.state:<8} {check.name:<13} {check.said}")
        if prompts:
            print(f"The first prompt: {prompts[0]!r}")
        print(f"Verdict: {verdict}.")
    if problems:
        sys.exit(2)
