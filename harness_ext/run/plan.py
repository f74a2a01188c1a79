"""`plan(spec)`: what a command would do and what would stop it, found out without doing it.

Writes nothing, prints nothing, loads a tokenizer at the most. `execute` does what a plan says; `doctor` prints it. What
needs the datasets library is imported when a model has been found: an error about that should not wait for it.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness_ext.backend.server import check_task
from harness_ext.backend.subject import Subject
from harness_ext.errors import UserError
from harness_ext.model.loading import load_tokenizer
from harness_ext.paths import SHIPPED
from harness_ext.run.checks import NOTE, Checks
from harness_ext.run.passed_on import unexamined
from harness_ext.run.resolve import Resolved, resolve
from harness_ext.run.spec import RunSpec

if TYPE_CHECKING:
    from harness_ext.run.run_plan import RunPlan


@dataclass(frozen=True)
class Plan:
    """What a command would do."""

    spec: RunSpec  # with what a preset knows filled in
    subject: Subject | None  # what answers; None where that cannot be told
    runs: "tuple[RunPlan, ...]"  # in the order in which they are done
    checks: Checks  # with a problem among them, nothing is done
    notes: tuple[str, ...] = ()  # said before the first run


def plan(spec: RunSpec, fetch: bool = True) -> Plan:
    """Find out what a command would do; without `fetch` no weights are downloaded for it.

    Raises:
        UserError: It is so wrong that nothing can be said about it.
    """
    checks = Checks()
    found = Resolved(spec)
    runs: list[Any] = []
    try:
        found = resolve(spec, checks, fetch)
        if found.subject:
            if found.subject.base:
                for name in unexamined(found.subject.args, found.subject.base.config):
                    said = f"{name!r} is handed on to transformers; whether it takes it is not examined"
                    checks.say("model args", said, NOTE)
            runs = _plan_runs(found, found.subject, checks)
    except UserError:
        if not checks.problems:
            raise  # else what was found first is what stops it
    return Plan(found.spec, found.subject, tuple(runs), checks, tuple(found.notes))


def _plan_runs(found: Resolved, subject: Subject, checks: Checks) -> list["RunPlan"]:
    from harness_ext.run.question import Question
    from harness_ext.run.run_plan import plan_run

    tokenizer = None
    if subject.base and found.has_tokenizer:
        with checks.problem("tokenizer"):
            tokenizer = load_tokenizer(
                subject.tokenizer or subject.base,
                remote_code=subject.remote_code,
                adapter=None if subject.tokenizer else subject.adapter,
            )
    runs: list[RunPlan] = []
    # A forced choice comes after the answers to the same prompts: they have its log-probabilities already.
    names = found.spec.tasks or (_default_task(found.spec, subject),)
    for task in sorted(_tasks(names, found.spec, subject, checks), key=lambda task: task.OUTPUT_TYPE == "multiple_choice"):
        if tokenizer is not None or not subject.base:
            with checks.problem("chat template" if subject.base and not subject.is_classifier else "tokenizer"):
                runs += plan_run(Question(found.spec, subject, task, tokenizer=tokenizer), checks)
    return runs


def _tasks(names: tuple[str, ...], spec: RunSpec, subject: Subject, checks: Checks) -> list[Any]:
    """Build the tasks; where one or its data cannot be had, what else is wrong can be seen on the sentences that ship."""
    from harness_ext.task.find import build_tasks

    with checks.problem("task"):
        tasks = _find_tasks(names, spec, subject)
        for task in tasks:
            checks.say("task", f"{task.task_name}, {len(task.eval_docs)} documents ({task.eval_docs.info.description})")
            check_task(subject.backend, task.task_name, task.OUTPUT_TYPE)
        return tasks
    checks.say("stand-in", "what follows is examined on the sentences that ship (sst2_01_mini)", NOTE)
    return build_tasks(["sst2_01_mini"])


def _find_tasks(names: tuple[str, ...], spec: RunSpec, subject: Subject) -> list[Any]:
    from harness_ext.task.find import build_tasks

    made_on = subject.adapter.manifest.get("task") if subject.adapter else None
    own_data = {"data_dir": spec.data_dir} if spec.data_dir else {}
    try:
        return build_tasks(list(names), spec.include_path, spec.metadata | own_data)
    except UserError as error:
        if names != (made_on,) or "Unknown task" not in str(error):
            raise
        raise UserError(
            f"The adapter was made on the task {made_on!r}, which is not known here: give the folder of its file with "
            "ARGS='--include_path FOLDER', or another task with TASK=."
        ) from error


def _default_task(spec: RunSpec, subject: Subject) -> str:
    """An adapter is scored on the task that it was made on, everything else on SST-2."""
    if not (spec.pretrained or spec.adapter or spec.data_dir or spec.model or spec.model_args):
        return "sst2_01_mini"
    if subject.frozen and subject.name in SHIPPED and not (spec.data_dir or spec.metadata.get("dataset")):
        return "sst2_01_mini"  # as in training: it needs labelled rows, and these ship too
    made = subject.adapter.manifest if subject.adapter else {}
    task, data = str(made.get("task") or "sst2_01"), str(made.get("data", ""))
    if spec.data_dir or spec.metadata.get("dataset"):
        return "sst2_01" if task == "sst2_01_mini" else task  # that one reads its own sample only
    if subject.adapter and data.endswith("/train.tsv") and not data.startswith("embedded "):
        raise UserError(
            f"Adapter {subject.adapter.name!r} was trained on {data}: give that folder with DATA_DIR=, to score it on its "
            f"dev.tsv; or TASK={task}, to score it on what that task reads by itself."
        )
    return task
