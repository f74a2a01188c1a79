"""The longest table of the project: what responses say. Expected values are written by hand from DESIGN, section 2."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness_ext.task.labels import (
    CHANNEL_MARKERS,
    KINDS,
    RULES,
    THINKING_TAGS,
    ends_open,
    is_settled,
    markers_in,
    read,
    split_thinking,
)

# response, lenient label, strict label, kind where lenient finds none (None: it finds one), kind where strict finds none
TABLE = [
    # the digit alone
    ("1", "1", "1", None, None),
    ("0", "0", "0", None, None),
    (" 1\n", "1", "1", None, None),
    ("\n\n0", "0", "0", None, None),
    ("\t1 \r\n", "1", "1", None, None),
    ("1.", "1", "1", None, None),
    ("0!", "0", "0", None, None),
    ("1,", "1", "1", None, None),
    ("0)", "0", "0", None, None),
    ("1...", "1", "1", None, None),
    ("1。", "1", "1", None, None),
    ("0\n", "0", "0", None, None),
    ("1**", "1", "1", None, None),
    # a digit with more around it
    ("Answer: 0", "0", None, None, "other"),
    ("The answer is 1.", "1", None, None, "other"),
    ("1 because it is warm", "1", None, None, "other"),
    ("1\nSentence: it is dull", "1", None, None, "other"),
    ("0\n\n0", "0", None, None, "other"),
    ("1 (positive)", "1", None, None, "other"),
    ("**1**", "1", None, None, "other"),
    ('"0"', "0", None, None, "other"),
    ("'1'", "1", None, None, "other"),
    ("`0`", "0", None, None, "other"),
    ("-1", "1", None, None, "other"),
    ("0.5", "0", None, None, "other"),
    ("1.0", "1", None, None, "other"),
    ("1 .", "1", None, None, "other"),
    ("0 or 1", "0", None, None, "other"),
    ("1/0", "1", None, None, "other"),
    ("10", "1", None, None, "other"),
    ("01", "0", None, None, "other"),
    ("2021", "0", None, None, "other"),
    ("a score of 3 to 1", "1", None, None, "other"),
    ("x1y", "1", None, None, "other"),
    ("<answer>1</answer>", "1", None, None, "other"),
    ("\\boxed{0}", "0", None, None, "other"),
    ('{"label": 1}', "1", None, None, "other"),
    ("[1]", "1", None, None, "other"),
    ("1\u200b", "1", None, None, "other"),
    ("\ufeff1", "1", None, None, "other"),
    # words, nothing, anything else
    ("", None, None, "empty", "empty"),
    (" \n\t", None, None, "empty", "empty"),
    ("\u00a0", None, None, "empty", "empty"),
    ("positive", None, None, "word", "word"),
    ("Negative.", None, None, "word", "word"),
    ("POSITIVE", None, None, "word", "word"),
    ("The opinion is positive", None, None, "word", "word"),
    ("positive or negative", None, None, "word", "word"),
    ("positively", None, None, "other", "other"),
    ("nonpositive", None, None, "other", "other"),
    ("one", None, None, "other", "other"),
    ("zero", None, None, "other", "other"),
    ("good", None, None, "other", "other"),
    ("2", None, None, "other", "other"),
    ("9 out of 3", None, None, "other", "other"),
    ("?", None, None, "other", "other"),
    ("I cannot help with that.", None, None, "other", "other"),
    ("O", None, None, "other", "other"),
    ("l", None, None, "other", "other"),
    ("¹", None, None, "other", "other"),
    ("\uff11", None, None, "other", "other"),  # full-width 1
    ("\uff10", None, None, "other", "other"),  # full-width 0
    ("\u0661", None, None, "other", "other"),  # Arabic-Indic 1
    ("①", None, None, "other", "other"),
    ("Ⅰ", None, None, "other", "other"),
    ("\x00", None, None, "other", "other"),
    ("é" * 10, None, None, "other", "other"),
    # the prompt echoed: its own digits count, as in the original
    ("Answer with 1 for positive or 0 for negative, and nothing else.", "1", None, None, "other"),
    ("Sentence: a warm film\nAnswer: 0", "0", None, None, "other"),
    # thinking, closed
    ("<think>It is 0.</think>1", "1", "1", None, None),
    ("<think>\n0 or 1?\n</think>\n\n1\n", "1", "1", None, None),
    ("<think></think>0", "0", "0", None, None),
    ("<think>\n\n</think>\n\n0.", "0", "0", None, None),
    ("<think>0</think>", None, None, "empty", "empty"),
    ("<think>0</think>positive", None, None, "word", "word"),
    ("<think>0</think>The answer is 1", "1", None, None, "other"),
    ("<THINK>0</THINK>1", "1", "1", None, None),
    ("<Think>0</think>1", "1", "1", None, None),
    ("<think>1</think><think>1</think>0", "0", "0", None, None),
    ("1<think>0</think>", "1", "1", None, None),
    # other families
    ("<thinking>0</thinking>1", "1", "1", None, None),
    ("<thought>1</thought>0", "0", "0", None, None),
    ("<reasoning>1</reasoning>0", "0", "0", None, None),
    ("<seed:think>1</seed:think>0", "0", "0", None, None),
    ("[THINK]0[/THINK]1", "1", "1", None, None),
    ("[think]0[/think]1", "1", "1", None, None),
    ("◁think▷0◁/think▷1", "1", "1", None, None),
    ("<|begin_of_thought|>0<|end_of_thought|>1", "1", "1", None, None),
    ("<|START_THINKING|>0<|END_THINKING|>1", "1", "1", None, None),
    # thinking, nested
    ("<think>0<think>0</think>0</think>1", "1", "1", None, None),
    ("<think>0<think>0</think>0", None, None, "unfinished_thinking", "unfinished_thinking"),
    ("<think><think><think>0</think></think></think>1", "1", "1", None, None),
    ("<think>0<thinking>0</think>1", "1", "1", None, None),
    ("<think>0</thinking>0", None, None, "unfinished_thinking", "unfinished_thinking"),
    # thinking, never closed
    ("<think>", None, None, "unfinished_thinking", "unfinished_thinking"),
    ("<think>It is 1", None, None, "unfinished_thinking", "unfinished_thinking"),
    ("<think>positive, so 1", None, None, "unfinished_thinking", "unfinished_thinking"),
    ("  <think>0", None, None, "unfinished_thinking", "unfinished_thinking"),
    ("<thinking>0 1 0 1", None, None, "unfinished_thinking", "unfinished_thinking"),
    ("<think>0</think><think>1", None, None, "unfinished_thinking", "unfinished_thinking"),
    ("positive <think>1", None, None, "unfinished_thinking", "unfinished_thinking"),
    ("1 <think>0", "1", None, None, "other"),
    # channels
    (
        "<|channel|>analysis<|message|>0 or 1?<|end|><|start|>assistant<|channel|>final<|message|>1<|return|>",
        "1",
        "1",
        None,
        None,
    ),
    ("<|channel|>analysis<|message|>0 or 1?<|end|><|start|>assistant<|channel|>final<|message|>1", "1", "1", None, None),
    ("<|channel|>final<|message|>1<|return|>", "1", "1", None, None),
    ("<|channel|>final<|message|>1<|end|>", "1", "1", None, None),
    ("<|channel|>final<|message|>The answer is 1.", "1", None, None, "other"),
    ("<|channel|>final<|message|>positive", None, None, "word", "word"),
    ("<|channel|>final<|message|>", None, None, "empty", "empty"),
    ("<|channel|>final <|constrain|>json<|message|>1", "1", "1", None, None),
    ('<|channel|>final<|constrain|>json<|message|>{"label": 0}', "0", None, None, "other"),
    ("<|channel|>Final<|message|>1", None, None, "unfinished_thinking", "unfinished_thinking"),
    ("<|CHANNEL|>analysis<|Message|>0<|END|><|start|>assistant<|channel|>final<|message|>1", "1", "1", None, None),
    ("<|channel|>analysis<|message|>0<|channel|>final<|message|>1", "1", "1", None, None),  # <|end|> forgotten
    ("<|channel|>analysis<|message|>0<|start|>assistant<|channel|>final<|message|>1", "1", "1", None, None),
    ("<|start|>assistant<|channel|>analysis<|message|>0<|end|><|start|>assistant<|message|>1<|end|>", "1", "1", None, None),
    ("<|channel|>commentary<|message|>0<|end|><|start|>assistant<|channel|>final<|message|>1", "1", "1", None, None),
    ('<|channel|>commentary to=functions.rate_1 <|constrain|>json<|message|>{"x": 1}<|call|>', None, None, "empty", "empty"),
    ("<|start|>assistant to=functions.rate_1<|channel|>commentary<|message|>1<|call|>", None, None, "empty", "empty"),
    ("<|channel|>reflection<|message|>0<|end|><|start|>assistant<|channel|>final<|message|>1", "1", "1", None, None),
    ("<|channel|>finally<|message|>0", None, None, "unfinished_thinking", "unfinished_thinking"),
    ("<|channel|>analysis<|message|>It is 1", None, None, "unfinished_thinking", "unfinished_thinking"),
    ("<|channel|>analysis", None, None, "unfinished_thinking", "unfinished_thinking"),
    ("<|channel|>", None, None, "unfinished_thinking", "unfinished_thinking"),
    ("<|channel|>analysis<|message|>1<|end|>", None, None, "empty", "empty"),
    ("<|channel|>analysis<|message|>1<|end|><|start|>assistant", None, None, "unfinished_thinking", "unfinished_thinking"),
    ("<|channel|>analysis<|message|>1<|end|><|start|>assistant<|channel|>", None, None, *["unfinished_thinking"] * 2),
    ("<|channel|>analysis<|message|>1<|end|><|start|>assistant<|channel|>final", None, None, *["unfinished_thinking"] * 2),
    (
        "<|channel|>analysis<|message|>0<|end|><|start|>assistant final 1",
        "1",
        None,
        None,
        "other",
    ),  # no marker for its channel
    ("<|channel|>analysisZ<|message|>maybeZ0butZ<|end|><|start|>assistantZfinalZ1", "1", None, None, "other"),
    ("<|channel|>analysis<|message|>0<|end|>1", "1", "1", None, None),
    ("<|channel|>analysis<|message|><think>0</think>1<|end|><|channel|>final<|message|>0", "0", "0", None, None),
    ("<think>0<|channel|>final<|message|>0</think>1", "1", "1", None, None),
    ("1<|channel|>analysis<|message|>0", "1", None, None, "other"),
    ("1<|end|>", "1", "1", None, None),  # a server that shows what ended the answer
    # channels whose markers a decoder dropped
    ("analysisThe digits 0 and 1 …assistantfinal1", "1", "1", None, None),
    ("analysis0 or 1?assistantcommentaryHm, 0.assistantfinal1", "1", "1", None, None),
    ('analysis"dull" is 0assistantfinalpositive', None, None, "word", "word"),
    ('commentary to=functions.rate json{"x": 1}', None, None, "unfinished_thinking", "unfinished_thinking"),
    ("analysisWe must answer 0 or 1", None, None, "unfinished_thinking", "unfinished_thinking"),
    ("analysisZmaybeZ 0butZassistantZfinalZ 1", None, None, "unfinished_thinking", "unfinished_thinking"),
    ("final1", "1", "1", None, None),
    ("final answer: 1", "1", None, None, "other"),
    ("analysis: it is warm, so 1", "1", None, None, "other"),
    ("analysis of the sentence: 1", "1", None, None, "other"),
    ("Analysis\n1", "1", None, None, "other"),
    ("The analysis says 1", "1", None, None, "other"),
    # Gemma 4's channel
    ("<|channel>thought\nIt is 0.\n<channel|>1", "1", "1", None, None),
    ("<|channel>thought\n<channel|>0", "0", "0", None, None),
    ("<|channel>thought\nIt is 1", None, None, "unfinished_thinking", "unfinished_thinking"),
    ("thought\nIt is 0, so\n1", None, None, "unfinished_thinking", "unfinished_thinking"),  # its end is lost
    ("thought 1", "1", None, None, "other"),
    # no tags after all
    ("</think>1", "1", None, None, "other"),
    ("0</think>1", "0", None, None, "other"),
    ("<think 1", "1", None, None, "other"),
    ("think>1</think", "1", None, None, "other"),
    ("< think >0</ think >", "0", None, None, "other"),
]


@pytest.mark.parametrize(("text", "lenient", "strict", "lenient_kind", "strict_kind"), TABLE)
def test_read_response_gives_label_and_kind(text, lenient, strict, lenient_kind, strict_kind):
    assert read(text, "lenient") == (lenient, lenient_kind or "label")
    assert read(text, "strict") == (strict, strict_kind or "label")


@pytest.mark.parametrize(
    ("text", "label", "kind"),
    [
        ("It is 0 or 1.</think>1", "1", "label"),  # the prompt opened the block
        ("</think>\n\n0", "0", "label"),
        ("hm 0</THINK> 1", "1", "label"),
        ("0</think>", None, "empty"),
        ("1", "1", "label"),
        ("1</think>0</think>1", "0", "label"),  # only a first tag can close what the prompt opened
        ("<think>0</think>1</think>0", "1", "label"),
        ("<think>1", None, "unfinished_thinking"),
        ("0 or 1?<|end|><|start|>assistant<|channel|>final<|message|>1<|return|>", "1", "label"),
        ("0 or 1?<|channel|>final<|message|>1", "1", "label"),
        ("<|message|>0 or 1?<|end|><|channel|>final<|message|>1", "0", "label"),  # no template opens the header alone
        ("analysis<|message|>0 or 1?<|end|><|start|>assistant<|channel|>final<|message|>1", "1", "label"),
        ("final<|message|>1", "1", "label"),
        ("0 or 1?<|end|>", None, "empty"),
        ("<|channel|>analysis<|message|>0", None, "unfinished_thinking"),
        ("analysisHm, 0?assistantfinal1", "1", "label"),
        ("1<|return|>", "1", "label"),  # ends an answer, never an analysis
        ("0 or 1?<channel|>1", "1", "label"),
    ],
)
def test_read_response_that_may_begin_inside_thinking(text, label, kind):
    assert read(text, thinking=True) == (label, kind)


def test_read_names_of_classes_decide_what_is_a_word():
    assert read("spam", words=("ham", "spam")).kind == "word"
    assert read("positive", words=("ham", "spam")).kind == "other"
    assert read("a+b", words=("a+b", "c")).kind == "word"  # no pattern


def test_read_unknown_rule_is_an_error():
    with pytest.raises(ValueError, match="lenient, strict"):
        read("1", "loose")


@pytest.mark.parametrize(
    ("prompt", "tag"),
    [
        ("...assistant\n<think>\n", "<think>\n"),
        ("[THINK]", "[THINK]"),
        ("<think>\n\n</think>\n\n", ""),
        ("Answer:", ""),
        ("<think> 1", ""),
        ("", ""),
        ("<|start|>assistant", ""),  # the model names the channel itself
        ("<|start|>assistant<|channel|>", "<|channel|>"),
        ("<|start|>assistant<|channel|>analysis", "<|channel|>analysis"),
        ("<|start|>assistant<|channel|>analysis<|message|>", "<|channel|>analysis<|message|>"),
        ("<|start|>assistant<|channel|>final<|message|>", ""),
        ("<|turn>model\n<|channel>thought\n", "<|channel>thought\n"),
        ("<|turn>model\n<|channel>thought\n<channel|>", ""),
    ],
)
def test_ends_open_finds_the_tag_that_a_prompt_leaves_open(prompt, tag):
    assert ends_open(prompt) == tag


MARKERS = [*(tag for pair in THINKING_TAGS for tag in pair), *CHANNEL_MARKERS]
WORDS = ["analysis", "commentary", "final", "assistant", "assistantfinal", "thought\n", " to=f", "json"]
PIECES = st.lists(
    st.sampled_from(["0", "1", " ", "\n", ".", "positive", "x", "２", "<", "\ufffd", *MARKERS, *WORDS])
    | st.sampled_from(MARKERS + WORDS).flatmap(lambda whole: st.integers(1, len(whole)).map(lambda end: whole[:end]))
    | st.text(max_size=5),
    max_size=20,
)


def test_markers_of_channels_are_kept_only_where_the_vocabulary_has_channels():
    assert markers_in({"<|end|>": 1, "<think>": 2}) == ["<think>"]  # Phi-4's <|end|> ends an answer
    assert set(markers_in(dict.fromkeys(CHANNEL_MARKERS))) == set(CHANNEL_MARKERS)


@given(PIECES)
def test_read_any_text_gives_a_known_kind_and_a_label_only_with_it(pieces):
    for rule in RULES:
        for thinking in (False, True):
            label, kind = read("".join(pieces), rule, thinking=thinking)
            assert kind in KINDS
            assert (label in ("0", "1")) == (kind == "label")


@given(PIECES)
def test_read_strict_label_is_also_the_lenient_one(pieces):
    text = "".join(pieces)
    strict = read(text, "strict").label
    assert strict is None or strict == read(text, "lenient").label


@given(PIECES, PIECES)
def test_read_lenient_label_once_found_never_changes(pieces, more):
    label = read("".join(pieces)).label
    # A last "<" may still become a tag, so the pieces are kept apart by a space.
    if label is not None:
        assert read("".join(pieces) + " " + "".join(more)).label == label


@given(st.text(alphabet="01 .\npositve<>/thk", max_size=40))
def test_read_without_tags_agrees_with_the_first_digit_in_the_text(text):
    if "think>" not in text:
        found = re.findall("[01]", text)
        assert read(text).label == (found[0] if found else None)


@given(PIECES)
def test_split_thinking_closed_block_is_as_if_it_had_not_been_there(pieces):
    inside = "".join(piece for piece in pieces if "think" not in piece.lower())
    assert split_thinking(f"a<think>{inside}</think>b") == ("ab", False)


@pytest.mark.parametrize(
    ("text", "lenient", "strict"),
    [
        ("", False, False),
        ("positive", False, False),
        (" 1", True, False),
        ("1.", True, False),
        ("1\n\n", True, False),
        ("1\n\nS", True, True),
        ("10", True, True),
        ("The answer is 1", True, True),
        ("1 <", True, False),  # may become a thinking block, which is taken out
        ("1 <b", True, True),
        ("1\ufffd", True, False),  # half a character, which may be punctuation
        ("<think>1", False, False),
        ("<think>0</think>", False, False),
        ("<think>0</think>1", True, False),
        ("<think>0</think>1 x", True, True),
        ("1<think>x", True, False),
        ("<|channel|>analysis<|message|>1", False, False),
        ("<|channel|>final<|message|>1", True, False),
        ("<|channel|>final<|message|>1 x", True, True),
        ("<|channel|>final", False, False),
        ("1<|end|>", True, False),
        ("analysis1", False, False),
        ("analysis 1", True, True),
        ("analysisHm, 0?assistantfinal1", True, False),
        ("<|start|>assistant", False, False),
    ],
)
def test_is_settled_soon_after_the_first_digit_outside_thinking(text, lenient, strict):
    assert (is_settled(text, "lenient"), is_settled(text, "strict")) == (lenient, strict)


def test_is_settled_text_that_may_begin_inside_thinking_is_not_before_its_first_tag():
    assert not is_settled("1 x", thinking=True)
    assert is_settled("0</think>1", thinking=True)


@given(PIECES, PIECES, st.sampled_from(RULES), st.booleans())
def test_is_settled_text_reads_the_same_whatever_follows(pieces, more, rule, thinking):
    text = "".join(pieces)
    if is_settled(text, rule, thinking=thinking):
        assert read(text + "".join(more), rule, thinking=thinking) == read(text, rule, thinking=thinking)


@given(st.text(alphabet="01 .\npositve<>/thk[]TH", max_size=30), st.sampled_from(RULES), st.booleans())
def test_is_settled_from_some_character_on_stays_so(text, rule, thinking):
    found = [is_settled(text[:end], rule, thinking=thinking) for end in range(len(text) + 1)]
    assert found == sorted(found)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("x" * 100_000 + "1", "1"),
        ("<think>" * 15_000, None),
        ("<think>0</think>" * 6_000 + "1", "1"),
        ("<" * 100_000, None),
        ("<|channel|>analysis<|message|>0<|end|><|start|>assistant" * 2_000 + "<|channel|>final<|message|>1", "1"),
        ("analysisHm " + "assistant" * 10_000 + "assistantfinal1", "1"),
        ("<|start|>" * 10_000 + " " * 100_000 + "1", "1"),
        ("1" + "." * 100_000, "1"),
    ],
    ids=["plain", "open tags", "blocks", "brackets", "channels", "bare", "headers", "full stops"],
)
def test_read_100_kb_of_text_is_read_to_its_end(text, label):  # in linear time: `make bench` measures it
    assert read(text).label == label
