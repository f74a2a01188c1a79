"""`CALIBRATE=`: asks a model for the margins of a few further documents, and moves the boundary of a forced choice.

Never of the evaluation split: texts that say nothing, unlabelled rows of the train split, or labelled ones.
"""

import random
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from lm_eval.api.model import CacheHook

from harness_ext.backend.account import watch
from harness_ext.errors import UserError
from harness_ext.run.question import Question
from harness_ext.task import calibration
from harness_ext.task.metrics import score_document
from harness_ext.task.prompts import render_prompt


def check(asked: Question) -> None:
    """Check that there is a boundary to move, and the rows to do it by."""
    spec, subject, task = asked.spec, asked.subject, asked.task
    how = f"CALIBRATE={spec.calibrate}"
    if subject.is_classifier or subject.is_fitted or not (subject.base or subject.is_served):
        raise UserError(f"{how} is for a prompted model; {subject.name!r} is fitted on labels already. Leave it out.")
    if task.OUTPUT_TYPE != "multiple_choice":
        raise UserError(f"{how} moves the boundary of a forced choice, and {task.task_name} writes: TASK=sst2_01_choice.")
    if spec.procs > 1:
        raise UserError(f"{how} runs in one process: leave PROCS out.")
    if task.config.process_results is not score_document:
        raise UserError(f"{how} is for tasks scored as TASK=sst2_01_choice is; {task.task_name} scores in its own way.")
    if spec.calibrate == "labels" and not spec.train_samples:
        raise UserError(f"{how} needs labels: say how many with SAMPLES=64.")
    if spec.calibrate == "labels" and spec.shots:
        raise UserError(f"{how} and SHOTS both use labels: choose one.")
    _ = asked.train  # refuses a task without one


def documents(asked: Question) -> list[dict[str, Any]]:
    """Return the documents whose margins the boundary follows from."""
    train = asked.train
    if asked.spec.calibrate == "context":
        return [{"sentence": text, "label": 0} for text in calibration.CONTENT_FREE]
    if asked.spec.calibrate == "labels" and asked.subset:
        return train.select(asked.subset.rows).to_list()
    drawn = [row for row, label in enumerate(asked.train_labels) if label is not None]
    random.Random(f"unlabelled {asked.seed}").shuffle(drawn)
    return train.select(drawn[: calibration.UNLABELLED]).to_list()


def calibrate(lm: Any, asked: Question) -> dict[str, Any]:
    """Find the boundary with a loaded model, and let the task score by it; return what a record says of it.

    What that costs does not count as answers.
    """
    start = time.perf_counter()
    lm.set_cache_hook(CacheHook(None))  # that of an earlier run with the same model is closed
    docs = documents(asked)
    margins = _margins(lm, asked, docs)
    watch(lm).reset()
    if hasattr(lm, "examine_anew"):
        lm.examine_anew()
    if asked.spec.calibrate == "labels":
        boundary = calibration.by_labels(margins, [doc["label"] for doc in docs])
    else:
        boundary = {"context": calibration.by_context, "batch": calibration.by_batch}[str(asked.spec.calibrate)](margins)
    asked.task.set_config(key="process_results", value=boundary)
    seconds = time.perf_counter() - start
    return {"method": asked.spec.calibrate, **asdict(boundary), "documents": len(docs), "seconds": seconds}


def _margins(lm: Any, asked: Question, docs: Sequence[dict[str, Any]]) -> list[float]:
    """Put documents as lm-eval puts those that are evaluated, and subtract the scores of the two choices."""
    task, template = asked.task, asked.renderer
    requests = []
    for number, doc in enumerate(docs):
        prompt = render_prompt(task, doc, template, asked.spec.system_instruction, asked.multiturn)
        about = (task.task_name, number, 1)
        requests += task.construct_requests(
            doc=doc, ctx=prompt, metadata=about, apply_chat_template=template is not None, chat_template=template
        )
    scores = [score for score, _ in lm.loglikelihood(requests)]
    return [one - zero for zero, one in zip(scores[::2], scores[1::2], strict=True)]
