"""Quantised models: on disk (AWQ, GPTQ: `quantised` packs them by hand) and while loading (bitsandbytes)."""

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import answering_model, build_model
from quantised import CONFIGS, SIZES, quantised_twin
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from harness_ext.errors import UserError
from harness_ext.model import quantisation
from harness_ext.model.loading import WholeModel, quantiser
from harness_ext.model.settings import choose
from harness_ext.results.records import read_runs

needs_gptqmodel = pytest.mark.skipif(
    importlib.util.find_spec("gptqmodel") is None, reason="needs gptqmodel (make setup EXTRAS=awq)"
)
IDS = torch.randint(5, 300, (4, 40), generator=torch.Generator().manual_seed(0))
# The 16 levels of NF4, from the appendix of https://arxiv.org/abs/2305.14314.
NF4 = torch.tensor(
    [-1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0, 0.0795803, 0.1609302, 0.2461123,
     0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0]
)  # fmt: skip


@torch.no_grad()
def logits_of(folder: Path, **options: object) -> torch.Tensor:
    """Load a model as the harness does, and return its logits of `IDS`."""
    model = WholeModel(AutoModelForCausalLM).from_pretrained(folder, dtype=torch.float32, **options)
    return model(IDS).logits


def responses(out: Path) -> list[str]:
    (log,) = out.glob("runs/*/samples.jsonl")
    return [json.loads(line)["resps"][0][0] for line in log.read_text(encoding="utf-8").splitlines()]


def lora(base: Path, folder: Path, **record: object) -> Path:
    """Write a random LoRA adapter that names `base`, with the record that finetune would leave."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    torch.manual_seed(0)
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(str(folder))
    (folder / "run.json").write_text(json.dumps(record))
    return folder


# --- quantised while loading -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama whose layers are whole blocks of 64."""
    return answering_model(tmp_path_factory.mktemp("models") / "full", "llama", head_dim=32, **SIZES)


def test_nf4_weights_are_the_nearest_of_the_papers_levels(full):
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    model = WholeModel(AutoModelForCausalLM, **quantiser("nf4", torch.float32)).from_pretrained(full, dtype=torch.float32)
    plain = load_file(full / "model.safetensors")
    layers: dict[str, Any] = {name: module for name, module in model.named_modules() if isinstance(module, Linear4bit)}
    assert len(layers) == 14  # seven in each of two layers; the head stays as it is
    for name, module in layers.items():
        blocks = plain[f"{name}.weight"].reshape(-1, 64)
        scale = blocks.abs().amax(1, keepdim=True)
        nearest = NF4[((blocks / scale)[..., None] - NF4).abs().argmin(-1)] * scale
        got = dequantize_4bit(module.weight.data, module.weight.quant_state).reshape(-1, 64)
        # The second quantisation keeps the scales in 8 bits: up to 1 in 50 of the scale.
        assert ((got - nearest).abs() <= 0.02 * scale).float().mean() > 0.999


@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize(("name", "tolerance"), [("int8", 0.03), ("nf4", 0.3)])
def test_quantised_logits_are_near_those_of_full_precision(name, tolerance, tie, tmp_path):
    model = build_model(tmp_path / "model", "qwen2", tie=tie, spread=0.05, **SIZES)
    plain, got = logits_of(model), logits_of(model, **quantiser(name, torch.float32))
    relative = ((got - plain).norm() / plain.norm()).item()
    assert 1e-4 < relative < tolerance, relative


def test_int8_weights_are_rounded_by_rows(full):
    from bitsandbytes.nn import Linear8bitLt

    model = WholeModel(AutoModelForCausalLM, **quantiser("int8", torch.float32)).from_pretrained(full, dtype=torch.float32)
    plain = load_file(full / "model.safetensors")
    layers: dict[str, Any] = {name: module for name, module in model.named_modules() if isinstance(module, Linear8bitLt)}
    assert len(layers) == 14
    for name, module in layers.items():
        weight = plain[f"{name}.weight"]
        scale = weight.abs().amax(1, keepdim=True) / 127
        assert ((module.weight.data.float() * scale - weight).abs() <= 0.51 * scale + 1e-3 * weight.abs()).all()


@pytest.mark.parametrize("name", ["nf4", "int8"])
def test_run_quantised_is_a_run_of_its_own_and_says_so(name, full, door, eight_rows, tmp_path):
    flags = ("run", "--pretrained", full, "--data_dir", eight_rows, "-o", tmp_path)
    assert f"quantisation {name} (while loading)" in door(*flags, "--quantise", name).stderr
    assert "quantisation" not in door(*flags).stderr
    runs = {run["settings"]["quantisation"]: run for run in read_runs(tmp_path)}
    assert set(runs) == {name, None}
    assert runs[name]["key_parts"]["quantisation"] == name
    assert runs[name]["key_parts"]["versions"]["bitsandbytes"]
    assert name in door("leaderboard", "-o", tmp_path).stdout


def test_run_adapter_keeps_the_quantisation_it_was_trained_on_unless_told(full, door, eight_rows, tmp_path):
    adapter = lora(full, tmp_path / "adapter", settings={"quantise": "nf4"})
    flags = ("run", "--adapter", adapter, "--data_dir", eight_rows, "-o", tmp_path)
    for asked, used in ((None, "nf4"), ("int8", "int8"), ("none", None)):
        done = door(*flags, *(() if asked is None else ("--quantise", asked)))
        assert done.code == 0, done.stderr
        assert [run["settings"]["quantisation"] for run in read_runs(tmp_path)].count(used) == 1


def test_run_sharded_checkpoint_is_quantised_too(full, door, eight_rows, tmp_path):
    sharded = Path(shutil.copytree(full, tmp_path / "sharded"))
    AutoModelForCausalLM.from_pretrained(full).save_pretrained(sharded, max_shard_size="100KB")
    (sharded / "model.safetensors").unlink()
    assert len(list(sharded.glob("*.safetensors"))) > 1
    for model in (full, sharded):
        out = tmp_path / f"out-{model.name}"
        assert door("run", "--pretrained", model, "--data_dir", eight_rows, "-o", out, "--quantise=nf4").code == 0
    assert responses(tmp_path / "out-full") == responses(tmp_path / "out-sharded")


# --- quantised on disk -----------------------------------------------------------------------------------------------


@needs_gptqmodel
@pytest.mark.parametrize("method", ["awq", "gptq"])
@pytest.mark.parametrize(("architecture", "tie", "shards"), [("qwen2", True, 3), ("qwen2", False, 1), ("llama", False, 3)])
def test_stored_quantised_logits_are_those_of_the_float_reference(method, architecture, tie, shards, tmp_path):
    twin, reference = quantised_twin(tmp_path, method, architecture, tie=tie, shards=shards)
    want = logits_of(reference)
    assert (logits_of(twin) - want).abs().max() < 1e-4 < want.abs().max()


@needs_gptqmodel
@pytest.mark.parametrize("method", ["awq", "gptq"])
@pytest.mark.parametrize("adapted", [False, True])
def test_run_of_a_stored_quantised_model_answers_as_its_reference(method, adapted, door, eight_rows, tmp_path):
    twin, reference = quantised_twin(tmp_path, method, "llama", make=answering_model, shards=2)
    more = ("--adapter", lora(reference, tmp_path / "adapter")) if adapted else ()
    for model in (twin, reference):
        out = tmp_path / f"out-{model.name}"
        done = door("run", "--pretrained", model, *more, "--data_dir", eight_rows, "-o", out)
        assert done.code == 0, done.stderr
        assert ("INFO" in done.stdout + done.stderr, f"quantisation {method}" in done.stderr) == (False, model is twin)
    assert responses(tmp_path / f"out-{method}") == responses(tmp_path / "out-reference")
    assert set(map(str.strip, responses(tmp_path / f"out-{method}"))) - {""}


@needs_gptqmodel
@pytest.mark.parametrize("method", ["awq", "gptq"])
@pytest.mark.parametrize("kind", ["qweight", "scales"])
def test_stored_quantised_model_without_a_weight_is_an_error(method, kind, tmp_path):
    twin, _ = quantised_twin(tmp_path, method)
    weights = load_file(twin / "model.safetensors")
    del weights[f"model.layers.1.mlp.up_proj.{kind}"]
    save_file(weights, twin / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=f"lack 1 of the model's weights, first model.layers.1.mlp.up_proj.{kind}"):
        logits_of(twin)


# --- bad input: one line, exit code 2, nothing loaded ----------------------------------------------------------------

AWQ, GPTQ = CONFIGS["awq"], CONFIGS["gptq"]


def without(fields: dict, name: str) -> dict:
    return {key: value for key, value in fields.items() if key != name}


@pytest.mark.parametrize(
    ("stored", "flags", "missing", "fragments"),
    [
        (AWQ, (), "gptqmodel", ("stored in awq", "needs gptqmodel", "make setup EXTRAS=awq")),
        (GPTQ, (), "gptqmodel", ("stored in gptq", "make setup EXTRAS=awq")),
        (GPTQ, (), "optimum", ("needs optimum", "make setup EXTRAS=awq")),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, (), "bitsandbytes", ("fp4", "needs bitsandbytes")),
        (None, ("--quantise=nf4",), "bitsandbytes", ("QUANT=nf4 needs bitsandbytes", "pip install")),
        (None, ("--quantise=int8",), "bitsandbytes", ("QUANT=int8 needs bitsandbytes",)),
        (None, ("--quantise=abc",), None, ("QUANT 'abc'", "nf4 (4 bits), int8 (8 bits)", "none")),
        (None, ("--quantise=",), None, ("QUANT ''", "nf4")),
        (None, ("--quantise=nf4", "--model=hf"), None, ("QUANT=nf4", "BACKEND=hf-answer", "hf does not quantise")),
        (None, ("--quantise=int8", "--model=tfidf"), None, ("tfidf does not quantise", "QUANT=none")),
        (AWQ, ("--quantise=nf4",), None, ("quantised already (awq)", "QUANT=nf4")),
        ({"load_in_8bit": True}, ("--quantise=nf4",), None, ("quantised already (int8)",)),
        ({"quant_method": "abc", "bits": 4}, (), None, ("'abc'", "transformers does not know", "awq, gptq")),
        ({"bits": 4, "group_size": 128}, (), None, ("does not say", "quant_method")),
        (["awq"], (), None, ("no object", "['awq']")),
        (["awq"], ("--quantise=nf4",), None, ("no object", "['awq']")),
        (without(AWQ, "bits"), (), None, ("without a whole number for 'bits'",)),
        (without(AWQ, "group_size"), (), None, ("'group_size'", "config.json again")),
        (GPTQ | {"bits": "four"}, (), None, ("'bits'",)),
        (AWQ | {"bits": 3}, (), None, ("awq with 3 bits", "kernels for 4.")),
        (GPTQ | {"bits": 16}, (), None, ("gptq with 16 bits", "2, 3, 4, 8")),
    ],
)
def test_bad_quantisation_is_one_line(
    stored, flags, missing, fragments, door, random_model, eight_rows, tmp_path, monkeypatch
):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        quantisation.importlib.util, "find_spec", lambda name: None if name == missing else name or find(name)
    )
    folder = Path(shutil.copytree(random_model, tmp_path / "model"))
    if stored is not None:
        fields = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(fields | {"quantization_config": stored}))
    monkeypatch.setattr(WholeModel, "from_pretrained", lambda *_, **__: pytest.fail("weights were loaded"))
    error = door("run", "--pretrained", folder, "--data_dir", eight_rows, "-o", tmp_path / "out", *flags).error
    assert [fragment for fragment in fragments if fragment not in error] == [], error
    assert not (tmp_path / "out" / "runs").exists()


def test_quantising_a_classifier_is_refused(door, eight_rows, tmp_path):
    model = build_model(tmp_path / "model", "bert", head="SequenceClassification")
    error = door("run", "--pretrained", model, "--data_dir", eight_rows, "-o", tmp_path, "--quantise=nf4").error
    assert "hf-classifier does not quantise" in error


@needs_gptqmodel
@pytest.mark.parametrize("fields", [{"group_size": 64}, {"version": "abc"}])
def test_awq_config_that_does_not_fit_its_weights_is_one_line(fields, door, eight_rows, tmp_path):
    twin, _ = quantised_twin(tmp_path, "awq")
    config = json.loads((twin / "config.json").read_text())
    config["quantization_config"] = AWQ | fields
    (twin / "config.json").write_text(json.dumps(config))
    assert "does not load" in door("run", "--pretrained", twin, "--data_dir", eight_rows, "-o", tmp_path).error


# --- dtype -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["awq", "gptq"])
@pytest.mark.parametrize("stored", ["float16", "bfloat16"])
def test_dtype_of_stored_quantised_models_follows_the_kernels(method, stored, monkeypatch):
    from builders import build_tokenizer

    config = {"dtype": stored, "quantization_config": CONFIGS[method]}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    choices = choose(build_tokenizer(), config, thinking=False, device="cpu")
    assert (choices.dtype, choices.quantisation) == ("float32", method)
    assert f"dtype float32 ({method} on a CPU) · quantisation {method} (as stored)" in choices.line()
    assert choose(build_tokenizer(), config, thinking=False, device="cpu", dtype="bfloat16").dtype == "bfloat16"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert choose(build_tokenizer(), config, thinking=False).dtype == "float16"
    if method == "awq":
        with pytest.raises(UserError, match="DTYPE=bfloat16"):
            choose(build_tokenizer(), config, thinking=False, dtype="bfloat16")
