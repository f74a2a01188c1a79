"""The lines under a result table."""

import pytest
from builders import SENTENCES, tsv_folder
from test_leaderboard import manifest

from harness_ext.results import advice
from harness_ext.task.data import overlap
from harness_ext.task.find import build_tasks


def record(positive=0, negative=0, missing=None, **more):
    missing = missing or {}
    n = positive + negative + sum(missing.values())
    counts = {"correct": 0, "positive": positive, "negative": negative, "not_following": missing}
    more = {"key_parts": {"num_fewshot": 0}, "settings": {"dtype": "float32"}, **more}
    return manifest(n=n, n_available=n, counts={"lenient": counts, "strict": counts}, **more)


def test_outputs_without_a_label_are_counted_by_kind_with_an_example_and_what_to_try():
    (line,) = advice.lines(record(1, 0, {"word": 37, "other": 2}, examples={"word": "The sentence\x1b[2J\nis " + "x" * 99}))
    assert line.startswith(
        '39 of 40 outputs give no label (37 in words, 2 with neither answer), such as "The sentence\\x1b[2J\\nis'
    )
    assert line.endswith(
        "Try examples (SHOTS=16) or words (TASK=sst2_01_words_choice) or a forced choice (TASK=sst2_01_choice) or "
        "fine-tuning (make finetune)."
    )
    assert "x" * 61 not in line
    assert line.isprintable()


@pytest.mark.parametrize(
    ("more", "said", "unsaid"),
    [
        ({"key_parts": {"num_fewshot": 4}}, "fine-tuning", "SHOTS=16"),
        ({"adapter": "a", "train_samples": 16}, "SHOTS=16", "fine-tuning"),
        ({"settings": None}, "SHOTS=16", "_choice"),  # a server's answers have no likelihoods
        ({"task": "other_01"}, "SHOTS=16", "other_01_choice"),  # there is no such task
        ({"task": "sst2_01_think"}, "TASK=sst2_01_choice", "think_choice"),
    ],
)
def test_only_what_can_be_tried_is_advised(more, said, unsaid):
    (line,) = advice.lines(record(5, 5, {"empty": 10}, **more))
    assert said in line
    assert unsaid not in line


def test_thinking_that_does_not_end_is_told_of_its_budget():
    (line,) = advice.lines(record(5, 5, {"unfinished_thinking": 10}, task="sst2_01_think"))
    assert "THINK_BUDGET" in line


@pytest.mark.parametrize(("missing", "said"), [(0, False), (9, False), (10, True)])
def test_a_few_outputs_without_a_label_need_no_word(missing, said):
    assert bool(advice.lines(record(50, 50 - missing, {"other": missing}))) == said


@pytest.mark.parametrize(
    ("positive", "negative", "method", "said"),
    [
        (872, 0, "prompted", "All 872 answers are 1"),
        (0, 20, "tfidf", "All 20 answers are 0"),
        (20, 0, "majority", ""),
        (4, 0, "prompted", ""),
    ],
)
def test_one_answer_to_everything_is_said(positive, negative, method, said):
    found = advice.lines(record(positive, negative, method=method))
    assert [line.partition(":")[0] for line in found] == ([said] if said else [])


@pytest.mark.parametrize(
    ("shared", "more", "said"),
    [
        (0, {"train_samples": 16}, ""),
        (2, {"train_samples": "all"}, "2 of 1000 evaluation texts (0.2%) stand in the train split too."),
        (10, {"train_samples": 16}, "Warning: 10 of 1000 evaluation texts (1.0%)"),
        (10, {"key_parts": {"num_fewshot": 2}}, "Warning: "),
        (1000, {}, ""),  # nothing of the train split was used
        (None, {"train_samples": 16}, ""),
    ],
)
def test_texts_that_were_seen_in_training_are_counted(shared, more, said):
    found = advice.lines(record(500, 500, train_overlap=shared, **more))
    assert bool(found) == bool(said)
    assert not said or found[0].startswith(said)


@pytest.mark.parametrize(
    ("trained_on", "evaluated_on", "is_said"),
    [(7, 19, True), (10, 19, False), (19, 7, False), (None, 19, False), (7, None, False)],
)
def test_held_out_score_of_phrases_is_called_no_forecast_of_sentences(trained_on, evaluated_on, is_said):
    training = {"median_words": trained_on, "held_out": {"score": 0.764, "loss": 0.5}}
    found = advice.lines(record(50, 50, training=training, median_words=evaluated_on))
    expected = (
        "The adapter was trained on phrases (median 7 words), the evaluation is sentences (19): its held-out score 76.4"
    )
    assert [line.partition(" is no forecast")[0] for line in found] == [expected] * is_said


def test_overlap_sees_through_capitals_and_punctuation(tmp_path):
    dev = [("A fine film!", 1), ("it 's dull .", 0), ("something new", 1), ("!!!", 0)]
    train = [("a fine film", 1), ("It's dull", 0), ("other", 1), ("...", 0)]
    (task,) = build_tasks(["sst2_01"], metadata={"data_dir": str(tsv_folder(tmp_path, dev, train))})
    assert overlap(task) == 2


def test_overlap_of_sst2_is_two(shared):
    (task,) = build_tasks(["sst2_01"], metadata={"data_dir": str(shared / "data" / "sst2")})
    assert overlap(task) == 2


def test_tfidf_on_a_train_split_that_is_the_evaluation_split_is_warned_of(elsewhere, door):
    rows = [(f"{sentence} {number}", label) for number in range(10) for sentence, label in SENTENCES]
    tsv_folder(elsewhere / "same", rows, rows)
    for _ in ("run", "already done"):
        said = door("run", "--model=tfidf", "--data_dir=same").stdout
        assert "Warning: 80 of 80 evaluation texts (100.0%) stand in the train split too" in said


def test_model_that_only_babbles_is_explained_under_its_table(random_model, eight_rows, elsewhere, door):
    run = ("run", "--pretrained", random_model, "--data_dir", eight_rows)
    first, again = door(*run), door(*run)
    assert "outputs give no label (" in first.stdout
    assert ", such as " in first.stdout
    assert again.stdout == first.stdout
    assert "Already done" in again.stderr
