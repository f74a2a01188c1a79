"""The answer-extraction filter of the tasks: `labels.read` as an lm-eval filter."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from lm_eval.api.filter import Filter
from lm_eval.api.registry import register_filter

from harness_ext.task import labels


@register_filter("label01")
class LabelFilter(Filter):
    """Turn each response into ``"0"``, ``"1"`` or, where there is no label, its kind in brackets.

    The kind stays visible (``"[word]"``) so that samples.jsonl says why an output counts as not following.
    """

    def __init__(
        self, rule: str = "lenient", thinking: bool = False, words: Sequence[str] = ("negative", "positive")
    ) -> None:
        """Check the arguments as the task YAML gives them; see `labels.read` for their meaning.

        Raises:
            ValueError: `rule` is unknown.
        """
        labels.read("", rule)
        self.rule, self.thinking, self.words = rule, thinking, tuple(words)

    def apply(self, resps: Iterable[Sequence[str]], docs: Sequence[dict]) -> list[str]:
        """Read the first response to each document."""
        return [self._predict(responses[0]) for responses in resps]

    def is_settled(self, text: str) -> bool:
        """Tell whether this filter makes the same of `text` and of all that begins with it; see `labels.is_settled`."""
        return labels.is_settled(text, self.rule, thinking=self.thinking)

    def _predict(self, response: str) -> str:
        label, kind = labels.read(response, self.rule, thinking=self.thinking, words=self.words)
        return label or f"[{kind}]"


def settled_test(task: Any) -> Callable[[str], bool] | None:
    """Return what tells when all filters of a task have read enough of a response.

    Args:
        task: A built lm-eval task.

    Returns:
        A predicate on the beginning of a response; None if a filter is not ours, so that nothing is known.
    """
    chains = [[step() for step in ensemble.filters] for ensemble in task._filters]
    if not chains or any(len(chain) != 1 or not isinstance(chain[0], LabelFilter) for chain in chains):
        return None
    filters = [chain[0] for chain in chains]
    return functools.partial(_all_settled, filters)


def _all_settled(filters: list[LabelFilter], text: str) -> bool:
    return all(each.is_settled(text) for each in filters)
