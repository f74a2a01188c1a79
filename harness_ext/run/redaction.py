"""Secrets out of what is written: a token is given to a command, and must not stand in its record."""

import functools
import re
from collections.abc import Iterable
from typing import Any

HIDDEN = "***"
_NAME = r"(?:hf_|hub_|use_|access_)?(?:auth_)?token|(?:\w+_)?api_?key|password|passwd|secret|headers?|authorization"
_IS_SECRET = re.compile(_NAME, re.IGNORECASE)
# NAME=value and "NAME": value, as in lm-eval's arguments; a value in brackets goes as a whole.
_GIVEN = re.compile(rf"""(?<![\w-])((?:{_NAME})["']?\s*[=:]\s*)(\{{[^}}]*\}}?|"[^"]*"|'[^']*'|[^,\s}}]+)""", re.IGNORECASE)
_FORMS = re.compile(r"\bhf_[A-Za-z0-9]{10,}|\bsk-[\w-]{10,}|(?<=Bearer )[^\s'\",}]+|(?<=//)[^/@\s]+(?=@)")
_MARKS = ("hf_", "sk-", "Bearer ", "//")  # without one of them there is no form to look for, which takes long
_LEAST = 6  # characters of a value that is looked for everywhere: a shorter one stands in other words too


def secrets_in(*settings: Any) -> frozenset[str]:
    """Collect the values of settings (dictionaries) whose names say that they are secret."""
    found: set[str] = set()
    for each in settings:
        for name, value in each.items() if isinstance(each, dict) else ():
            if _is_secret(str(name)):
                found |= {text for text in _strings(value) if len(text) >= _LEAST}
            elif isinstance(value, dict):
                found |= secrets_in(value)
    return frozenset(found)


def hide(value: Any, known: Iterable[str] = ()) -> Any:
    """Return a record with ``***`` for secrets: by the name of a setting, by their form, and those that are known."""
    known = tuple(known)
    if isinstance(value, dict):
        return {
            name: HIDDEN if each and not isinstance(each, bool) and _is_secret(str(name)) else hide(each, known)
            for name, each in value.items()
        }
    if isinstance(value, list | tuple):
        return type(value)(hide(each, known) for each in value) if type(value) in (list, tuple) else value
    if type(value) is not str:
        return value
    for secret in known:
        value = value.replace(secret, HIDDEN)
    return _FORMS.sub(HIDDEN, value) if any(mark in value for mark in _MARKS) else value


def hide_in_command(word: str) -> str:
    """Replace the secrets in a word of a command line, ``--hf_hub_log_args token=…`` among them."""
    return _FORMS.sub(HIDDEN, _GIVEN.sub(rf"\g<1>{HIDDEN}", word))


@functools.lru_cache
def _is_secret(name: str) -> bool:
    return _IS_SECRET.fullmatch(name) is not None


def _strings(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _strings(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _strings(each)
