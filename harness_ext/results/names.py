"""What an experiment is called on the leaderboard: words that people can type, the same as long as nothing is called alike.

Knows records; nothing of scores.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

Record = dict[str, Any]
DEFAULT_TASK = "sst2_01"  # the only one that goes without saying
_OWN = re.compile(r"own(_|$)")  # what DATA= and `make task` call tasks
_FORM = re.compile(r"(?:^own|_[0-9a-f]{4})_((?:words_)?choice|words)$")  # in which such a task asks, other than in digits
_OF_ROWS = re.compile(r", \d+ of \d+$")  # behind the name of a table
_LONG = 20  # characters that are shown of what someone has written


def settings_text(not_default: dict[str, Any]) -> str:
    """Say what was asked for that is no default, as in ``4 shots · system "Be brief." · float32``."""
    return " · ".join(_setting(name, value) for name, value in not_default.items())


def _setting(name: str, value: Any) -> str:
    words, said = name.replace("_", " "), str(value)
    if isinstance(value, bool):
        return words if value else f"no {words}"
    said = f"{said[:_LONG]}…" if len(said) > _LONG else said
    shots = f"{said} shot{'s' * (value != 1)}"
    forms = {"shots": shots, "system": f'system "{said}"', "dtype": said, "engine": f"{said} engine"}
    return forms.get(name, f"{words} {said}")


def is_own(record: Record) -> bool:
    """Tell whether a run is on a table of the user's own, by the task's name, which DATA= and `make task` give it."""
    return _OWN.match(record["task"]) is not None


def form_of(record: Record) -> str:
    """Return in which form a run was asked, ``choice``, ``words`` or ``words_choice``; empty for digits, as by default."""
    if is_own(record):
        return next(iter(_FORM.findall(record["task"])), "")
    return "" if record["task"] == DEFAULT_TASK else record["task"].removeprefix(f"{DEFAULT_TASK}_")


def model_of(record: Record) -> str:
    """Name the model, and how it is quantised."""
    quantisation = record.get("quantisation")
    return f"{record['model']} ({quantisation})" if quantisation else record["model"]


def labels_of(record: Record) -> int | str | None:
    """Return how many labels a run has used: a number, "all", or None where no one knows."""
    if record["model"] == "tiny" and not record.get("train_samples"):
        return "all"  # `make tiny` has trained it on the whole train split
    if record.get("method") == "classifier":
        return None  # made elsewhere
    return record.get("train_samples")


def method_text(record: Record) -> str:
    """Say how a model is made to answer; nothing where it is only asked, or the model's name says it."""
    method, recipe = record.get("method"), record.get("recipe")
    step = re.search(r"/checkpoint-(\d+)$", record.get("adapter") or "")
    at_step = f" at step {step[1]}" if step else ""
    if recipe:
        return f"LoRA {recipe}{at_step}"
    if method == "lora":
        return f"adapter {record.get('adapter')}"
    if method == "calibrated":
        way = str((record.get("not_default") or {}).get("calibrated", "by labels"))
        return "calibrated" if way == "by labels" else f"calibrated {way}"
    return method if method in ("examples", "probe") else ""


def settings_of(record: Record) -> dict[str, Any]:
    """Return what was asked for that is no default, but what the method says, and the seed."""
    said = record.get("not_default") or {}
    return {name: value for name, value in said.items() if name not in ("calibrated", "seed")}


def names(records: Sequence[Record], stale: Sequence[bool]) -> list[str]:
    """Name experiments, of each of which one record is given; no two alike.

    A name has model, method, number of labels and task; what else differs is added only where two would be called the same,
    settings first and hashes last. A run of part of the documents or of an older task says so always, so that it never
    takes a whole one's name.
    """
    found = [_plain_name(record, old) for record, old in zip(records, stale, strict=True)]
    details = [_details(record) for record in records]
    for detail in dict.fromkeys(detail for each in details for detail in each):
        alike: dict[str, list[int]] = defaultdict(list)
        for number, name in enumerate(found):
            alike[name].append(number)
        for group in alike.values():
            texts = [details[number].get(detail, "") for number in group]
            for number, text in zip(group, texts, strict=True):
                if text and len(set(texts)) > 1:
                    found[number] += f" ({text})"
    return found


def _plain_name(record: Record, is_old: bool) -> str:
    how, samples = method_text(record), labels_of(record)
    said = [f"{model_of(record)} + {how}" if how else model_of(record)]
    if samples and not (samples == "all" and record["model"] in ("majority", "tiny")):
        said.append(f"{samples} labels")
    if is_own(record):
        said.append(_OF_ROWS.sub("", str(record.get("data"))))
    said += filter(None, [form_of(record)])
    if record["n"] < record["n_available"]:
        said.append(f"{record['n']} of {record['n_available']}")
    if is_old:
        said.append(f"task version {(record.get('key_parts') or {}).get('task_version')}")
    return ", ".join(said)


def _details(record: Record) -> dict[str, str]:
    """What may tell two experiments of one name apart, the most telling first."""
    parts, made, settings = (record.get(name) or {} for name in ("key_parts", "training", "settings"))
    return {
        "settings": settings_text(settings_of(record)),
        "task": record["task"],
        "data": str(record.get("data")),
        "dtype": str(settings.get("dtype") or ""),
        "device": str(settings.get("device") or ""),
        "steps": f"{made['optimiser_steps']} steps" if made.get("optimiser_steps") else "",
        **_texts((name, value) for name, value in (made.get("recipe_settings") or {}).items() if name != "steps"),
        **_texts((parts.get("versions") or {}).items()),
        "experiment": str(record.get("experiment"))[:6],
        "key": record["key"],
    }


def _texts(items: Iterable[tuple[str, Any]]) -> dict[str, str]:
    return {name: f"{name.replace('_', ' ')} {value}" for name, value in items}
