"""Several processes that share a run: the same files as of one, on the CPU; and how they end when one of them fails."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from builders import CHAT_TEMPLATE, SENTENCES, answering_model, build_model, tsv_folder
from hypothesis import given
from hypothesis import strategies as st
from sqlitedict import SqliteDict

from harness_ext.run.cache import take_over
from harness_ext.run.run_plan import check_procs
from harness_ext.run.shards import deal

BACKENDS = ("tfidf", "majority", "dummy")


def files_of(out: Path) -> dict[str, tuple[dict, list[dict]]]:
    """Return each run's record and log, by folder name."""
    return {
        folder.name: (
            json.loads((folder / "run.json").read_text()),
            [json.loads(line) for line in (folder / "samples.jsonl").read_text().split("\n") if line],
        )
        for folder in (out / "runs").iterdir()
    }


def assert_same_runs(several: Path, one: Path) -> None:
    """Check that runs of several processes left what one process leaves."""
    theirs, ours = files_of(one), files_of(several)
    assert ours.keys() == theirs.keys()
    for name, (record, samples) in ours.items():
        expected, expected_samples = theirs[name]
        assert_alike(samples, expected_samples)
        for field in ("key", "counts", "metrics", "n", "answers_resumed"):
            assert record[field] == expected[field], field
        assert record["tokens"]["in"] == expected["tokens"]["in"]
        assert (record["procs"], expected["procs"]) == (2, 1)


def assert_alike(ours, theirs):
    """Compare logs; numbers, also those held as text, to 1e-3: another batch changes the last digits of a likelihood."""
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for name in theirs:
            assert_alike(ours[name], theirs[name])
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for mine, other in zip(ours, theirs, strict=True):
            assert_alike(mine, other)
    else:
        try:
            assert float(ours) == pytest.approx(float(theirs), abs=1e-3)
        except (TypeError, ValueError):
            assert ours == theirs


@given(st.lists(st.integers(0, 20), max_size=60), st.integers(1, 5))
def test_deal_gives_every_request_once_and_all_of_a_document_to_one_process(doc_ids, size):
    shares = deal(doc_ids, size)
    assert len(shares) == size
    assert sorted(index for share in shares for index in share) == list(range(len(doc_ids)))
    documents = [{doc_ids[index] for index in share} for share in shares]
    assert sum(map(len, documents)) == len(set(doc_ids))
    assert max(map(len, documents)) - min(map(len, documents)) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("template", [None, CHAT_TEMPLATE], ids=["plain", "chat"])
def test_two_processes_leave_the_files_of_one(template, eight_rows, door, cli, tmp_path):
    tasks, model = "sst2_01,sst2_01_choice", answering_model(tmp_path / "model", "llama", chat_template=template)
    flags = ("run", "--pretrained", model, "--data_dir", eight_rows, "--tasks", tasks, "--num_fewshot", 2, "--limit", 5)
    done = cli(*flags, "-o", tmp_path / "two", "--procs", 2, timeout=300)
    assert done.code == 0, done.stderr
    assert door(*flags, "-o", tmp_path / "one").code == 0
    assert_same_runs(tmp_path / "two", tmp_path / "one")
    assert not (tmp_path / "two" / "unfinished").exists()
    assert "Already done" in door(*flags, "-o", tmp_path / "two").stderr


@pytest.mark.slow
def test_drawn_answers_of_several_processes_are_those_of_one(answering, door, cli, tmp_path):
    """lm-eval keeps them but does not look for them; two documents of the same text may get different ones."""
    data = tsv_folder(tmp_path / "data", [(SENTENCES[0][0], 1)] * 8)
    flags = ("run", "--pretrained", answering, "--data_dir", data, "--gen_kwargs", "do_sample=true,temperature=9.0")
    done = cli(*flags, "-o", tmp_path / "two", "--procs", 2, timeout=300)
    assert done.code == 0, done.stderr
    assert door(*flags, "-o", tmp_path / "one").code == 0
    assert_same_runs(tmp_path / "two", tmp_path / "one")
    ((_, samples),) = files_of(tmp_path / "two").values()
    assert len({sample["resps"][0][0] for sample in samples}) > 1


@pytest.mark.slow
def test_process_without_a_document_has_nothing_to_do(eight_rows, door, cli, tmp_path):
    model = build_model(tmp_path / "model", "deberta-v2", head="SequenceClassification")
    flags = ("run", "--pretrained", model, "--data_dir", eight_rows, "--limit", 1)
    done = cli(*flags, "-o", tmp_path / "two", "--procs", 2, timeout=300)
    assert done.code == 0, done.stderr
    assert door(*flags, "-o", tmp_path / "one").code == 0
    assert_same_runs(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "kind"),
    [
        (("torch.distributed.run", "--standalone", "--nproc_per_node=2"), "generative"),
        # Without --multi_gpu accelerate starts one process where there is no GPU; with it, what is asked for.
        (("accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--main_process_port=0"), "classifier"),
    ],
    ids=["torch", "accelerate"],
)
def test_launcher_leaves_the_files_of_one_process(launcher, kind, answering, eight_rows, door, tmp_path):
    model = answering
    if kind == "classifier":
        model = build_model(tmp_path / "model", "deberta-v2", head="SequenceClassification")
    flags = ("run", f"--pretrained={model}", f"--data_dir={eight_rows}", "--tasks=sst2_01,sst2_01_choice")
    command = [sys.executable, "-m", *launcher, "-m", "harness_ext", *flags, f"-o{tmp_path / 'two'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Written:") == 2
    assert door(*flags, f"-o{tmp_path / 'one'}").code == 0
    assert_same_runs(tmp_path / "two", tmp_path / "one")
    again = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert (again.returncode, again.stderr.count("Already done")) == (0, 2), again.stderr


@pytest.mark.slow
def test_error_in_the_other_process_is_one_line(answering, cli, tmp_path):
    data = tsv_folder(tmp_path / "data", [SENTENCES[0], ("word " * 600, 1)])  # the second goes to the second process
    said = cli("run", "--pretrained", answering, "--data_dir", data, "-o", tmp_path, "--procs", 2, timeout=300).error
    assert "tokens, but the model's context" in said


@pytest.fixture
def long_run(answering, tmp_path):
    """The command of a run of two processes that takes a few seconds, after its start."""
    rows = [(f"film number {number} is it", number % 2) for number in range(400)]
    data = tsv_folder(tmp_path / "data", rows)
    flags = ("--pretrained", answering, "--data_dir", data, "--batch_size", 1, "-o", tmp_path / "out", "--procs", 2)
    return [sys.executable, "-m", "harness_ext", "run", *map(str, flags)]


def start(command: list[str]) -> subprocess.Popen:
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_both(process: subprocess.Popen, out: Path) -> int:
    """Wait until both processes have kept answers; returns the second one's id."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if len([path for path in out.glob("unfinished/*/answers*_rank*.db") if kept(path)]) == 2:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            return int(children[0])
        time.sleep(0.02)
    process.kill()
    raise AssertionError(f"no answers: {process.communicate()}")


def kept(path: Path) -> int:
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as cache:
            return cache.execute("SELECT count(*) FROM unnamed WHERE key NOT LIKE 'margin of %'").fetchone()[0]
    except sqlite3.Error:  # not created yet, or being written
        return 0


def has_ended(pid: int) -> bool:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


needs_proc = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the second process through /proc")


@needs_proc
@pytest.mark.slow
def test_killed_and_continued_by_one_process_loses_no_answer(long_run, door, tmp_path):
    process = start(long_run)
    helper = wait_for_both(process, tmp_path / "out")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert has_ended(helper)
    answers = sum(kept(path) for path in tmp_path.glob("out/unfinished/*/answers*_rank*.db"))
    assert door(*long_run[3:-2]).code == 0
    assert door(*long_run[3:-4], "-o", tmp_path / "whole").code == 0
    ((record, samples),) = files_of(tmp_path / "out").values()
    ((_, whole),) = files_of(tmp_path / "whole").values()
    assert samples == whole
    assert record["answers_resumed"] >= answers > 0


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize(("whom", "code"), [("helper", 2), ("keyboard", 1)])
def test_process_that_is_stopped_ends_all_with_one_line_and_can_go_on(whom, code, long_run, tmp_path):
    process = start(long_run)
    helper = wait_for_both(process, tmp_path / "out")
    os.kill(*((helper, signal.SIGKILL) if whom == "helper" else (process.pid, signal.SIGINT)))
    _, said = process.communicate(timeout=300)
    assert process.returncode == code
    assert "Traceback" not in said
    last = said.splitlines()[-1]
    assert last.startswith("Error: Process 0 of 0 to 1 has ended (signal 9)" if whom == "helper" else "Interrupted")
    assert has_ended(helper)
    assert subprocess.run(long_run, capture_output=True, text=True, timeout=300).returncode == 0
    ((record, _),) = files_of(tmp_path / "out").values()
    assert (record["n"], record["procs"]) == (400, 2)
    assert record["answers_resumed"] > 0


def test_answers_of_earlier_helpers_are_taken_over(tmp_path):
    for rank, answers in enumerate(({"a": 1}, {"b": 2}, {"c": 3, "a": 1})):
        with SqliteDict(str(tmp_path / f"answers_rank{rank}.db"), autocommit=True) as cache:
            cache.update(answers)
    take_over(str(tmp_path / "answers"))
    with SqliteDict(str(tmp_path / "answers_rank0.db")) as cache:
        assert dict(cache) == {"a": 1, "b": 2, "c": 3}
    assert [path.name for path in tmp_path.iterdir()] == ["answers_rank0.db"]


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "two", "", "²", "1e1"])
def test_number_of_processes_that_is_none_is_refused(value, door, elsewhere):
    assert f"PROCS {value!r} is not a whole number from 1 up" in door("run", f"--procs={value}").error


@pytest.mark.parametrize("backend", BACKENDS)
def test_backend_that_loads_no_checkpoint_runs_in_one_process(backend, door, eight_rows, elsewhere):
    said = door("run", f"--model={backend}", f"--data_dir={eight_rows}", "--procs=2").error
    assert f"BACKEND={backend} runs in one" in said


@pytest.mark.parametrize("device", ["cuda:1", "mps"])
def test_device_for_one_process_is_refused_for_two(device):
    with pytest.raises(ValueError, match=f"PROCS 2 needs DEVICE=cuda .* not {device}"):
        check_procs(2, device)


def test_more_processes_than_gpus_are_refused(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="PROCS 2 is more than the 1 GPUs"):
        check_procs(2, "cuda")
