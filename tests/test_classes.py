"""Which of a classifier's classes is 1, by a table of names written by hand."""

import pytest

from harness_ext.errors import UserError
from harness_ext.model.checkpoints import Checkpoint
from harness_ext.model.classes import decide, of_checkpoint

ONE = {  # (name of class 0, name of class 1): the index of the task's 1
    ("negative", "positive"): 1,
    ("POSITIVE", "NEGATIVE"): 0,
    ("Pos", "Neg"): 0,
    ("neg", "pos"): 1,
    ("0", "1"): 1,
    ("1", "0"): 0,
    ("LABEL_0", "LABEL_1"): 1,
    ("LABEL_1", "LABEL_0"): 0,
    ("bad", "good"): 1,
    ("True", "False"): 0,
    ("no", "yes"): 1,
    ("positivo", "negativo"): 0,
    ("négatif", "positif"): 1,
    ("негативный", "позитивный"): 1,
    ("正面", "负面"): 0,
    ("ネガティブ", "ポジティブ"): 1,
    ("긍정", "부정"): 0,
    ("negative", "POSITIVE "): 1,
}


@pytest.mark.parametrize(("names", "one"), ONE.items(), ids=map("-".join, ONE))
def test_names_that_say_which_is_positive_decide(names: tuple[str, str], one: int):
    assert decide(names).one == one


@pytest.mark.parametrize(
    "names",
    [
        ("entailment", "not_entailment"),
        ("ham", "spam"),
        ("negative", "neutral"),
        ("other", "positive"),
        ("1", "2"),
        ("LABEL_0", "CLASS_1"),
        ("goods", "services"),
        ("same", "same"),
    ],
)
def test_names_that_do_not_say_it_are_refused_with_what_to_do(names: tuple[str, str]):
    with pytest.raises(UserError, match="positive="):
        decide(names)


@pytest.mark.parametrize(("asked", "one"), [("Entailment", 0), ("not_entailment", 1), (0, 0), ("1", 1)])
def test_user_says_which_is_positive_by_name_or_number(asked: str | int, one: int):
    assert decide(("entailment", "not_entailment"), asked).one == one
    assert decide(("negative", "positive"), "negative").one == 0


def test_user_who_names_no_class_is_told_the_names():
    with pytest.raises(UserError, match=r"positive=yes is not one of its classes, entailment \(0\) and not_entailment"):
        decide(("entailment", "not_entailment"), "yes")


def test_task_whose_own_words_are_the_names_decides():
    assert decide(("spam", "Ham"), words=["ham", "spam"]).one == 0
    assert decide(("positive", "negative"), words=["positive", "negative"]).one == 1
    assert decide(("negative", "positive"), words=["ham", "spam"]).one == 1


@pytest.mark.parametrize("count", [1, 3])
def test_other_than_two_classes_are_refused(count: int):
    with pytest.raises(UserError, match=f"{count} classes"):
        decide([f"LABEL_{index}" for index in range(count)])


def test_names_are_those_of_our_own_adapter_else_of_its_base_unless_the_head_is_of_another_size():
    base = Checkpoint("base", "base", "", {"id2label": {"0": "POSITIVE", "1": "NEGATIVE"}})
    head: dict[str, tuple[int, ...]] = {"base_model.model.classifier.weight": (2, 32)}
    foreign = Checkpoint("adapter", "adapter", "", {}, tensors=head)
    ours = Checkpoint("adapter", "adapter", "", {}, {"label_names": {"0": "negative", "1": "positive"}}, tensors=head)
    three = Checkpoint("nli", "nli", "", {"id2label": {"0": "entailment", "1": "neutral", "2": "contradiction"}})
    assert of_checkpoint(base) == of_checkpoint(base, foreign) == ["POSITIVE", "NEGATIVE"]
    assert of_checkpoint(base, ours) == ["negative", "positive"]
    assert len(of_checkpoint(three)) == 3
    assert of_checkpoint(three, foreign) == of_checkpoint(Checkpoint("b", "b", "", {}), foreign) == ["LABEL_0", "LABEL_1"]
