"""The answer in words, for each kind of board: what it says is what scipy says, and it says nothing else."""

import re

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.proportion import proportion_confint
from test_figures import BOARD, HOSTILE, trained
from test_standings import run

from harness_ext.report import answer
from harness_ext.results import reported
from harness_ext.results.contest import contests
from harness_ext.results.standings import entries


def said(*board):
    return answer.sentences(entries(board))


def two_way(table):
    """The interval of a table's mean by Howe (docs/evidence.md), with scipy's t and nothing of ours."""
    k, n = table.shape
    rest = table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()
    by_seed = table.mean(1).var(ddof=1) / k
    by_document = max(0, table.mean(0).var(ddof=1) / n - (rest**2).sum() / ((k - 1) * (n - 1) * k * n))
    half = (stats.t.ppf(0.975, k - 1) ** 2 * by_seed + stats.t.ppf(0.975, n - 1) ** 2 * by_document) ** 0.5
    return table.mean() - half, table.mean() + half


def noisy(seed, share, n=100):
    return np.random.default_rng(seed).random(n) < share


def test_training_that_is_surely_better_is_said_with_the_number_of_labels_from_which_on():
    first, second, *_ = said(*BOARD)
    assert first.startswith(
        "On sst2/dev.tsv (100 sentences): fine-tune if you have 64 labels or more. With 64, trained + LoRA qwen"
    )
    low, high = two_way(
        np.stack([each.answers.correct for each in trained("x", 1, (80, 82, 84))]) - 1.0 * run(70).answers.correct
    )
    assert "is right on 82.0%, 12.0 points more than the best prompt without labels" in first
    assert f"(95% interval {100 * low:.1f} to {100 * high:.1f})" in first
    worse = "the best that was trained, trained + LoRA qwen, is 8.0 points below the best prompt"
    assert f"With 16 labels prompting is surely better ({worse}" in first
    assert (
        "the best of 2 ways of asking one model is prompted (digits written): 70.0% (95% interval 60.4 to 78.1)" in second
    )  # Wilson


def test_break_even_is_said_for_the_mean_and_for_most_seeds():
    sentence = next(each for each in said(*BOARD) if "is the first to catch the best prompt" in each)
    assert re.search(
        r"on average with about 28 labels \(90% interval 1\d to 4\d\), between sizes that were run; "
        r"an unlucky subset, one in 20, does with about 3\d labels",
        sentence,
    )


def test_best_of_each_number_of_labels_is_named_with_its_interval_and_one_without_seeds_takes_no_part():
    sentences = said(*BOARD)
    (best,) = [each for each in sentences if each.startswith("The best that was trained")]
    table = np.stack([each.answers.correct for each in trained("x", 1, (60, 62, 64))]).astype(float)
    # A score's interval is Wilson's for as many documents as have this variance.
    documents = 0.62 * 0.38 * (stats.norm.ppf(0.975) / (two_way(table)[1] - 0.62)) ** 2
    low, high = proportion_confint(0.62 * documents, documents, method="wilson")
    assert f"16: trained + LoRA qwen, 62.0% ({100 * low:.1f} to {100 * high:.1f}, the only one with so many)" in best
    assert "64: trained + LoRA qwen, 82.0%" in best
    assert "all" not in best
    assert "With fewer than 3 seeds there is no interval, so “trained + LoRA qwen, all labels”" in sentences[-1]


def test_tie_is_called_one():
    board = [
        run(noisy(0, 0.7), model="p"),
        *(each for n in (16, 64) for each in trained("t", n, [noisy(s, 0.7) for s in (1, 2, 3)])),
    ]
    first, *_ = said(*board)
    assert "there is no sure winner, with up to 64 labels (the best that was trained, t + LoRA qwen, is " in first
    assert "With 16 labels there is no sure winner (the best that was trained, t + LoRA qwen, is " in first
    assert "fine-tune" not in first


def test_prompting_that_no_training_reaches_is_the_answer():
    board = [run(95, model="p"), *(each for n, s in ((16, 50), (64, 60)) for each in trained("t", n, (s, s + 1, s + 2)))]
    sentences = said(*board)
    assert (
        "prompt: the best that was trained is surely worse, with up to 64 labels "
        "(the best that was trained, t + LoRA qwen, is 34.0 points below the best prompt" in sentences[0]
    )
    (none,) = [each for each in sentences if "Nothing that was trained catches the best prompt for good" in each]
    assert "How many more t + LoRA qwen would take cannot be said: a curve needs at least 3 sizes" in none


def test_labels_more_are_said_beside_what_the_same_curves_would_have_said():
    sizes = {16: 0.60, 64: 0.68, 256: 0.74, 1024: 0.78}
    board = [run(82, model="p")]
    board += [each for n, share in sizes.items() for each in trained("t", n, 100 * share + np.arange(-1, 2))]
    sentence = next(each for each in said(*board) if "learning curves" in each)
    assert re.search(r"By three learning curves t \+ LoRA qwen would take [\d,]+ to (more than )?[\d,]+;", sentence)
    assert re.search(r"fitted up to 256 labels, say 7\d\.\d% to [78]\d\.\d% for 1,024, where 78.0% was measured", sentence)


def test_winner_among_many_that_are_alike_is_corrected_for_how_many_there_are():
    right = np.array([noisy(seed, 0.5) for seed in range(40)])
    board = [run(70, model="p"), *(each for n, row in enumerate(right) for each in trained(f"m{n}", 16, [row, row, row]))]
    (contest,) = contests(entries(board))
    (match,) = answer.matches(contest)
    assert match.p > (match.found.p or 0)  # Holm's


def test_gain_from_more_labels_is_said_or_that_none_can_be_seen():
    assert any("trained + LoRA qwen gained from 16 to 64 labels (20.0 points" in each for each in said(*BOARD))
    board = [each for n in (16, 64) for each in trained("t", n, [noisy(s, 0.7) for s in (1, 2, 3)])]
    assert any("More than 16 labels brought t + LoRA qwen nothing that can be seen" in each for each in said(*board))


def test_board_of_prompts_alone_is_no_answer():
    first, second, last = said(run(70, model="a"), run(60, model="b"))
    assert first == "On sst2/dev.tsv (100 sentences) nothing was trained: prompts can be compared with each other only."
    assert "the best of 2 ways of asking 2 models is a (digits written): 70.0%" in second
    assert "surely better than each of the others (Holm-corrected)" in second
    assert last.startswith("This says nothing of other texts or questions")


def test_board_of_training_alone_is_no_answer():
    first, *rest = said(*trained("t", 16, (60, 61, 62)))
    assert "no model was asked without labels" in first
    assert not any("best prompt" in each for each in rest)


@pytest.mark.parametrize("board", [[run(70)], [run(70, seed=0, method="calibrated")]], ids=["prompted", "drawn once"])
def test_single_run_says_no_more_than_its_score(board):
    sentences = said(*board)
    assert not any(word in " ".join(sentences) for word in ("surely", "catches", "Holm"))


def test_one_seed_is_no_sure_answer():
    first, *_, last = said(run(70, model="p"), *trained("t", 16, (99,)))
    assert first.endswith("nothing was trained with 3 seeds or more: there is no sure answer yet.")
    assert "“t + LoRA qwen, 16 labels” took no part" in last


def test_of_several_data_sets_the_one_with_most_runs_is_spoken_of_and_that_is_said():
    *_, last = said(*BOARD, run(99, model="elsewhere", data="mine.csv", data_fingerprint="f", documents="x"))
    assert "Runs on mine.csv are not part of this: most was run on sst2/dev.tsv." in last
    assert not any("elsewhere" in each for each in said(*BOARD, run(99, model="elsewhere", data_fingerprint="f"))[:-1])


def test_nothing_and_parts_of_a_data_set_have_no_answer():
    for board in ([], [run(30, n=60)]):
        assert said(*board) == ["No model has been asked or trained on a whole data set yet, so there is no answer."]


@pytest.mark.parametrize(
    ("name", "is_said"), [("SmolLM2-135M", True), ("Llama-3-8B", False), ("m", False), ("x-2bit", False)]
)
def test_only_small_models_are_called_so(name, is_said):
    assert ("billions of parameters" in said(run(70, model=name))[-1]) == is_said


def test_names_are_shown_as_they_are_and_stay_on_their_line():
    sentences = said(run(70, model=HOSTILE), *trained(HOSTILE, 16, (60, 61, 62)))
    assert "\\x1b" in " ".join(sentences)
    assert all(each.isprintable() for each in sentences)


def test_more_labels_that_are_not_sure_do_not_take_a_verdict_back_but_those_that_are_surely_worse_do():
    unsure = trained("trained", 256, [noisy(s, 0.78) for s in (1, 2, 3)])
    assert "fine-tune if you have 64 labels or more" in said(*BOARD, *unsure)[0]
    assert "fine-tune" not in said(*BOARD, *trained("trained", 256, (40, 41, 42)))[0]


def test_each_number_of_labels_is_corrected_for_what_was_trained_on_it():
    others = [each for n in range(9) for each in trained(f"other {n}", 16, (70, 71, 72))]
    assert "correction" not in said(*BOARD)[0]
    assert (
        said(*BOARD, *others)[0].split("With 64, ")[1].split(").")[0] == said(*BOARD)[0].split("With 64, ")[1].split(").")[0]
    )


def test_draws_of_unlabelled_rows_are_no_seeds_of_training():
    drawn = [run(70 + seed, seed=seed, method="calibrated", model="p", train_samples=0) for seed in range(3)]
    first, *_ = said(*drawn, *(each for n in (16, 64) for each in trained("t", n, (95, 96, 97, 98))))
    assert "fine-tune if you have 16 labels or more" in first


def test_original_with_a_larger_model_is_named_where_only_small_ones_were_run():
    sst2 = {"data_fingerprint": reported.SST2_VALIDATION}
    board = [run(70, model="m-270M", **sst2), *trained("t-135M", 16, (60, 61, 62), **sst2)]
    assert any("95.1% for Qwen2.5-7B-Instruct-INT4" in each for each in said(*board))  # 829 of 872
    assert not any("95.1%" in each for each in said(run(70, model="m-7B", **sst2), *board[1:]))


def test_published_runs_have_three_to_seven_sentences(published_entries):
    assert 3 <= len(answer.sentences(published_entries)) <= 7
