"""doctor's verdict on prepared folders, good and broken; where a run can be tried, it must end as the verdict says."""

import importlib.util
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from builders import (
    CHAT_TEMPLATE,
    SENTENCES,
    THINKING_TEMPLATE,
    build_model,
    deberta_as_on_the_hub,
    tsv_folder,
)
from conftest import Outcome
from safetensors.torch import load_file
from test_bad_input import POINTER, TEMPLATE_THAT_REFUSES
from transformers import AutoModelForCausalLM

from harness_ext.model import memory, quantisation

TWO_BEGINS = "<s>" + CHAT_TEMPLATE.replace("{% for", "<s>{% for", 1)


@dataclass(frozen=True)
class Case:
    """A folder, how it is asked about, and what is to be said.

    Attributes:
        prepare: Writes the folder at a path.
        problems: By the name of a check that must be a problem, what it must say; none if it would run.
        said: Fragments of the other lines.
        flags: More of the command line.
        runs: A run can be tried, to see whether it ends as doctor says.
    """

    prepare: Callable[[Path], object]
    problems: dict[str, tuple[str, ...]] = field(default_factory=dict)
    said: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    runs: bool = True


def built(**options: object) -> Callable[[Path], object]:
    return lambda folder: build_model(folder, **options)


def without(*patterns: str) -> Callable[[Path], object]:
    def prepare(folder: Path) -> None:
        for pattern in patterns:
            for path in build_model(folder).glob(pattern):
                path.unlink()

    return prepare


def with_file(name: str, text: str | None) -> Callable[[Path], object]:
    """Write a text in place of a file of the model, or without one cut the file in half."""

    def prepare(folder: Path) -> None:
        path = build_model(folder) / name
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2] if text is None else text.encode())

    return prepare


def with_config(**fields: object) -> Callable[[Path], object]:
    def prepare(folder: Path) -> None:
        path = build_model(folder) / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return prepare


def with_missing_shard(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(build_model(folder))
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="40KB")
    sorted(folder.glob("*.safetensors"))[1].unlink()


def with_pickles_only(folder: Path) -> None:
    weights = build_model(folder) / "model.safetensors"
    torch.save(load_file(weights), folder / "pytorch_model.bin")
    weights.unlink()


def of_many_mistakes(folder: Path) -> None:
    with_pickles_only(folder)
    for path in folder.glob("token*"):
        path.unlink()


def huge(folder: Path) -> None:
    """Write a model of 4 TiB that takes no room: a sparse file under a true header."""
    build_model(folder, "llama")
    header = json.dumps({"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 2**42)


def adapter_without_base(folder: Path) -> None:
    folder.mkdir()
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "base_model_name_or_path": "/gone/base"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")


AWQ = {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 16, "version": "gemm"}}
GPTQ = {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 16}}
BNB = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}

GOOD = {
    "qwen2": Case(built(), said=("writes its answer", "chat template none", "0 in a prompt", "dtype float32")),
    "qwen2_with_template": Case(built(chat_template=CHAT_TEMPLATE), said=("sha256:", "renders", "<|im_start|>user")),
    "qwen3_thinking_off": Case(
        built(architecture="qwen3", chat_template=THINKING_TEMPLATE), said=("thinking off", "</think>")
    ),
    "qwen3_thinking": Case(
        built(architecture="qwen3", chat_template=THINKING_TEMPLATE),
        said=("thinking on, ends at </think>", "+ 8 tokens of 512"),
        flags=("--tasks=sst2_01_think", "--gen_kwargs", "max_gen_toks=8"),
    ),
    "llama_with_begin_token": Case(built(architecture="llama", bos=True), said=("1 in a prompt",)),
    "llama_whose_template_writes_the_begin_token": Case(
        built(architecture="llama", bos=True, chat_template="<s>" + CHAT_TEMPLATE),
        said=("1 in a prompt", "'<s><|im_start|>"),
    ),
    "gemma3": Case(built(architecture="gemma3", chat_template=CHAT_TEMPLATE), said=("gemma3_text",)),
    "gpt2": Case(built(architecture="gpt2"), said=("gpt2", "tokens of 512")),
    "classifier": Case(
        built(architecture="deberta-v2", head="SequenceClassification", num_labels=2), said=("names a class", "float32")
    ),
    "choice": Case(built(), said=("sst2_01_choice", "+ 1 tokens of 512"), flags=("--tasks=sst2_01_choice",)),
    "pickles_allowed": Case(with_pickles_only, said=("weights",), flags=("--allow_pickle",)),
    "nf4": Case(built(), said=("quantisation nf4",), flags=("--quantise=nf4",)),
    "stored_by_bitsandbytes": Case(with_config(**BNB), said=("quantisation fp4",), runs=False),
    "stored_in_a_way_of_which_nothing_is_known": Case(
        with_config(quantization_config={"quant_method": "hqq"}), said=("note", "hqq", "not examined"), runs=False
    ),
}
BROKEN = {
    "config_missing": Case(without("config.json"), {"config": ("no config.json",)}),
    "config_no_json": Case(with_file("config.json", "{nope"), {"config": ("not valid JSON", "Download it again")}),
    "weights_missing": Case(without("*.safetensors"), {"weights": ("no weights",)}, said=("tokenizer",)),
    "weights_a_pointer": Case(
        with_file("model.safetensors", POINTER), {"files": ("Git LFS pointer", "git lfs pull"), "weights": ("cut off",)}
    ),
    "weights_cut_off": Case(with_file("model.safetensors", None), {"weights": ("cut off", "Download them again")}),
    "weights_lack_a_shard": Case(with_missing_shard, {"weights": ("lacks 1 of", "model-00002-of-")}),
    "weights_pickled": Case(with_pickles_only, {"weights": ("can run code", "--allow_pickle")}),
    "tokenizer_missing": Case(without("token*"), {"tokenizer": ("no tokenizer",)}),
    "tokenizer_no_json": Case(with_file("tokenizer.json", "{nope"), {"tokenizer": ("does not load",)}),
    "architecture_unknown": Case(
        with_config(model_type="foo", architectures=["FooForCausalLM"]), {"architecture": ("does not know 'foo'",)}
    ),
    "architecture_of_own_code": Case(
        with_config(model_type="foo", architectures=["FooForCausalLM"], auto_map={"AutoConfig": "x.Foo"}),
        {"architecture": ("'foo'", "--trust_remote_code")},
    ),
    "encoder": Case(built(architecture="bert"), {"architecture": ("BertForMaskedLM", "cannot generate")}),
    "encoder_as_on_the_hub": Case(
        deberta_as_on_the_hub, {"weights": ("--allow_pickle",), "architecture": ("deberta-v2", "cannot generate")}
    ),
    "awq_without_its_package": Case(with_config(**AWQ), {"quantisation": ("awq", "gptqmodel", "EXTRAS=awq")}),
    "gptq_without_its_package": Case(with_config(**GPTQ), {"quantisation": ("gptq", "gptqmodel", "EXTRAS=awq")}),
    "quantised_twice": Case(
        with_config(**BNB),
        {"quantisation": ("quantised already (fp4)", "QUANT=nf4")},
        flags=("--quantise=nf4",),
        runs=False,
    ),
    "template_raises": Case(built(chat_template=TEMPLATE_THAT_REFUSES), {"chat template": ("roles must alternate",)}),
    "template_writes_two_begin_tokens": Case(
        built(architecture="llama", bos=True, chat_template=TWO_BEGINS),
        {"begin token": ("two BOS tokens (<s>)", "template")},
        runs=False,
    ),
    "thinking_of_a_model_that_cannot": Case(
        built(chat_template=CHAT_TEMPLATE, context=40000),
        {"thinking": ("thinking tag", "TASK=sst2_01")},
        flags=("--tasks=sst2_01_think",),
    ),
    "context_shorter_than_the_prompt": Case(
        built(context=32), {"context": ("tokens and its answer 10", "context holds 32", "longer context")}
    ),
    "context_shorter_than_the_budget": Case(
        built(chat_template=THINKING_TEMPLATE),
        {"context": ("32768", "512", "max_gen_toks")},
        flags=("--tasks=sst2_01_think",),
    ),
    "memory_too_little": Case(huge, {"memory": ("weights 4398.0 GB", "smaller model")}, runs=False),
    "memory_too_little_even_in_4_bits": Case(
        huge, {"memory": ("Too little: take a smaller model",)}, flags=("--quantise=nf4",), runs=False
    ),
    "device_not_there": Case(built(), {"choices": ("'cuda:99'", "this machine has")}, flags=("--device=cuda:99",)),
    "data_not_there": Case(
        built(), {"data": ("absent/", "train.tsv")}, said=("sst2_01_mini",), flags=("--data_dir=absent",)
    ),
    "results_in_no_folder": Case(
        built(), {"results": ("OUT=model/config.json", "no folder", "OUT=")}, flags=("--output_path=model/config.json",)
    ),
    "results_below_a_file": Case(built(), {"results": ("no folder",)}, flags=("--output_path=model/config.json/results",)),
    "examples_more_than_there_are": Case(built(), {"chat template": ("--num_fewshot 9",)}, flags=("--num_fewshot=9",)),
    "examples_more_than_there_are_for_a_classifier": Case(
        built(architecture="deberta-v2", head="SequenceClassification", num_labels=2),
        {"tokenizer": ("--num_fewshot 9",)},
        flags=("--num_fewshot=9",),
    ),
    **{
        f"gen_kwargs_{name}": Case(built(), {"choices": fragments}, flags=("--gen_kwargs", flag))
        for name, flag, fragments in (
            ("no_number", "max_gen_toks=abc", ("max_gen_toks=abc", "1 or more")),
            ("no_tokens", "max_gen_toks=0", ("max_gen_toks=0", "1 or more")),
            ("unknown", "temprature=1", ("'temprature'", "Did you mean temperature")),
            ("without_effect", "max_new_tokens=50", ("max_new_tokens", "no effect", "max_gen_toks=N")),
        )
    },
    "task_unknown": Case(built(), {"task": ("Unknown task 'sst2_1'", "Did you mean")}, flags=("--tasks=sst2_1",)),
    "many_mistakes": Case(
        of_many_mistakes,
        {"weights": ("--allow_pickle",), "tokenizer": ("no tokenizer",), "data": ("absent/",)},
        flags=("--data_dir=absent",),
    ),
}


@pytest.fixture(autouse=True)
def without_gptqmodel(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    hidden = ("gptqmodel", "optimum")
    monkeypatch.setattr(
        quantisation.importlib.util, "find_spec", lambda name, *more: None if name in hidden else find(name, *more)
    )


@pytest.mark.parametrize("name", GOOD | BROKEN)
def test_verdict_on_a_prepared_folder(name: str, elsewhere: Path, door: Callable[..., Outcome]):
    case = (GOOD | BROKEN)[name]
    case.prepare(elsewhere / "model")
    tsv_folder(elsewhere / "data")
    flags = ["--pretrained=model", "--data_dir=data", *case.flags]
    outcome = door("doctor", *flags)
    lines = outcome.stdout.splitlines()
    problems = [line.split(maxsplit=1)[1] for line in lines if line.startswith("PROBLEM")]
    assert len(problems) == len(case.problems), outcome.stdout
    for what, fragments in case.problems.items():
        (line,) = [line for line in problems if line.startswith(f"{what} ")]
        assert [fragment for fragment in fragments if fragment not in line] == [], line
    assert [fragment for fragment in case.said if fragment not in " ".join(outcome.stdout.split())] == []
    assert lines[-1].startswith("Verdict: would not run: " if case.problems else "Verdict: would run.")
    assert outcome.code == (2 if case.problems else 0)
    assert "Traceback" not in outcome.stdout + outcome.stderr
    assert not (elsewhere / "results").exists(), "doctor only looks"
    if case.runs:
        assert door("run", *flags, "--limit=2").code == outcome.code, "a run ends otherwise than doctor says"


@pytest.mark.parametrize(
    ("options", "backend", "said"),
    [
        ({"architecture": "deberta-v2", "head": "SequenceClassification", "num_labels": 2}, "hf", "names a class"),
        ({}, "hf-classifier", "is no classifier"),
    ],
)
def test_backend_for_models_of_another_kind_is_one_line(options, backend, said, eight_rows, elsewhere, door):
    build_model(elsewhere / "model", **options)
    flags = ("--pretrained=model", "--data_dir", eight_rows, f"--model={backend}")
    for command in ("doctor", "run"):
        assert said in door(command, *flags).error


def test_argument_that_only_loading_can_examine_is_said_to_be_unexamined(answering, eight_rows, door):
    said = door(
        "doctor",
        "--pretrained",
        answering,
        "--data_dir",
        eight_rows,
        "--limit=4",
        "--model_args",
        "foo=1,attn_implementation=eager",
    )
    assert "note     model args    'foo' is handed on" in said.stdout
    assert said.stderr == "", "lm-eval's own warnings, as of LIMIT, are not for here"


def test_missing_data_is_one_problem_said_once_in_plain_words(answering: Path, elsewhere: Path, door):
    """No network and no DATA_DIR: the model is good, and a run of the same options ends alike."""
    said = door("doctor", "--pretrained", answering)
    (line,) = [line for line in said.stdout.splitlines() if line.startswith("PROBLEM")]
    assert line.split()[1] == "data"
    assert "DATA_DIR=folder" in line
    assert "ok       task" not in said.stdout
    assert said.stdout.splitlines()[-1] == "Verdict: would not run: 1 problem (data)."
    assert said.code == door("run", "--pretrained", answering).code == 2
    assert "Tokenizer" not in said.stdout
    assert re.search(r"^ok       tokenizer     fast, \d+ tokens$", said.stdout, re.MULTILINE)


def test_adapter_on_its_base_is_examined_with_it(answering: Path, eight_rows: Path, elsewhere: Path, door):
    from peft import LoraConfig, get_peft_model

    model = AutoModelForCausalLM.from_pretrained(answering)
    get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")).save_pretrained("adapter")
    done = door("doctor", "--adapter=adapter", "--data_dir", eight_rows)
    assert done.code == 0, done.stdout
    assert "'adapter', rank 4" in done.stdout
    assert f"'{answering.name}'" in done.stdout


def test_adapter_whose_base_is_gone_is_a_problem(eight_rows: Path, elsewhere: Path, door):
    adapter_without_base(elsewhere / "adapter")
    done = door("doctor", "--adapter=adapter", "--data_dir", eight_rows)
    assert done.code == 2
    assert "ok       adapter" in done.stdout
    assert "PROBLEM  model         Model '/gone/base'" in done.stdout
    assert "MODEL=" in done.stdout


@pytest.mark.parametrize(
    ("flags", "fragments"),
    [
        (["--pretrained=nowhere/x"], ("Cannot reach the Hub", "'nowhere/x'")),
        (["--pretrained=a b"], ("'a b'", "neither a folder nor a Hub id")),
        (["--limit=-1"], ("LIMIT -1",)),
        (["--model=dummy", "--pretrained=org/x"], ("doctor", "'dummy'")),
        (["--nonsense"], ("--nonsense",)),
    ],
)
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_input_about_which_nothing_can_be_said_ends_in_one_line(flags, fragments, more, elsewhere, door):
    done = door("doctor", *flags, *more)
    assert [fragment for fragment in fragments if fragment not in done.error] == []
    assert done.stdout == ""


def test_json_says_what_the_text_says(answering: Path, eight_rows: Path, door):
    flags = ["doctor", "--pretrained", answering, "--data_dir", eight_rows]
    text, found = door(*flags).stdout, json.loads(door(*flags, "--json").stdout)
    assert (found["runs"], found["verdict"]) == (True, "would run")
    assert found["prompt"].endswith(f"Sentence: {SENTENCES[0][0]}\nAnswer:")
    assert [check["name"] for check in found["checks"]] == [line[9:22].strip() for line in text.splitlines()[:-2]]
    assert {check["state"] for check in found["checks"]} == {"ok"}
    assert found["memory"]["needed"] == found["memory"]["weights"] + found["memory"]["batch"]
    broken = door("doctor", "--pretrained", answering, "--data_dir=absent", "--json")
    assert broken.code == 2
    assert [check["name"] for check in json.loads(broken.stdout)["checks"] if check["state"] == "problem"] == ["data"]


@pytest.fixture
def thinker(tmp_path: Path) -> Path:
    return build_model(tmp_path / "thinker", "qwen3", chat_template=THINKING_TEMPLATE, context=40000)


@pytest.mark.parametrize(
    ("task", "batch", "line"),
    [
        # Cache of a token: keys and values x 2 layers x 1 head x 16 numbers x 4 bytes = 256 bytes.
        ("sst2_01", 64, "PROBLEM  memory"),
        ("sst2_01_think", 8, "note     memory"),  # an answer may end long before its budget of 32,768
    ],
)
def test_batch_too_large_names_the_one_that_fits(task, batch, line, thinker, eight_rows, door, monkeypatch):
    flags = ["doctor", "--pretrained", thinker, "--data_dir", eight_rows, "--tasks", task]
    rows = json.loads(door(*flags, f"--batch_size={batch}", "--json").stdout)["memory"]
    monkeypatch.setattr(memory, "available", lambda device: rows["weights"] + 3 * rows["batch"] // batch)
    monkeypatch.setattr(memory, "total", lambda device: 10**12)
    said = door(*flags, f"--batch_size={batch}").stdout
    (found,) = [row for row in said.splitlines() if row.startswith(line)]
    assert "BATCH=3" in found
    assert door(*flags, "--batch_size=3").code == 0


def test_estimate_of_a_batch_is_the_closed_form(thinker, eight_rows, door):
    flags = ["doctor", "--pretrained", thinker, "--data_dir", eight_rows, "--batch_size=5", "--json"]
    found = json.loads(door(*flags, "--tasks=sst2_01_think").stdout)
    (said,) = [check["said"] for check in found["checks"] if check["name"] == "context"]
    prompt = int(said.split()[0])
    config = json.loads((thinker / "config.json").read_text())
    cache, logits = (prompt + 32768) * 2 * 2 * 1 * 16 * 4, 2 * 4 * config["vocab_size"]
    assert found["memory"]["batch"] == 5 * (cache + logits)


def test_memory_of_a_gpu_is_asked_of_the_gpu(answering, eight_rows, door, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (20_000_000_000, 24_000_000_000))
    done = door("doctor", "--pretrained", answering, "--data_dir", eight_rows)
    assert "cuda has 24.0 GB, 20.0 GB free" in done.stdout
    assert "batch by memory" in done.stdout


def test_list_is_examined_whole_and_its_first_run_is_shown(answering, tmp_path, door):
    rows = tsv_folder(tmp_path / "rows", train=SENTENCES * 3)
    asked = ("doctor", f"--pretrained={answering}", f"--data_dir={rows}")
    done = door(*asked, "--shots=2,4")
    assert (done.code, done.stdout.count("folder ")) == (0, 2), done.stdout
    assert "examples-2-s0" in done.stdout
    done = door(*asked, "--shots=2,400")
    assert done.code == 2
    assert re.search("PROBLEM +others +SHOTS 400 is more than", done.stdout), done.stdout
