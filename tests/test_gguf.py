"""GGUF files: found, checked, unpacked as the gguf package unpacks them, and asked as the folder of the same weights is."""

import contextlib
import json
import os
import random
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from builders import CHAT_TEMPLATE, SENTENCES, answering_model, tsv_folder
from fakehub import FakeHub
from gguf_files import build_gguf, gguf_name, unpacked
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import finetune.__main__
from harness_ext.backend import vllm
from harness_ext.backend.subject import Subject
from harness_ext.errors import UserError
from harness_ext.model import memory, quantisation
from harness_ext.model.checkpoints import find_model
from harness_ext.model.gguf_header import read_header
from harness_ext.model.loading import WholeModel, load_tokenizer
from harness_ext.model.settings import choose

Kind = gguf.GGMLQuantizationType


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder that the files below are made of."""
    return answering_model(tmp_path_factory.mktemp("models") / "full", "qwen2", chat_template=CHAT_TEMPLATE)


@pytest.fixture(scope="module")
def file(model):
    return build_gguf(model.parent / "tiny.gguf", model)


@pytest.fixture(scope="module")
def twin(model, file):
    """The folder of the same weights, in float32."""
    folder = Path(shutil.copytree(model, model.parent / "twin"))
    loaded = AutoModelForCausalLM.from_pretrained(model)
    weights = unpacked(file)
    with torch.no_grad():
        for name, weight in loaded.named_parameters():
            weight.copy_(torch.from_numpy(np.array(weights[gguf_name(name)])))
    loaded.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    rows = [(f"a {word} film {n}", label) for n in range(10) for label, word in enumerate(("bad", "good"))]
    return tsv_folder(tmp_path_factory.mktemp("data") / "films", SENTENCES, rows)


def log_of(out: Path) -> list[str]:
    (log,) = out.glob("runs/*/samples.jsonl")
    return [str(json.loads(line)["resps"]) for line in log.read_text(encoding="utf-8").splitlines()]


def record_of(out: Path) -> dict:
    (record,) = out.glob("runs/*/run.json")
    return json.loads(record.read_text(encoding="utf-8"))


# --- what is loaded --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q8_0, Kind.F16, Kind.BF16, Kind.F32])
def test_weights_are_those_that_the_gguf_package_unpacks(model, kind, tmp_path):
    made = build_gguf(tmp_path / "tiny.gguf", model, kind)
    loaded = WholeModel(AutoModelForCausalLM).from_pretrained(find_model(str(made)).path, dtype=torch.float32)
    expected = unpacked(made)
    got = {gguf_name(name): weight.detach().numpy() for name, weight in loaded.named_parameters()}
    assert got.keys() == expected.keys()
    for name, weight in got.items():
        np.testing.assert_array_equal(weight, expected[name], err_msg=name)
    assert not getattr(loaded, "is_quantized", False)  # or nothing could be trained or merged
    assert not hasattr(loaded, "hf_quantizer")


def test_a_file_in_parts_is_joined(model, file, tmp_path):
    first = build_gguf(tmp_path / "tiny.gguf", model, split=10)
    assert first.name == "tiny-00001-of-00003.gguf"
    found = [find_model(str(path)) for path in (tmp_path, first, tmp_path / "tiny-00002-of-00003.gguf")]
    assert len({each.version for each in found}) == 1
    loaded = WholeModel(AutoModelForCausalLM).from_pretrained(found[0].path, dtype=torch.float32)
    expected = unpacked(file)
    for name, weight in loaded.named_parameters():
        np.testing.assert_array_equal(weight.detach().numpy(), expected[gguf_name(name)], err_msg=name)


def test_tokenizer_template_context_and_ends_come_from_the_file(model, tmp_path):
    made = build_gguf(tmp_path / "tiny.gguf", model, tokenizer__ggml__eot_token_id=4)
    found, text = find_model(str(made)), "Sentence: it 's 0 1, naïve 😀 <|im_end|>"
    ours, own = load_tokenizer(found), AutoTokenizer.from_pretrained(model)
    assert ours(text)["input_ids"] == own(text)["input_ids"]
    assert ours.chat_template == CHAT_TEMPLATE
    assert found.config["max_position_embeddings"] == 512
    loaded = WholeModel(AutoModelForCausalLM).from_pretrained(found.path, dtype=torch.float32)
    assert loaded.generation_config.eos_token_id == [0, 4]  # <|endoftext|> of a text, <|im_end|> of a turn


def test_a_classifier_is_made_of_a_file_with_a_new_head(file):
    loader = WholeModel(AutoModelForSequenceClassification, may_lack=["score"])
    loaded = loader.from_pretrained(find_model(str(file)).path, dtype=torch.float32, num_labels=2)
    assert loader.missing == ["score.weight"]
    assert loaded.config.num_labels == 2


# --- runs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more",
    [[], ["--tasks=sst2_01_choice"], ["--model=hf"], ["--engine=stock"], ["--model=probe", "--train_samples=4"]],
    ids=["written", "chosen", "hf", "stock", "probe"],
)
def test_a_file_answers_as_the_folder_of_its_weights(file, twin, films, tmp_path, door, more):
    for model, out in ((file, "file"), (twin, "folder")):
        asked = ["run", f"--pretrained={model}", f"--data_dir={films}", "--dtype=float32", f"-o={tmp_path / out}", *more]
        assert door(*asked).code == 0
    assert log_of(tmp_path / "file") == log_of(tmp_path / "folder")
    made = record_of(tmp_path / "file")
    assert (made["model"], made["quantisation"]) == ("tiny.gguf", "Q8_0")
    assert made["settings"]["reasons"]["quantisation"] == "a GGUF file, unpacked to float32"
    assert made["key_parts"]["weights"].startswith("sha256:")
    assert made["key_parts"]["versions"]["gguf"]


def test_the_key_goes_by_content_not_by_place(file, model, tmp_path):
    moved = Path(shutil.copy(file, tmp_path / "tiny.gguf"))
    other = build_gguf(tmp_path / "other.gguf", model, Kind.Q4_0)
    assert find_model(str(moved)).version == find_model(str(file)).version != find_model(str(other)).version
    moved.unlink()
    found = find_model(str(file))  # what was made of it names it again, not the copy that is gone
    assert WholeModel(AutoModelForCausalLM).from_pretrained(found.path, dtype=torch.float32)


@pytest.mark.slow
def test_an_adapter_trained_on_a_file_names_it_and_is_scored_on_it(file, twin, films, tmp_path, door):
    asked = [f"--model={file}", "--samples=4", f"--data_dir={films}", f"--output_path={tmp_path}", "--set=steps=2"]
    assert finetune.__main__.main(asked) == 0
    (adapter,) = tmp_path.glob("adapters/*")
    assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == str(file)
    assert json.loads((adapter / "run.json").read_text())["base_version"] == find_model(str(file)).version
    asked = ["run", f"--adapter={adapter}", f"--data_dir={films}", f"-o={tmp_path}"]
    assert door(*asked).code == 0
    assert record_of(tmp_path)["quantisation"] == "Q8_0"
    said = door(*asked, f"--pretrained={twin}").error  # the same numbers in another form are not told to be the same
    assert "trained on another base" in said
    assert str(file) in said


def test_doctor_counts_the_unpacked_weights(file, films, door):
    said = door("doctor", f"--pretrained={file}", f"--data_dir={films}", "--dtype=float32").stdout
    parameters = sum(weight.size for weight in unpacked(file).values())
    assert f"weights {4 * parameters / 1e6:.1f} MB" in said
    assert f"GGUF file {file}" in said
    config = find_model(str(file)).config
    assert memory.weights_bytes(config, 0, "bfloat16") == 2 * parameters


def test_a_quantised_file_is_unpacked_to_bfloat16_only_where_products_are_in_hardware(file, monkeypatch):
    found = find_model(str(file))
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    for has, dtype in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda has=has: has)
        settings = choose(load_tokenizer(found), found.config, thinking=False, device="cpu")
        assert settings.dtype == dtype
        assert f"quantisation Q8_0 (a GGUF file, unpacked to {dtype})" in settings.line()


def test_vllm_is_given_the_file_and_what_was_made_of_its_header(file):
    found = find_model(str(file))
    settings = choose(load_tokenizer(found), found.config, thinking=False, device="cpu")
    args = vllm.model_args(Subject("vllm", base=found), settings, tokens=64)
    assert Path(args["pretrained"]).samefile(file)
    assert args["pretrained"].endswith(".gguf")
    assert args["tokenizer"] == args["hf_config_path"] == found.path


def test_without_a_cache_what_is_made_lasts_as_long_as_the_process(file, monkeypatch, tmp_path):
    (tmp_path / "no folder").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no folder"))
    assert Path(find_model(str(file)).path, "config.json").is_file()


# --- what is found ---------------------------------------------------------------------------------------------------


def test_a_folder_with_one_file_is_that_file(file, tmp_path):
    shutil.copy(file, tmp_path / "tiny.gguf")
    (tmp_path / "mmproj-tiny.gguf").write_bytes(b"GGUF")  # what a model reads images with, as repositories hold it too
    (tmp_path / "README.md").write_text("")
    assert find_model(str(tmp_path)).version == find_model(str(file)).version


def test_of_several_files_one_is_named(file, tmp_path, door):
    for name in ("q4.gguf", "q8.gguf"):
        shutil.copy(file, tmp_path / name)
    assert "choose one with GGUF=, such as q4.gguf, q8.gguf" in door("run", f"--pretrained={tmp_path}").error
    assert "Did you mean" in door("run", f"--pretrained={tmp_path}", "--gguf=q9.gguf").error
    checks = door("doctor", f"--pretrained={tmp_path}", "--gguf=q8.gguf", "--tasks=sst2_01_mini").stdout
    assert f"GGUF file {tmp_path / 'q8.gguf'}" in checks
    assert "GGUF 'q8.gguf' names a file of MODEL=" in door("run", "--gguf=q8.gguf").error


def test_safetensors_come_before_gguf_files_beside_them(model, file, tmp_path):
    folder = Path(shutil.copytree(model, tmp_path / "both"))
    shutil.copy(file, folder / "tiny.gguf")
    assert find_model(str(folder)).path == str(folder)
    assert find_model(str(folder / "tiny.gguf")).file == str(folder / "tiny.gguf")


@pytest.mark.slow  # several processes, as the client reads its endpoint when it is imported
def test_hub_repositories_of_gguf_files(file, tmp_path, cli):
    one, several = tmp_path / "one", tmp_path / "several"
    for folder, names in ((one, ["tiny.gguf"]), (several, ["tiny-q4.gguf", "tiny-q8.gguf"])):
        folder.mkdir()
        for name in names:
            shutil.copy(file, folder / name)
    with FakeHub(models={"maker/one": one, "maker/several": several}) as hub:
        env = hub.env(tmp_path / "home") | {"XDG_CACHE_HOME": str(tmp_path)}
        task = ["--tasks=sst2_01_mini", "--limit=2", f"-o={tmp_path / 'out'}"]
        said = cli("doctor", "--pretrained=maker/one", *task, env=env).error
        assert "`hf download maker/one tiny.gguf` first" in said  # nothing large is downloaded to look at it
        assert ("GET", "/maker/one/resolve/main/tiny.gguf") not in hub.requests
        assert cli("run", "--pretrained=maker/one", *task, env=env).code == 0
        assert record_of(tmp_path / "out")["model"] == "maker/one/tiny.gguf"
        assert "such as tiny-q4.gguf, tiny-q8.gguf" in cli("run", "--pretrained=maker/several", *task, env=env).error
        said = cli("run", "--pretrained=maker/several", "--gguf=tiny-q6.gguf", *task, env=env).error
        assert "has no file 'tiny-q6.gguf' on the Hub. Did you mean tiny-q" in said
    offline = cli("run", "--pretrained=maker/one/tiny.gguf", *task, env=env | {"HF_HUB_OFFLINE": "1"})
    assert "Already done" in offline.stderr  # the finished run is found, its file in the cache


# --- what cannot be used ---------------------------------------------------------------------------------------------


def cut_header(file: Path) -> None:
    os.truncate(file, 1000)


def cut_weights(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def empty(file: Path) -> None:
    file.write_bytes(b"")


def pointer(file: Path) -> None:
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def page(file: Path) -> None:
    file.write_text("<!DOCTYPE html><title>Sign in</title>")


def old(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[4] = 1
    file.write_bytes(content)


def unknown_kind(file: Path) -> None:
    """Change how the file says that its first tensor is stored."""
    content, tensor = bytearray(file.read_bytes()), gguf.GGUFReader(file).tensors[0]
    content[int(tensor.field.offset) + sum(part.nbytes for part in tensor.field.parts[:4])] = 77
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut_header, "cut off within its header"), (cut_weights, "1 bytes are missing"), (empty, "does not begin as a GGUF"),
        (pointer, "Git LFS pointer"), (page, "does not begin as a GGUF"), (old, "version 1,"),
        (unknown_kind, "quantised as number 77"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_one_line(file, tmp_path, door, damage, said):
    made = Path(shutil.copy(file, tmp_path / "tiny.gguf"))
    damage(made)
    error = door("run", f"--pretrained={made}").error
    assert said in error
    assert str(made) in error


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"architecture": "clip"}, "reads images with"),
        ({"general__type": "mmproj"}, "reads images with"),
        ({"general__type": "adapter"}, "holds an adapter"),
        ({"architecture": "rwkv7"}, "is a rwkv7, and transformers unpacks"),
        ({"weights": False}, "a vocabulary without weights"),
        ({"tokenizer": False}, "no tokenizer"),
        ({"qwen2__rope__scaling__type": "yarn"}, "scales its positions"),
    ],
)  # fmt: skip
def test_a_file_of_something_else_is_one_line(model, tmp_path, door, options, said):
    made = build_gguf(tmp_path / "tiny.gguf", model, **options)
    assert said in door("run", f"--pretrained={made}").error


def test_a_part_that_is_not_there_is_named(model, tmp_path, door):
    first = build_gguf(tmp_path / "tiny.gguf", model, split=10)
    (tmp_path / "tiny-00003-of-00003.gguf").unlink()
    assert "tiny-00003-of-00003.gguf', one of the model's 3 parts" in door("run", f"--pretrained={first}").error


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--quantise=nf4"], "is quantised already (Q8_0), so QUANT=nf4 cannot apply"),
        (["--dtype=auto"], "a GGUF file is unpacked to a dtype"),
    ],
)
def test_what_contradicts_a_file_is_one_line(file, films, door, more, said):
    assert said in door("run", f"--pretrained={file}", f"--data_dir={films}", *more).error


def test_a_file_is_not_quantised_for_training(file, films, tmp_path, capsys):
    asked = [f"--model={file}", f"--data_dir={films}", f"--output_path={tmp_path}", "--set=quantise=nf4"]
    assert finetune.__main__.main(asked) == 2
    assert "QUANT=nf4 cannot apply" in capsys.readouterr().err


def test_without_the_extra_its_command_is_named(file, monkeypatch, door):
    found = quantisation.importlib.util.find_spec
    monkeypatch.setattr(quantisation.importlib.util, "find_spec", lambda name: None if name == "gguf" else found(name))
    assert "`make setup EXTRAS=gguf`" in door("run", f"--pretrained={file}").error


def test_a_full_disk_is_one_line_and_leaves_nothing_half_made(model, tmp_path, monkeypatch, door):
    made = build_gguf(tmp_path / "tiny.gguf", model, Kind.Q5_1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def full(*_args: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        assert "cannot be kept in" in door("run", f"--pretrained={made}").error
    assert not [path for path in tmp_path.glob("cache/*/gguf/*") if path.is_dir()]
    assert find_model(str(made)).config["gguf"]["quantisation"] == "Q5_1"


def test_a_file_of_the_hub_that_does_not_fit_the_disk_is_one_line(monkeypatch, door):
    def full(*_args: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", full)
    assert "large.gguf of model 'maker/one' does not fit the disk" in door("run", "--pretrained=maker/one/large.gguf").error


def test_no_cut_and_no_changed_byte_of_a_header_is_a_traceback(file, tmp_path):
    content, draw = file.read_bytes(), random.Random(0)
    end = read_header(file).start
    made = tmp_path / "tiny.gguf"
    for _ in range(500):
        damaged = bytearray(content)
        if draw.random() < 0.3:
            del damaged[draw.randrange(len(damaged)) :]
        for _ in range(min(3, len(damaged))):
            damaged[draw.randrange(min(end, len(damaged)))] = draw.randrange(256)
        made.write_bytes(damaged)
        with contextlib.suppress(UserError):  # anything else that is raised fails the test
            read_header(made)


# --- real files ------------------------------------------------------------------------------------------------------


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "folder", "architecture"),
    [("smollm2.gguf", "SmolLM2-135M-Instruct", "LLAMA"), ("gemma3.gguf", "gemma-3-270m", "GEMMA3")],
)
def test_real_weights_are_what_the_gguf_package_unpacks(real_models, name, folder, architecture):
    if not (real_models / name).is_file():
        pytest.skip(f"{name} is not in REAL_MODELS=")
    expected = unpacked(real_models / name)
    loaded = WholeModel(AutoModelForCausalLM).from_pretrained(find_model(str(real_models / name)).path, dtype=torch.float32)
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, architecture), loaded.config.num_hidden_layers)
    rounded = load_file(real_models / folder / "model.safetensors")
    for own, weight in loaded.named_parameters():
        kept = weight.detach().numpy()
        assert torch.equal(weight.to(torch.bfloat16), rounded[own]), own
        if "norm" in own and architecture == "GEMMA3":
            kept = kept + 1  # llama.cpp keeps what the norm multiplies by
        if own.endswith(("q_proj.weight", "k_proj.weight")) and architecture == "LLAMA":
            # Its rotations take neighbours together, transformers' the two halves of a head.
            kept = kept.reshape(-1, 2, loaded.config.head_dim // 2, kept.shape[1]).swapaxes(1, 2).reshape(kept.shape)
        np.testing.assert_array_equal(kept, expected.pop(f"{names.get_name(own.removesuffix('.weight'))}.weight"), own)
    assert not expected, "every tensor of the file has found its place"
