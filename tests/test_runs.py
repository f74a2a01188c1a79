"""Runs with their answers in arrays: the same as a row at a time."""

import math

import numpy as np
import pytest
from fakeresults import read_outcomes

from harness_ext.paths import ROOT
from harness_ext.results import outcomes, records, runs

WRITTEN = """\
doc,hash,gold,lenient,strict,kind,margin,response
0,a,1,1,,label,0.25,"1, said
twice"
1,b,0,,,word,,good
"""


def test_answers_are_what_a_row_at_a_time_says(tmp_path):
    (tmp_path / "outcomes.csv").write_text(WRITTEN, encoding="utf-8")
    answers = runs.read_answers(tmp_path / "outcomes.csv")
    assert answers.documents == ("a", "b")
    assert answers.labels.tolist() == [1, -1]
    assert answers.correct.tolist() == [True, False]
    assert answers.kinds == ("label", "word")
    assert answers.responses == ("1, said\ntwice", "good")
    assert answers.margins[0] == 0.25
    assert math.isnan(answers.margins[1])
    assert [each.response for each in read_outcomes(tmp_path / "outcomes.csv")] == list(answers.responses)


def test_correct_answers_of_every_published_run_are_as_many_as_its_record_counts(published_runs):
    found = published_runs
    assert len(found) == len(list(ROOT.glob("results/published/*/run.json"))) > 100
    for run in found:
        assert run.answers is not None
        assert np.sum(run.answers.correct) == outcomes.main_counts(run.record)["correct"]


def publish(out, text):
    folder = out / "runs" / "one"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(next(ROOT.glob("results/published/*/run.json")).read_text())
    if text is not None:
        (folder / "outcomes.csv").write_text(text, encoding="utf-8")


def test_run_without_outcomes_has_no_answers(tmp_path):
    publish(tmp_path, None)
    assert runs.read_all(tmp_path)[0].answers is None


@pytest.mark.parametrize(
    "text",
    ["", "doc,hash,gold\n", WRITTEN.replace("margin", "x"), WRITTEN.rsplit(",", 2)[0], WRITTEN.replace("0.25", "x"),
     WRITTEN.replace("b,0", "b,300")],
)  # fmt: skip
def test_damaged_outcomes_are_named_and_left_out(tmp_path, capsys, text):
    publish(tmp_path, text)
    assert runs.read_all(tmp_path) == []
    assert f"Left out {tmp_path / 'runs' / 'one' / 'outcomes.csv'}: " in capsys.readouterr().err


def test_folder_of_each_record_is_named(tmp_path):
    source = next(ROOT.glob("results/published/*--sst2_01--*"))
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "one").symlink_to(source)
    ((folder, record),) = records.read_folders(tmp_path)
    assert folder == tmp_path / "runs" / "one"
    assert record["key"].startswith(source.name.rsplit("--", 1)[1])


def test_published_responses_repeat_no_sentence_of_sst2(shared, published_runs):
    lines = (shared / "data" / "sst2" / "dev.tsv").read_text(encoding="utf-8").splitlines()[1:]
    sentences = [line.split("\t")[0].strip() for line in lines]
    for run in published_runs:
        assert run.answers is not None
        for sentence, response in zip(sentences, run.answers.responses, strict=False):
            assert len(sentence.split()) < 4 or sentence not in response.lower(), run.folder.name
