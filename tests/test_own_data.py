"""A table of one's own: what is guessed, what is said of it, and files that cannot be used, each refused in one line."""

import json
import random

import pandas
import pytest

from harness_ext.errors import UserError
from harness_ext.task.own_data import OwnData, given, read

GOOD = [(f"Ticket about {word}, number {'i' * n}.", ("normal", "urgent")[n % 2]) for n, word in enumerate("abcdefghijkl")]
HEAD = "text,label\n"
LINES = [f'"{text}",{label}\n' for text, label in GOOD]


WHOLE = "".join([HEAD, *LINES])


def own(folder, content=WHOLE, name="t.csv", **asked):
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return OwnData(str(folder / name), **{"positive": "urgent", **asked})


def csv_of(**columns):
    return pandas.DataFrame(columns).to_csv(index=False)


def test_good_table_is_read_and_nothing_is_said_but_what_should_be_known(tmp_path):
    parts = read(own(tmp_path, text="text", label="label"))
    assert sorted(parts.train + parts.test) == sorted((text, int(label == "urgent")) for text, label in GOOD)
    assert parts.columns.names == ("normal", "urgent")
    assert parts.test_source == f"t.csv, {len(parts.test)} of 12"
    ones = sum(label for _, label in parts.test)
    few, balance = parts.notes
    assert few == "t.csv has only 6 of 'normal' and 6 of 'urgent': scores of so few rows say little"
    assert balance.startswith(f"t.csv, {len(parts.test)} of 12: {ones} of them are 'urgent'; always saying")
    assert balance.endswith(f"{100 * max(ones, len(parts.test) - ones) / len(parts.test):.1f}")


TEXTS = [f"some words number {number}" for number in range(40)]
LABELS = [str(number % 2) for number in range(40)]
GUESSES = {
    "by name": ({"Text": TEXTS, "LABEL": LABELS, "x": TEXTS}, ("Text", "LABEL")),
    "label by its two values": ({"body": TEXTS, "spam?": LABELS, "who": TEXTS}, ("body", "spam?")),
    "text as the only other column": ({"y": LABELS, "what they wrote": TEXTS}, ("what they wrote", "y")),
    "the one of two names with two values": (
        {"category": TEXTS, "class": LABELS, "message": TEXTS},
        ("message", "class"),
    ),
}


@pytest.mark.parametrize(("columns", "chosen"), GUESSES.values(), ids=GUESSES)
def test_columns_are_guessed_where_one_guess_is_possible_and_said(columns, chosen, tmp_path):
    found = read(own(tmp_path, csv_of(**columns), positive=None)).columns
    assert (found.text, found.label) == chosen
    assert f"texts from {chosen[0]!r}, labels from {chosen[1]!r}" in found.notes[0]


@pytest.mark.parametrize(
    ("zero", "one"),
    [("0", "1"), ("no", "Yes"), ("FALSE", "TRUE"), ("negative", "positive"), ("label_0", "label_1"), ("schlecht", None)],
)  # fmt: skip
def test_label_that_is_1_is_guessed_where_the_words_say_so(zero, one, tmp_path):
    labels = [one or "gut" if number % 2 else zero for number in range(40)]
    table = own(tmp_path, csv_of(text=TEXTS, label=labels), positive=None)
    if one is None:
        with pytest.raises(UserError, match=r"POSITIVE='schlecht'"):
            read(table)
    else:
        assert read(table).columns.names == (zero, one)
        assert f"{one!r} is taken for 1" in read(table).columns.notes[0]


def test_label_counts_as_written_whatever_its_capitals_and_blanks(tmp_path):
    labels = ["Urgent", "normal", "urgent ", "Normal", "Urgent"] * 8
    parts = read(own(tmp_path, csv_of(text=TEXTS, label=labels), positive="URGENT"))
    assert parts.columns.names == ("Normal", "Urgent"), "as they are written most often, of equals the first"
    assert dict(parts.train + parts.test) == {
        text: int("urg" in label.lower()) for text, label in zip(TEXTS, labels, strict=True)
    }


def test_same_rows_in_other_order_format_and_under_another_name_are_the_same_parts(tmp_path):
    rows = [{"text": text, "label": label} for text, label in GOOD]
    random.Random(1).shuffle(rows)
    first = read(own(tmp_path))
    other = read(own(tmp_path, "".join(json.dumps(row) + "\n" for row in rows), "other.jsonl"))
    assert (first.train, first.test, first.columns.names) == (other.train, other.test, other.columns.names)


def test_second_file_is_the_test_part_and_what_stands_in_it_is_not_trained_on(tmp_path):
    own(tmp_path, HEAD + LINES[0] + LINES[1].upper() + "another text,urgent\nand one more,normal\n", "test.csv")
    parts = read(own(tmp_path, test=str(tmp_path / "test.csv")))
    assert len(parts.test) == 4
    assert not {text for text, _ in parts.train} & {text for text, _ in GOOD[:2]}
    assert (parts.test_source, parts.train_source) == ("test.csv, 4 of 4", "t.csv, 10 to train on")
    assert "2 rows of t.csv stand in test.csv too: they are not trained on" in parts.notes


def noted(folder, **columns):
    return " | ".join(read(own(folder, csv_of(**columns), positive="1", text="text", label="label")).notes)


def test_repeated_and_conflicting_rows_are_named(tmp_path):
    said = noted(tmp_path, text=[*TEXTS, TEXTS[3], "SOME words: number 4!"], label=[*LABELS, LABELS[3], "1"])
    assert "an earlier text and label stand again in row 42: they count once" in said
    assert "the same text has both labels in rows 6, 43" in said


def test_column_that_gives_the_label_away_is_named_and_one_that_is_unique_or_says_little_is_not(tmp_path):
    queue = ["now" if label == "1" else "later" if number % 4 else "soon" for number, label in enumerate(LABELS)]
    mixed = [*queue[:-1], "soon"]
    said = noted(tmp_path, text=TEXTS, label=LABELS, queue=queue, id=range(40), mixed=mixed, same=["x"] * 40)
    assert "column 'queue' gives the label away" in said
    assert said.count("gives the label away") == 1


BAD = {
    # name: (content or None for no file, file name, what is asked, what the line says)
    "no file": (None, "t.csv", {}, ("t.csv is no file",)),
    "a document": ("x", "t.docx", {}, (".csv", ".xlsx")),
    "empty": ("", "t.csv", {}, ("t.csv",)),
    "header alone": (HEAD, "t.csv", {}, ("no rows",)),
    "blank rows alone": (HEAD + ",\n\n", "t.csv", {}, ("no rows",)),
    "one column": ("text\na\n", "t.csv", {}, ("one column only",)),
    "no header": ("some text,urgent\nother text,normal\nthird,urgent\n", "t.csv", {"text": "text"}, ("no such column",)),
    "columns called alike": ("text,text,label\na,b,c\n", "t.csv", {}, ("two columns are called 'text'",)),
    "short row": (HEAD + LINES[0] + "alone\n", "t.csv", {}, ("row 3", "1 cells", "quotes")),
    "long rows": (HEAD + "a, b,urgent\n" * 9, "t.csv", {}, ("row 2 has 3", "rows 2, 3, 4, 5, 6 and 4 more")),
    "open quote": (HEAD + LINES[0] + '"never closed,urgent\n', "t.csv", {}, ("row 3", "quotes do not match")),
    "quote within": (HEAD + '"so" it is,urgent\n', "t.csv", {}, ("row 2", "quotes do not match")),
    "UTF-16 without a mark": ("text,label\na,b\n".encode("utf-16-le"), "t.csv", {}, ("no text in UTF-8",)),
    "a picture": (b"\x89PNG\r\n\x1a\n\x00\x00", "t.csv", {}, ("no text in UTF-8",)),
    "a byte that no code page has": (HEAD.encode() + b"a\x81,urgent\n", "t.csv", {}, ("no text in UTF-8",)),
    "half a UTF-16 character": ("text,label".encode("utf-16") + b"x", "t.csv", {}, ("no text in UTF-8",)),
    "Excel called CSV": (b"PK\x03\x04\x00\x00", "t.csv", {}, ("by its true ending",)),
    "no Parquet": ("text,label\n", "t.parquet", {}, ("no Parquet",)),
    "broken JSON": ("[{", "t.json", {}, ("t.json is no JSON",)),
    "JSON of one object": ('{"text": 1}', "t.json", {}, ("no list of objects",)),
    "JSON list of texts": ('["a"]', "t.json", {}, ("row 1", "no object")),
    "empty JSON list": ("[]", "t.json", {}, ("empty",)),
    "broken line of JSON": ('{"text": "a"}\n\n{"text": \n', "t.jsonl", {}, ("row 3 is no JSON",)),
    "half a surrogate pair": ('{"text": "\\ud83d", "label": 1}\n', "t.jsonl", {}, ("row 1 is no JSON",)),
    "JSON as lines": ('[{"text": "a"}]\n', "t.jsonl", {}, ("row 1", "no object")),
    "deep JSON": ("[" * 100_000, "t.json", {}, ("no JSON",)),
    "unknown text": (HEAD + LINES[0], "t.csv", {"text": "txt"}, ("TEXT=txt", "Did you mean text?")),
    "unknown label": (HEAD + LINES[0], "t.csv", {"label": "Labels!"}, ("LABEL=Labels!", "It has text, label")),
    "two texts": ("subject,mail,label\na b,c d,1\ne f,g h,0\n", "t.csv", {}, ("TEXT=subject", "mail (2 values)")),
    "two labels": ("text,a,b\na b,1,0\nc d,0,1\ne f,0,1\n", "t.csv", {}, ("which column holds the label", "LABEL=a")),
    "no label": ("text,a,b\na b,1,0\nc d,2,1\ne f,3,2\n", "t.csv", {}, ("which column holds the label",)),
    "empty texts": (HEAD + LINES[0] + ",urgent\n  ,normal\n", "t.csv", {}, ("no text", "rows 3, 4")),
    "missing labels": (HEAD + LINES[0] + LINES[1] + "a b, \n", "t.csv", {}, ("no label", "row 4")),
    "a third label": (HEAD + "".join(LINES) + "a b,Normal.\n", "t.csv", {}, ("3 labels", "'normal' (6)", "'normal.' (1)")),
    "one label": (HEAD + LINES[0] + LINES[2], "t.csv", {}, ("1 label,", "'normal' (2)")),
    "many labels": (HEAD + "".join(f"a b,{n}\n" for n in range(20)), "t.csv", {}, ("20 labels", "and 14 more")),
    "texts are numbers": (HEAD + "1,urgent\n2.5,normal\n", "t.csv", {}, ("numbers or ids", "TEXT=")),
    "texts are ids": ("id,label\nT-1,urgent\nT-2,normal\n", "t.csv", {}, ("such as 'T-1'",)),
    "texts are dates": (HEAD + "2026-01-05 10:00,urgent\n2026-01-06 11:30,normal\n", "t.csv", {}, ("numbers or ids",)),
    "unknown positive": (HEAD + LINES[0] + LINES[1], "t.csv", {"positive": "urgnt"}, ("POSITIVE=urgnt", "mean urgent?")),
    "no positive": (HEAD + LINES[0] + LINES[1], "t.csv", {"positive": None}, ("which of 'normal' and 'urgent'",)),
    "class in one part alone": (HEAD + LINES[0] + LINES[1], "t.csv", {}, ("none of them is", "another TEST=")),
    "too many to test": (HEAD + "".join(LINES), "t.csv", {"test": "11"}, ("TEST=11 is more than the", "TEST=0.7")),
    "share above 1": (HEAD + "".join(LINES), "t.csv", {"test": "1.5"}, ("TEST '1.5'",)),
    "no second file": (HEAD + "".join(LINES), "t.csv", {"test": "test.csv"}, ("TEST=test.csv is no file",)),
    "second file of the same rows": (HEAD + "".join(LINES), "t.csv", {"test": "SELF"}, ("train part has 0 rows",)),
}  # fmt: skip


@pytest.mark.parametrize(("content", "name", "asked", "said"), BAD.values(), ids=BAD)
def test_file_that_cannot_be_used_is_refused_in_one_line(content, name, asked, said, tmp_path):
    asked = {key: str(tmp_path / name) if value == "SELF" else value for key, value in asked.items()}
    table = own(tmp_path, content or "", name, **asked)
    if content is None:
        (tmp_path / name).unlink()
    with pytest.raises(UserError) as caught:
        read(table)
    line = str(caught.value)
    assert "\n" not in line
    assert all(part in line for part in said), line


@pytest.mark.parametrize(
    ("asked", "said"),
    [({"text": "a"}, "TEXT is about a table"), ({"data": "t.csv", "data_dir": "x"}, "leave one of them out")],
)
def test_variables_that_do_not_go_together_are_refused(asked, said):
    with pytest.raises(UserError, match=said):
        given(asked)
