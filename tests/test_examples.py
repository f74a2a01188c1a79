"""`SHOTS=`: the rows that training uses, the same in front of every document, put as lm-eval puts examples."""

import json
import random
import re
from itertools import count
from pathlib import Path

import pytest
from builders import CHAT_TEMPLATE, SENTENCES, answering_model, tsv_folder
from lm_eval.api.samplers import FirstNSampler
from stock import samples_of
from transformers import AutoTokenizer

from harness_ext.errors import UserError
from harness_ext.model.checkpoints import Checkpoint
from harness_ext.run import examples, execute
from harness_ext.task.find import build_tasks
from harness_ext.task.subsets import draw


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    rows = [(f"{text} {number}", label) for number in range(6) for text, label in SENTENCES]
    return tsv_folder(tmp_path_factory.mktemp("data") / "rows", SENTENCES[:4], rows)


def _run(door, data: Path, model: Path, out: Path, *words: str) -> list[dict]:
    done = door("run", f"--pretrained={model}", f"--data_dir={data}", f"--output_path={out}", *words)
    assert done.code == 0, done.stderr
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob("runs/*/run.json"))]


@pytest.mark.parametrize("chat", [False, True], ids=["plain", "chat"])
def test_examples_are_the_training_rows_and_stock_lm_eval_asks_the_same(chat, door, data, tmp_path):
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    model = answering_model(tmp_path / "model", "llama", **({"chat_template": CHAT_TEMPLATE} if chat else {}))
    (record,) = _run(door, data, model, tmp_path / "out", "--shots=2", "--seeds=3", "--dtype=float32")
    ours = [sample for sample in samples_of(tmp_path / "out") if sample["filter"] == "lenient"]

    (task,) = build_tasks(["sst2_01"], metadata={"data_dir": str(data)})
    train = task.dataset["train"]
    subset = draw(train["label"][:], "2", 3)
    rows = list(subset.rows)
    random.Random("examples 3").shuffle(rows)
    task.sampler = FirstNSampler([train[row] for row in rows])
    stock = simple_evaluate(
        model="hf", model_args={"pretrained": str(model), "dtype": "float32"}, tasks=[task], device="cpu", batch_size=1,
        num_fewshot=2, apply_chat_template=chat, fewshot_as_multiturn=chat, task_manager=TaskManager(include_defaults=False),
    )["samples"]["sst2_01"]  # fmt: skip
    expected = [sample for sample in stock if sample["filter"] == "lenient"]
    assert [each["arguments"]["gen_args_0"]["arg_0"] for each in ours] == [each["arguments"][0][0] for each in expected]
    assert [each["filtered_resps"] for each in ours] == [each["filtered_resps"] for each in expected]
    assert sum(train[row]["label"] for row in rows) == 1
    assert record["training"]["subset"] == subset.hash
    assert (record["method"], record["train_samples"], record["seed"]) == ("examples", 2, 3)


def test_examples_are_read_once_and_not_again_for_each_document(door, data, answering, tmp_path):
    (record,) = _run(door, data, answering, tmp_path, "--shots=4")
    assert record["engine"]["path"] == "shared prefix"
    assert record["engine"]["prefix_tokens"] > 4 * 30


def test_seeds_of_examples_are_one_experiment_and_sizes_one_curve(door, data, answering, tmp_path):
    records = _run(door, data, answering, tmp_path, "--shots=2,4", "--seeds=0,1")
    by_size = {size: {each["experiment"] for each in records if each["train_samples"] == size} for size in (2, 4)}
    assert [len(found) for found in by_size.values()] == [1, 1]
    assert by_size[2] != by_size[4]
    assert len({each["curve"] for each in records}) == 1
    assert len({each["key"] for each in records}) == 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--shots=3"], "SHOTS '3' is not an even number above 0 (half of it per class)."),
        (["--shots=all"], "SHOTS is a number of examples"),
        (["--shots=2", "--num_fewshot=2"], "without --num_fewshot"),
        (["--shots=48"], "SHOTS 48 is more than the 40 balanced rows"),
        (["--shots=2", "--adapter=anything"], "an adapter has been trained on its own"),
        (["--shots=40"], "does not fit"),
        (["--shots=2", "--model=tfidf"], "takes none"),
    ],
)
def test_examples_that_cannot_be_are_one_line(words, said, door, data, answering, tmp_path):
    model = [] if "--model=tfidf" in words else [f"--pretrained={answering}"]
    assert said in door("run", *model, f"--data_dir={data}", f"--output_path={tmp_path}", *words).error


def test_list_is_checked_whole_before_the_first_run(door, data, answering, tmp_path):
    done = door("run", f"--pretrained={answering}", f"--data_dir={data}", f"--output_path={tmp_path}", "--shots=2,48")
    assert "SHOTS 48 is more than" in done.error
    assert not (tmp_path / "runs").exists()


def test_what_is_done_is_shown_where_a_later_run_fails(door, data, tmp_path, monkeypatch):
    carry_out, calls = execute.execute, count()

    def failing(*args):
        if next(calls):
            raise UserError("The disk is full.")
        return carry_out(*args)

    monkeypatch.setattr(execute, "execute", failing)
    done = door("run", "--model=tfidf", "--train_samples=4,8", f"--data_dir={data}", f"--output_path={tmp_path}")
    assert (done.code, done.error) == (2, "Error: The disk is full.")
    assert "tfidf" in done.stdout


def test_pattern_names_several_adapters_and_must_match_one(door, tmp_path):
    assert "matches no adapter" in door("run", f"--adapter={tmp_path}/*").error


def test_list_of_sizes_is_several_runs_of_a_baseline(door, data, tmp_path):
    done = door("run", "--model=tfidf", "--train_samples=4,8,all", f"--data_dir={data}", f"--output_path={tmp_path}")
    assert done.code == 0, done.stderr
    records = [json.loads(path.read_text(encoding="utf-8")) for path in tmp_path.glob("runs/*/run.json")]
    assert {record["train_samples"] for record in records} == {4, 8, "all"}
    assert "--train_samples=4,8" not in "".join(record["command"] for record in records)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--shots=2"], "no train split with a column 'label'"),
        (["--model=probe", "--train_samples=2"], "no train split with a column 'label'"),
        (["--calibrate=context"], "scores in its own way"),
    ],
    ids=["shots", "probe", "calibrated"],
)
def test_task_of_another_kind_that_has_no_train_rows_is_one_line(words, said, door, answering, tmp_path):
    (tmp_path / "dev.jsonl").write_text('{"q": "good", "label": 1}\n{"q": "bad", "label": 0}\n', encoding="utf-8")
    task = tmp_path / "own.yaml"
    task.write_text(
        f"task: own\ndataset_path: json\ndataset_kwargs: {{data_files: {{validation: {tmp_path}/dev.jsonl}}}}\n"
        "validation_split: validation\noutput_type: multiple_choice\n"
        'doc_to_text: "{{q}}"\ndoc_to_target: label\ndoc_to_choice: ["0", "1", "2"]\n',
        encoding="utf-8",
    )
    assert said in door("run", f"--pretrained={answering}", f"--tasks={task}", f"--output_path={tmp_path}", *words).error


@pytest.mark.parametrize(("fitting", "said"), [(1.5, "Leave SHOTS out."), (4.5, "About SHOTS=4 would.")])
def test_number_of_examples_that_would_fit_is_said(fitting, said, answering):
    tokenizer, prompt = AutoTokenizer.from_pretrained(answering), "movie " * 360  # six examples
    room = 10 + round(fitting / 6 * len(tokenizer(prompt)["input_ids"]))
    base = Checkpoint("mine", str(answering), "", {"model_type": "llama", "max_position_embeddings": room})
    with pytest.raises(UserError, match=re.escape(said)):
        examples.check_room(base, tokenizer, [prompt], 10, 6)
