"""The answer-extraction filter of the tasks: `labels.read` as an lm-eval filter."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from lm_eval.api.filter import Filter
from lm_eval.api.registry import register_filter
from lm_eval.filters.selection import TakeFirstFilter

from harness_ext.errors import UserError
from harness_ext.task import labels


@register_filter("label01")
class LabelFilter(Filter):
    """Turn each response into ``"0"``, ``"1"`` or, where there is no label, its kind in brackets.

    The kind stays visible (``"[word]"``) so that samples.jsonl says why an output counts as not following. The arguments
    are those of `labels.read`, as the task YAML gives them; its answers are the task's ``doc_to_choice``.
    """

    def __init__(
        self,
        rule: str = "lenient",
        thinking: bool = False,
        words: Sequence[str] = ("negative", "positive"),
        answers: Sequence[str] = labels.ANSWERS,
    ) -> None:
        labels.read("", rule)  # refuses one that is unknown
        labels.check_answers(answers)
        self.rule, self.thinking, self.words, self.answers = rule, thinking, tuple(words), tuple(answers)

    def apply(self, resps: Iterable[Sequence[str]], docs: Sequence[dict]) -> list[str]:
        """Read the first response to each document."""
        read = functools.partial(labels.read, rule=self.rule, thinking=self.thinking, words=self.words, answers=self.answers)
        return [label or f"[{kind}]" for label, kind in (read(responses[0]) for responses in resps)]

    def is_settled(self, text: str) -> bool:
        """Tell whether this filter makes the same of `text` and of all that begins with it; see `labels.is_settled`."""
        return labels.is_settled(text, self.rule, thinking=self.thinking, answers=self.answers)


def answers_of(task: Any) -> tuple[str, ...]:
    """Return what a task asks for label 0 and for label 1: its two choices; digits if it has others, or none.

    Raises:
        UserError: Its filters do not read what it asks for, and what is trained.
    """
    choices = task.config.doc_to_choice
    is_pair = isinstance(choices, list) and len(choices) == 2 and all(isinstance(choice, str) for choice in choices)
    asked = tuple(choices) if is_pair else labels.ANSWERS
    for step in (step for ensemble in task._filters for step in ensemble.filters):
        if issubclass(step.func, LabelFilter) and (read := step().answers) != asked:
            raise UserError(
                f"Task {task.task_name} asks for {asked[0]!r} or {asked[1]!r} (doc_to_choice), and its filter label01 reads "
                f"{read[0]!r} or {read[1]!r}: give the filter answers: {list(asked)}."
            )
    return asked


def read_documents(task: Any) -> bool:
    """Tell whether a task's filters may read documents: neither ours nor that of a task without filters does."""
    return any(step.func not in (LabelFilter, TakeFirstFilter) for ensemble in task._filters for step in ensemble.filters)


def settled_test(task: Any) -> Callable[[str], bool] | None:
    """Return what tells by the beginning of a response whether all filters of a task have read enough of it.

    None if a filter is not ours, so that nothing is known.
    """
    chains = [[step() for step in ensemble.filters] for ensemble in task._filters]
    if not chains or any(len(chain) != 1 or not isinstance(chain[0], LabelFilter) for chain in chains):
        return None
    return lambda text: all(chain[0].is_settled(text) for chain in chains)
