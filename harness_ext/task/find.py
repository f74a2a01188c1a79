"""Finding and building tasks: lm-eval's TaskManager without its 13-second index.

lm-eval's command line reads 14,683 built-in YAML entries at every start, and passes over a broken
task file in silence, so that the mistake resurfaces as "Tasks not found". Here the built-in ones are
indexed only when one of them is asked for, and a file that does not load is reported with its reason.
"""

import functools
import glob
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lm_eval.tasks
import lm_eval.utils
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from harness_ext.errors import UserError, did_you_mean
from harness_ext.paths import TASKS_DIR
from harness_ext.task.filters import answers_of
from harness_ext.task.prompts import render_completion, render_prompt

# lm-eval compiles a task's template anew for every document, which takes longer than a small model's answer; a compiled one
# has no state.
lm_eval.utils.env.from_string = functools.lru_cache(maxsize=512)(lm_eval.utils.env.from_string)


def build_tasks(
    names: Sequence[str | dict[str, Any]],  # as after lm-eval's --tasks, or all that a YAML file would say
    include_path: str | None = None,  # further folders of tasks, beside our own, separated by colons
    metadata: dict[str, Any] | None = None,  # what lm-eval hands to each task's custom_dataset
) -> list[ConfigurableTask]:
    """Build tasks by name, glob pattern or path of a YAML file; groups and tags are replaced by their members."""
    manager = task_manager([name for name in names if isinstance(name, str)], include_path, metadata)
    wanted = [name for given in names for name in ((isinstance(given, str) and manager.match_tasks([given])) or [given])]
    try:
        # lm-eval advises on every custom dataset how to pass arguments to it; ours need none.
        logging.getLogger("lm_eval.api.task").addFilter(_is_no_advice)
        tasks = list(manager.load(wanted)["tasks"].values())
        for task in tasks:
            answers_of(task)  # checks them
        return tasks
    except UserError:
        raise
    except Exception as error:  # whatever a task file does wrong, its author needs to know what and where
        named = ", ".join(each if isinstance(each, str) else each["task"] for each in wanted)
        raise UserError(f"Task {named} does not build: {type(error).__name__}: {_one_line(error)}") from error


def task_manager(
    names: list[str] | None, include_path: str | None = None, metadata: dict[str, Any] | None = None
) -> TaskManager:
    """Index our tasks, and lm-eval's own only if a name needs them or `names` is None (list them all)."""
    paths: list[str | Path] = [TASKS_DIR, *(include_path.split(":") if include_path else [])]
    for path in paths:
        if not Path(path).is_dir():
            raise UserError(f"--include_path {str(path)!r} is not a folder of task files.")
    manager = TaskManager(include_path=paths, include_defaults=False, metadata=metadata)
    missing = [name for name in names or [] if not _known(manager, name)]
    for name in missing:
        near = did_you_mean(name, manager.all_tasks, most=3, cutoff=0.8)
        if near or name.endswith((".yaml", ".yml")) or any(broken_files(paths)) or not _is_mentioned(name):
            raise _unknown(name, near, paths)
    if missing or names is None:
        print("Indexing lm-eval's built-in tasks (10 to 60 s) ...", file=sys.stderr, flush=True)
        manager = TaskManager(include_path=paths, metadata=metadata)
        for name in missing:
            if not _known(manager, name):
                raise _unknown(name, did_you_mean(name, manager.all_tasks, most=3), paths)
    return manager


def validate(names: Sequence[str | dict[str, Any]], include_path: str | None = None, data_dir: str | None = None) -> None:
    """Build each task and print the first prompt as a model without a chat template would get it."""
    for task in build_tasks(names, include_path, {"data_dir": data_dir} if data_dir else None):
        task.set_config(key="num_fewshot", value=task.config.num_fewshot or 0)
        try:
            document = task.eval_docs[0]
            prompt, answer = render_prompt(task, document), render_completion(task, document)
        except Exception as error:  # a template may raise anything
            raise UserError(f"Task {task.task_name} does not render: {type(error).__name__}: {_one_line(error)}") from error
        print(f"{task.task_name}: {len(task.eval_docs)} documents ({task.eval_docs.info.description})")
        print(f"  prompt {prompt!r}\n  answer {answer!r}")


def broken_files(paths: list[str | Path]) -> Iterator[tuple[Path, str]]:
    """Yield each task file that does not load, with the reason; lm-eval skips these in silence."""
    for root in paths:
        for path in sorted(Path(root).glob("**/*.yaml")):
            try:
                load_yaml(path)
            except Exception as error:  # YAML, missing include, missing function: all are the author's to mend
                yield path, f"{type(error).__name__}: {_one_line(error)}"


def _known(manager: TaskManager, name: str) -> bool:
    return bool(manager.match_tasks([name])) or (name.endswith((".yaml", ".yml")) and Path(name).is_file())


def _is_mentioned(name: str) -> bool:
    """Whether a name, or the longest plain part of a pattern, stands in any of lm-eval's task files.

    Reading 14,575 files takes half a second, parsing them for the index ten to sixty.
    """
    part = max(re.split(r"[*?\[\]]", name), key=len).encode()
    is_pattern = len(part) < len(name.encode())
    wanted = re.compile(re.escape(part) if is_pattern else rb"(?<!\w)" + re.escape(part) + rb"(?!\w)")
    for folder, _, files in os.walk(Path(lm_eval.tasks.__file__).parent):
        for file in files:
            if not file.endswith((".py", ".pyc", ".md")) and wanted.search(Path(folder, file).read_bytes()):
                return True
    return False


def _unknown(name: str, near: str, paths: list[str | Path]) -> UserError:
    if said := "".join(f" {path} does not load: {reason}" for path, reason in broken_files(paths)) or near:
        return UserError(f"Unknown task {name!r}.{said}")
    stem = glob.escape(Path(name).stem)
    mine = next((path for depth in ("", "*/", "*/*/") for path in sorted(Path().glob(f"{depth}{stem}.y*ml"))), None)
    hint = (
        f"There is {mine}: say TASK={mine}." if mine else "A task of your own is named by its file: TASK=folder/task.yaml."
    )
    return UserError(f"Unknown task {name!r}. {hint} `python -m harness_ext ls` lists ours, `ls --all` lm-eval's too.")


def _is_no_advice(record: logging.LogRecord) -> bool:
    return "Custom kwargs can be passed" not in record.getMessage()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500]
