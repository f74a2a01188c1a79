"""lm-eval's log of a run's documents, made line by line: as a list, which is what lm-eval makes, it takes 5 KB a document.

The lines are those of lm-eval's `evaluate` with ``log_samples``; what stands in them is not looked at here.
"""

import contextlib
import copy
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

from lm_eval.utils import handle_non_serializable, hash_string

from harness_ext.run.question import Question
from harness_ext.task.filters import read_documents


class Samples:
    """The lines of a task that lm-eval has scored, in its order, filter by filter; made once, as they need its requests."""

    def __init__(self, asked: Question, scores: Sequence[dict[str, Any]]) -> None:
        """Take what `scored` has collected."""
        self._asked, self._scores = asked, scores

    def __len__(self) -> int:
        return len(self._scores)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Make the lines, and let go of the task's requests."""
        task, scores = self._asked.task, iter(self._scores)
        chosen = (self._asked.spec.samples or {}).get(task.task_name)
        for rule in task.instances[0].filtered_resps:
            by_document = itertools.groupby(task.instances, key=lambda request: request.doc_id)
            for (number, document), (_, requests) in zip(self._asked.documents(), by_document, strict=True):
                yield _line(task, chosen[number] if chosen else number, document, list(requests), rule, next(scores))
        task._instances = None


def _line(task: Any, number: int, document: Any, requests: list[Any], rule: str, scores: dict[str, Any]) -> dict[str, Any]:
    target = task.doc_to_target(document)
    text = json.dumps(document, indent=2, default=handle_non_serializable, ensure_ascii=False)
    return {
        "doc_id": number,
        "doc": document,
        "target": target,
        "arguments": [request.args for request in requests],
        "resps": [request.resps for request in requests],
        "filtered_resps": [request.filtered_resps[rule] for request in requests],
        "filter": rule,
        "metrics": list(scores),
        "doc_hash": hash_string(text),
        "prompt_hash": hash_string(requests[0].arguments[0]),
        "target_hash": hash_string(str(target)),
        **scores,
    }


@contextlib.contextmanager
def scored(asked: Question, prompts: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
    """Collect the scores that lm-eval gives a task's documents within the block, and let its requests hold little.

    A prompt that is there already stands in for one that lm-eval renders alike, one dictionary of settings for all, and
    nothing for a document that neither the model nor a filter reads.
    """
    task = asked.task
    make, score = task.construct_requests, task.process_results
    there, scores = iter(prompts), list[dict[str, Any]]()
    settings = copy.deepcopy(task.config.generation_kwargs)
    keeps_document = asked.subject.reads_sentence or read_documents(task)

    def construct_requests(doc: Any, ctx: Any, **kwargs: Any) -> Any:
        prompt = next(there, ctx)
        made = make(doc, prompt if prompt == ctx else ctx, **kwargs)
        for request in made if isinstance(made, list) else [made]:
            if request.request_type == "generate_until":
                request.arguments = tuple(settings if each == settings else each for each in request.arguments)
            request.doc, request.metadata = doc if keeps_document else None, None
        return made

    def process_results(doc: Any, results: Any) -> dict[str, Any]:
        scores.append(score(doc, results))
        return scores[-1]

    task.construct_requests, task.process_results = construct_requests, process_results
    try:
        yield scores
    finally:
        del task.construct_requests, task.process_results
