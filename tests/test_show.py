"""What a run said of its documents, shown."""

import json
import re
import shlex
import subprocess
import sys

import pytest
from builders import tsv_folder
from fakeresults import gold, sentence
from test_advice import record

from harness_ext.paths import ROOT
from harness_ext.results import advice

RIGHT = [1, 0, -1, 1, -1]
RESPONSES = ["0", "0", "A fine \x1b[2Jfilm", "1", "no"]


@pytest.fixture
def shown(results, door):
    results("m", RIGHT, responses=RESPONSES, margins=[-2.0, 0.25, -0.5, 9.0, 0.0], near_ties=2)

    def call(*argv):
        done = door("show", "--run=m", "--output_path", results.out, *argv)
        assert done.code == 0, done.stderr
        return done.stdout

    return call


def documents(text: str) -> list[str]:
    return [line.split()[0] for line in text.splitlines() if re.match(r"\d", line)]


@pytest.mark.parametrize(
    ("only", "head", "found"),
    [
        (None, "All 5 documents:", ["0", "1", "2", "3", "4"]),
        ("right", "Right on 2 of 5 documents:", ["0", "3"]),
        ("wrong", "A wrong label on 1 of 5 documents; 2 more have no label, which ONLY=not_following shows:", ["1"]),
        ("not_following", "No label on 2 of 5 documents:", ["2", "4"]),
        ("near_ties", "the run counted 2 near ties, and did not keep which:", ["4", "1", "2", "0", "3"]),
    ],
)
def test_kinds_of_documents_are_counted_and_shown(only, head, found, shown):
    said = shown(*([f"--only={only}"] if only else []))
    assert head in said
    assert documents(said) == found


def test_what_was_written_is_text_and_no_label_is_none(shown):
    said = shown("--only=not_following")
    assert re.search(r"2 +0 +-0.50 A fine \\x1b\[2Jfilm", said)
    assert "\x1b" not in said


def test_number_of_documents_is_limited_and_said(shown):
    assert "No label on 2 of 5 documents (1 shown):" in shown("--only=not_following", "--limit=1")
    assert len(documents(shown("--limit=all"))) == 5
    assert "No label on 2 of 5 documents.\n" in shown("--only=not_following", "--limit=0")


def test_sentences_come_from_data_dir(shown, tmp_path):
    data = tsv_folder(tmp_path / "data", [(sentence(n), gold(n)) for n in range(5)])
    assert re.search(r"3 +the film number 3 +1 +1 +\+9.00", shown("--data_dir", str(data)))
    assert "DATA_DIR=" in shown()


def test_older_run_has_what_it_wrote_and_its_sentences_from_samples(results, door):
    folder = results("old", RIGHT)
    hashes = [line.split(",")[1] for line in (folder / "outcomes.csv").read_text().splitlines()[1:]]
    samples = [
        {
            "doc_id": doc, "doc": {"sentence": sentence(doc), "label": gold(doc)}, "target": str(gold(doc)),
            "resps": [[RESPONSES[doc]]], "filtered_resps": ["[word]"], "filter": "lenient", "doc_hash": hashes[doc],
            "acc": 0, "acc_following": [0, -1], "mcc": [gold(doc), -1],
        }
        for doc in range(5)
    ]  # fmt: skip
    call = ("show", "--run=old", "--output_path", results.out, "--only=not_following")
    assert "[word]" in door(*call).stdout
    (folder / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    said = door(*call).stdout
    assert re.search(r"2 +the film number 2 +0 A fine \\x1b\[2Jfilm", said)
    (folder / "samples.jsonl").write_text("{")  # no reason to say nothing
    assert "[word]" in door(*call).stdout
    (folder / "outcomes.csv").unlink()
    assert "line 1 is not JSON" in door(*call[:1], "--run", folder).error


def test_experiment_shows_its_first_seed_and_says_so(results, door):
    folders = [results("m", [1, 0], seed=seed) for seed in (3, 1, 2)]
    said = door("show", "--run=m", "--output_path", results.out).stdout
    assert said.startswith(f"Seed 1 of 1, 2, 3: {folders[1]}\n")


def test_anyones_log_is_shown(door, tmp_path):
    (tmp_path / "a.tsv").write_text("id\tgold\tprediction\nx\tyes\tno\ny\tno\tmaybe\n")
    said = door("show", "--run", tmp_path / "a.tsv").stdout
    assert re.search(r"x +yes +no", said)
    assert re.search(r"y +no +maybe", said)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "RUN is missing"),
        (["--run=m", "--only=wrnog"], "ONLY='wrnog' is none of not_following, wrong, right, near_ties. Did you mean wrong?"),
        (["--run=m", "--limit=x"], "--limit 'x' is not a whole number"),
        (["--run=plain", "--only=near_ties"], "keeps no margins"),
    ],
)
def test_users_mistake_is_one_line(argv, said, results, door):
    results("m", RIGHT)
    results("plain", RIGHT)
    assert said in door("show", *argv, "--output_path", results.out).error


def test_log_that_does_not_tell_what_follows_says_so(door, tmp_path):
    sample = {"id": 1, "target": "1", "input": "x", "scores": {"s": {"value": "I", "answer": "it is fine"}}}
    (tmp_path / "a.json").write_text(json.dumps({"samples": [sample]}))
    assert "does not tell which outputs follow" in door("show", "--run", tmp_path / "a.json", "--only=not_following").error


def test_table_with_many_outputs_without_a_label_names_the_command(tmp_path):
    folder = tmp_path / "a folder; it's" / "run"
    (line,) = advice.lines(record(1, 0, {"word": 39}), folder)
    command = re.search(r"\((make show .* ONLY=not_following) lists them\)", line)
    assert command is not None
    assert shlex.split(command[1]) == ["make", "show", f"RUN={folder}", "ONLY=not_following"]


def test_reader_may_leave_before_the_end(results):
    results("m", [1] * 3000)
    command = [sys.executable, "-m", "harness_ext", "show", "--run=m", "--limit=all", "--output_path", results.out]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
