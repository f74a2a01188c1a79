"""Where a forced choice draws its line: against counts by hand, scikit-learn, scipy, and what margins themselves say."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import SENTENCES, tsv_folder
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu
from sklearn.linear_model import LogisticRegression

from harness_ext.task import calibration
from harness_ext.task.calibration import CONTENT_FREE, UNLABELLED, Boundary, by_batch, by_context, by_labels, worth

MARGINS = st.lists(st.floats(-30, 30).map(lambda margin: round(margin, 3)), min_size=2, max_size=40)


def test_context_makes_the_mean_probabilities_of_empty_texts_even_by_hand():
    # Probabilities of 1: 0.8 and 0.6, mean 0.7; p(1) / 0.7 against p(0) / 0.3 is even at a margin of log(7/3).
    boundary = by_context([math.log(4), math.log(1.5)])
    assert boundary.slope == 1
    assert boundary.intercept == pytest.approx(-math.log(7 / 3))


def test_context_of_a_model_that_is_sure_stays_finite():
    assert math.isfinite(by_context([1000.0]).intercept)
    assert math.isfinite(by_context([-1000.0]).intercept)


def test_batch_puts_the_mean_margin_on_the_line():
    assert by_batch([1.0, 2.0, 6.0]) == Boundary(1.0, -3.0)


def test_labels_are_fitted_as_scikit_learn_fits_them():
    margins, labels = [3.0, 4.0, 5.5, 6.0, 7.0, 9.0], [0, 0, 1, 0, 1, 1]
    column = np.array(margins)[:, None]
    spread = (column - column.mean()) / column.std()
    expected = LogisticRegression().fit(spread, labels).decision_function(spread)
    boundary = by_labels(margins, labels)
    assert boundary.slope > 0
    assert [boundary.slope * margin + boundary.intercept for margin in margins] == pytest.approx(expected.tolist())


def test_labels_never_turn_the_answers_round():
    assert by_labels([1.0, 2.0, 3.0, 4.0], [1, 1, 0, 0]) == Boundary(0.0, 0.0)
    assert by_labels([1.0, 1.0, 1.0, 1.0], [1, 1, 0, 0]) == Boundary(0.0, 0.0)


@given(st.floats(-5, 5), st.floats(0, 3), st.floats(-5, 5))
def test_boundary_says_1_above_it(margin, slope, intercept):
    scored = Boundary(slope, intercept)({"label": 1}, [(-1.0, False), (margin - 1.0, True)])
    moved = slope * ((margin - 1.0) - -1.0) + intercept
    assert scored["acc"] == scored["positive_share"] == int(moved > 0)


@given(MARGINS, st.data())
def test_worth_of_margins_is_the_rank_statistic_and_the_best_of_all_thresholds(margins, data):
    golds = data.draw(st.lists(st.integers(0, 1), min_size=len(margins), max_size=len(margins)))
    found = worth(margins, golds)
    ones = [margin for margin, gold in zip(margins, golds, strict=True) if gold]
    zeros = [margin for margin, gold in zip(margins, golds, strict=True) if not gold]
    if ones and zeros:
        assert found["auroc"] == pytest.approx(mannwhitneyu(ones, zeros).statistic / (len(ones) * len(zeros)))
    else:
        assert found["auroc"] is None

    def score(threshold: float) -> float:
        return sum((margin > threshold) == bool(gold) for margin, gold in zip(margins, golds, strict=True)) / len(margins)

    assert found["best_score"] == pytest.approx(max(map(score, [-math.inf, *margins])))
    assert score(found["best_threshold"]) == found["best_score"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    rows = [(f"{text} {number}", label) for number in range(6) for text, label in SENTENCES]
    return tsv_folder(tmp_path_factory.mktemp("data") / "rows", train=rows)


def _run(door, data: Path, model: Path, out: Path, *words: str) -> tuple[dict[str, Any], list[dict[str, str]]]:
    done = door(
        "run", f"--pretrained={model}", "--tasks=sst2_01_choice", f"--data_dir={data}", f"--output_path={out}", *words
    )
    assert done.code == 0, done.stderr
    (folder,) = (out / "runs").iterdir()
    with (folder / "outcomes.csv").open(encoding="utf-8", newline="") as file:
        return json.loads((folder / "run.json").read_text(encoding="utf-8")), list(csv.DictReader(file))


@pytest.mark.parametrize("how", [["context"], ["batch"], ["labels", "--train_samples=8"]], ids=lambda how: how[0])
def test_run_is_scored_by_its_boundary_and_keeps_the_margins(how, door, data, answering, tmp_path):
    method, *more = how
    plain, before = _run(door, data, answering, tmp_path / "plain")
    record, after = _run(door, data, answering, tmp_path / "moved", f"--calibrate={method}", *more)
    assert [row["margin"] for row in after] == [row["margin"] for row in before]
    moved = record["calibration"]
    labels = [int(moved["slope"] * float(row["margin"]) + moved["intercept"] > 0) for row in after]
    assert [int(row["choice"]) for row in after] == labels
    correct = sum(label == int(row["gold"]) for label, row in zip(labels, after, strict=True))
    assert record["counts"]["none"]["correct"] == correct
    assert record["method"] == "calibrated"
    assert record["self_check"] == plain["self_check"]  # of the prompts that are evaluated
    assert record["margins"] == plain["margins"]  # the order stays
    assert record["key"] != plain["key"]
    assert moved["documents"] == {"context": len(CONTENT_FREE), "batch": min(UNLABELLED, 48), "labels": 8}[method]


def test_several_runs_on_one_model_are_each_calibrated_on_their_own_rows(door, data, answering, tmp_path):
    out = tmp_path / "out"
    done = door(
        "run", f"--pretrained={answering}", "--tasks=sst2_01_choice", f"--data_dir={data}", f"--output_path={out}",
        "--calibrate=labels", "--train_samples=8,16", "--seeds=0,1",
    )  # fmt: skip
    assert done.code == 0, done.stderr
    records = [json.loads(path.read_text(encoding="utf-8")) for path in out.glob("runs/*/run.json")]
    assert {(record["train_samples"], record["seed"]) for record in records} == {(8, 0), (8, 1), (16, 0), (16, 1)}
    assert len({record["experiment"] for record in records}) == 2
    assert len({record["curve"] for record in records}) == 1
    assert len({record["training"]["subset"] for record in records}) == 4


def test_unlabelled_rows_are_of_the_train_split_and_the_evaluation_is_read_once(door, data, answering, tmp_path):
    record, _ = _run(door, data, answering, tmp_path / "out", "--calibrate=batch", "--seeds=3")
    assert record["n"] == 8
    assert (record["train_samples"], record["seed"]) == (0, 3)  # the rows are drawn by it, their labels not used
    read = sum(int(shape.split(" x ")[0]) * times for shape, times in record["batches"].items())
    assert read == 8


@pytest.mark.parametrize(
    ("constant", "how", "other"),
    [("CONTENT_FREE", "context", ("N/A",)), ("UNLABELLED", "batch", 5)],
    ids=["context", "batch"],
)
def test_what_a_boundary_follows_from_is_in_the_key(constant, how, other, door, data, answering, tmp_path, monkeypatch):
    before, _ = _run(door, data, answering, tmp_path / "before", f"--calibrate={how}")
    monkeypatch.setattr(calibration, constant, other)
    after, _ = _run(door, data, answering, tmp_path / "after", f"--calibrate={how}")
    assert after["calibration"]["documents"] != before["calibration"]["documents"]
    assert after["key"] != before["key"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--calibrate=mean"], "CALIBRATE 'mean' is not one of context, batch, labels"),
        (["--calibrate=batch", "--tasks=sst2_01"], "sst2_01 writes"),
        (["--calibrate=labels"], "SAMPLES=64"),
        (["--calibrate=labels", "--train_samples=8", "--shots=4"], "choose one"),
        (["--calibrate=labels", "--train_samples=8", "--adapter=anything"], "an adapter has been trained on its own"),
        (["--calibrate=batch", "--procs=2"], "leave PROCS out"),
        (["--calibrate=batch", "--model=tfidf"], "fitted on labels already"),
        (["--train_samples=8"], "SAMPLES is for what is fitted on labels"),
        (["--rows=sentences"], "nothing is"),
    ],
)
def test_calibration_that_cannot_be_is_one_line(words, said, door, data, answering, tmp_path):
    model = [] if "--model=tfidf" in words else [f"--pretrained={answering}"]
    task = [] if "--tasks=sst2_01" in words else ["--tasks=sst2_01_choice"]
    assert said in door("run", *model, *task, f"--data_dir={data}", f"--output_path={tmp_path}", *words).error
