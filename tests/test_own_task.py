"""Someone's own table from file to score: DATA= is a task as any other, and so is the YAML that `make task` writes."""

import json
import random
from pathlib import Path

import pandas
import pytest
from training import SHORT, only_adapter, train

from harness_ext import evaluate
from harness_ext.errors import UserError
from harness_ext.results.records import read_runs
from harness_ext.task.find import build_tasks
from harness_ext.task.own_data import OwnData
from harness_ext.task.own_task import FORMS, build_configs, configs, write
from harness_ext.task.prompts import render_completion, render_prompt

THINGS = ("Server", "Café", "Invoice", "Printer 🖨️", "Login", "Parcel", "Garden gate", "Lift")
SAID = ("no rush, “thanks”", "please\nhurry 🔥!")
ROWS = [(f"{thing} no. {n} — {SAID[n % 2]}", ("Normal", "Urgent")[n % 2]) for thing in THINGS for n in range(10)]
HOSTILE = 'Is {{sentence}} {% raw %} {# no #} {{{urgent}}}?\n"Really", it\'s $HOME 🔥'


@pytest.fixture
def tickets(elsewhere):
    """The file of a table in natural case, in the working folder."""
    pandas.DataFrame(ROWS, columns=["Message", "Priority"]).to_csv("tickets.csv", index=False)
    return "tickets.csv"


def own(tickets, **asked):
    return OwnData(tickets, **{"positive": "Urgent", **asked})


def asked(tickets, *more):
    return ["--data", tickets, "--positive=urgent", "--question=Is this ticket urgent?", *more]


@pytest.mark.parametrize(
    ("form", "answer", "completion"),
    [("digits", "1 for Urgent or 0 for Normal", "1"), ("words", "Urgent or Normal", "Urgent")],
)
@pytest.mark.parametrize("choice", [False, True])
def test_prompt_is_the_question_and_the_text_and_each_form_asks_for_its_answer(form, answer, completion, choice, tickets):
    name = {"digits": "choice", "words": "words_choice"}[form] if choice else form
    (task,) = build_tasks(build_configs(own(tickets, question="Is this ticket urgent?"), [name]))
    assert render_prompt(task, {"sentence": "{{x}}\n🔥", "label": 1}) == (
        f"Is this ticket urgent?\nAnswer with {answer}, and nothing else.\n\nText: {{{{x}}}}\n🔥\nAnswer:"
    )
    assert render_completion(task, {"sentence": "x", "label": 1}) == f" {completion}"
    assert ("multiple_choice" if choice else "generate_until") == task.OUTPUT_TYPE


def test_question_is_text_whatever_stands_in_it_in_yaml_too(tickets, tmp_path):
    table = own(tickets, question=HOSTILE)
    file = write(table, "digits", str(tmp_path / "my_tasks" / "urgent.yaml"), force=False)
    for names in (build_configs(table, ["digits"]), [str(file)]):
        (task,) = build_tasks(names)
        assert render_prompt(task, {"sentence": "x", "label": 1}).startswith(f"{HOSTILE}\nAnswer with 1 for Urgent")


@pytest.mark.parametrize("labels", [(0, 1), ("no", "yes")])
def test_labels_that_say_nothing_are_asked_for_as_yes_and_no(labels, elsewhere):
    marks = [labels[n % 2] for n in range(80)]
    pandas.DataFrame({"text": [text for text, _ in ROWS], "urgent": marks}).to_csv("t.csv", index=False)
    (config,) = configs(OwnData("t.csv"), ["words"])
    assert config["doc_to_text"].startswith('Does the label "urgent" fit this text?\nAnswer with yes or no, and')
    assert config["doc_to_choice"] == ["no", "yes"]


def test_name_of_a_task_is_never_one_of_ours_and_tells_questions_apart(tickets):
    asks = [own(tickets, question=question) for question in ("sst2_01", "SST2 01", None)]
    names = [config["task"] for each in asks for config in configs(each, FORMS)]
    assert len(set(names)) == len(names)
    assert all(name == "own" or name.startswith("own_") for name in names)


def test_words_that_cannot_be_told_apart_are_refused(elsewhere):
    rows = [(text, ("urgent", "Urgent indeed")[n % 2]) for n, (text, _) in enumerate(ROWS)]
    pandas.DataFrame(rows, columns=["text", "label"]).to_csv("t.csv", index=False)
    with pytest.raises(UserError, match=r"cannot be told apart.*Ask for digits"):
        configs(OwnData("t.csv", positive="urgent"), ["words"])


def test_task_file_is_not_overwritten_unless_that_is_wanted(tickets, door):
    flags = ("task", "--data", tickets, "--positive=urgent", "--out_task", "mine/urgent.yaml")
    assert door(*flags).code == 0
    assert "is there already (FORCE=1" in door(*flags).error
    assert door(*flags, "--force").code == 0
    assert "must end in .yaml" in door(*flags[:-1], "urgent.csv").error
    assert "DATA is missing" in door("task", *flags[4:]).error


def test_run_is_the_same_by_data_by_yaml_in_another_order_format_and_name(tickets, door, answering):
    def key(*flags):
        done = door("doctor", "--pretrained", answering, "--json", *flags)
        assert done.code == 0, done.stderr
        return [check["said"] for check in json.loads(done.stdout)["checks"] if check["name"] == "folder"]

    first = key(*asked(tickets))
    assert door("task", *asked(tickets), "--out_task", "mine/urgent.yaml").code == 0
    shuffled = random.Random(0).sample(ROWS, len(ROWS))
    frame = pandas.DataFrame(shuffled, columns=["Message", "Priority"])
    frame.to_json("other.jsonl", orient="records", lines=True)
    assert key("--tasks", "mine/urgent.yaml") == key(*asked("other.jsonl")) == first
    frame[:40].to_csv("fewer.csv", index=False)
    assert key(*asked("fewer.csv")) != first


def test_run_names_its_data_and_says_what_should_be_known(tickets, door, answering):
    done = door("run", "--pretrained", answering, *asked(tickets, "--tasks=digits,choice"))
    assert done.code == 0, done.stderr
    written, chosen = sorted(read_runs(Path("results")), key=lambda run: run["task"])
    assert (written["data"], written["n"]) == (f"tickets.csv, {written['n']} of 80", written["n_available"])
    assert chosen["task"] == f"{written['task']}_choice"
    assert written["data_fingerprint"] == chosen["data_fingerprint"]
    assert written["train_overlap"] == 0
    assert written["data"] in done.stdout
    notes = done.stderr.splitlines()
    assert "tickets.csv: texts from 'Message', labels from 'Priority' (else say TEXT=, LABEL=)" in notes
    assert sum("always saying" in line for line in notes) == 1
    assert sum("can be told apart from" in line for line in notes) == 1
    assert door("show", "--run", written["key"]).stdout.count("hurry") > 0, "its texts are in its own log"


def test_from_python_a_baseline_takes_a_table_and_a_share(tickets):
    run = evaluate(backend="tfidf", data=tickets, positive="Urgent", test=0.3, samples=16)
    assert run.score == 1.0, "one word tells"
    assert run.record["data"] == f"tickets.csv, {run.record['n']} of 80"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--data=tickets.csv", "--data_dir=x"), "leave one of them out"),
        (("--question=Why?",), "QUESTION is about a table of your own"),
        (("--data=tickets.csv", "--positive=urgent", "--tasks=word"), "TASK=word is no form of DATA=: choose from digits"),
        (("--data=ticket.csv",), "DATA=ticket.csv is no file. Did you mean tickets.csv?"),
        (("--data=tickets.csv", "--positive=never"), "POSITIVE=never is neither 'Normal' nor 'Urgent'"),
    ],
)
def test_mistake_ends_each_command_in_one_line(flags, said, tickets, door):
    assert said in door("run", "--pretrained=tiny", *flags).error
    assert said in train("--model=tiny-base", *(flag.replace("--tasks", "--task") for flag in flags)).error
    assert said in door("validate", "--tasks=", *flags).error


def test_validate_prints_the_prompt_of_each_form(tickets, door):
    said = door("validate", "--tasks=digits,words_choice", *asked(tickets)).stdout
    assert said.count("Is this ticket urgent?") == 2
    assert f"of {len(ROWS)})" in said


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "question"), [("tiny", ["--question=Is it urgent?"]), ("tiny", []), ("encoder", [])])
def test_adapter_is_scored_on_its_table_as_it_was_trained_and_says_when_that_has_changed(recipe, question, tickets, door):
    flags = ["--data", tickets, "--positive=urgent", "--task=choice", "--test=0.4", *question]
    done = train("--model=tiny-base", f"--recipe={recipe}", *flags, *SHORT)
    assert done.code == 0, done.stderr
    folder, made = only_adapter(Path("results"))
    assert made["label_names"] == {"0": "Normal", "1": "Urgent"}
    assert "0 (Normal) or 1 (Urgent)" in (folder / "README.md").read_text()
    said = door("run", "--adapter", folder)
    assert said.code == 0, said.stderr
    assert "was trained on" not in said.stderr
    (run,) = read_runs(Path("results"))
    (task,) = build_tasks(build_configs(own(tickets, test="0.4"), ["digits"]))
    assert (run["task"], run["n"], run["trained_on"]) == (made["task"], len(task.eval_docs), None)
    assert run["task"].endswith("_choice")
    with Path(tickets).open("a") as file:
        file.writelines(f"Something new {n},Urgent\n" for n in range(9))
    assert "other rows than it has now" in door("run", "--adapter", folder).stderr
    Path(tickets).rename("moved.csv")
    assert "which is not there: say where with DATA=" in door("run", "--adapter", folder).error
    assert door("run", "--adapter", folder, "--data=moved.csv").code == 0
