"""The page that `make report` writes: what is in it, what is not, and what becomes of bad input."""

import base64
import gzip
import hashlib
import json
import re
from collections import Counter

import numpy as np
import pytest
from conftest import ROOT
from pages import HOSTILE, sentence, write_data, write_run

from harness_ext.report import matrix, page
from harness_ext.results import prices, records, runs
from harness_ext.results.standings import entries
from harness_ext.results.tables import visible


def content(html: str) -> dict:
    """What the page's script unpacks."""
    packed = re.search(r'id="payload">([\w+/=]*)<', html)
    assert packed
    return json.loads(gzip.decompress(base64.b64decode(packed[1])))


@pytest.fixture(scope="module", autouse=True)
def without_pictures():
    """They take seconds, and have tests of their own; in test_report_in_browser.py they are drawn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "pictures", lambda *_: [])
        yield


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> str:
    out = tmp_path_factory.mktemp("published")
    (out / "published").symlink_to(ROOT / "results" / "published")
    return page.write_report(out).read_text(encoding="utf-8")


def test_every_published_run_stands_in_the_page_with_what_it_said(published, published_runs):
    found = content(published)
    there = {run.record["key"]: run.answers for run in published_runs if run.answers}
    assert sum(map(len, found["entries"])) == len(found["runs"])
    for run in found["runs"]:
        facts = dict(run["facts"])
        answers = there[facts["key"]]
        gold = found["sets"][run["set"]]["gold"]
        correct = [said == label for said, label in zip(run["said"], gold, strict=True)]
        assert correct == answers.correct.tolist()
        if facts["task"].endswith("_choice"):  # calibrated or not, its labels are what its margins say
            margins = np.array(run["margins"])
            assert np.array_equal(margins[margins != 0] > 0, answers.labels[margins != 0] == 1)
        if run["responses"]:
            said = [found["responses"][number] for number in run["responses"]]
            assert said == [visible(each) for each in answers.responses]


def test_page_of_the_published_runs_has_no_sentence(published, shared):
    sentences = [line.split("\t")[0].strip() for line in (shared / "data/sst2/dev.tsv").open(encoding="utf-8")][1:]
    found = content(published)
    assert found["sets"][0]["texts"] is None
    said = json.dumps([found["runs"], found["pairs"]]) + published
    assert not [each for each in sentences if len(each) > 20 and each in said]


def test_same_runs_make_the_same_bytes(tmp_path):
    write_run(tmp_path, 0)
    write_run(tmp_path, 1, model="other")
    first = page.write_report(tmp_path).read_bytes()
    assert page.write_report(tmp_path).read_bytes() == first
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]


def test_sentences_come_from_data_dir_and_prompts_with_them(tmp_path):
    write_run(tmp_path, 0)
    assert "make report DATA_DIR=folder" in page.write_report(tmp_path).read_text(encoding="utf-8")
    html = page.write_report(tmp_path, str(write_data(tmp_path))).read_text(encoding="utf-8")
    assert "DATA_DIR=folder</code> with" not in html
    assert content(html)["sets"][0]["texts"][7] == sentence(7)
    assert sentence(0) in content(html)["runs"][0]["prompt"]


def test_sentences_come_from_the_log_beside_a_run(tmp_path):
    folder = write_run(tmp_path, 0)
    answers = runs.read_all(tmp_path)[0].answers
    assert answers
    lines = [
        {"doc_id": n, "doc_hash": name, "doc": {"sentence": f"text {n}"}, "target": str(gold), "filter": "lenient"}
        | {"resps": [["1"]], "filtered_resps": ["1"], "acc": 1.0}
        for n, (name, gold) in enumerate(zip(answers.documents, answers.gold, strict=True))
    ]  # fmt: skip
    (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    assert content(page.write_report(tmp_path).read_text(encoding="utf-8"))["sets"][0]["texts"][3] == "text 3"


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_and_answers_stay_text(tmp_path, text):
    write_run(tmp_path, 0, model=text, response=text, not_default={"system": text})
    html = page.write_report(tmp_path).read_text(encoding="utf-8")
    plain = re.sub(r"<script>.*?</script>|<style>.*?</style>", "", html, flags=re.DOTALL)
    assert plain.count("<script") == 1  # the payload
    assert "<img" not in plain
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u200e\u202e\u2066\u2028]", html)
    found = content(html)
    assert visible(text)[:300] in found["responses"]
    assert ["model", visible(text)] in found["runs"][0]["facts"]


def test_script_may_run_only_as_it_was_written(published):
    """The hash in the policy is that of the one script, so that nothing else runs even if it got into the page."""
    (script,) = re.findall(r"<script>(.*?)</script>", published, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in published


def test_loss_history_of_an_adapter_is_shown(tmp_path):
    write_run(tmp_path, 0, adapter="one--64--s0/checkpoint-10")
    folder = tmp_path / "adapters" / "one--64--s0"
    folder.mkdir(parents=True)
    steps = [{"step": 1, "train_loss": 0.7}, {"step": 2, "train_loss": 0.5, "held_out_loss": 0.6, "held_out_score": 0.75}]
    records.write_json(folder / "history.json", {"name": "x", "history": steps})
    assert content(page.write_report(tmp_path).read_text(encoding="utf-8"))["runs"][0]["loss"] == steps


@pytest.mark.parametrize("text", ["{", "[]", '{"history": 3}', '{"history": [{"step": "x"}]}', '{"history": []}'])
def test_damaged_loss_history_is_left_out(tmp_path, text):
    write_run(tmp_path, 0, adapter="one")
    (tmp_path / "adapters" / "one").mkdir(parents=True)
    (tmp_path / "adapters" / "one" / "history.json").write_text(text)
    assert not content(page.write_report(tmp_path).read_text(encoding="utf-8"))["runs"][0]["loss"]


def test_run_without_outcomes_is_on_the_page_and_has_no_documents(tmp_path):
    (write_run(tmp_path, 0) / "outcomes.csv").unlink()
    found = content(page.write_report(tmp_path).read_text(encoding="utf-8"))
    assert found["sets"] == []
    assert "said" not in found["runs"][0]


def test_run_of_which_no_document_was_kept_is_on_the_page(tmp_path):
    outcomes = write_run(tmp_path, 0) / "outcomes.csv"
    outcomes.write_text(outcomes.read_text(encoding="utf-8").splitlines()[0] + "\n", encoding="utf-8")
    assert "said" not in content(page.write_report(tmp_path).read_text(encoding="utf-8"))["runs"][0]


def test_margins_are_those_that_decided(tmp_path):
    write_run(tmp_path, 0, calibration={"slope": 2.0, "intercept": -1.0})
    (answers,) = [run.answers for run in runs.read_all(tmp_path)]
    assert answers
    margins = content(page.write_report(tmp_path).read_text(encoding="utf-8"))["runs"][0]["margins"]
    assert np.allclose(np.array(margins) / 100, 2 * answers.margins - 1, atol=0.00501)


def test_runs_on_other_documents_never_meet(tmp_path):
    for number in range(4):
        write_run(tmp_path, number, hashes="ab"[number % 2])
    board = entries(runs.read_all(tmp_path))
    tables = matrix.matrices(board)
    assert [each.samples for each in tables] == [None, 0] * 2
    assert {frozenset(board[n].name for n in each.numbers) for each in tables} == {
        frozenset({"model 0", "model 2"}),
        frozenset({"model 1", "model 3"}),
    }


def test_pairs_are_those_of_one_number_of_labels_and_of_none(tmp_path):
    for number, samples in enumerate([0, 0, 16, 16, 64]):
        write_run(tmp_path, number, train_samples=samples)
    board = entries(runs.read_all(tmp_path))
    found = {each.samples: Counter(board[n].samples for n in each.numbers) for each in matrix.matrices(board)}
    assert found == {None: {0: 2, 16: 2, 64: 1}, 0: {0: 2}, 16: {0: 2, 16: 2}, 64: {0: 2, 64: 1}}


@pytest.mark.parametrize("named", ["results", "no-such-folder"])
def test_no_run_is_one_line(door, elsewhere, named):
    assert door("report", "-o", named).error == (
        f"Error: No complete run under {named}/runs. Run `make eval` first, or name another folder with OUT=."
    )


def test_damaged_record_is_named_and_left_out(door, tmp_path):
    write_run(tmp_path, 0)
    (write_run(tmp_path, 1) / "run.json").write_text("{")
    done = door("report", "-o", tmp_path)
    assert done.code == 0
    assert f"Left out {tmp_path}/runs/run-1/run.json" in done.stderr
    assert f"Written: {tmp_path}/report.html (" in done.stderr


def test_page_that_cannot_be_written_is_one_line_and_leaves_the_old_one(door, tmp_path):
    write_run(tmp_path, 0)
    (tmp_path / "report.html").mkdir()
    assert "Cannot write to OUT=" in door("report", "-o", tmp_path).error
    assert {file.name for file in tmp_path.iterdir()} == {"runs", "report.html"}


def test_folder_without_these_documents_is_one_line(door, tmp_path):
    write_run(tmp_path, 0, hashes="other ")
    assert "holds none of the documents" in door("report", "-o", tmp_path, "--data_dir", write_data(tmp_path)).error
    assert "dev.tsv" in door("report", "-o", tmp_path, "--data_dir", tmp_path / "nowhere").error


def test_prices_that_are_not_there_are_one_line(door, tmp_path):
    write_run(tmp_path, 0)
    assert "there is no such file" in door("report", "-o", tmp_path, "--prices", tmp_path / "prices.yaml").error


def test_prices_make_a_column(tmp_path):
    write_run(tmp_path, 0)
    (tmp_path / "prices.yaml").write_text("currency: EUR\nmachines: {abacus: 3.6}\n")
    html = page.write_report(tmp_path, priced=prices.read(tmp_path / "prices.yaml")).read_text(encoding="utf-8")
    assert "EUR per 1,000" in html
    assert "EUR per 1,000" not in page.write_report(tmp_path).read_text(encoding="utf-8")


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("pair", ["ink bg", "quiet bg", "accent bg", "ink tint", "ink soft", "quiet soft", "accent soft"])
def test_colours_are_far_enough_apart_to_be_read(theme, pair):
    style = (page.TEMPLATES / "page.css").read_text(encoding="utf-8")
    colours = dict(re.findall(r"--(\w+): (#\w{6})", re.findall(r":root \{(.*?)\}", style, flags=re.DOTALL)[theme]))
    one, other = sorted(luminance(colours[name]) for name in pair.split())
    assert (other + 0.05) / (one + 0.05) >= 4.5  # WCAG 2.2, 1.4.3
