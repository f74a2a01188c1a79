"""Prompted models on the device: answers, likelihoods, memory, several devices, speed."""

import importlib.util
import os

import pytest
import torch
from builders import answering_model, tsv_folder
from quantised import SIZES, quantised_twin

from gpu.alone import prompted, turned
from gpu.conftest import DEVICE, DTYPES, ROOT, ROWS, free, read_run
from harness_ext.backend.engine import PrefixReader

pytestmark = pytest.mark.gpu
ROUNDING = {"float32": 1e-4, "bfloat16": 2**-4}  # share of the largest margin below which a label may turn
two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("engine", ["shared", "stock"])
def test_answers_are_those_of_transformers_alone(engine, dtype, models, evaluate, device, record_property):
    run = evaluate("out", f"--pretrained={models[dtype]}", f"--dtype={dtype}", f"--engine={engine}")
    alone = prompted(models[dtype], device, dtype)
    other = turned(run.predictions, alone)
    record_property("labels_turned", len(other))
    record_property("near_ties", run.record.get("near_ties"))
    record_property("self_check", run.record.get("self_check"))
    record_property("docs_per_s", run.record["docs_per_s"])
    assert {choice.label for choice in alone} == {"0", "1"}
    assert all(share < ROUNDING[dtype] for share in other), other
    assert run.record["settings"]["dtype"] == dtype
    assert run.record["settings"]["device"] == device


@pytest.mark.parametrize("dtype", DTYPES)
def test_forced_choice_has_the_margins_of_transformers_alone(dtype, models, evaluate, device, record_property):
    run = evaluate("out", f"--pretrained={models[dtype]}", f"--dtype={dtype}", "--tasks=sst2_01_choice")
    alone = prompted(models[dtype], device, dtype)
    margins = [float(one) - float(zero) for (zero, _), (one, _) in run.predictions]
    largest = max(abs(choice.margin) for choice in alone)
    apart = max(abs(ours - choice.margin) for ours, choice in zip(margins, alone, strict=True)) / largest
    record_property("margins_apart", apart)
    assert apart < ROUNDING[dtype]


def test_peak_memory_holds_the_weights_at_least(larger, evaluate, device, record_property):
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    run = evaluate("out", f"--pretrained={larger}", "--limit=8")
    peak = run.record["peak_memory_bytes"]
    record_property("peak_memory_bytes", peak)
    assert peak["process" if device == "cpu" else "gpu"] > (larger / "model.safetensors").stat().st_size


def test_run_that_the_memory_does_not_fit_is_halved_and_loses_nothing(
    larger, evaluate, device, monkeypatch, record_property
):
    flags = (f"--pretrained={larger}", "--dtype=float32")
    if device != "cpu":
        free()
        torch.cuda.reset_peak_memory_stats()
        weights = 2 * (larger / "model.safetensors").stat().st_size + torch.cuda.memory_allocated()  # in 32 bits
    whole = evaluate("whole", *flags)
    if device == "cpu":
        ask = PrefixReader._ask

        def short(self, rows, *args):
            if len(rows) > 8:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
            return ask(self, rows, *args)

        monkeypatch.setattr(PrefixReader, "_ask", short)
        halved = evaluate("halved", *flags)
    else:
        beside = torch.cuda.max_memory_allocated() - weights
        free()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction((weights + 0.6 * beside) / total)
        try:
            halved = evaluate("halved", *flags)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        record_property("bytes_beside_the_weights", beside)
    record_property("halved", halved.record["engine"]["halved_for_memory"])
    assert whole.record["engine"]["halved_for_memory"] == 0
    assert halved.record["engine"]["halved_for_memory"] >= 1
    assert halved.predictions == whole.predictions


def test_speed_against_the_stock_path_is_measured(larger, evaluate, tmp_path, record_property):
    """On random weights no answer ends early: the engine's gain is that of the shared beginning alone."""
    times = 1 if DEVICE == "cpu" else 8
    rows = [(f"{sentence} or {n}", label) for n in range(times) for sentence, label in ROWS]
    data = tsv_folder(tmp_path / "many", rows, rows)
    speeds = {}
    for engine in ("shared", "stock", "shared", "stock"):  # the first time warms the device up
        flags = (f"--engine={engine}", f"--data_dir={data}", "--force", "--dtype=bfloat16")
        speeds[engine] = evaluate(engine, f"--pretrained={larger}", *flags).record["docs_per_s"]
    record_property("docs", len(rows))
    record_property("docs_per_s", speeds)
    record_property("ratio", speeds["shared"] / speeds["stock"])
    assert min(speeds.values()) > 0


@two_gpus
def test_second_device_alone_is_used_where_it_is_named(larger, evaluate, record_property):
    free()
    before = torch.cuda.memory_allocated(0)
    torch.cuda.reset_peak_memory_stats(0)
    run = evaluate("out", f"--pretrained={larger}", on="cuda:1")
    record_property("peak_memory_bytes", run.record["peak_memory_bytes"])
    assert run.record["settings"]["device"] == "cuda:1"
    assert torch.cuda.max_memory_allocated(0) - before < 2**20
    assert run.record["peak_memory_bytes"]["gpu"] > (larger / "model.safetensors").stat().st_size


@pytest.mark.skipif(torch.cuda.device_count() < 2 and DEVICE != "cpu", reason="needs two GPUs")
def test_two_processes_answer_as_one_does(models, evaluate, cli, data, tmp_path, device):
    model = models["float32"]
    one = evaluate("one", f"--pretrained={model}")
    places = [str(ROOT), *map(os.path.abspath, filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))]
    path = os.pathsep.join(places)  # relative to this folder, as it may be, it would not hold in another
    flags = (
        "--procs=2",
        f"--pretrained={model}",
        f"--device={device}",
        f"--data_dir={data}",
        f"--output_path={tmp_path / 'two'}",
    )
    done = cli("run", *flags, env=os.environ | {"PYTHONPATH": path}, timeout=240)
    assert done.code == 0, done.stderr
    two = read_run(tmp_path / "two")
    assert two.record["procs"] == 2
    assert two.predictions == one.predictions


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
def test_model_in_four_bits_answers_as_transformers_and_bitsandbytes_alone(evaluate, device, tmp_path, record_property):
    model = answering_model(tmp_path / "model", "llama", dtype="bfloat16", head_dim=32, **SIZES)
    run = evaluate("out", f"--pretrained={model}", "--quantise=nf4", "--dtype=bfloat16")
    other = turned(run.predictions, prompted(model, device, "bfloat16", nf4=True))
    record_property("labels_turned", len(other))
    assert all(share < ROUNDING["bfloat16"] for share in other), other


@pytest.mark.skipif(importlib.util.find_spec("gptqmodel") is None, reason="needs gptqmodel (make setup EXTRAS=awq)")
def test_awq_model_answers_as_the_numbers_it_was_packed_from(evaluate, device, tmp_path, record_property):
    twin, reference = quantised_twin(tmp_path / "twin", "awq", "llama", make=answering_model)
    run = evaluate("out", f"--pretrained={twin}")
    other = turned(run.predictions, prompted(reference, device, "float32"))
    record_property("labels_turned", len(other))
    record_property("quantisation", run.record["settings"]["quantisation"])
    assert all(share < ROUNDING["bfloat16"] for share in other), other
