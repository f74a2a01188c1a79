"""Anyone's logs: every format says the same of the same answers, and what is damaged is refused in one line."""

import contextlib
import csv
import json
import random
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness_ext.errors import UserError
from harness_ext.report import csv_log, inspect_log, lm_eval_log, pairs
from harness_ext.report.logs import UNTOLD, Log, Side

GOLD = ("1", "0", "1", "0", "1", "0")
SAID = ("1", "1", "", "0", "0", "0")  # the third has no label
RIGHT = [True, False, False, True, False, True]


def stock_sample(doc: int, gold: int, said: int, **more) -> dict:
    """A line of lm-eval's log of a multiple choice, as glue's sst2 is."""
    chosen = [["-1.5", "False"], ["-0.25", "True"]] if said else [["-0.25", "True"], ["-1.5", "False"]]
    return {
        "doc_id": doc,
        "doc": {"sentence": f"text {doc}", "label": gold, "idx": doc},
        "target": gold,
        "arguments": {"gen_args_0": {"arg_0": "...", "arg_1": " negative"}},
        "resps": [[pair] for pair in chosen],
        "filtered_resps": chosen,
        "filter": "none",
        "metrics": ["acc"],
        "doc_hash": f"glue {doc}",
        "acc": float(gold == said),
        **more,
    }


def our_samples(doc: int, gold: str, said: str) -> list[dict]:
    """The lines of a document of a task with two filters; the strict one never finds a label."""
    lines = []
    for rule, label in (("lenient", said), ("strict", "")):
        number = int(label) if label else -1
        lines.append(
            {
                "doc_id": doc,
                "doc": {"sentence": f"text {doc}", "label": int(gold)},
                "target": gold,
                "resps": [[f"I say {said}"]],
                "filtered_resps": [label or "[word]"],
                "filter": rule,
                "doc_hash": f"ours {doc}",
                "acc": int(label == gold),
                "acc_following": [int(label == gold), number],
                "mcc": [int(gold), number],
            }
        )
    return lines


def inspect_sample(doc: int, gold: str, said: str) -> dict:
    """What inspect keeps of a sample, in its JSON log and among summaries (EvalSampleSummary)."""
    score: dict = {"value": "C" if said == gold else "I", "answer": said or None, "explanation": "...", "history": []}
    return {
        "id": doc,
        "epoch": 1,
        "input": f"text {doc}",
        "target": gold,
        "metadata": {},
        "scores": {"match": score},
        "completed": True,
    }


def inspect_samples() -> list[dict]:
    return [inspect_sample(doc, *pair) for doc, pair in enumerate(zip(GOLD, SAID, strict=True))]


def write_zip(path: Path, content: bytes, *, zstd: bool = False) -> Path:
    """Write a `.eval` file; zstd, which zipfile cannot write before 3.14, is put in where a stored member was."""
    written = pyarrow.compress(content, "zstd", asbytes=True) if zstd else content
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED if zstd else zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.json", '{"version": 2, "status": "success"}')
        archive.writestr("summaries.json", written)
    if zstd:
        data = bytearray(path.read_bytes())
        at = data.rindex(b"PK\x01\x02")  # the directory's entry of the last member
        data[at + 10 : at + 12] = (93).to_bytes(2, "little")
        data[at + 16 : at + 20] = zlib.crc32(content).to_bytes(4, "little")
        data[at + 24 : at + 28] = len(content).to_bytes(4, "little")
        path.write_bytes(data)
    return path


def write_lines(path: Path, samples: list[dict]) -> Path:
    path.write_text("".join(json.dumps(sample) + "\n" for sample in samples), encoding="utf-8")
    return path


def write_table(path: Path, rows=None, separator=",") -> Path:
    rows = rows or [(str(doc), *pair) for doc, pair in enumerate(zip(GOLD, SAID, strict=True))]
    lines = ["note,ID,gold,prediction", *(",".join(("x", *row)) for row in rows)]
    path.write_text("\n".join(lines).replace(",", separator) + "\n", encoding="utf-8-sig")
    return path


def as_csv(folder):
    return csv_log.read(write_table(folder / "a.csv"))


def as_tsv(folder):
    return csv_log.read(write_table(folder / "a.tsv", separator="\t"))


def as_our_samples(folder):
    lines = [line for doc, pair in enumerate(zip(GOLD, SAID, strict=True)) for line in our_samples(doc, *pair)]
    return lm_eval_log.read(write_lines(folder / "samples_sst2_01.jsonl", lines))


def as_inspect_json(folder):
    (folder / "log.json").write_text(json.dumps({"version": 2, "status": "success", "samples": inspect_samples()}))
    return inspect_log.read(folder / "log.json")


def as_inspect_eval(folder):
    return inspect_log.read(write_zip(folder / "log.eval", json.dumps(inspect_samples()).encode()))


def as_inspect_zstd(folder):
    return inspect_log.read(write_zip(folder / "log.eval", json.dumps(inspect_samples()).encode(), zstd=True))


@pytest.mark.parametrize("read", [as_csv, as_tsv, as_our_samples, as_inspect_json, as_inspect_eval, as_inspect_zstd])
def test_every_format_says_the_same_of_the_same_answers(read, tmp_path):
    log = read(tmp_path)
    assert (log.ids, log.gold, log.said) == (("0", "1", "2", "3", "4", "5"), GOLD, SAID)
    assert log.correct.tolist() == RIGHT
    assert log.not_following == 1


def test_stock_choice_has_labels_and_margins(tmp_path):
    samples = [stock_sample(doc, int(gold), int(said or 0)) for doc, (gold, said) in enumerate(zip(GOLD, SAID, strict=True))]
    log = lm_eval_log.read(write_lines(tmp_path / "samples_sst2.jsonl", samples))
    assert log.said == tuple(said or "0" for said in SAID)
    assert log.correct.tolist() == RIGHT
    assert log.margins is not None
    assert log.margins.tolist() == [1.25 if said == "1" else -1.25 for said in SAID]
    assert log.texts[:2] == ("text 0", "text 1")
    assert log.not_following == 0


def test_log_that_only_knows_what_is_right_gives_the_other_class_for_what_is_not(tmp_path):
    samples = [
        stock_sample(doc, int(gold), 1, filtered_resps=[], acc=int(right))
        for doc, (gold, right) in enumerate(zip(GOLD, RIGHT, strict=True))
    ]
    log = lm_eval_log.read(write_lines(tmp_path / "a.jsonl", samples))
    assert log.correct.tolist() == RIGHT
    assert log.said == ("1", "1", "0", "0", "0", "0")


def test_written_answer_is_right_where_its_metric_says_so_and_what_else_it_said_is_not_known(tmp_path):
    asked = {
        "filtered_resps": ["42"],
        "resps": [["It is 42."]],
        "target": "42",
        "filter": "strict-match",
        "metrics": ["exact_match"],
    }
    samples = [
        stock_sample(0, 1, 1) | asked | {"exact_match": 1.0},
        stock_sample(1, 1, 1) | asked | {"target": "7", "exact_match": 0.0},
    ]
    for sample in samples:
        del sample["acc"]
    log = lm_eval_log.read(write_lines(tmp_path / "a.jsonl", samples))
    assert log.correct.tolist() == [True, False]
    assert log.said == ("42", UNTOLD)
    assert log.responses == ("It is 42.", "It is 42.")
    assert log.not_following is None


@pytest.mark.parametrize(
    ("value", "right"),
    [
        ("C", True),
        ("I", False),
        ("N", False),
        (1, True),
        (0.0, False),
        (True, True),
        (False, False),
        ("yes", True),
        ("0", False),
    ],
)
def test_inspects_scores_are_read_as_inspect_reads_them(value, right, tmp_path):
    sample = inspect_sample(7, "positive", "positive")
    sample["scores"]["match"]["value"] = value
    sample["input"] = [
        {"role": "system", "content": "x"},
        {"role": "user", "content": [{"type": "text", "text": "the question"}]},
    ]
    (tmp_path / "log.json").write_text(json.dumps({"samples": [sample]}))
    log = inspect_log.read(tmp_path / "log.json")
    assert log.correct.tolist() == [right]
    assert log.texts == ("the question",)


@pytest.mark.parametrize("value", ["P", 0.5, {"a": 1}, [1, 1], None, float("nan")])
def test_score_that_is_neither_right_nor_wrong_is_refused(value, tmp_path):
    sample = inspect_sample(7, "1", "1")
    sample["scores"]["match"]["value"] = value
    (tmp_path / "log.json").write_text(json.dumps({"samples": [sample]}))
    with pytest.raises(UserError, match=r"sample '7' is scored .* neither right"):
        inspect_log.read(tmp_path / "log.json")


@pytest.mark.parametrize(("written", "label"), [("1.0", "1"), (" 1 ", "1"), ("2", ""), ("", ""), ("Positive", "")])
def test_prediction_is_a_label_however_a_table_program_wrote_it(written, label, tmp_path):
    log = csv_log.read(write_table(tmp_path / "a.csv", [("a", "1", written), ("b", "0", "0")]))
    assert log.said == (label, "0")


def lines_of(*samples: dict) -> bytes:
    return "".join(json.dumps(sample) + "\n" for sample in samples).encode()


HOSTILE = "\x1b[2J\n\u202e" * 30
BAD = {
    "empty.csv": (b"", "it is empty"),
    "blank.jsonl": (b"\n\n", "it is empty"),
    "header.csv": (b"id,gold,prediction\n", "it holds no documents"),
    "columns.csv": (b"id,label,answer\n1,0,0\n", "it lacks the column gold and prediction"),
    "semicolons.csv": (b"id;gold;prediction\n1;0;0\n", "separated by commas"),
    "columns twice.csv": (b"id,gold,prediction,Prediction\n1,0,0,1\n", "it has the column prediction more than once"),
    "half.csv": (b"id,gold,prediction\n1,0,0\n2,0", "line 3 has 2 cells instead of 3; perhaps it was only half written"),
    "quote.csv": (b'id,gold,prediction\n1,0,"0\n', "perhaps it was only half written"),
    "gold.csv": (b"id,gold,prediction\n1,0,0\n2,,1\n", "line 3 has no gold label"),
    "words.csv": (
        b"id,gold,prediction\n1,0,negative\n",
        "no prediction is one of the gold labels ('0'); the first is 'negative'",
    ),
    "twice.csv": (b"id,gold,prediction\n1,0,0\n1,1,1\n", "document '1' stands in it 2 times"),
    "bytes.csv": (b"id,gold,prediction\n\xff\xfe,0,0\n", "line 2 is not UTF-8"),
    "hostile.csv": (f'id,gold,prediction\n1,"{HOSTILE}",0\n'.encode(), "no prediction"),
    "half.jsonl": (lines_of(stock_sample(0, 1, 1)) + b'{"doc_id": 1, "doc', "line 2 is not JSON"),
    "deep.jsonl": (b"[" * 100_000, "line 1 is not JSON"),
    "list.jsonl": (b"[]\n", "line 1 is no sample of lm-eval's"),
    "other.jsonl": (b'{"text": "x"}\n', "line 1 is no sample of lm-eval's"),
    "metric.jsonl": (lines_of(stock_sample(0, 1, 1, acc=0.5)), "document '0' has no metric that says whether it is right"),
    "twice.jsonl": (lines_of(stock_sample(0, 1, 1), stock_sample(0, 1, 1)), "document '0' stands in it 2 times"),
    "shape.jsonl": (
        lines_of(stock_sample(0, 1, 1, acc_following=[1, 1])),
        "not as lm-eval writes them (KeyError: \"'mcc'\")",
    ),
    "text.json": (b"hello", "is not JSON"),
    "header.json": (b'{"version": 2, "status": "started", "samples": null}', "it has no samples"),
    "none.json": (b'{"samples": []}', "it holds no documents"),
    "foreign.json": (b'{"samples": [{"x": 1}]}', "sample 1 has no id and target"),
    "error.json": (
        b'{"samples": [{"id": 1, "target": "1", "error": "out of\\nmemory"}]}',
        "has no score ('out of\\nmemory')",
    ),
    "epochs.json": (
        json.dumps({"samples": [inspect_sample(1, "1", "1") | {"epoch": epoch} for epoch in (1, 2)]}).encode(),
        "document '1' stands in it 2 times",
    ),
    "garbage.eval": (b"\x00\x01\x02PK", "it is no zip file as inspect writes it"),
    "log.parquet": (b"PAR1", "is no log that can be read, which are .jsonl .eval .json .csv .tsv files"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_log_is_named_in_one_line(name, door, tmp_path):
    content, said = BAD[name]
    (tmp_path / name).write_bytes(content)
    error = door("compare", "--a", tmp_path / name, "--b", tmp_path / name).error
    assert said in error
    assert name in error
    assert error.isprintable()


@pytest.mark.parametrize("damage", ["half", "unfinished", "zstd", "bits"])
def test_damaged_zip_is_named_in_one_line(damage, door, tmp_path):
    content = json.dumps(inspect_samples()).encode()
    path = write_zip(tmp_path / "log.eval", content, zstd=damage in ("zstd", "bits"))
    data = bytearray(path.read_bytes())
    if damage == "half":
        data = data[: len(data) // 2]
    elif damage == "unfinished":  # only the journal has been written
        data = bytearray(bytes(data).replace(b"summaries.json", b"journal_1.json"))
    else:
        at = data.index(b"summaries.json") + len("summaries.json") + (3 if damage == "zstd" else 60)
        data[at] ^= 0xFF
    path.write_bytes(data)
    error = door("show", "--run", path).error
    assert ("has not finished" if damage == "unfinished" else "it is no zip file as inspect writes it") in error


@pytest.mark.parametrize("zstd", [True, False])
@pytest.mark.parametrize(
    ("told", "said"), [(2**30, "is larger than 256 MiB"), (100, "it is no zip file as inspect writes it")]
)
def test_zip_bomb_is_refused_without_being_unpacked_whether_or_not_it_tells_its_size(told, said, zstd, tmp_path):
    path = write_zip(tmp_path / "log.eval", b" " * 60_000_000, zstd=zstd)
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x01\x02") + 24  # the size in the zip's directory
    data[at : at + 4] = struct.pack("<I", told)
    path.write_bytes(data)
    tracemalloc.start()
    before = pyarrow.total_allocated_bytes()
    with pytest.raises(UserError, match=said):
        inspect_log.read(path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2_000_000
    assert pyarrow.total_allocated_bytes() - before < 2_000_000


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compression_that_inspect_does_not_use_is_refused(method, tmp_path):
    with zipfile.ZipFile(tmp_path / "log.eval", "w", method) as archive:
        archive.writestr("summaries.json", json.dumps(inspect_samples()))
    with pytest.raises(UserError, match=r"compression 1[24] is not known"):
        inspect_log.read(tmp_path / "log.eval")


@pytest.mark.parametrize("mark", ["\u2028", "\x85", "\x0c", "\r"])
def test_what_ends_a_line_elsewhere_may_stand_in_an_answer(mark, tmp_path):
    samples = [each | {"resps": [[f"1{mark}2"]]} for each in our_samples(0, "1", "1")]
    lines = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in samples)  # as lm-eval writes them
    (tmp_path / "samples.jsonl").write_text(lines, encoding="utf-8", newline="")
    assert lm_eval_log.read(tmp_path / "samples.jsonl").responses == (f"1{mark}2",)


@settings(deadline=None, max_examples=60)
@given(
    content=st.binary(max_size=300),
    seed=st.integers(0, 10**6),
    read=st.sampled_from([csv_log.read, lm_eval_log.read, inspect_log.read]),
)
def test_damaged_files_are_refused_or_read_and_nothing_else_happens(content, seed, read, tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged")
    name = {csv_log.read: "a.csv", lm_eval_log.read: "a.jsonl", inspect_log.read: "a.eval"}[read]
    draw = random.Random(seed)
    write_table(folder / "a.csv")
    write_lines(folder / "a.jsonl", [*our_samples(0, "1", "1"), *our_samples(1, "0", "")])
    write_zip(folder / "a.eval", json.dumps(inspect_samples()).encode())
    data = bytearray((folder / name).read_bytes())
    start = draw.randrange(len(data))
    data[start : start + draw.randrange(20)] = content[: draw.randrange(20)]
    for damaged in (content, bytes(data)):
        (folder / name).write_bytes(damaged)
        with contextlib.suppress(UserError):
            assert read(folder / name).ids


@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(st.tuples(st.text(min_size=1), st.sampled_from("ab"), st.sampled_from(["a", "b", "c", ""])), min_size=1)
)
def test_table_is_read_as_it_was_written(rows, tmp_path_factory):
    path = tmp_path_factory.mktemp("tables") / "a.csv"
    kept = {f"{n} {name.strip()}": (gold, said) for n, (name, gold, said) in enumerate(rows)}
    with path.open("w", encoding="utf-8", errors="replace", newline="") as file:
        csv.writer(file).writerows([("id", "gold", "prediction"), *((name, *pair) for name, pair in kept.items())])
    golds = {gold for gold, _ in kept.values()}
    if any(said for _, said in kept.values()) and not any(said in golds for _, said in kept.values()):
        with pytest.raises(UserError, match="no prediction"):
            csv_log.read(path)
        return
    log = csv_log.read(path)
    assert log.correct.tolist() == [gold == said for gold, said in kept.values()]
    assert log.not_following == sum(said not in golds for _, said in kept.values())


def log(ids, gold, hashes=()) -> Side:
    return Side("x", (Log(tuple(ids), tuple(gold), tuple(gold), np.ones(len(ids), bool), hashes=tuple(hashes)),))


def test_documents_are_paired_by_hash_whatever_their_ids_and_order():
    a, b = log("012", "101", "xyz"), log("789", "110", "zxy")
    assert pairs.aligned(a, b).logs[0].hashes == ("x", "y", "z")
    assert pairs.aligned(a, b).logs[0].ids == ("8", "9", "7")


def test_rows_that_are_the_same_are_paired_in_their_order():
    assert pairs.aligned(log("012", "111", "xxy"), log("345", "111", "yxx")).logs[0].ids == ("4", "5", "3")


def test_other_hashes_of_the_same_documents_leave_their_ids():
    assert pairs.aligned(log("012", "101", "xyz"), log("210", "101", "abc")).logs[0].ids == ("0", "1", "2")


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        (
            log("01234", "11111", "vwxyz"),
            log("01", "11", "vw"),
            "2 are in both, 3 in A alone ('2', '3', '4'), 0 in B alone.",
        ),
        (log("01", "10"), log("12", "01"), "1 are in both, 1 in A alone ('0'), 1 in B alone ('2')."),
        (log("012", "101"), log("012", "111"), "The gold labels of 1 of 3 documents differ, those of '1' among them"),
        (log(["\x1b[2J"], "1"), log("2", "1"), r"A alone ('\x1b[2J')"),
    ],
)
def test_documents_without_a_partner_are_counted_and_named(a, b, said):
    with pytest.raises(UserError) as error:
        pairs.aligned(a, b)
    assert said in str(error.value)


def test_runs_of_ours_on_other_data_are_refused(results, door):
    results("a", [1, 1, 0], data_fingerprint="one")
    results("b", [1, 1, 0], data_fingerprint="two")
    error = door("compare", "--a", "a, 64 labels", "--b", "b, 64 labels", "--output_path", results.out).error
    assert "A and B were asked other data: " in error
