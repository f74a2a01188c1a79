"""`execute(plan, worker)`: does what a plan says, run by run, each with a record.

What is finished is not done again; what was interrupted continues; what could not be written has failed.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness_ext.backend import server
from harness_ext.errors import UserError, one_line_errors, writing_to
from harness_ext.results import outcomes, records
from harness_ext.run import calibrate, provenance
from harness_ext.run.cache import kept_margins, kept_safely, take_over
from harness_ext.run.lm_eval_output import by_filter, read_log, save
from harness_ext.run.plan import Plan
from harness_ext.run.record import Evaluated, record_of
from harness_ext.run.redaction import hide
from harness_ext.run.run_plan import RunPlan
from harness_ext.run.samples import Samples, scored
from harness_ext.run.worker import Worker, batch_size

_PASSED_ON = ("gen_kwargs", "model_args", "samples")  # what lm-eval and transformers check only while they run


@dataclass(frozen=True)
class Run:
    """A finished run."""

    folder: Path
    record: dict[str, Any]  # its run.json

    @property
    def score(self) -> float:
        """Correct / all, in 0-1, under the rule that is shown first; of other tasks the first metric."""
        if counts := outcomes.main_counts(self.record):
            return counts["correct"] / self.record["n"]
        return next(value for metrics in self.record["metrics"].values() for value in metrics.values())


def say_to_user(line: str) -> None:
    """Print a line where it does not mix with results."""
    print(line, file=sys.stderr, flush=True)


def execute(plan: Plan, worker: Worker, say: Callable[[str], None] = say_to_user) -> list[Run]:
    """Do all runs of a plan, or find those that are finished.

    Args:
        plan: What is to be done.
        worker: Answers the requests; stays usable for another plan.
        say: Takes lines for people.

    Raises:
        UserError: The plan has a problem, a run cannot be done, or its results cannot be written.
    """
    if plan.checks.problems:
        raise UserError(plan.checks.problems[0].said)
    for note in plan.notes:
        say(note)
    return [_run(run, list(plan.runs[number + 1 :]), worker, say) for number, run in enumerate(plan.runs)]


def _run(run: RunPlan, later: list[RunPlan], worker: Worker, say: Callable[[str], None]) -> Run:
    start, started = time.perf_counter(), datetime.now(UTC)
    spec, out = run.asked.spec, Path(run.asked.spec.output_path)
    with records.workspace(out, run.folder.name) as work:
        if records.is_complete(run.folder, run.key) and not spec.force:
            records.drop(work)
            say(f"Already done: {run.folder} (FORCE=1 runs it again).")
            return Run(run.folder, _read(run.folder))
        _say_how(run, say)
        if spec.force:
            for file in work.glob("answers*"):
                file.unlink()
        # lm-eval's cache is not keyed by model: another model would get this one's answers.
        cache = f"{spec.use_cache}-{run.key}" if spec.use_cache else str(work / f"answers-{run.key}")
        take_over(cache)
        provenance.machine_description()  # meanwhile
        lm = worker.ready(run, later, cache)
        calibrated = calibrate.calibrate(lm, run.asked) if spec.calibrate else None
        task = run.asked.task
        summary, tracker, samples = evaluate_task(lm, run, cache, work)
        requests = len(task.instances)
        finished = save(tracker, summary, samples, task.task_name, work, run.asked.secrets())
        metrics = by_filter(summary["results"][task.task_name])
        account = worker.account()
        earlier = kept_margins(cache) if account.requests < requests else {}  # of answers that were kept
        rows = outcomes.rows(read_log(finished), earlier | account.margins)
        total_s = time.perf_counter() - start
        record = record_of(run, Evaluated(requests, rows, metrics, account, worker.size, started, total_s, calibrated))
        with writing_to(out):
            if rows:
                outcomes.write(finished / outcomes.FILE, rows)
            records.write_json(finished / records.MANIFEST, record)
            records.publish(work, finished, run.folder)
    say(f"Written: {run.folder}")
    return Run(run.folder, record)


def evaluate_task(
    lm: Any, run: RunPlan, cache: str | None, work: Path | None = None, seed_shift: int = 0
) -> tuple[dict[str, Any], Any, Samples]:
    """Let lm-eval put a task to a model, every answer kept as it comes.

    Args:
        lm: lm-eval's.
        run: The run.
        cache: lm-eval's ``use_cache``; None for none.
        work: The run's workspace; None where nothing is to be written.
        seed_shift: Added to torch's seed.

    Returns:
        What ``simple_evaluate`` returns, the tracker that can write it, and the log of the documents.
    """
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    asked, spec = run.asked, run.asked.spec
    settings, secrets = asked.settings, asked.secrets()
    tracker = EvaluationTracker(output_path=str(work / "lm_eval"), **spec.hf_hub_log_args) if work else None
    passed_on = {name: value for name in _PASSED_ON if (value := getattr(spec, name))}
    named = " ".join(f"{name}={hide(value, secrets)}" for name, value in passed_on.items())
    with (
        one_line_errors(running=f"lm-eval does not run with {named}: " if named else None),
        kept_safely(lm),
        provenance.known_to_lm_eval(),
        scored(asked, run.prompts) as scores,
    ):
        summary = simple_evaluate(
            model=lm,
            model_args=hide({**asked.subject.args, "pretrained": asked.subject.name}, secrets),
            tasks=[asked.task],
            num_fewshot=spec.num_fewshot,
            batch_size=settings.batch_size if settings else batch_size(spec.batch_size),
            device=settings.device if settings else spec.device or "cuda:0",
            use_cache=cache,
            limit=spec.limit,
            samples=spec.samples,
            check_integrity=spec.check_integrity,
            write_out=spec.write_out,
            log_samples=False,
            evaluation_tracker=tracker,
            system_instruction=spec.system_instruction,
            apply_chat_template=asked.chat_template,
            fewshot_as_multiturn=asked.multiturn,
            gen_kwargs=spec.gen_kwargs or None,
            task_manager=TaskManager(include_defaults=False),
            random_seed=spec.seed[0],
            numpy_random_seed=spec.seed[1],
            torch_random_seed=(spec.seed[2] or 0) + seed_shift if seed_shift else spec.seed[2],
            fewshot_random_seed=spec.seed[3],
            confirm_run_unsafe_code=spec.confirm_run_unsafe_code,
            metadata=spec.metadata,
        )
    if spec.show_config and work:
        print(json.dumps(summary["configs"], indent=2, default=str))
    return summary, tracker, Samples(asked, scores)


def _say_how(run: RunPlan, say: Callable[[str], None]) -> None:
    """Say what was chosen for the run."""
    if run.asked.settings:
        say(run.asked.settings.line())
    elif run.asked.subject.is_served:
        say(server.line(run.asked.subject.backend, run.asked.subject.args))
    for note in run.notes:
        say(f"{note[:1].upper()}{note[1:]}.")
    if made := run.trained_on:
        say(f"The adapter was trained on {made['task']} ({made['data']}).")


def _read(folder: Path) -> dict[str, Any]:
    try:
        return records.read_run(folder)
    except (OSError, ValueError) as error:
        raise UserError(f"The record in {folder} is damaged ({error}). Run again with FORCE=1.") from None
