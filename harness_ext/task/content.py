"""What a task is and what it asks, as data that can be hashed: by content, wherever it lies and whatever it is called.

For the run key. Knows lm-eval's task; nothing of models.
"""

import ast
import contextlib
import dataclasses
import functools
import hashlib
import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from harness_ext.keys import hash_of
from harness_ext.paths import ROOT

# Fields of lm-eval's TaskConfig that name things, or say where the documents come from: those are hashed themselves.
NAMES = ("task", "task_alias", "tag")
DATA = (
    "custom_dataset", "dataset_path", "dataset_name", "dataset_kwargs", "training_split", "validation_split", "test_split",
    "process_docs",
)  # fmt: skip
# They stand in the key by themselves: of metadata its version, and what else a task reads there shows in what it asks.
NOT_ASKED = ("metadata", "num_fewshot")


def task_content(config: Any) -> dict[str, Any]:
    """Return all of a ``TaskConfig``, the command line applied, that can change its numbers, functions by their source."""
    asked = [field.name for field in dataclasses.fields(config) if field.name not in (*NAMES, *DATA, *NOT_ASKED)]
    return {name: content(getattr(config, name)) for name in asked}


def requests_hash(
    task: Any, documents: Iterable[tuple[int, dict]], prompts: Iterable[str], template: Callable[..., str] | None
) -> str:
    """Hash all that a model will be asked of numbered documents, and what would be right.

    That is prompts, continuations, settings and targets; `template` renders messages, where there is a chat template.
    """
    digest = hashlib.sha256()
    for (number, document), prompt in zip(documents, prompts, strict=True):
        asked = task.construct_requests(
            doc=document,
            ctx=prompt,
            metadata=(task.task_name, number, task.config.repeats),
            apply_chat_template=template is not None,
            chat_template=template,
        )
        requests = [content(request.args) for request in (asked if isinstance(asked, list) else [asked])]
        right = content(task.doc_to_target(document)) if task.config.doc_to_target is not None else None
        digest.update(hash_of([requests, right]).encode())
    return digest.hexdigest()


def content(value: Any) -> Any:
    """Turn a setting into plain data: a function into its source, an object into its fields or its kind."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, dict):
        return {str(name): content(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [content(each) for each in value]
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    if isinstance(value, functools.partial):
        return [content(value.func), content(value.args), content(value.keywords)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: content(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if callable(value):
        return _function(value)
    return type(value).__qualname__  # its address, which repr() tells, is another each time


def _function(function: Any) -> list[str]:
    """Name a function and hash the code it may use: its own file's and, outside this project, that of files beside it."""
    named = function if hasattr(function, "__qualname__") else type(function)
    try:
        file = Path(inspect.getsourcefile(inspect.unwrap(named)) or "")
    except TypeError:  # it is built in
        return [named.__qualname__]
    files = [file] if file.is_relative_to(ROOT / "harness_ext") else sorted(file.parent.glob("*.py"))
    return [named.__qualname__, _code(tuple((path, path.stat().st_mtime_ns) for path in files if path.is_file()))]


@functools.cache
def _code(files: tuple[tuple[Path, int], ...]) -> str:
    """Hash the code in files as Python runs it, so that comments, docstrings and line breaks do not count."""
    digest = hashlib.sha256()
    for path, _ in files:
        text = path.read_text(encoding="utf-8", errors="replace")
        with contextlib.suppress(SyntaxError, ValueError, RecursionError):  # of a file that nothing imports
            tree = ast.parse(text)
            for node in ast.walk(tree):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
                    del node.body[0]
            text = ast.dump(tree)
        digest.update(f"{path.name}\0{text}\n".encode())
    return digest.hexdigest()
