"""Runs end to end on small models: the numbers against stock lm-eval and hand counts, the records, resuming."""

import contextlib
import gc
import hashlib
import json
import random
import signal
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest
from builders import CHAT_TEMPLATE, SENTENCES, THINKING_TEMPLATE, answering_model, build_model, tsv_folder
from stock import samples_of, stock_samples

from harness_ext.results.records import read_runs
from harness_ext.run.provenance import command
from harness_ext.task.find import build_tasks
from harness_ext.task.prompts import chat_renderer, render_prompt


def test_run_stories260k_answers_as_stock_lm_eval_does(shared, door, tmp_path):
    """A real pretrained model on real sentences; all 872 agree too (docs/checks.md)."""
    rows = [line.rsplit("\t", 1) for line in (shared / "data/sst2/dev.tsv").read_text().splitlines()[1:41]]
    data, model = tsv_folder(tmp_path / "sst2", rows), shared / "models" / "stories260K"
    assert door("run", "--pretrained", model, "--data_dir", data, "--output_path", tmp_path / "ours", "-b", 3).code == 0
    # It never answers, so nothing is settled before the end and the logs are equal to the letter.
    assert samples_of(tmp_path / "ours") == stock_samples(model, data, "sst2_01")


def test_run_record_agrees_with_a_count_by_hand(door, answering, eight_rows, tmp_path):
    assert door("run", "--pretrained", answering, "--data_dir", eight_rows, "-o", tmp_path).code == 0
    (record,) = read_runs(tmp_path)
    responses = [(s["doc"]["label"], s["resps"][0][0]) for s in samples_of(tmp_path) if s["filter"] == "lenient"]
    firsts = [(label, next((char for char in text if char in "01"), None)) for label, text in responses]
    count = record["counts"]["lenient"]
    assert count["correct"] == sum(str(label) == first for label, first in firsts)
    assert count["positive"] == sum(first == "1" for _, first in firsts)
    assert 0 < count["positive"] < 8  # the model answers both, or this test would prove little
    assert record["metrics"]["lenient"]["acc"] == count["correct"] / 8
    assert (record["n"], record["n_available"], record["data"]) == (8, 8, f"{eight_rows.name}/dev.tsv")
    assert record["tokens"]["out"] > 0
    assert record["docs_per_s"] > 0
    assert str(Path.home()) not in json.dumps(record)


def test_hash_of_a_task_in_lm_evals_results_is_over_all_lines_of_its_log(door, answering, eight_rows, tmp_path):
    assert door("run", "--pretrained", answering, "--data_dir", eight_rows, "-o", tmp_path).code == 0
    (results,) = tmp_path.glob("runs/*/results.json")
    lines = [line["doc_hash"] + line["prompt_hash"] + line["target_hash"] for line in samples_of(tmp_path)]
    assert len(lines) == 2 * 8
    assert json.loads(results.read_text())["task_hashes"] == {"sst2_01": hashlib.sha256("".join(lines).encode()).hexdigest()}


@pytest.mark.slow
def test_memory_of_a_run_grows_by_less_than_its_log_with_the_documents(door, tmp_path):
    peaks = []
    for count in (50, 50, 450):  # the first imports
        rows = [(f"{'a warm film ' * 20}{row}", row % 2) for row in range(count)]
        data = tsv_folder(tmp_path / f"{count}", rows, SENTENCES * 3)
        tracemalloc.start()
        assert door("run", "--model=majority", "--data_dir", data, "-o", tmp_path / "out", "--force").code == 0
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    (log,) = (path for path in tmp_path.glob("out/runs/*/samples.jsonl") if len(path.read_text().splitlines()) == 900)
    assert peaks[2] - peaks[1] < log.stat().st_size * 400 / 450


def test_run_that_begins_without_garbage_collection_ends_with_it(door, answering, eight_rows, tmp_path):
    gc.disable()
    assert door("run", "--pretrained", answering, "--data_dir", eight_rows, "-o", tmp_path).code == 0
    assert gc.isenabled()


def test_run_finished_is_not_run_again_unless_forced(door, answering, eight_rows, tmp_path):
    flags = ("run", "--pretrained", answering, "--data_dir", eight_rows, "-o", tmp_path)
    door(*flags)
    (folder,) = (tmp_path / "runs").iterdir()
    first = (folder / "run.json").read_bytes()
    again = door(*flags)
    assert "Already done" in again.stderr
    assert answering.name in again.stdout.replace("\n", "")
    assert (folder / "run.json").read_bytes() == first
    assert "Written" in door(*flags, "--force").stderr
    assert (folder / "run.json").read_bytes() != first
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [folder.name]
    assert not (tmp_path / "unfinished").exists()


def test_run_key_changes_with_what_can_change_the_numbers(door, answering, eight_rows, tmp_path):
    flags = ("run", "--pretrained", answering, "--data_dir", eight_rows, "-o", tmp_path)
    changes = (
        (),
        ("--limit", 4),
        ("--num_fewshot", 1),
        ("--dtype", "bfloat16"),
        ("--gen_kwargs", "max_gen_toks=3"),
        ("--system_instruction", "Be brief."),
        ("--seed", 7),
        ("--tasks", "sst2_01_choice"),
        ("--model", "hf"),
        ("--engine", "stock"),
    )
    for change in changes:
        assert door(*flags, *change).code == 0
    assert len(list((tmp_path / "runs").iterdir())) == len(changes)
    door(*flags, "--batch_size", 2)  # not a change of question: batches are how, not what
    assert len(list((tmp_path / "runs").iterdir())) == len(changes)


def test_run_partial_counts_what_was_asked_for(door, answering, eight_rows, tmp_path):
    door("run", "--pretrained", answering, "--data_dir", eight_rows, "-o", tmp_path, "--limit", "0.25")
    (record,) = read_runs(tmp_path)
    assert (record["n"], record["n_available"]) == (2, 8)


def test_run_trained_prompt_would_be_the_evaluated_one_token_for_token(door, eight_rows, tmp_path):
    from transformers import AutoTokenizer

    model = answering_model(tmp_path / "model", chat_template=THINKING_TEMPLATE)
    door("run", "--pretrained", model, "--data_dir", eight_rows, "-o", tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(model)
    (task,) = build_tasks(["sst2_01"], metadata={"data_dir": str(eight_rows)})
    render = chat_renderer(tokenizer, {"enable_thinking": False})
    for sample in samples_of(tmp_path):
        rendered = render_prompt(task, sample["doc"], render)
        evaluated = sample["arguments"]["gen_args_0"]["arg_0"]
        assert tokenizer(rendered).input_ids == tokenizer(evaluated).input_ids
        assert evaluated.endswith("<think>\n\n</think>\n\n")


def test_run_thinking_is_switched_by_the_task_and_said(door, eight_rows, tmp_path):
    model = build_model(tmp_path / "model", chat_template=THINKING_TEMPLATE, seed=3)
    flags = ("run", "--pretrained", model, "--data_dir", eight_rows, "-o", tmp_path, "--gen_kwargs", "max_gen_toks=12")
    assert "thinking off" in door(*flags).stderr
    assert "thinking on, ends at </think>" in door(*flags, "--tasks", "sst2_01_think").stderr
    prompts = {run["task"]: run["settings"]["template_args"] for run in read_runs(tmp_path)}
    assert prompts == {"sst2_01": {"enable_thinking": False}, "sst2_01_think": {"enable_thinking": True}}


OWN_SAMPLING = {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 20}  # as Qwen3's generation_config.json


@pytest.fixture
def thinker(tmp_path):
    model = build_model(tmp_path / "thinker", "qwen3", chat_template=THINKING_TEMPLATE, seed=3)
    (model / "generation_config.json").write_text(json.dumps({**OWN_SAMPLING, "eos_token_id": 0}))
    return model


def sampled_run(door, model, data, out, *more, task="sst2_01_think", asked="max_gen_toks=12"):
    """Run, and return what was said, the generation settings in the run's key, and the responses."""
    flags = ("run", "--pretrained", model, "--data_dir", data, "-o", out, "--tasks", task, "--batch_size", 3)
    done = door(*flags, *more, "--gen_kwargs", asked)
    assert done.code == 0, done.stderr
    (record,) = read_runs(out)
    generation = {name: value for name, value in record["key_parts"]["generation"].items() if name != "until"}
    return done.stderr, generation, [sample["resps"] for sample in samples_of(out) if sample["filter"] == "lenient"]


def test_run_thinking_draws_tokens_as_the_model_asks_whatever_the_batches(door, thinker, eight_rows, tmp_path):
    said, generation, responses = sampled_run(door, thinker, eight_rows, tmp_path / "a")
    assert "sampling temperature 0.6, top_p 0.95, top_k 20 (the model's own)" in said
    assert generation == {**OWN_SAMPLING, "max_gen_toks": 12}
    assert len({str(response) for response in responses}) > 4
    assert sampled_run(door, thinker, eight_rows, tmp_path / "b", "--batch_size=1")[2] == responses
    assert sampled_run(door, thinker, eight_rows, tmp_path / "c", "--seed=7")[2] != responses
    assert read_runs(tmp_path / "a")[0]["engine"]["path"] == "shared prefix"


def test_run_thinking_with_the_stock_engine_draws_as_stock_lm_eval_does(door, thinker, eight_rows, tmp_path):
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    responses = sampled_run(door, thinker, eight_rows, tmp_path / "a", "--engine=stock")[2]
    stock = simple_evaluate(
        model="hf",
        model_args={"pretrained": str(thinker), "dtype": "float32", "chat_template_args": {"enable_thinking": True}},
        tasks=build_tasks(["sst2_01_think"], metadata={"data_dir": str(eight_rows)}),
        device="cpu",
        batch_size=3,
        apply_chat_template=True,
        fewshot_as_multiturn=True,
        gen_kwargs={**OWN_SAMPLING, "max_gen_toks": 12},
        task_manager=TaskManager(include_defaults=False),
    )
    samples = sorted(stock["samples"]["sst2_01_think"], key=lambda sample: sample["doc_id"])
    assert responses == [sample["resps"] for sample in samples if sample["filter"] == "lenient"]


def test_run_thinking_is_greedy_where_the_user_or_the_model_asks_for_it(door, thinker, eight_rows, tmp_path):
    said, generation, greedy = sampled_run(
        door, thinker, eight_rows, tmp_path / "a", asked="max_gen_toks=12,do_sample=false"
    )
    assert "sampling" not in said
    assert generation == {"do_sample": False, "max_gen_toks": 12}
    (thinker / "generation_config.json").unlink()
    said, generation, responses = sampled_run(door, thinker, eight_rows, tmp_path / "b")
    assert (generation, responses) == ({"max_gen_toks": 12}, greedy)
    assert "sampling" not in said


def test_run_thinking_setting_of_the_user_wins_over_the_models_own(door, thinker, eight_rows, tmp_path):
    asked = "max_gen_toks=12,temperature=0.9,min_p=0.1"
    said, generation, _ = sampled_run(door, thinker, eight_rows, tmp_path, asked=asked)
    assert generation == {**OWN_SAMPLING, "temperature": 0.9, "min_p": 0.1, "max_gen_toks": 12}
    assert "temperature 0.9" in said


def test_run_without_thinking_stays_greedy_whatever_the_model_asks(door, thinker, eight_rows, tmp_path):
    said, generation, _ = sampled_run(door, thinker, eight_rows, tmp_path, task="sst2_01")
    assert generation == {"do_sample": False, "max_gen_toks": 12}
    assert "sampling" not in said


def test_run_record_keeps_the_first_prompt_and_the_chat_templates_hash(door, answering, eight_rows, tmp_path):
    model = build_model(tmp_path / "model", chat_template=CHAT_TEMPLATE)
    for folder in (answering, model):
        assert door("run", "--pretrained", folder, "--data_dir", eight_rows, "-o", tmp_path / f"of_{folder.name}").code == 0
    plain, chat = (read_runs(tmp_path / f"of_{folder.name}")[0]["prompt"] for folder in (answering, model))
    assert plain == {"first": plain["first"], "chat_template": None, "date": None}
    assert plain["first"].endswith("Sentence: a gripping film from start to end\nAnswer:")
    assert chat == {
        "first": f"<|im_start|>user\n{plain['first']}<|im_end|>\n<|im_start|>assistant\n",
        "chat_template": f"sha256:{hashlib.sha256(CHAT_TEMPLATE.encode()).hexdigest()[:16]}",
        "date": None,
    }
    first = next(sample for sample in samples_of(tmp_path / "of_model") if sample["doc_id"] == 0)
    assert chat["first"] == first["arguments"]["gen_args_0"]["arg_0"]


def test_run_thinking_opened_by_the_prompt_is_never_read_as_an_answer(door, eight_rows, tmp_path):
    opens = CHAT_TEMPLATE.replace("assistant\n", "assistant\n<think>\n")
    model = answering_model(tmp_path / "model", "llama", chat_template=opens)
    flags = ("run", "--pretrained", model, "--data_dir", eight_rows, "-o", tmp_path, "--tasks", "sst2_01_think")
    assert door(*flags, "--gen_kwargs", "max_gen_toks=4").code == 0
    (record,) = read_runs(tmp_path)
    assert record["counts"]["lenient"]["not_following"] == {"unfinished_thinking": 8}
    assert all(sample["resps"][0][0].startswith("<think>\n") for sample in samples_of(tmp_path))


def test_run_adapter_names_its_own_base_model(door, answering, eight_rows, tmp_path):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(answering),
        LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM"),
    )
    model.save_pretrained(tmp_path / "adapter" / "checkpoint-6")
    (tmp_path / "adapter" / "run.json").write_text('{"train_samples": 16, "seed": 3}')
    door("run", "--pretrained", answering, "--data_dir", eight_rows, "-o", tmp_path)
    assert (
        door("run", "--adapter", tmp_path / "adapter" / "checkpoint-6", "--data_dir", eight_rows, "-o", tmp_path).code == 0
    )
    base, adapted = sorted(read_runs(tmp_path), key=lambda run: run["adapter"] or "")
    assert (adapted["model"], adapted["adapter"]) == (base["model"], "adapter/checkpoint-6")
    assert (adapted["train_samples"], adapted["seed"]) == (16, 3)
    assert adapted["key_parts"]["weights"] == base["key_parts"]["weights"]
    assert adapted["key_parts"]["adapter"].startswith("sha256:")


def test_run_two_tasks_with_one_loaded_model(door, answering, eight_rows, tmp_path):
    both = door(
        "run", "--pretrained", answering, "--data_dir", eight_rows, "-o", tmp_path, "--tasks", "sst2_01,sst2_01_choice"
    )
    assert both.code == 0
    runs = {run["task"]: run for run in read_runs(tmp_path)}
    assert set(runs) == {"sst2_01", "sst2_01_choice"}
    assert runs["sst2_01_choice"]["counts"]["none"]["not_following"] == {}


def test_run_tiny_on_the_embedded_sample_is_the_default(door, elsewhere):
    done = door("run")
    assert done.code == 0, done.stderr
    (record,) = read_runs(elsewhere / "results")
    assert (record["model"], record["task"], record["n"]) == ("tiny", "sst2_01_mini", 120)
    assert record["counts"]["strict"]["not_following"] == {}


def test_run_results_that_were_not_written_have_failed(door, answering, eight_rows, tmp_path, monkeypatch):
    def full(path, *args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)  # lm-eval's tracker only warns of it
    failed = door("run", "--pretrained", answering, "--data_dir", eight_rows, "-o", tmp_path)
    assert "No space left on device" in failed.error
    assert not list(tmp_path.glob("runs/*"))


def start(*flags: str | Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "harness_ext", "run", *map(str, flags)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def answers_in(out: Path) -> int:
    """Count the answers in the response cache of the only run under OUT."""
    import sqlite3

    for path in out.glob("unfinished/*/answers*.db"):
        with contextlib.suppress(sqlite3.Error), sqlite3.connect(f"file:{path}?mode=ro", uri=True) as cache:
            return cache.execute("SELECT count(*) FROM unnamed").fetchone()[0]
    return 0  # it is not created yet, or being written


def wait_for_answers(process: subprocess.Popen, out: Path, count: int) -> None:
    """Wait until the response cache holds more answers than so many."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if answers_in(out) > count:
            return
        time.sleep(0.01)
    raise AssertionError(f"no {count} answers: {process.communicate()}")


@pytest.fixture
def slow_run(answering, tmp_path):
    """Flags of a run that takes a few seconds: 4,000 documents, one at a time."""
    rows = [
        (f"film number {number} is {random.Random(number).choice(['good', 'bad'])}", number % 2) for number in range(4000)
    ]
    return ("--pretrained", answering, "--data_dir", tsv_folder(tmp_path / "data", rows), "--batch_size", 1)


@pytest.mark.slow
@pytest.mark.parametrize("drawn", [(), ("--gen_kwargs", "do_sample=true,temperature=2.0")], ids=["greedy", "drawn"])
def test_run_interrupted_and_started_again_ends_as_if_never_interrupted(drawn, slow_run, door, tmp_path):
    slow_run = (*slow_run, *drawn)
    for by in (signal.SIGKILL, signal.SIGINT, signal.SIGKILL):
        before = answers_in(tmp_path / "killed")
        process = start(*slow_run, "-o", tmp_path / "killed")
        wait_for_answers(process, tmp_path / "killed", before + 99)
        process.send_signal(by)
        _, said = process.communicate(timeout=60)
        if by == signal.SIGINT:  # from the keyboard
            assert process.returncode == 1
            assert "The same command continues" in said
            assert "Traceback" not in said
    assert not list(tmp_path.glob("killed/runs/*"))
    assert door("run", *slow_run, "-o", tmp_path / "killed").code == 0
    assert door("run", *slow_run, "-o", tmp_path / "whole").code == 0
    assert samples_of(tmp_path / "killed") == samples_of(tmp_path / "whole")
    killed, whole = read_runs(tmp_path / "killed")[0], read_runs(tmp_path / "whole")[0]
    assert {name: killed[name] for name in ("key", "counts", "metrics", "n")} == {
        name: whole[name] for name in ("key", "counts", "metrics", "n")
    }
    assert killed["answers_resumed"] >= 150
    assert whole["answers_resumed"] == 0


def test_run_counts_of_kinds_add_up(door, random_model, eight_rows, tmp_path):
    door("run", "--pretrained", random_model, "--data_dir", eight_rows, "-o", tmp_path)
    (record,) = read_runs(tmp_path)
    kinds = Counter(s["filtered_resps"][0].strip("[]") for s in samples_of(tmp_path) if s["filter"] == "strict")
    count = record["counts"]["strict"]
    assert count["not_following"] == {kind: number for kind, number in kinds.items() if kind not in ("0", "1")}
    assert count["positive"] + count["negative"] + sum(count["not_following"].values()) == 8


def test_run_other_backend_of_lm_eval_is_recorded_too(door, eight_rows, tmp_path):
    assert door("run", "--model", "dummy", "--data_dir", eight_rows, "-o", tmp_path).code == 0
    (record,) = read_runs(tmp_path)
    assert (record["model"], record["hardware"]) == ("dummy", "elsewhere")
    assert record["counts"]["lenient"]["not_following"] == {"other": 8}  # it says "lol"


@pytest.mark.parametrize(
    ("word", "kept"),
    [
        ("--pretrained=/home/ann/models/m", "--pretrained=.../m"),
        ("/home/ann/out/", ".../out/"),
        ("~/data", ".../data"),
        ("--data_dir=../sst2", "--data_dir=../sst2"),
        ("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B"),
    ],
)
def test_recorded_command_does_not_tell_whose_machine_it_was(word, kept):
    assert command("harness_ext", ["run", word]) == f"python -m harness_ext run {kept}"
