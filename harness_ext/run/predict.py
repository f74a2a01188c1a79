"""`python -m harness_ext predict`: texts without labels in, the same rows out with what a model answers to each.

It asks chunk by chunk; each is an ordinary run in a folder beside OUT_FILE, which a next attempt finds by its key or
continues. When all are done OUT_FILE is written and the folder goes.
"""

import argparse
import contextlib
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from harness_ext.backend.subject import BASELINES, PROBE, Subject
from harness_ext.errors import UserError, writing_to
from harness_ext.paths import as_path
from harness_ext.results import records
from harness_ext.run import chunks
from harness_ext.run.checks import Checks
from harness_ext.run.chunks import Chunk, Dealt
from harness_ext.run.command import quieten
from harness_ext.run.estimate import too_long
from harness_ext.run.plan import Plan, plan
from harness_ext.run.resolve import resolve
from harness_ext.run.spec import RunSpec, several_from_args
from harness_ext.task import own_task
from harness_ext.task.labels import ANSWERS
from harness_ext.task.table import find_file

if TYPE_CHECKING:
    from harness_ext.run.question import Question

ENDINGS = (".csv", ".tsv", ".jsonl")  # of OUT_FILE
_KEPT = ("runs", "unfinished")  # what holds answers
_NOT_READ = {
    "label": "LABEL", "positive": "POSITIVE", "test": "TEST", "train_samples": "SAMPLES", "shots": "SHOTS", "rows": "ROWS",
    "calibrate": "CALIBRATE", "num_fewshot": "--num_fewshot", "samples": "--samples",
}  # fmt: skip


@dataclass(frozen=True)
class Ask:
    """What is asked of each text."""

    task: str  # as TASK= would name it
    names: Sequence[str] | None  # of the labels 0 and 1; None: as the task calls them, empty: as the classifier does


def predict(args: argparse.Namespace) -> None:
    """Answer all rows of a table, and write them down with the answers.

    Raises:
        UserError: Something the user gave is wrong.
    """
    quieten(args.verbosity)
    if args.output_path:
        raise UserError("OUT is a folder of runs, and predict keeps none: say where its answers go with OUT_FILE=.")
    named = vars(args).pop("out_file")
    spec = _spec(args)
    source = find_file("DATA", str(spec.data))
    out = _out(source, named, spec.force)
    found = resolve(spec, checks := Checks())
    if checks.problems or not found.subject:
        raise UserError(checks.problems[0].said)
    own = (found.subject.adapter.manifest.get("own_data") if found.subject.adapter else None) or {}
    with _workplace(out, anew=spec.force and not out.exists()) as parts:
        with writing_to(out, "OUT_FILE"):
            asked = _ask(spec, found.subject, own, parts)
            dealt = chunks.deal(source, spec.text, own.get("text"), spec.limit, parts)
        for note in dealt.notes:
            _say(note)
        spec = replace(spec, tasks=(asked.task,), output_path=str(parts), force=False)
        spec = replace(spec, data=None, text=None, question=None, limit=None)  # what the chunks hold
        folders, names = _answer(spec, dealt, asked)
        with writing_to(out, "OUT_FILE"):
            counts = chunks.write(out, dealt, folders, names)
    _say(f"{_said(counts, names)} Written: {out}")


def _spec(args: argparse.Namespace) -> RunSpec:
    spec, *others = several_from_args(args)
    if not spec.data:
        raise UserError("DATA is missing: make predict MODEL=... DATA=new.csv QUESTION='...'.")
    if others or len(spec.tasks or ()) > 1:
        raise UserError("predict asks one model one question: give one ADAPTER, one SEED and one TASK.")
    for name, called in _NOT_READ.items():
        if getattr(spec, name):
            raise UserError(f"predict reads texts without labels and asks all of them: leave {called} out.")
    if spec.model in (PROBE, *BASELINES):
        raise UserError(f"BACKEND={spec.model} is fitted on labels, and predict has none: give a MODEL= or an ADAPTER=.")
    return spec


def _out(source: Path, named: str | None, force: bool) -> Path:
    """Decide where the answers go, and check that nothing is lost by it."""
    ending = source.suffix.lower() if source.suffix.lower() in ENDINGS else ENDINGS[0]
    out = as_path("OUT_FILE", named) if named else source.with_name(f"{source.stem}-answers{ending}")
    if out.suffix.lower() not in ENDINGS:
        raise UserError(f"OUT_FILE={out} must end in {', '.join(ENDINGS)}.")
    if out.exists() and (out.is_dir() or out.samefile(source)):
        raise UserError(f"OUT_FILE={out} is {'a folder' if out.is_dir() else 'DATA itself'}: choose another name.")
    if out.exists() and not force:
        raise UserError(f"OUT_FILE={out} is there already: choose another, or replace it with FORCE=1.")
    return out


def _ask(spec: RunSpec, subject: Subject, own: dict[str, Any], folder: Path) -> Ask:
    """Decide what is asked: what the user says, else what the adapter was trained with; a classifier needs no question."""
    (given,) = spec.tasks or (None,)
    form = given if given in own_task.FORMS else None
    made = subject.adapter.manifest.get("task") if subject.adapter else None
    if given and not form:
        if spec.question:
            raise UserError(f"TASK={given} has a question of its own: leave QUESTION out, or say how with TASK=digits.")
        return Ask(given, None)
    if own or spec.question:
        answers = own.get("labels", ("no", "yes"))
        question = spec.question or own_task.question_of(own)
        file = folder / "question.yaml"
        own_task.write_unlabelled(file, question, answers, form or own.get("form", own_task.FORMS[0]))
        return Ask(str(file), own.get("names", answers))
    if made:
        return Ask(str(made), None)
    if subject.is_classifier:
        return Ask("sst2_01", ())  # which only stands there: the text alone is read
    raise UserError(
        "What is asked of each text? Say it with QUESTION='Is this ticket urgent?', with TASK=my_tasks/urgent.yaml (which "
        "`make task` writes), or with an ADAPTER= that was trained on its question."
    )


@contextlib.contextmanager
def _workplace(out: Path, anew: bool) -> Iterator[Path]:
    """Give a folder for chunks and their runs, and keep other processes out; it stays where answers are in it.

    Those of an attempt before are forgotten where it is to be made `anew`: FORCE=1 with nothing to replace can mean no more.
    """
    parts = out.with_name(f".{out.name}.parts")
    taken = f"OUT_FILE={out} is being made by another process. Wait for it, or stop it."
    with records.held(parts, out, "OUT_FILE", taken=taken):
        try:
            if anew:
                for kept in _KEPT:
                    shutil.rmtree(parts / kept, ignore_errors=True)
            yield parts
        except BaseException:
            if not any((parts / kept).exists() for kept in _KEPT):
                shutil.rmtree(parts)
            raise
        shutil.rmtree(parts)


def _answer(spec: RunSpec, dealt: Dealt, asked: Ask) -> tuple[list[Path | None], Sequence[str]]:
    """Ask all chunks with one loaded model; return their runs' folders, and the names of the labels 0 and 1."""
    from harness_ext.run.execute import execute
    from harness_ext.run.shards import worker_for

    folders: list[Path | None] = []
    rows = sum(chunk.rows for chunk in dealt.chunks)
    names, worker, said = asked.names or ANSWERS, None, set[str]()
    with contextlib.ExitStack() as at_end, tqdm(total=rows, desc="rows", leave=True, disable=None) as bar:
        for chunk in dealt.chunks:
            folders.append(None)
            if planned := _planned(spec, chunk):
                (run,) = planned.runs
                settings = [run.asked.settings.line()] if run.asked.settings else []
                for line in dict.fromkeys((*planned.notes, *settings, *run.notes)):
                    if line not in said:
                        bar.write(line, file=sys.stderr)
                        said.add(line)
                if worker is None or worker.size > 1:  # several processes have planned what they ask
                    at_end.close()
                    worker = worker_for(planned)
                    at_end.callback(worker.close)
                try:
                    (finished,) = execute(replace(planned, notes=()), worker, say=lambda line: None)
                except UserError as error:
                    raise UserError(f"In {chunk.named}: {error}") from error
                folders[-1], names = finished.folder, _names(run.asked, asked)
                (finished.folder / "samples.jsonl").unlink(missing_ok=True)  # 2 KB a row, which nobody reads
            bar.update(chunk.rows)
    return folders, names


def _planned(spec: RunSpec, chunk: Chunk) -> Plan | None:
    """Plan a chunk's run, without texts that are too long; None where no other is in it."""
    if not chunk.texts:
        return None
    planned = _plan(spec, chunk)
    places = too_long(planned.runs[0])
    return _planned(spec, chunks.pass_over(chunk, places)) if places else planned


def _plan(spec: RunSpec, chunk: Chunk) -> Plan:
    from harness_ext.task import data

    planned = plan(replace(spec, metadata=spec.metadata | {"unlabelled": str(chunk.file.resolve())}))
    if planned.checks.problems:
        raise UserError(planned.checks.problems[0].said)
    if len(planned.runs) != 1 or planned.runs[0].asked.task.eval_docs.info.description != data.UNLABELLED:
        (named,) = spec.tasks or ("",)
        raise UserError(f"TASK={named} is not one task that reads its texts by utils.load_splits, as sst2_01 does.")
    return planned


def _names(question: "Question", asked: Ask) -> Sequence[str]:
    from harness_ext.model.classes import words_of

    classes = question.settings.classes if question.settings else None
    if asked.names is not None:
        return asked.names or ((classes["0"], classes["1"]) if classes else ANSWERS)
    return (question.task.config.dataset_kwargs or {}).get("names") or words_of(question.task) or ANSWERS


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _said(counts: Counter[tuple[str | None, str]], names: Sequence[str]) -> str:
    """Say how many rows have which label, and why others have none."""
    labels = [f"{counts[name, 'label']:,} {name}" for name in reversed(names)]
    without = [f"{n:,} {kind}" for (label, kind), n in sorted(counts.items(), key=str) if label is None]
    return f"{counts.total():,} rows: {', '.join(labels)}; without a label {', '.join(without) or 'none'}."
