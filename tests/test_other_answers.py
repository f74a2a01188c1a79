"""Answers that are not 0 for negative and 1 for positive: how they are read, and when enough of one has been seen."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness_ext.errors import UserError
from harness_ext.paths import TASKS_DIR
from harness_ext.task.filters import LabelFilter
from harness_ext.task.find import build_tasks
from harness_ext.task.labels import KINDS, RULES, THINKING_TAGS, check_answers, is_settled, read, said_by

WORDS, SWAPPED = ("negative", "positive"), ("1", "0")
# response, label under both rules, kind under both; by hand
TABLE = [
    ("positive", "1", "1", "label", "label"),
    (" negative\n", "0", "0", "label", "label"),
    ("Positive.", "1", "1", "label", "label"),
    ("NEGATIVE!", "0", "0", "label", "label"),
    ("positive...", "1", "1", "label", "label"),
    ("The sentence is negative", "0", None, "label", "other"),
    ("not positive", "1", None, "label", "other"),  # the rule is the first answer, whatever stands before it
    ("positive or negative", "1", None, "label", "other"),
    ("Neither negative nor positive", "0", None, "label", "other"),
    ("positive and warm", "1", None, "label", "other"),
    ("**Positive**", "1", None, "label", "other"),
    ("_positive_", "1", None, "label", "other"),
    ("non-positive", "1", None, "label", "other"),
    ("positive (1)", "1", None, "label", "other"),
    ("<think>negative</think>positive", "1", "1", "label", "label"),
    ("<think>negative</think>It is positive", "1", None, "label", "other"),
    ("<think>negative", None, None, "unfinished_thinking", "unfinished_thinking"),
    ("<|channel|>analysis<|message|>negative?<|end|><|channel|>final<|message|>positive", "1", "1", "label", "label"),
    ("positi<think>x</think>ve", "1", "1", "label", "label"),  # thinking is taken out first
    ("positively", None, None, "other", "other"),
    ("positively negative", "0", None, "label", "other"),
    ("nonnegative", None, None, "other", "other"),
    ("positive1", None, None, "other", "other"),
    ("neg", None, None, "other", "other"),
    ("pos", None, None, "other", "other"),
    ("0", None, None, "other", "other"),  # a digit where a word was asked for
    ("1", None, None, "other", "other"),
    ("good", None, None, "other", "other"),
    ("", None, None, "empty", "empty"),
    (" \n", None, None, "empty", "empty"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "lenient", "strict", "kind", "strict_kind"), TABLE)
def test_words_are_read_whole_and_whatever_their_case(text, lenient, strict, kind, strict_kind):
    assert read(text, answers=WORDS) == (lenient, kind)
    assert read(text, "strict", answers=WORDS) == (strict, strict_kind)


@pytest.mark.parametrize(
    ("text", "label", "kind"),
    [("1", "0", "label"), ("0", "1", "label"), ("The answer is 0", "1", "label"), ("10", "0", "label"),
     ("positive", None, "word"), ("2", None, "other"), ("<think>1</think>0", "1", "label")],
)  # fmt: skip
def test_swapped_digits_give_the_other_label(text, label, kind):
    assert read(text, answers=SWAPPED) == (label, kind)


def test_filter_reads_the_answers_that_the_task_file_gives_it():
    words, swapped = LabelFilter(answers=["negative", "positive"]), LabelFilter(answers=["1", "0"])
    assert words.apply([["It is Positive."], ["0"]], [{}, {}]) == ["1", "[other]"]
    assert swapped.apply([["0"], ["negative"]], [{}, {}]) == ["1", "[word]"]


@pytest.mark.parametrize(
    ("text", "lenient", "strict"),
    [
        ("", False, False),
        ("pos", False, False),
        ("positive", False, False),  # may become "positively"
        ("positive.", True, False),
        ("positive\n", True, False),
        ("positive ", False, False),  # a decoder may take the blank out again
        ("positive a", True, True),
        ("positive n", False, False),  # of "n't" too
        ("positive no", True, True),
        ("positively", False, False),
        ("positively negative.", True, True),
        ("It is positive", False, False),
        ("It is positive,", True, True),
        ("positive<", False, False),  # may become a thinking block, which is taken out
        ("positive<think>x", False, False),
        ("positive<think>x</think>ly", False, False),
        ("positive\ufffd", False, False),
        ("<think>positive.", False, False),
        ("<think>positive.</think>negative.", True, False),
        ("0 x", False, False),
    ],
)
def test_word_is_settled_once_what_follows_it_has_been_seen(text, lenient, strict):
    assert (is_settled(text, "lenient", answers=WORDS), is_settled(text, "strict", answers=WORDS)) == (lenient, strict)


PAIRS = st.sampled_from([WORDS, SWAPPED, ("0", "1"), ("not spam", "spam"), ("unacceptable", "acceptable"), ("no", "yes")])
TAGS = [tag for pair in THINKING_TAGS[:2] for tag in pair] + ["<|channel|>", "final", "<|message|>", "<|end|>"]
PIECES = st.lists(
    st.sampled_from(
        ["0", "1", " ", "\n", ".", "_", "ly", "non", "not ", "n't", "posi", "tive", "\ufffd", "<", "\u017f", "\u0301", *TAGS]
        + [
            word
            for answers in (WORDS, ("spam", "unacceptable", "no", "yes"))
            for word in (answers[0], *map(str.title, answers))
        ]
    )
    | st.text(alphabet="negativposu N1", max_size=6),
    max_size=16,
)


@given(PIECES, PIECES, PAIRS, st.sampled_from(RULES), st.booleans())
def test_settled_text_reads_the_same_whatever_follows(pieces, more, answers, rule, thinking):
    text = "".join(pieces)
    if is_settled(text, rule, thinking=thinking, answers=answers):
        whole = read(text + "".join(more), rule, thinking=thinking, answers=answers)
        assert whole == read(text, rule, thinking=thinking, answers=answers)


@given(PIECES, PAIRS, st.sampled_from(RULES), st.booleans())
def test_text_once_settled_stays_so(pieces, answers, rule, thinking):
    text = "".join(pieces)
    found = [is_settled(text[:end], rule, thinking=thinking, answers=answers) for end in range(len(text) + 1)]
    assert found == sorted(found)


@given(PIECES, PAIRS)
def test_any_text_has_a_known_kind_and_a_strict_label_is_the_lenient_one(pieces, answers):
    strict, lenient = (read("".join(pieces), rule, answers=answers) for rule in ("strict", "lenient"))
    for label, kind in (strict, lenient):
        assert kind in KINDS
        assert (label in ("0", "1")) == (kind == "label")
    assert strict.label in (None, lenient.label)


@given(st.text(alphabet="negativposly NP.\n", max_size=60))
def test_first_of_the_words_in_a_plain_text_is_its_label(text):
    found = [word.lower() for word in re.findall("[a-zA-Z]+", text) if word.lower() in WORDS]
    assert read(text, answers=WORDS).label == (str(WORDS.index(found[0])) if found else None)


@given(PIECES)
def test_swapped_digits_say_the_opposite_of_the_plain_ones(pieces):
    text = "".join(pieces)
    for rule in RULES:
        plain, swapped = read(text, rule), read(text, rule, answers=SWAPPED)
        assert swapped.kind == plain.kind
        assert swapped.label == {"0": "1", "1": "0", None: None}[plain.label]


@pytest.mark.parametrize(
    ("part", "answers", "labels"),
    [
        ("1", ("0", "1"), {1}),
        (" 0", SWAPPED, {1}),
        ("01", ("0", "1"), {0}),  # the first counts
        (" positive", WORDS, {1}),
        (" Neg", WORDS, {0}),
        ("itive", WORDS, {1}),
        ("ive", WORDS, {0, 1}),
        (" the", WORDS, set()),
        (" ", WORDS, set()),
        ("0", WORDS, set()),
    ],
)
def test_part_of_a_response_tells_the_labels_that_it_may_be_part_of(part, answers, labels):
    assert said_by(part, answers) == labels


@pytest.mark.parametrize(
    "answers",
    [("yes", "yes"), ("yes", "Yes"), ("good", "good film"), ("1", "10"), ("a b c", "b"), ("yes",), ("", "x"), (" a", "b"),
     (True, False)],
)  # fmt: skip
def test_answers_that_cannot_be_told_apart_are_refused(answers):
    with pytest.raises(ValueError, match="answers"):
        check_answers(answers)
    with pytest.raises(ValueError, match="answers"):
        LabelFilter(answers=answers)


def test_task_whose_filter_reads_other_answers_than_it_asks_for_is_refused(tmp_path):
    (tmp_path / "t.yaml").write_text(
        f"include: {TASKS_DIR}/sst2_01/sst2_01_mini.yaml\ntask: t\ndoc_to_choice: [bad, good]\n"
    )
    with pytest.raises(UserError, match=r"Task t asks for 'bad' or 'good' .* reads '0' or '1': give the filter answers:"):
        build_tasks(["t"], str(tmp_path))
