"""A table of the user's own as tasks: what is asked of each text, in the forms in which SST-2 is asked, and as YAML.

All but the question, the data and the names of the labels is the template's: `tasks/sst2_01/_template.yaml`.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from harness_ext.errors import UserError, did_you_mean, writing_to
from harness_ext.keys import hash_of
from harness_ext.paths import TASKS_DIR, as_path
from harness_ext.task import labels, own_data
from harness_ext.task.own_data import OwnData

TEMPLATE = TASKS_DIR / "sst2_01" / "_template.yaml"
FORMS = ("digits", "choice", "words", "words_choice")  # how an answer is asked for; the first goes without saying
_SAYS_NOTHING = re.compile(r"[-+.\d]+|[nyft]", re.IGNORECASE)  # of labels, that no one would answer with
_READ = ("text", "label", "positive", "test", "names")  # of `settled`, what `load_splits` takes
_LONGEST = 30  # characters of a question in a name


def configs(own: OwnData, forms: Sequence[str]) -> list[dict[str, Any]]:
    """Describe a task for each form, as YAML on top of `TEMPLATE` would."""
    for form in forms:
        if form not in FORMS:
            raise UserError(f"TASK={form} is no form of DATA=: choose from {', '.join(FORMS)}.{did_you_mean(form, FORMS)}")
    return [_config(own, form) for form in forms]


def build_configs(own: OwnData, forms: Sequence[str]) -> list[dict[str, Any]]:
    """Describe the same in full, for lm-eval."""
    from lm_eval.tasks._yaml_loader import load_yaml

    return [load_yaml(TEMPLATE) | config for config in configs(own, forms)]


def settled(own: OwnData, form: str = FORMS[0]) -> dict[str, Any]:
    """Return all that makes the same task again, guesses filled in; for an adapter's record."""
    columns = own_data.read(own).columns
    return {
        "data": own.data,
        "text": columns.text,
        "label": columns.label,
        "positive": columns.names[1],
        "test": own.test,
        "question": own.question,
        "form": form,
        "names": list(columns.names),  # of the labels, that of 0 first
        "labels": list(_answers(columns.names)),  # the same as words
    }


def question_of(made: Mapping[str, Any]) -> str:
    """Return the question that is asked of each text, by what `settled` says of the task."""
    says_yes = made["labels"] != made["names"] or made["positive"].casefold() in ("yes", "true")
    said = made["label"] if says_yes else made["positive"]
    return made["question"] or f'Does the label "{said}" fit this text?'


def write(own: OwnData, form: str, file: str, force: bool) -> Path:
    """Write a task as a YAML file that may be edited."""
    path = as_path("OUT_TASK", file)
    if path.suffix not in (".yaml", ".yml"):
        raise UserError(f"OUT_TASK={file} must end in .yaml, as my_tasks/urgent.yaml does.")
    if path.exists() and not force:
        raise UserError(f"OUT_TASK={file} is there already (FORCE=1 writes it anew).")
    (config,) = configs(own, [form])
    with writing_to(path, "OUT_TASK"):
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, config)
    return path


def write_unlabelled(path: Path, question: str, answers: Sequence[str], form: str) -> None:
    """Write a task that asks a question of whatever texts it is given, with words for 0 and 1, as a YAML file."""
    _write(path, {"task": "unlabelled", **_asked(question, answers, form)})


def _write(path: Path, config: dict[str, Any]) -> None:
    include = os.path.relpath(TEMPLATE, path.parent.resolve())
    path.write_text(_dumped({"include": include, **config}), encoding="utf-8")


def _config(own: OwnData, form: str) -> dict[str, Any]:
    made = settled(own, form)
    return {
        "task": _name(own, tuple(made["labels"])) + {"digits": ""}.get(form, f"_{form}"),
        "dataset_kwargs": {"table": own.data, **{name: said for name in _READ if (said := made[name])}},
        **_asked(question_of(made), made["labels"], form),
    }


def _asked(question: str, answers: Sequence[str], form: str) -> dict[str, Any]:
    """Describe how a question is put, and how its answers are read."""
    in_words, is_choice = form.startswith("words"), form.endswith("choice")
    if in_words:
        try:
            labels.check_answers(answers)
        except ValueError as error:
            raise UserError(f"TASK={form}: {error} Ask for digits instead, or rename a label in the table.") from None
    zero, one, question = map(_literal, (*answers, question))
    how = f"{one} or {zero}" if in_words else f"1 for {one} or 0 for {zero}"
    read: dict[str, Any] = {"answers" if in_words else "words": list(answers)}
    rules = [{"name": rule, "filter": [{"function": "label01", "rule": rule, **read}]} for rule in labels.RULES]
    return {
        "doc_to_text": f"{question}\nAnswer with {how}, and nothing else.\n\nText: {{{{sentence}}}}\nAnswer:",
        **({"doc_to_choice": list(answers)} if in_words else {}),
        **({"output_type": "multiple_choice", "generation_kwargs": None} if is_choice else {}),
        "filter_list": None if is_choice else rules,
    }


def _answers(names: tuple[str, str]) -> tuple[str, str]:
    """Return the words for 0 and 1: the labels' own, unless these say nothing."""
    return ("no", "yes") if all(map(_SAYS_NOTHING.fullmatch, names)) else names


def _name(own: OwnData, answers: tuple[str, str]) -> str:
    """Name a task by its question, as the file's name must not count; a hash keeps questions apart."""
    if not own.question:
        return "own"
    slug = re.sub(r"\W+", "_", own.question.casefold()).strip("_")[:_LONGEST].strip("_")
    return f"own_{slug}_{hash_of([own.question, answers])[:4]}"


def _literal(text: str) -> str:
    """Keep Jinja from reading a text as a template."""
    return re.sub(r"\{(?=[{%#])", '{{"{"}}', text)


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as such, and the same list twice where it stands twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _dumped(config: dict[str, Any]) -> str:
    return yaml.dump(config, Dumper=_Dumper, sort_keys=False, default_flow_style=None, allow_unicode=True, width=10_000)
