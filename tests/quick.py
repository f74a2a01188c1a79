"""What other libraries do at every call though it changes no result, done once a session; it knows nothing of the product.

A test's run of a tiny model takes 0.1 s, and a third of that went into the same template compiled for each document,
the same fingerprint of a data set that nobody asks for, and walks over the million objects that torch, transformers and
lm-eval leave behind. `settle` is called before each test and does nothing until more modules have been imported.
"""

import copy
import functools
import gc
import importlib.metadata
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

_MANY = 40  # modules: fewer are no reason to collect garbage once more
_seen = 0
draws = False  # whether matplotlib draws


def _templates(module: ModuleType) -> None:
    """lm-eval compiles a task's Jinja templates for every document; a compiled template has no state."""
    module.env.from_string = functools.lru_cache(maxsize=512)(module.env.from_string)


def _fingerprints(module: ModuleType) -> None:
    """A fingerprint names a data set's cached transformations, of which none is made here; pickling for it takes 7 ms."""
    vars(module)["generate_fingerprint"] = lambda dataset: uuid.uuid4().hex[:16]


def _stacks(module: ModuleType) -> None:
    """Each statement keeps the whole stack, pytest's fifty frames included, for the message of an error."""
    plain = module.SqliteDict.__init__

    def without_stacks(self, *args, outer_stack=False, **kwargs):
        plain(self, *args, outer_stack=outer_stack, **kwargs)

    module.SqliteDict.__init__ = without_stacks


def _task_files(module: ModuleType) -> None:
    """lm-eval parses every task's file for each list of tasks; where no function is looked up, the text decides."""
    read: dict[tuple[Path, str], Any] = {}
    plain = module._make_loader

    def make_loader(folder: Path, *, resolve_funcs: bool) -> type:
        loader: Any = plain(folder, resolve_funcs=resolve_funcs)
        if resolve_funcs:
            return loader

        class Once(loader):
            def __init__(self, stream):
                text = stream.read()
                self.key = (folder, text)
                if self.key not in read:
                    super().__init__(text)

            def get_single_data(self):
                if self.key not in read:
                    read[self.key] = super().get_single_data()
                return copy.deepcopy(read[self.key])

            def dispose(self):
                pass

        return Once

    vars(module)["_make_loader"] = make_loader


def _machine(module: ModuleType) -> None:
    """lm-eval describes the machine after each task, by `pip list` and ten other programs."""
    vars(module)["get_pretty_env_info"] = functools.cache(vars(module)["get_pretty_env_info"])


def _pictures(module: ModuleType) -> None:
    """A figure takes 0.3 s to draw, and every training draws one; tests that look at pictures use the fixture `pictures`."""
    plain = module.Figure.savefig

    def savefig(self, file, **options):
        return plain(self, file, **options) if draws or not isinstance(file, Path) else file.touch()

    module.Figure.savefig = savefig


_AFTER: dict[str, Callable[[ModuleType], None]] = {
    "lm_eval.utils": _templates,
    "lm_eval.tasks._yaml_loader": _task_files,
    "datasets.arrow_dataset": _fingerprints,
    "sqlitedict": _stacks,
    "torch.utils.collect_env": _machine,
    "matplotlib.figure": _pictures,
}


def start() -> None:
    """Remember the versions of packages: nothing is installed while tests run, and each look reads the whole METADATA."""
    importlib.metadata.version = functools.cache(importlib.metadata.version)


def settle() -> None:
    """Let the garbage collector pass over what modules have made since the last time, and quicken those that came in."""
    global _seen
    for name in [name for name in _AFTER if name in sys.modules]:
        _AFTER.pop(name)(sys.modules[name])
    if len(sys.modules) - _seen > _MANY:
        _seen = len(sys.modules)
        gc.collect()
        gc.freeze()
