"""BACKEND=vllm: lm-eval's own class on a fake vLLM that answers with transformers and writes down how it was started.

vLLM itself is not part of this: what is tested is what it is asked to do.
"""

import importlib.machinery
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from builders import CHAT_TEMPLATE, THINKING_TEMPLATE, answering_model, build_model
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness_ext.backend import vllm as vllm_backend
from harness_ext.errors import UserError
from harness_ext.model.checkpoints import Checkpoint

STARTED: list[dict[str, Any]] = []  # the arguments of every fake engine


class LLM:
    """As much of ``vllm.LLM`` as lm-eval uses."""

    def __init__(self, **kwargs: Any) -> None:
        STARTED.append(kwargs)
        self.model = AutoModelForCausalLM.from_pretrained(kwargs["model"], dtype=torch.float32)
        self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=kwargs["max_model_len"]))
        self.tokenizer = AutoTokenizer.from_pretrained(kwargs["model"])

    def generate(self, prompts: list, sampling_params: list, use_tqdm: bool, lora_request: Any) -> list:
        model: Any = PeftModel.from_pretrained(self.model, lora_request.path) if lora_request else self.model
        outputs = []
        for prompt, sampling in zip(prompts, sampling_params, strict=True):
            ids = torch.tensor([prompt["prompt_token_ids"]])
            written = model.generate(ids, max_new_tokens=sampling.max_tokens, do_sample=False)[0, ids.shape[1] :]
            written = written[written != self.tokenizer.eos_token_id]  # which ends an answer and is no part of it
            text = self.tokenizer.decode(written, skip_special_tokens=sampling.skip_special_tokens)
            outputs.append(SimpleNamespace(outputs=[SimpleNamespace(text=text, token_ids=written.tolist())]))
        return outputs


@pytest.fixture(scope="module")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let a package ``vllm`` of version 0.27.1 be installed."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "vllm-0.27.1.dist-info").mkdir()
    (folder / "vllm-0.27.1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.27.1\n")
    contents: dict[str, dict[str, Any]] = {
        "vllm": {"LLM": LLM, "SamplingParams": SimpleNamespace, "TokensPrompt": dict},
        "vllm.lora": {},
        "vllm.lora.request": {"LoRARequest": lambda name, number, path: SimpleNamespace(path=path)},
        "vllm.renderers": {},
        "vllm.renderers.hf": {"resolve_chat_template": lambda tokenizer, **_: tokenizer.chat_template},
        "vllm.tokenizers": {
            "get_tokenizer": lambda name, tokenizer_mode, **kwargs: AutoTokenizer.from_pretrained(name, **kwargs)
        },
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        for name, values in contents.items():
            module = ModuleType(name)
            module.__spec__ = importlib.machinery.ModuleSpec(name, None)
            module.__dict__.update(values)
            patch.setitem(sys.modules, name, module)
        yield
    sys.modules.pop("lm_eval.models.vllm_causallms", None)


def rows_of(out: Path) -> list[tuple[str, str, str]]:
    (log,) = out.glob("runs/*/samples.jsonl")
    rows = map(json.loads, log.read_text(encoding="utf-8").splitlines())
    return [(row["arguments"]["gen_args_0"]["arg_0"], row["resps"][0][0], row["filtered_resps"][0]) for row in rows]


@pytest.fixture
def both(door: Callable, eight_rows: Path, tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """Run on the fake engine and here in lm-eval's own way, check that the logs are equal, return the engines started."""

    def call(*flags: str) -> list[dict[str, Any]]:
        STARTED.clear()
        for name, backend in (("vllm", ["--model=vllm"]), ("here", ["--engine=stock"])):
            out = f"--output_path={tmp_path / name}"
            outcome = door("run", f"--data_dir={eight_rows}", out, *backend, *flags)
            assert outcome.code == 0, outcome.stderr
        assert rows_of(tmp_path / "vllm") == rows_of(tmp_path / "here")
        return STARTED

    return call


def test_vllm_is_started_for_the_task_and_answers_as_the_model_loaded_here(vllm, both, tmp_path):
    folder = answering_model(tmp_path / "model", "llama", context=8192)
    (started,) = both(f"--pretrained={folder}")
    longest = max(
        len(AutoTokenizer.from_pretrained(folder)(prompt)["input_ids"]) for prompt, _, _ in rows_of(tmp_path / "here")
    )
    assert started["max_model_len"] == longest + 10 + 4096
    assert {name: started[name] for name in ("model", "revision", "dtype", "enable_prefix_caching", "enable_lora")} == {
        "model": str(folder), "revision": "main", "dtype": "float32", "enable_prefix_caching": True, "enable_lora": False,
    }  # fmt: skip
    assert "gpu_memory_utilization" not in started
    assert started["quantization"] is None
    records = [json.loads(next((tmp_path / name).glob("runs/*/run.json")).read_text()) for name in ("vllm", "here")]
    assert records[0]["key_parts"]["versions"]["vllm"] == "0.27.1"
    assert records[0]["tokens"] == records[1]["tokens"]


def test_vllm_is_never_started_beyond_the_models_context(vllm, both, tmp_path):
    (started,) = both(f"--pretrained={answering_model(tmp_path / 'model', 'llama', context=512)}")
    assert started["max_model_len"] == 512


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, THINKING_TEMPLATE], ids=["chat", "thinking"])
def test_vllm_gets_the_prompts_of_the_model_loaded_here(template, vllm, both, tmp_path):
    """With thinking switched off through the template; lm-eval's own class leaves it on."""
    both(f"--pretrained={answering_model(tmp_path / 'model', 'qwen2', chat_template=template)}")


def test_vllm_takes_an_adapter_with_its_rank(vllm, both, tmp_path):
    folder = answering_model(tmp_path / "model", "llama")
    torch.manual_seed(0)
    config = LoraConfig(r=12, lora_alpha=64, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(folder), config).save_pretrained(tmp_path / "adapter")
    (started,) = both(f"--pretrained={folder}", f"--adapter={tmp_path / 'adapter'}")
    assert (started["enable_lora"], started["max_lora_rank"]) == (True, 16)


def test_what_the_user_says_of_the_engine_counts(vllm, door, answering, eight_rows, elsewhere):
    STARTED.clear()
    flags = ("run", "--model=vllm", f"--pretrained={answering}", f"--data_dir={eight_rows}")
    assert door(*flags, "--model_args=max_model_len=300,gpu_memory_utilization=0.5").code == 0
    assert (STARTED[0]["max_model_len"], STARTED[0]["gpu_memory_utilization"]) == (300, 0.5)
    assert "vLLM was started for 60" in door(*flags, "--model_args=max_model_len=60").error


@pytest.mark.parametrize(("rank", "pattern", "room"), [(8, {}, 8), (9, {}, 16), (200, {}, 256), (8, {"q_proj": 400}, 512)])
def test_rank_is_rounded_up_to_what_vllm_allows(rank, pattern, room):
    assert vllm_backend.lora_rank(Checkpoint("a", "a", "", {"r": rank, "rank_pattern": pattern})) == room


@pytest.mark.parametrize("fields", [{"r": 513}, {"r": 8, "rank_pattern": {"q_proj": 1024}}])
def test_rank_beyond_vllms_is_refused(fields):
    with pytest.raises(UserError, match=r"'big' has rank \d+, and vLLM takes at most 512"):
        vllm_backend.lora_rank(Checkpoint("big", "big", "", fields))


def test_missing_package_is_named_with_its_extra(door, answering, eight_rows, elsewhere, monkeypatch):
    monkeypatch.setattr(vllm_backend, "find_spec", lambda name: None)
    error = door("run", "--model=vllm", f"--pretrained={answering}", f"--data_dir={eight_rows}").error
    assert "BACKEND=vllm needs the package vllm" in error
    assert ".[vllm]" in error


OPENS = CHAT_TEMPLATE.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")


@pytest.mark.parametrize(
    ("options", "flags", "fragments"),
    [
        ({"context": 40}, [], ("longest prompt", "context holds 40")),
        ({"chat_template": THINKING_TEMPLATE}, ["--tasks=sst2_01_think"], ("budget", "context holds 512")),
        ({"chat_template": OPENS}, [], ("opens the thinking block itself", "BACKEND=vllm")),
        ({"chat_template": "{{ bos_token }}{{ bos_token }}" + CHAT_TEMPLATE, "bos": True}, [], ("two BOS",)),
        ({"architecture": "deberta-v2", "head": "SequenceClassification"}, [], ("class", "BACKEND=")),
    ],
    ids=["context", "budget", "opens_thinking", "two_bos", "classifier"],
)
def test_what_cannot_run_is_one_line_before_the_engine_starts(options, flags, fragments, vllm, door, eight_rows, elsewhere):
    STARTED.clear()
    build_model(elsewhere / "model", **options)
    error = door("run", "--model=vllm", "--pretrained=model", f"--data_dir={eight_rows}", *flags).error
    assert not STARTED
    missing = [fragment for fragment in fragments if fragment not in error]
    assert not missing, f"{missing} not in: {error}"
