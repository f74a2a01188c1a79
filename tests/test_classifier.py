"""Models that answer from the sentence: a sequence classifier against transformers, the baselines against scikit-learn."""

import json
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from builders import SENTENCES, build_model, tsv_folder
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from harness_ext.backend.baseline import MajorityLM, TfidfLM
from harness_ext.backend.classifier import ClassifierLM
from harness_ext.errors import UserError
from harness_ext.task.subsets import draw

TEXTS = [sentence for sentence, _ in SENTENCES]
ROWS = [{"sentence": sentence, "label": label} for sentence, label in SENTENCES]


def request(sentence, *args):
    idx = int(args[0] == " 1")
    return SimpleNamespace(doc_id=sentence, doc={"sentence": sentence}, args=("a prompt that is not read", *args), idx=idx)


@pytest.fixture(scope="module", params=["deberta-v2", "llama"])
def classifier(request, tmp_path_factory):
    """The folder of a random two-class model."""
    folder = tmp_path_factory.mktemp("models") / request.param
    if request.param == "deberta-v2":
        return build_model(folder, request.param, head="SequenceClassification")
    build_model(folder, request.param)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_classifier_gives_transformers_log_probabilities_in_the_order_asked(classifier, batch_size):
    lm = ClassifierLM(str(classifier), batch_size=batch_size)
    tokenizer = AutoTokenizer.from_pretrained(classifier)
    model = AutoModelForSequenceClassification.from_pretrained(classifier).eval()
    answers = lm.generate_until([request(text, {}) for text in TEXTS])
    margins: Any = lm.account.margins  # by the requests' documents, which here are texts
    lm.account.reset()
    scores = lm.loglikelihood([request(text, f" {digit}") for text in TEXTS for digit in "01"])
    scored: Any = lm.account.margins
    for n, text in enumerate(TEXTS):
        with torch.no_grad():
            expected = model(**tokenizer(text, return_tensors="pt")).logits[0].log_softmax(-1).tolist()
        assert [scores[2 * n][0], scores[2 * n + 1][0]] == pytest.approx(expected, abs=1e-4)
        assert answers[n] == str(expected.index(max(expected)))
        assert margins[text] == scored[text] == pytest.approx(expected[1] - expected[0], abs=2e-4)
        assert [scores[2 * n][1], scores[2 * n + 1][1]] == [answers[n] == "0", answers[n] == "1"]


def test_class_names_that_say_the_opposite_are_heeded(classifier, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(classifier)
    model.config.id2label, model.config.label2id = {0: "POSITIVE", 1: "NEGATIVE"}, {"POSITIVE": 0, "NEGATIVE": 1}
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(classifier).save_pretrained(tmp_path)
    ours = ClassifierLM(str(tmp_path)).generate_until([request(text, {}) for text in TEXTS])
    plain = ClassifierLM(str(classifier)).generate_until([request(text, {}) for text in TEXTS])
    assert ours == [{"0": "1", "1": "0"}[answer] for answer in plain]


def test_likelihood_of_anything_but_the_two_digits_is_refused(classifier):
    with pytest.raises(UserError, match="likelihood of 'yes'"):
        ClassifierLM(str(classifier)).loglikelihood([request("x", " yes")])


@pytest.mark.parametrize("task", ["sst2_01", "sst2_01_choice", "sst2_01_think"])
def test_classifier_is_chosen_by_itself_and_answers_every_variant(task, classifier, eight_rows, door, tmp_path):
    outcome = door("run", f"--pretrained={classifier}", f"--tasks={task}", f"--data_dir={eight_rows}", f"-o{tmp_path}")
    assert outcome.code == 0, outcome.stderr
    (path,) = tmp_path.glob("runs/*/run.json")
    (count,) = {json.dumps(each, sort_keys=True) for each in json.loads(path.read_text())["counts"].values()}
    expected = ClassifierLM(str(classifier)).generate_until([request(text, {}) for text in TEXTS])
    assert json.loads(count)["correct"] == sum(
        answer == str(label) for answer, (_, label) in zip(expected, SENTENCES, strict=True)
    )
    assert json.loads(count)["not_following"] == {}


def test_tfidf_gives_scikit_learns_probabilities():
    features = TfidfVectorizer()
    fitted = LogisticRegression(max_iter=1000).fit(features.fit_transform(TEXTS), [label for _, label in SENTENCES])
    expected = fitted.predict_log_proba(features.transform(TEXTS)).tolist()
    for row, theirs in zip(TfidfLM(ROWS).classify(TEXTS), expected, strict=True):
        assert list(row) == pytest.approx(theirs)


def test_majority_answers_the_more_frequent_class_with_its_share():
    lm = MajorityLM([*ROWS, {"sentence": "more", "label": 1}])  # 5 of 9 are 1
    assert lm.generate_until([request("anything", {})]) == ["1"]
    assert lm.classify(["anything"]) == [(pytest.approx(math.log(4 / 9)), pytest.approx(math.log(5 / 9)))]


def test_baseline_run_is_fitted_on_the_rows_that_training_would_use(door, tmp_path):
    rows = [(f"{word} {n}", label) for n in range(16) for word, label in (("bad", 0), ("good", 1))]
    data = tsv_folder(tmp_path / "data", [("good", 1), ("bad", 0)], rows)
    flags = ("--model=tfidf", "--train_samples=8", "--seed=3", f"--data_dir={data}", f"-o{tmp_path}")
    outcome = door("run", *flags)
    assert outcome.code == 0, outcome.stderr
    (path,) = tmp_path.glob("runs/*/run.json")
    record = json.loads(path.read_text())
    assert (record["model"], record["train_samples"], record["seed"]) == ("tfidf", 8, 3)
    assert record["training"]["subset"] == draw([label for _, label in rows], "8", 3).hash
    assert record["counts"]["lenient"]["correct"] == 2
    assert "Already done" in door("run", *flags).stderr
    assert "Already done" not in door("run", *flags[:2], "--seed=4", *flags[3:]).stderr
