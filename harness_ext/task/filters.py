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

    The kind stays visible (``"[word]"``) so that samples.jsonl says why an output counts as not following. The arguments
    are those of `labels.read`, as the task YAML gives them.
    """

    def __init__(
        self, rule: str = "lenient", thinking: bool = False, words: Sequence[str] = ("negative", "positive")
    ) -> None:
        labels.read("", rule)  # refuses one that is unknown
        self.rule, self.thinking, self.words = rule, thinking, tuple(words)

    def apply(self, resps: Iterable[Sequence[str]], docs: Sequence[dict]) -> list[str]:
        """Read the first response to each document."""
        read = functools.partial(labels.read, rule=self.rule, thinking=self.thinking, words=self.words)
        return [label or f"[{kind}]" for label, kind in (read(responses[0]) for responses in resps)]

    def is_settled(self, text: str) -> bool:
        """Tell whether this filter makes the same of `text` and of all that begins with it; see `labels.is_settled`."""
        return labels.is_settled(text, self.rule, thinking=self.thinking)


def settled_test(task: Any) -> Callable[[str], bool] | None:
    """Return what tells by the beginning of a response whether all filters of a task have read enough of it.

    None if a filter is not ours, so that nothing is known.
    """
    chains = [[step() for step in ensemble.filters] for ensemble in task._filters]
    if not chains or any(len(chain) != 1 or not isinstance(chain[0], LabelFilter) for chain in chains):
        return None
    return lambda text: all(chain[0].is_settled(text) for chain in chains)
