"""What a run said of each document: a log written by hand, the log of stock lm-eval, and the file that is kept."""

import csv
import errno
from pathlib import Path

import pytest
from builders import SENTENCES
from fakeresults import read_outcomes
from stock import stock_samples

from harness_ext.results import outcomes
from harness_ext.results.outcomes import Outcome


def sample(doc, rule, said, gold, prediction, response="1"):
    return {
        "resps": [[response]],
        "doc_id": doc,
        "doc_hash": f"hash {doc}",
        "filter": rule,
        "filtered_resps": [said],
        "acc_following": (int(gold == prediction), prediction),
        "mcc": (gold, prediction),
    }


# Three outputs: "1", "it is 0, I think", "positive"; gold 1, 1, 0. lm-eval writes all documents of a filter, then the next.
LOG = [
    sample(0, "lenient", "1", 1, 1),
    sample(2, "lenient", "[word]", 0, -1, "positive"),
    sample(1, "lenient", "0", 1, 0, "it is 0,\nI think"),
    sample(0, "strict", "1", 1, 1),
    sample(2, "strict", "[word]", 0, -1),
    sample(1, "strict", "[other]", 1, -1),
]
ROWS = [
    Outcome(0, "hash 0", 1, {"lenient": 1, "strict": 1}, {"lenient": "label", "strict": "label"}, 0.25, "1"),
    Outcome(
        1, "hash 1", 1, {"lenient": 0, "strict": None}, {"lenient": "label", "strict": "other"}, None, "it is 0,\nI think"
    ),
    Outcome(2, "hash 2", 0, {"lenient": None, "strict": None}, {"lenient": "word", "strict": "word"}, -1e-7, "positive"),
]
COUNTS = {
    "lenient": {"correct": 1, "positive": 1, "negative": 1, "not_following": {"word": 1}},
    "strict": {"correct": 1, "positive": 1, "negative": 0, "not_following": {"word": 1, "other": 1}},
}
FILE = """\
doc,hash,gold,lenient,strict,kind,margin,response
0,hash 0,1,1,1,label,0.25,1
1,hash 1,1,0,,label,,"it is 0,
I think"
2,hash 2,0,,,word,-1e-07,positive
"""


def test_log_becomes_a_row_a_document_and_counts_by_rule(tmp_path):
    found = outcomes.rows(LOG, {0: 0.25, 2: -1e-7})
    assert found == ROWS
    assert outcomes.counts(found) == COUNTS
    outcomes.write(tmp_path / "outcomes.csv", found)
    assert (tmp_path / "outcomes.csv").read_bytes() == FILE.encode()


def test_file_is_read_as_it_was_written(tmp_path):
    (tmp_path / "outcomes.csv").write_text(FILE)
    assert read_outcomes(tmp_path / "outcomes.csv") == ROWS


def test_forced_choice_has_its_margin_and_one_label(tmp_path):
    pairs = {0: [(-2.0, False), (-0.5, True)], 1: [("-1.0", "True"), ("-3.5", "False")]}  # in memory, and from a file
    log = [sample(doc, "none", "", 1, 1 - doc) | {"filtered_resps": said} for doc, said in pairs.items()]
    found = outcomes.rows(log, {})
    assert [(row.labels, row.margin) for row in found] == [({"none": 1}, 1.5), ({"none": 0}, -2.5)]
    assert outcomes.counts(found) == {"none": {"correct": 1, "positive": 1, "negative": 1, "not_following": {}}}
    outcomes.write(tmp_path / "outcomes.csv", found)
    text = (tmp_path / "outcomes.csv").read_text()
    assert text == "doc,hash,gold,choice,kind,margin,response\n0,hash 0,1,1,label,1.5,\n1,hash 1,1,0,label,-2.5,\n"
    assert read_outcomes(tmp_path / "outcomes.csv") == found


def test_output_that_no_filter_of_ours_has_read_is_of_another_kind_and_stays_out_of_the_file(tmp_path):
    (row,) = found = outcomes.rows([sample(0, "own", "=HYPERLINK(0)\nsecond line", 0, -1)], {})
    assert row.kinds == {"own": "other"}
    outcomes.write(tmp_path / "outcomes.csv", found)
    assert "HYPERLINK" not in (tmp_path / "outcomes.csv").read_text()


def test_other_tasks_have_no_outcomes(tmp_path):
    assert outcomes.rows([{"doc_id": 0, "filter": "none", "filtered_resps": ["7"], "exact_match": 1.0}], {}) == []
    assert outcomes.counts([]) == {}


@pytest.mark.parametrize("task", ["sst2_01", "sst2_01_choice"])
def test_log_of_stock_lm_eval_has_the_same_outcomes(task, answering, eight_rows, tmp_path):
    log = stock_samples(answering, eight_rows, task)
    found = outcomes.rows(log, {})
    assert [row.gold for row in found] == [label for _, label in SENTENCES]
    assert [row.hash for row in found] == [line["doc_hash"] for line in log[: len(SENTENCES)]]
    for name, count in outcomes.counts(found).items():
        scores = [line for line in log if line["filter"] == name]
        assert count["correct"] == sum(line["acc"] for line in scores)
        assert sum(count["not_following"].values()) == sum(line["not_following"] for line in scores)
        assert count["positive"] == sum(line["positive_share"] == 1 for line in scores)
    if task == "sst2_01_choice":
        likelihoods = [[float(pair[0]) for pair in line["filtered_resps"]] for line in log]
        assert [row.margin for row in found] == [positive - negative for negative, positive in likelihoods]
    outcomes.write(tmp_path / "outcomes.csv", found)
    assert read_outcomes(tmp_path / "outcomes.csv") == found


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_is_an_error():
    with pytest.raises(OSError, match="No space") as caught:
        outcomes.write(Path("/dev/full"), ROWS)
    assert caught.value.errno == errno.ENOSPC


def test_texts_with_commas_and_line_ends_stay_in_their_cells(tmp_path):
    odd = [Outcome(0, 'a,"b"\nc', 1, {"naïve, 模型": 1}, {"naïve, 模型": "label"})]
    outcomes.write(tmp_path / "outcomes.csv", odd)
    assert read_outcomes(tmp_path / "outcomes.csv") == odd
    with (tmp_path / "outcomes.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.reader(file))) == 2
