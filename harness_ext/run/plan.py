"""`plan(spec)`: what a command would do and what would stop it, found out without doing it.

Writes nothing, prints nothing, loads a tokenizer at the most. `execute` does what a plan says; `doctor` prints it. What
needs the datasets library is imported when a model has been found: an error about that should not wait for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness_ext.backend.server import check_task
from harness_ext.backend.subject import Subject
from harness_ext.errors import UserError
from harness_ext.evidence import paired
from harness_ext.model.loading import load_tokenizer
from harness_ext.paths import SHIPPED
from harness_ext.run.checks import NOTE, Checks
from harness_ext.run.passed_on import unexamined
from harness_ext.run.resolve import Resolved, resolve
from harness_ext.run.spec import RunSpec
from harness_ext.task import own_data, own_task
from harness_ext.task.own_data import OwnData

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
    tasks = _tasks(found, subject, checks)
    for task in sorted(tasks, key=lambda task: task.OUTPUT_TYPE == "multiple_choice"):
        if tokenizer is not None or not subject.base:
            with checks.problem("chat template" if subject.base and not subject.is_classifier else "tokenizer"):
                runs += plan_run(Question(found.spec, subject, task, tokenizer=tokenizer), checks)
    return runs


def _tasks(found: Resolved, subject: Subject, checks: Checks) -> list[Any]:
    """Build the tasks; where one or its data cannot be had, what else is wrong can be seen on the sentences that ship."""
    from harness_ext.task.find import build_tasks

    spec = found.spec
    own, forms = _own_data(spec, subject)
    names = forms or spec.tasks or (_default_task(spec, subject),)
    with checks.problem("task"):
        tasks = _find_tasks(own_task.build_configs(own, forms) if own else names, spec, subject)
        for task in tasks:
            checks.say("task", f"{task.task_name}, {len(task.eval_docs)} documents ({task.eval_docs.info.description})")
            check_task(subject.backend, task.task_name, task.OUTPUT_TYPE)
        for note in _data_notes(own, tasks, subject):
            checks.say("data", note, NOTE)
            found.notes.append(note)
        return tasks
    checks.say("stand-in", "what follows is examined on the sentences that ship (sst2_01_mini)", NOTE)
    return build_tasks(["sst2_01_mini"])


def _own_data(spec: RunSpec, subject: Subject) -> tuple[OwnData | None, tuple[str, ...]]:
    """Return the user's own table, as asked for or as an adapter was trained on it, and the forms in which it is asked."""
    record = (subject.adapter.manifest.get("own_data") if subject.adapter else None) or {}
    made = {name: record[name] for name in own_data.NAMES if name in record}
    asked = own_data.given(vars(spec))
    other_data = spec.data_dir or spec.metadata.get("dataset") or set(spec.tasks or ()) - set(own_task.FORMS)
    if not asked and (not made or other_data):
        return None, ()
    own = OwnData(**made | asked)
    if not asked and not Path(own.data).expanduser().is_file():
        raise UserError(f"The adapter was trained on the table {own.data}, which is not there: say where with DATA=.")
    return own, spec.tasks or (record.get("form", own_task.FORMS[0]),)


def _data_notes(own: OwnData | None, tasks: list[Any], subject: Subject) -> list[str]:
    """Say what should be known of tables of the user's own."""
    said: list[str] = []
    if own and not (own.question or subject.reads_sentence):
        said.append(f"No QUESTION: what is asked is {own_task.question_of(own_task.settled(own))!r}")
    for table in filter(None, [own] if own else map(own_data.of_task, tasks)):
        parts = own_data.read(table)
        seen = 100 * paired.visible(len(parts.test) // 5, len(parts.test))
        shown = f"two models that disagree on a fifth of them can be told apart from {seen:.1f} points on"
        said += [*parts.notes, f"{parts.test_source}: {shown}"]
    return list(dict.fromkeys(said))


def _find_tasks(names: Sequence[str | dict[str, Any]], spec: RunSpec, subject: Subject) -> list[Any]:
    from harness_ext.task.find import build_tasks

    made_on = subject.adapter.manifest.get("task") if subject.adapter else None
    folder = {"data_dir": spec.data_dir} if spec.data_dir else {}
    try:
        return build_tasks(list(names), spec.include_path, spec.metadata | folder)
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
