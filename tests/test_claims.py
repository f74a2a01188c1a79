"""The original's claims: the numbers against statsmodels and counts by hand from its table; verdicts follow from them."""

import re

import pytest
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint, test_proportions_2indep
from test_figures import BOARD, HOSTILE, trained
from test_standings import run

from harness_ext.report import claims
from harness_ext.results import reported
from harness_ext.results.standings import entries

test_proportions_2indep.__test__ = False  # it is no test of ours


def shown(word, board=()):
    (claim,) = [each for each in claims.restated(entries(board)) if word in each.said]
    return claim


@pytest.mark.parametrize(
    ("word", "a", "b", "verdict"),
    [
        ("worse with more samples", 482, 489, "a tie"),
        ("worse with more samples", 460, 489, "a tie"),
        ("worse with more samples", 659, 489, "surely better"),
        ("beats the fine-tuned encoder", 829, 826, "a tie"),
        ("newer Qwen3-8B", 829, 814, "a tie"),
        ("thinks", 737, 729, "a tie"),
    ],
)
def test_differences_are_those_of_statsmodels_and_the_verdict_follows(word, a, b, verdict):
    low, high = confint_proportions_2indep(a, 872, b, 872, compare="diff", method="newcomb")
    p = test_proportions_2indep(a, 872, b, 872, compare="diff", method="score").pvalue
    (part,) = [each for each in shown(word).shown.split("; ") if f" {a}, " in each and f" {b} of 872" in each]
    found = [
        float(each.replace("−", "-"))
        for each in re.findall(r"[−\d.]+(?= points| to|,)|(?<=to )[−\d.]+", part.split(": ")[1])
    ]
    assert found[:3] == pytest.approx([100 * (a - b) / 872, 100 * low, 100 * high], abs=0.06)
    (said,) = re.findall(r"p (< 0.001|0\.\d+)", part)
    assert p < 0.001 if said.startswith("<") else float(said) == pytest.approx(p, abs=0.002)
    assert (p < 0.05) == ("surely" in part)
    assert part.rstrip(".").endswith(verdict)


def test_deberta_is_a_collapse_of_the_recipe():
    text = shown("DeBERTa").shown
    assert text.startswith("6 of 9 runs have exactly 444 of 872")
    assert "48 optimiser steps at most" in text  # 3 epochs of 64 / 4
    assert "256 samples: 535 right after 192 steps in place of 6" in text  # 3 x 256/4, 3 x 256/128
    assert "1024 samples: 769 right after 768 steps in place of 24" in text


def test_outputs_that_do_not_follow_are_counted_and_the_rest_is_set_beside_the_majority():
    text = shown("216").shown
    low, high = proportion_confint(350, 872 - 216, method="wilson")
    assert f"Of the 656 that have one 350 are right: 53.4% (95% interval {100 * low:.1f} to {100 * high:.1f})" in text
    assert "not told apart from always giving the commoner answer (50.9%)" in text


def test_every_number_in_a_claim_stands_in_the_originals_table():
    scores = {row["score"][:6] for row in reported.table()}
    for claim in claims.restated([]):
        assert {f"{float(each):.4f}" for each in re.findall(r"0\.\d{4}", claim.said)} <= {
            f"{float(each):.4f}" for each in scores
        }


def test_without_runs_of_ours_nothing_is_said_of_them():
    assert {claim.ours for claim in claims.restated([])} == {""}


def test_our_generative_curve_and_the_contest_are_set_beside_the_claims():
    rising = shown("worse with more samples", BOARD).ours
    assert rising.startswith(
        "trained + LoRA qwen: 62.0% with 16 and 82.0% with 64; from 16 to 64 labels it rises (20.0 points"
    )
    versus = shown("beats the fine-tuned encoder", BOARD).ours
    assert "trained + LoRA qwen with 64 labels: 82.0%, prompted without (digits written): 70.0%; 12.0 points" in versus
    assert versus.endswith("training is better.")


def test_our_encoder_is_said_with_how_many_runs_collapsed():
    board = trained("bert", 16, (70, 71, 72), "encoder", training={"kind": "classifier", "collapsed": False})
    board[0].record["training"] = {"kind": "classifier", "collapsed": True}
    ours = shown("DeBERTa", board).ours
    assert ours.startswith("bert + LoRA encoder with 16 labels: 71.0%")
    assert ours.endswith("above the majority's 50.0%; 1 of 3 runs gave one answer to everything.")


def test_writing_digits_is_set_beside_choosing_words_of_the_same_model_and_settings():
    missing = {"lenient": {"correct": 5, "positive": 5, "negative": 5, "not_following": {"word": 90}}}
    digits = run(5, model="m", counts=missing, experiment="d", not_default={"dtype": "float32"})
    words = run(64, model="m", task="sst2_01_words_choice", experiment="w", not_default={"dtype": "float32"})
    other = run(80, model="m", task="sst2_01_words_choice", experiment="o")
    digits.record["counts"] = missing
    ours = shown("216", [digits, words, other]).ours
    assert (
        ours
        == "m writing digits: 90 of 100 not following, 5.0% right; choosing between two words, which always follows, 64.0%."
    )


def test_names_are_shown_as_they_are():
    board = [run(70, model=HOSTILE), *trained(HOSTILE, 16, (60, 61, 62)), *trained(HOSTILE, 64, (80, 81, 82))]
    assert all(each.ours.isprintable() for each in claims.restated(entries(board)))


def test_published_runs_speak_to_four_of_the_claims(published_entries):
    found = claims.restated(published_entries)
    assert [bool(claim.ours) for claim in found] == [True, True, True, False, False, True]
