"""Which version each of our tasks has today, read from their YAML as plain data: nothing of lm-eval is imported."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml

from harness_ext.paths import TASKS_DIR


class _Plain(yaml.SafeLoader):
    """Reads what lm-eval marks as a function by its name."""


_Plain.add_multi_constructor("!", lambda loader, suffix, node: None)


@cache
def of_today() -> dict[str, int]:
    """Return the version of each task that ships here."""
    found = (_read(path) for path in sorted(TASKS_DIR.glob("**/*.yaml")))
    return {each["task"]: each["metadata"]["version"] for each in found if isinstance(each.get("task"), str)}


def is_stale(record: dict[str, Any]) -> bool:
    """Tell whether a run was asked an older version of its task; never of a task that is not ours."""
    asked = (record.get("key_parts") or {}).get("task_version")
    return isinstance(asked, int) and asked < of_today().get(record["task"], 0)


@cache
def _read(path: Path) -> dict[str, Any]:
    said = yaml.load(path.read_text(encoding="utf-8"), _Plain)  # noqa: S506  a SafeLoader
    return (_read(path.parent / said["include"]) if "include" in said else {}) | said
