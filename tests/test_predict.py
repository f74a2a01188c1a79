"""Texts without labels in, the same rows with a model's answers out: in order, unchanged, once, and whatever happens."""

import contextlib
import csv
import json
import math
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pandas
import pytest
from builders import SENTENCES, build_model
from fakeserver import FakeServer, chat
from filelock import FileLock
from training import SHORT, only_adapter, train

from harness_ext import evaluate, outcomes
from harness_ext.run import chunks

ASK = "--question=Is it good?"
TEXTS = [text for text, _ in SENTENCES]
ODD = [
    "",
    "  ",
    'say "so", or; not',
    "two\nlines",
    "a\rcarriage\r\nreturn",
    "warm 🔥 “café”",
    "  padded ",
    "0",
    "=1+1",
    "null",
]


def write(name="new.csv", texts=(*TEXTS, *ODD, *TEXTS), **options):
    frame = pandas.DataFrame({"id": [f"{n:03}" for n in range(len(texts))], "body": texts, "": "", "more": 1.0})
    frame.to_csv(name, index=False, quoting=csv.QUOTE_ALL, **options)
    return frame.astype(str).replace("nan", "")


def read(name="new-answers.csv", **options):
    with open(name, encoding="utf-8", newline="") as file:
        return pandas.read_csv(file, dtype=str, keep_default_na=False, **options)


@pytest.fixture
def predict(door, answering, elsewhere):
    """Call the command on the answering model; what it said comes back."""

    def call(*flags, model=("--pretrained", answering), ask=(ASK,), data="new.csv"):
        return door("predict", "--data", data, *model, *ask, *flags)

    return call


def labelled():
    """Write the texts with labels as the test part of a table, and say so."""
    for name, texts in (("train.csv", [f"{text}, again" for text in TEXTS]), ("test.csv", TEXTS)):
        pandas.DataFrame({"text": texts, "label": ["no", "yes"] * 4}).to_csv(name, index=False)
    return {"data": "train.csv", "test": "test.csv"}


def made(done):
    assert done.code == 0, done.stderr
    return done.stderr


def by_text(folder):
    """Return what a run said of each document, with its text, from lm-eval's own log."""
    log = [json.loads(line) for line in (folder / "samples.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]
    texts = {line["doc_id"]: line["doc"]["sentence"] for line in log}
    return [(texts[row["doc"]], row) for _, row in outcomes(folder).iterrows()]


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(chunks, "ROWS", 7)


def test_rows_come_back_as_they_were_in_order_with_answers_behind_them(predict, small_chunks):
    before = write()
    said = made(predict())
    after = read()
    assert list(after.columns[-3:]) == ["label", "probability", "kind"]
    assert after.iloc[:, :4].to_numpy().tolist() == before.to_numpy().tolist()
    empty = [not text.strip() for text in before["body"]]
    assert list(after["kind"] == "empty text") == empty
    asked = after[~pandas.Series(empty)]
    assert set(asked["label"]) == {"yes", "no"}
    assert list(asked["label"] == "yes") == [float(each) > 0.5 for each in asked["probability"]]
    assert asked.groupby("body")[["label", "probability"]].nunique().max().max() == 1, "the same text, the same answer"
    counts = asked["label"].value_counts()
    said_last = f"26 rows: {counts['yes']} yes, {counts['no']} no; without a label 2 empty text. Written: new-answers.csv\n"
    assert said.endswith(said_last)
    assert sorted(os.listdir()) == ["new-answers.csv", "new.csv"], "nothing of its work is left, and no result"


@pytest.mark.parametrize("form", ["digits", "choice"])
def test_answers_are_those_of_an_evaluation_of_the_same_texts(form, predict, answering):
    write(texts=TEXTS)
    run = evaluate(answering, **labelled(), question="Is it good?", task=form)
    made(predict("--tasks", form))
    found = read().set_index("body")
    rule = "lenient" if form == "digits" else "choice"
    for text, row in by_text(run.folder):
        answer = found.loc[text]
        assert answer["label"] == ("no", "yes")[row[rule]]
        assert float(answer["probability"]) == pytest.approx(1 / (1 + math.exp(-row["margin"])), rel=1e-4)


def test_classifier_needs_no_question_and_gives_the_names_of_its_classes(predict, elsewhere):
    names = {"id2label": {0: "Positive", 1: "Negative"}, "label2id": {"Positive": 0, "Negative": 1}}
    folder = build_model(elsewhere / "classifier", "bert", head="SequenceClassification", **names)
    write(texts=TEXTS)
    made(predict(model=("--pretrained", folder), ask=()))
    run = evaluate(folder, **labelled())
    ones = outcomes(run)["lenient"].sum()
    found = read()
    assert set(found["label"]) <= {"Positive", "Negative"}
    assert (found["label"] == "Positive").sum() == ones
    assert list(found["label"] == "Positive") == [float(each) > 0.5 for each in found["probability"]]


def test_row_without_a_label_says_why_and_a_server_tells_no_probability(predict):
    def answer(number, body):
        return chat(
            {"a small wonder": "1", "funny and warm": "yes"}.get(body["messages"][-1]["content"].split("Text: ")[1][:14], "")
        )

    write(texts=["a small wonder", "funny and warm", "dull"])
    with FakeServer(answer) as server:
        backend = ("--model=local-chat-completions", f"--base_url={server.url}", "--pretrained=name")
        said = made(predict(model=backend))
    assert read()[["label", "probability", "kind"]].to_numpy().tolist() == [
        ["yes", "", "label"],
        ["", "", "word"],
        ["", "", "empty"],
    ]
    assert "3 rows: 1 yes, 0 no; without a label 1 empty, 1 word." in said


def test_json_lines_keep_their_values(predict):
    rows = [
        {"body": text, "n": n, "deep": {"a": [n, None]}, "label": True} for n, text in enumerate((*TEXTS, "", "é\u2028"))
    ]
    Path("new.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made(predict("--text=BODY", data="new.jsonl"))
    after = [json.loads(line) for line in Path("new-answers.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]
    assert [{name: row[name] for name in rows[0]} for row in after] == rows
    assert [row["predicted_kind"] for row in after][7:9] == ["label", "empty text"]
    assert (after[8]["predicted_label"], after[8]["predicted_probability"]) == (None, None)
    assert isinstance(after[0]["predicted_probability"], float)


@pytest.mark.parametrize(("separator", "name"), [(";", "new.csv"), ("\t", "new.tsv")])
def test_separator_is_that_of_the_table(separator, name, predict):
    write(name, TEXTS, sep=separator)
    made(predict(data=name))
    assert list(read(f"new-answers{name[3:]}", sep=separator)["body"]) == TEXTS


def test_table_may_be_one_column_and_the_first_rows_can_be_tried(predict):
    Path("new.csv").write_text("whatever\n" + "\n".join(TEXTS[:5]) + "\n")
    made(predict("--limit=2", "--out_file=few.jsonl"))
    assert [json.loads(line)["whatever"] for line in Path("few.jsonl").read_text().splitlines()] == TEXTS[:2]


def test_task_file_says_question_and_names(predict, door):
    pandas.DataFrame(
        {"text": [f"{text} {n}" for n in range(4) for text in TEXTS], "mark": ["Urgent", "Normal"] * 16}
    ).to_csv("own.csv", index=False)
    own = ("--data=own.csv", "--positive=Urgent", "--text=text", "--label=mark", "--question=Is it?", "--tasks=choice")
    made(door("task", *own, "--out_task=mine.yaml"))
    Path("own.csv").unlink()
    write(texts=TEXTS)
    made(predict(ask=("--tasks=mine.yaml",)))
    assert set(read()["label"]) == {"Urgent", "Normal"}
    made(predict("--force", ask=("--tasks=sst2_01",)))
    assert set(read()["label"]) == {"positive", "negative"}


MISTAKES = {
    "no data": (("--data=",), "DATA is missing"),
    "no file": (("--data=absent.csv",), "DATA=absent.csv is no file"),
    "no question": ((), "What is asked of each text? Say it with QUESTION="),
    "two questions": (("--tasks=sst2_01", ASK), "TASK=sst2_01 has a question of its own"),
    "no such column": ((ASK, "--text=bodi"), "TEXT=bodi: new.csv has no such column. Did you mean body?"),
    "no such task": (("--tasks=sst2_O1",), "Unknown task"),
    "a group": (("--tasks=sst2_prompts",), "TASK=sst2_prompts is not one task"),
    "a list": ((ASK, "--seeds=1,2"), "one model one question"),
    "labels": ((ASK, "--train_samples=8", "--calibrate=labels"), "leave SAMPLES out"),
    "examples": ((ASK, "--shots=2"), "leave SHOTS out"),
    "a label": ((ASK, "--label=more"), "leave LABEL out"),
    "a baseline": ((ASK, "--model=tfidf"), "BACKEND=tfidf is fitted on labels"),
    "a probe": ((ASK, "--model=probe"), "BACKEND=probe is fitted on labels"),
    "results": ((ASK, "--output_path=x"), "where its answers go with OUT_FILE="),
    "another kind": ((ASK, "--out_file=x.xlsx"), "must end in .csv, .tsv, .jsonl"),
    "its own data": ((ASK, "--out_file=new.csv", "--force"), "is DATA itself"),
    "what is there": ((ASK, "--out_file=old.csv"), "is there already: choose another, or replace it with FORCE=1"),
    "a folder that cannot be": (
        (ASK, "--out_file=old.csv/x.csv"),
        "Cannot write to OUT_FILE=old.csv/x.csv: Not a directory",
    ),
}


@pytest.mark.parametrize(("flags", "said"), MISTAKES.values(), ids=MISTAKES)
def test_mistake_ends_in_one_line_and_leaves_nothing(flags, said, predict):
    write(texts=TEXTS)
    Path("old.csv").write_text("mine")
    assert said in predict(*flags, ask=()).error
    assert sorted(os.listdir()) == ["new.csv", "old.csv"]
    assert Path("old.csv").read_text() == "mine"


def test_other_process_at_the_same_file_is_refused(predict):
    write(texts=TEXTS)
    with FileLock(Path(".new-answers.csv.parts", "lock")):
        assert "is being made by another process" in predict().error
    made(predict())


def full(*args):
    raise OSError(28, "No space left on device")


def test_full_disk_leaves_no_half_file_and_the_same_command_asks_nothing_again(predict, small_chunks, monkeypatch):
    write()
    with monkeypatch.context() as patch:
        patch.setattr(chunks, "_answers", full)
        assert "Cannot write to OUT_FILE=new-answers.csv: No space left on device" in predict().error
    assert sorted(os.listdir()) == [".new-answers.csv.parts", "new.csv"]
    with monkeypatch.context() as patch:
        patch.setattr("harness_ext.run.worker.LocalWorker.ready", full)
        made(predict())
    assert len(read()) == 26


def test_force_with_nothing_to_replace_forgets_what_was_kept(predict, small_chunks, monkeypatch):
    write()
    with monkeypatch.context() as patch:
        patch.setattr(chunks, "_answers", full)
        assert predict().code == 2
    for kept in Path(".new-answers.csv.parts").glob("runs/*/outcomes.csv"):
        kept.write_text("damaged")
    assert "are damaged: delete it" in predict().error
    made(predict("--force"))
    assert len(read()) == 26


@pytest.mark.parametrize("form", ["digits", "choice"])
def test_text_that_is_too_long_has_no_label_and_the_others_have(form, predict, small_chunks):
    write(texts=[*TEXTS, "word " * 2000, "dull"])
    assert "without a label 1 too long." in made(predict("--tasks", form))
    after = read()
    assert list(after["kind"] == "too long") == [*[False] * 8, True, False]
    assert list(after["label"] == "") == list(after["kind"] == "too long")


def test_text_that_is_too_long_for_a_classifier_has_no_label(predict, elsewhere):
    names = {"id2label": {0: "No", 1: "Yes"}, "label2id": {"No": 0, "Yes": 1}}
    folder = build_model(elsewhere / "classifier", "bert", head="SequenceClassification", **names)
    write(texts=["word " * 2000, "dull"])
    made(predict(model=("--pretrained", folder), ask=()))
    assert list(read()["kind"]) == ["too long", "label"]


def start(*flags):
    command = [sys.executable, "-m", "harness_ext", "predict", *map(str, flags)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def answers_in(parts):
    """Count what is kept of the chunk that is being asked."""
    for path in parts.glob("unfinished/*/answers*.db"):
        with contextlib.suppress(sqlite3.Error), sqlite3.connect(f"file:{path}?mode=ro", uri=True) as cache:
            return cache.execute("SELECT count(*) FROM unnamed").fetchone()[0]
    return 0


@pytest.mark.slow
@pytest.mark.parametrize("form", ["digits", "words_choice"])
def test_killed_and_called_again_it_ends_with_the_same_file_and_asks_no_text_twice(form, predict, answering):
    write(texts=[f"{text}, number {n}" for n in range(140) for text in TEXTS])  # 1,000 and 120
    flags = ("--batch_size=1", f"--tasks={form}")
    parts = Path(".new-answers.csv.parts")
    ends = {signal.SIGKILL: lambda: answers_in(parts) > 300, signal.SIGTERM: lambda: any(parts.glob("runs/*/run.json"))}
    for end, is_time in ends.items():
        process = start("--data=new.csv", "--pretrained", answering, ASK, *flags)
        deadline = time.monotonic() + 60
        while not is_time():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(end)
        process.communicate(timeout=60)
        assert not Path("new-answers.csv").exists()
    first = json.loads(next(parts.glob("runs/*/run.json")).read_text())
    assert first["answers_resumed"] >= 150
    made(predict(*flags))
    killed = Path("new-answers.csv").read_bytes()
    made(predict(*flags, "--force"))
    assert Path("new-answers.csv").read_bytes() == killed
    assert "" not in set(read()["probability"])


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["tiny", "encoder"])
def test_adapter_is_asked_as_it_was_trained_and_gives_its_datas_labels(recipe, door, elsewhere):
    rows = {"Message": [f"{text} {n}" for n in range(8) for text in TEXTS], "urgent": ["0", "1"] * 32}
    pandas.DataFrame(rows).to_csv("tickets.csv", index=False)
    asked = ("--data=tickets.csv", "--task=choice", "--question=Is it urgent?")
    assert train("--model=tiny-base", f"--recipe={recipe}", *asked, *SHORT).code == 0
    folder, _ = only_adapter(Path("results"))
    made(door("run", "--adapter", folder))
    (file,) = Path("results", "runs").glob("*/outcomes.csv")
    expected = by_text(file.parent)
    Path("tickets.csv").unlink()
    pandas.DataFrame({"Message": [text for text, _ in expected], "other": "x y"}).to_csv("new.csv", index=False)
    made(door("predict", "--adapter", folder, "--data=new.csv"))
    found = read().set_index("Message")
    for text, row in expected:
        answer = found.loc[text]
        assert answer["label"] == str(row.iloc[3])
        assert float(answer["probability"]) == pytest.approx(1 / (1 + math.exp(-row["margin"])), rel=1e-4)
