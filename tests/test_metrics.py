"""Metrics against hand counts and scikit-learn."""

import math
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.filters import build_filter_ensemble
from sklearn.metrics import accuracy_score, matthews_corrcoef

from harness_ext.task.filters import LabelFilter, read_documents
from harness_ext.task.find import build_tasks
from harness_ext.task.metrics import INVALID, acc_following, mcc, positive_share, score_document


def test_label_filter_keeps_the_kind_visible():
    responses = [[" 1"], ["positive"], ["<think>0"], [""], ["maybe"]]
    assert LabelFilter("lenient").apply(responses, [{}] * 5) == [
        "1",
        "[word]",
        "[unfinished_thinking]",
        "[empty]",
        "[other]",
    ]


def test_label_filter_unknown_rule_is_an_error_when_the_task_is_built():
    with pytest.raises(ValueError, match="Unknown rule"):
        LabelFilter("loose")


def test_filters_of_our_tasks_read_no_documents_others_may():
    ours = build_tasks(["sst2_01_mini"])
    other = SimpleNamespace(_filters=[build_filter_ensemble("found", [("regex", {"regex_pattern": "[01]"})])])
    assert [read_documents(task) for task in (*ours, other)] == [False, True]


@pytest.mark.parametrize(
    ("label", "prediction", "correct", "not_following"),
    [(1, "1", 1, 0), (1, "0", 0, 0), (0, "0", 1, 0), (0, "[word]", 0, 1), (1, "[empty]", 0, 1)],
)
def test_score_document_without_a_label_counts_as_wrong(label, prediction, correct, not_following):
    scores = score_document({"label": label}, [prediction])
    assert (scores["acc"], scores["not_following"]) == (correct, not_following)


def test_score_document_of_a_forced_choice_takes_the_likelier_answer():
    assert score_document({"label": 1}, [(-2.0, False), (-1.0, True)])["acc"] == 1
    assert score_document({"label": 1}, [(-1.0, True), (-1.0, True)])["acc"] == 0  # a tie is no "1", as in argmax


def test_aggregations_of_ten_hand_counted_documents():
    # reference, prediction: 3 true positives, 2 true negatives, 1 false positive, 2 false negatives, 2 without label
    pairs = [(1, 1)] * 3 + [(0, 0)] * 2 + [(0, 1)] + [(1, 0)] * 2 + [(1, INVALID), (0, INVALID)]
    assert acc_following([(int(r == p), p) for r, p in pairs]) == 5 / 8
    assert positive_share([p for _, p in pairs]) == 4 / 8
    labelled = [pair for pair in pairs if pair[1] != INVALID]
    assert mcc(labelled) == pytest.approx((3 * 2 - 1 * 2) / math.sqrt(4 * 5 * 3 * 4))  # Matthews' own formula


def test_aggregations_without_any_label_are_zero_not_nan():
    assert acc_following([(0, INVALID)]) == 0
    assert positive_share([INVALID]) == 0
    assert mcc([(1, INVALID), (0, INVALID)]) == 0


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1))
def test_acc_following_where_all_follow_is_accuracy(pairs):
    references, predictions = zip(*pairs, strict=True)
    items = [(int(r == p), p) for r, p in pairs]
    assert acc_following(items) == pytest.approx(accuracy_score(references, predictions))


@pytest.mark.filterwarnings("ignore:A single label was found")
@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(INVALID, 1)), min_size=1))
def test_mcc_is_scikit_learns_to_the_last_digit(pairs):
    assert mcc(pairs) == matthews_corrcoef(*zip(*pairs, strict=True))
