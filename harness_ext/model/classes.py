"""Which of a classifier's two classes is the task's 1: told by their names or by the user, never guessed in silence."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness_ext.errors import UserError
from harness_ext.model.adapters import head_classes
from harness_ext.model.checkpoints import Checkpoint
from harness_ext.task.class_words import plain, which_is_one


@dataclass(frozen=True)
class Classes:
    """A classifier's two classes."""

    names: tuple[str, str]  # in the model's order
    one: int  # the index of that which is the task's 1
    why: str  # how that is known

    def record(self) -> dict[str, Any]:
        """Return what a run's record says: the names of 0 and 1, the model's index of 1, and why."""
        return {"0": self.names[1 - self.one], "1": self.names[self.one], "one": self.one, "why": self.why}


def decide(names: Sequence[str], asked: str | int | None = None, words: Sequence[str] | None = None) -> Classes:
    """Decide which of a model's classes is 1, or say what the user can do where nothing tells.

    What the user `asked` for, by name or index, comes first, then the task's own words for 0 and 1, if it has some.
    """
    if len(names) != 2:
        raise UserError(f"It has {len(names)} classes; the 0/1 task needs a classifier of two.")
    pair = (str(names[0]), str(names[1]))
    first, second = map(plain, pair)
    if asked is not None:
        by_name = [index for index, name in enumerate((first, second)) if plain(str(asked)) == name]
        found = by_name or [index for index in (0, 1) if str(asked).strip() == str(index)]
        if len(found) != 1:
            raise UserError(f"positive={asked} is not one of its classes, {pair[0]} (0) and {pair[1]} (1).")
        return Classes(pair, found[0], "as asked")
    if words and first != second and [first, second] in ((ours := [plain(word) for word in words]), ours[::-1]):
        return Classes(pair, int([first, second] == ours), "by the task's own words")
    if said := which_is_one(*pair):
        return Classes(pair, *said)
    raise UserError(
        f"Its classes are called {pair[0]} and {pair[1]}, which does not say which of the two is 1: "
        f"say so, as in ARGS='--model_args positive={pair[1]}' (or positive=0, positive=1 for the first, the second)."
    )


def of_checkpoint(base: Checkpoint, adapter: Checkpoint | None = None) -> list[str]:
    """Return the names of the classes that a base, or an adapter on it, tells apart.

    The record beside an adapter made here comes first; peft's own config holds no names, so that else the base's hold.
    """
    if adapter and isinstance(named := adapter.manifest.get("label_names"), dict):
        return [str(named[index]) for index in sorted(named, key=int)]
    stored = base.config.get("id2label")
    names = [str(stored[index]) for index in sorted(stored, key=int)] if isinstance(stored, dict) and stored else []
    count = (head_classes(adapter) if adapter else None) or len(names) or int(base.config.get("num_labels") or 2)
    return names if len(names) == count else [f"LABEL_{index}" for index in range(count)]


def words_of(task: Any) -> list[str] | None:
    """Return a task's own words for 0 and 1, where its filters name some, be it as the answers that they read."""
    steps = [step for chain in task.config.filter_list or [] for step in chain.get("filter", [])]
    named = [words for step in steps for words in (step.get("words"), step.get("answers")) if _are_words(words)]
    return list(map(str, named[0])) if named else None


def _are_words(pair: Any) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and not any(str(word).isdecimal() for word in pair)
