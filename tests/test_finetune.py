"""Adapters end to end on small models: made, saved, loaded by a fresh process, scored; resumed; guarded."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from builders import SENTENCES, build_model, build_tokenizer, deberta_as_on_the_hub, tsv_folder
from conftest import Outcome
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import finetune.__main__
from harness_ext.results.records import read_runs

SHORT = ("--set=steps={2: 4}", "--set=evaluations=2", "--set=batch_size=4")
ADJECTIVES = ("good", "warm", "funny", "clever", "fine", "bright", "rich", "bold")
OTHERS = ("bad", "cold", "dull", "silly", "poor", "dark", "thin", "weak")


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A folder with 64 balanced rows to train on and 8 to score."""
    rows = [(f"a {word} film {n}", label) for n in range(4) for label in (0, 1) for word in (OTHERS, ADJECTIVES)[label]]
    return tsv_folder(tmp_path_factory.mktemp("data") / "words", SENTENCES, rows)


@pytest.fixture
def train(capfd):
    """Call the trainer in this process: ``train("--samples=8")``."""

    def call(*argv):
        capfd.readouterr()
        code = finetune.__main__.main([str(word) for word in argv])
        said = capfd.readouterr()
        return Outcome(code, said.out, said.err)

    return call


def flags(model: object, data: Path, out: Path, *more: str) -> list[str]:
    return [f"--model={model}", f"--data_dir={data}", f"--output_path={out}", "--samples=8", *SHORT, *more]


def manifests(out: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(out.glob("adapters/*/run.json"))]


def only_adapter(out: Path) -> Path:
    (folder,) = (path.parent for path in out.glob("adapters/*/run.json"))
    return folder


@pytest.mark.parametrize(
    "architecture", ["qwen2", "qwen3", "llama", "gemma3", pytest.param("deberta-v2", marks=pytest.mark.slow)]
)
def test_adapter_is_made_saved_and_scored(architecture, data, train, door, cli, tmp_path):
    model = build_model(tmp_path / "base", architecture)
    out = tmp_path / "out"
    done = train(*flags(model, data, out))
    assert done.code == 0, done.stderr
    folder = only_adapter(out)
    (manifest,) = manifests(out)
    assert manifest["reload_difference"] <= 1e-4  # by a process that never trained
    assert (manifest["train_samples"], manifest["rows"], manifest["optimiser_steps"]) == (8, 8, 4)
    assert manifest["kind"] == ("classifier" if architecture == "deberta-v2" else "generative")
    assert manifest["trainable_parameters"] > 0
    assert {path.name for path in folder.iterdir()} >= {"adapter_config.json", "adapter_model.safetensors", "history.json",
                                                       "curve.png", "curve.svg", "checkpoint-2", "checkpoint-4"}  # fmt: skip
    assert not [path for path in folder.rglob("*") if path.suffix in (".pt", ".bin", ".pth")]
    for adapter in (folder, folder / "checkpoint-4"):
        score = cli if (architecture, adapter) == ("deberta-v2", folder) else door  # once by a process of its own
        scored = score("run", f"--adapter={adapter}", f"--data_dir={data}", f"--output_path={tmp_path / adapter.name}")
        assert scored.code == 0, scored.stderr
    ((final,), (checkpoint,)) = (read_runs(tmp_path / adapter.name) for adapter in (folder, folder / "checkpoint-4"))
    assert final["key"] == checkpoint["key"]
    assert final["train_samples"] == 8
    assert final["training"]["optimiser_steps"] == 4
    assert final["counts"]["lenient"] == checkpoint["counts"]["lenient"]  # the last checkpoint is the final adapter


def test_deberta_as_it_is_on_the_hub_is_made_a_classifier_once_its_pickle_is_accepted(data, train, door, tmp_path):
    model = deberta_as_on_the_hub(tmp_path / "deberta-v3")
    assert "--allow_pickle" in train(*flags(model, data, tmp_path / "out")).error
    made = train(*flags(model, data, tmp_path / "out", "--allow_pickle"))
    assert made.code == 0, made.stderr
    assert "recipe deberta (classifier)" in made.stderr
    run = ("run", f"--adapter={only_adapter(tmp_path / 'out')}", f"--data_dir={data}", f"--output_path={tmp_path / 'out'}")
    assert "--allow_pickle" in door(*run).error
    scored = door(*run, "--allow_pickle")
    assert scored.code == 0, scored.stderr
    assert "cannot generate" in door("run", f"--pretrained={model}", f"--data_dir={data}", "--allow_pickle").error


def test_eval_gives_the_logits_of_the_adapter_as_peft_loads_it(data, train, tmp_path):
    """What the harness answers with, LoRA merged into the base, is what peft makes of the same folder."""
    from harness_ext.backend.answer import AnswerLM
    from harness_ext.backend.classifier import ClassifierLM

    for architecture, lm_class, auto_class, labels in (
        ("llama", AnswerLM, AutoModelForCausalLM, {}),
        ("deberta-v2", ClassifierLM, AutoModelForSequenceClassification, {"num_labels": 2}),
    ):
        model = build_model(tmp_path / architecture, architecture)
        out = tmp_path / f"out-{architecture}"
        assert train(*flags(model, data, out)).code == 0
        folder = only_adapter(out)
        more = {"head": json.loads((folder / "adapter_config.json").read_text())["modules_to_save"]}
        lm = lm_class(
            str(model), peft=str(folder), device="cpu", dtype="float32", **(more if lm_class is ClassifierLM else {})
        )
        plain = auto_class.from_pretrained(model, dtype=torch.float32, **labels)
        unmerged = PeftModel.from_pretrained(plain, folder).eval()
        ids = torch.randint(10, 300, (4, 12), generator=torch.manual_seed(0))
        with torch.inference_mode():
            expected, base = unmerged(ids).logits, unmerged.get_base_model()
            assert torch.allclose(lm.model(ids).logits, expected, atol=1e-4)
            with unmerged.disable_adapter():
                assert not torch.allclose(base(ids).logits, expected, atol=1e-3)  # or this test would prove nothing


@pytest.mark.slow
def test_interrupted_training_ends_with_the_same_weights(data, train, tmp_path):
    model = build_model(tmp_path / "base")
    steps = ("--set=steps={2: 40}", "--set=evaluations=8", "--set=dropout=0.1")  # dropout: random numbers must resume too
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert train(*flags(model, data, whole, *steps)).code == 0
    command = [sys.executable, "-m", "finetune", *flags(model, data, broken, *steps)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    for _ in range(600):
        if list(broken.glob("unfinished/*/checkpoint-10/trainer_state.json")) or process.poll() is not None:
            break
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not manifests(broken), "it was too fast to be interrupted"
    (unfinished,) = broken.glob("unfinished/*")
    shutil.copytree(unfinished / "checkpoint-10", unfinished / "checkpoint-39")  # as if killed while saving
    (unfinished / "checkpoint-39" / "trainer_state.json").unlink()
    done = train(*flags(model, data, broken, *steps))
    assert done.code == 0, done.stderr
    (manifest,) = manifests(broken)
    assert manifest["steps_resumed"] >= 10
    ours, theirs = (load_file(only_adapter(out) / "adapter_model.safetensors") for out in (broken, whole))
    assert all(torch.equal(ours[name], weight) for name, weight in theirs.items())
    histories = [json.loads((only_adapter(out) / "history.json").read_text())["history"] for out in (broken, whole)]
    assert [entry["step"] for entry in histories[0]] == [entry["step"] for entry in histories[1]]


def test_finished_adapter_is_not_made_again_unless_forced(data, train, random_model, tmp_path):
    assert train(*flags(random_model, data, tmp_path)).code == 0
    before = (only_adapter(tmp_path) / "run.json").read_bytes()
    again = train(*flags(random_model, data, tmp_path))
    assert again.code == 0
    assert "Already done" in again.stderr
    assert (only_adapter(tmp_path) / "run.json").read_bytes() == before
    assert train(*flags(random_model, data, tmp_path, "--force")).code == 0
    assert (only_adapter(tmp_path) / "run.json").read_bytes() != before
    assert not (tmp_path / "unfinished").exists()


@pytest.mark.slow
def test_several_seeds_and_sizes_in_one_process_equal_each_alone(data, train, random_model, tmp_path):
    together, alone = tmp_path / "together", tmp_path / "alone"
    assert train(*flags(random_model, data, together, "--samples=4,8", "--seed=0,1")).code == 0
    assert len(manifests(together)) == 4
    assert train(*flags(random_model, data, alone, "--seed=1")).code == 0
    folder = only_adapter(alone)
    ours = load_file(folder / "adapter_model.safetensors")
    theirs = load_file(together / "adapters" / folder.name / "adapter_model.safetensors")
    assert all(torch.equal(ours[name], weight) for name, weight in theirs.items())


def test_several_classifiers_in_one_process_start_from_the_same_head_each(data, train, tmp_path):
    model = build_model(tmp_path / "base", "deberta-v2")
    together, alone = tmp_path / "together", tmp_path / "alone"
    assert train(*flags(model, data, together, "--seed=0,1")).code == 0
    assert train(*flags(model, data, alone, "--seed=1")).code == 0
    folder = only_adapter(alone)
    ours = load_file(folder / "adapter_model.safetensors")
    theirs = load_file(together / "adapters" / folder.name / "adapter_model.safetensors")
    assert {name for name in ours if "classifier" in name or "pooler" in name}
    assert all(torch.equal(ours[name], weight) for name, weight in theirs.items())


def test_validation_split_is_never_read(data, train, random_model, tmp_path):
    folder = Path(shutil.copytree(data, tmp_path / "data"))
    (folder / "dev.tsv").unlink()
    assert train(*flags(random_model, folder, tmp_path / "without")).code == 0
    assert train(*flags(random_model, data, tmp_path / "with")).code == 0
    ours, theirs = (load_file(only_adapter(tmp_path / out) / "adapter_model.safetensors") for out in ("without", "with"))
    assert all(torch.equal(ours[name], weight) for name, weight in theirs.items())


def test_rows_held_out_are_neither_trained_on_nor_of_another_seed(data, train, random_model, tmp_path):
    assert train(*flags(random_model, data, tmp_path, "--samples=all")).code == 0
    (manifest,) = manifests(tmp_path)
    assert (manifest["train_samples"], manifest["rows"], manifest["held_out"]["n"]) == ("all", 54, 10)  # 64 // 6 // 2 * 2


def test_few_steps_and_a_collapse_are_said(data, train, random_model, tmp_path):
    said = train(*flags(random_model, data, tmp_path, "--set=learning_rate=1.0e-7")).stderr
    assert "Warning: 4 optimiser steps are planned" in said
    assert "0.5091" in said
    tail = train(*flags(random_model, data, tmp_path, "--set=learning_rate=0.3", "--set=warmup_share=0.0"))
    (manifest,) = [each for each in manifests(tmp_path) if each["recipe_settings"]["learning_rate"] == 0.3]
    assert manifest["collapsed"] == (manifest["held_out"]["positive_share"] in (0, 1))
    assert ("collapsed to one class" in tail.stderr) == manifest["collapsed"]


def test_collapse_reaches_the_leaderboard(data, train, door, random_model, tmp_path):
    assert train(*flags(random_model, data, tmp_path)).code == 0
    path = only_adapter(tmp_path) / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"collapsed": True}))
    assert door("run", f"--adapter={path.parent}", f"--data_dir={data}", f"--output_path={tmp_path}").code == 0
    assert "YES" in door("leaderboard", f"--output_path={tmp_path}").stdout
    assert "| 4 | YES |" in (tmp_path / "leaderboard.md").read_text()


@pytest.mark.parametrize("name", ["nf4", "int8"])
def test_quantised_base_is_trained_and_scored_alike(name, data, train, door, tmp_path):
    model = build_model(tmp_path / "base", "llama", hidden_size=64, head_dim=32)  # nf4 works on blocks of 64
    done = train(*flags(model, data, tmp_path / "out", "--recipe=qwen", f"--set=quantise={name}"))
    assert done.code == 0, done.stderr
    (manifest,) = manifests(tmp_path / "out")
    assert manifest["reload_difference"] <= 1e-4
    adapter = only_adapter(tmp_path / "out")
    scored = door("run", f"--adapter={adapter}", f"--data_dir={data}", f"--output_path={tmp_path / 'out'}")
    assert scored.code == 0, scored.stderr


def test_interrupt_says_how_to_go_on(data, train, random_model, tmp_path, monkeypatch):
    from finetune.trainers import PromptTrainer

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(PromptTrainer, "training_step", interrupted)
    outcome = train(*flags(random_model, data, tmp_path))
    assert outcome.code == 1
    assert "continues where this one stopped" in outcome.stderr


# --- bad input: one line, exit code 2, no adapter --------------------------------------------------------------------


def encoder(tmp_path):
    return build_model(tmp_path / "encoder", "deberta-v2")


def no_end_token(tmp_path):
    """Neither the tokenizer nor the model says what ends a text."""
    model = build_model(tmp_path / "endless", "llama")
    for file in ("tokenizer_config.json", "config.json", "generation_config.json"):
        content = json.loads((model / file).read_text())
        (model / file).write_text(
            json.dumps({key: value for key, value in content.items() if not key.startswith("eos_token")})
        )
    return model


def nan_weights(tmp_path):
    from safetensors.torch import save_file

    model = build_model(tmp_path / "nan")
    weights = load_file(model / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    return model


def stored_in_8_bits(tmp_path):
    model = build_model(tmp_path / "quantised")
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": {"load_in_8bit": True}}))
    return model


BAD = {
    "base_quantised_already": (stored_in_8_bits, [], ("'quantised'", "stored in int8", "--set quantise=nf4")),
    "samples_odd": (None, ["--samples=15"], ("SAMPLES '15'", "even number")),
    "samples_zero": (None, ["--samples=0"], ("SAMPLES '0'", "even number")),
    "samples_negative": (None, ["--samples=-4"], ("SAMPLES '-4'", "even number")),
    "samples_word": (None, ["--samples=many"], ("SAMPLES 'many'", "all")),
    "samples_one_of_several": (None, ["--samples=4,5"], ("SAMPLES '5'", "even number")),
    "samples_more_than_there_are": (None, ["--samples=64"], ("SAMPLES 64", "54 balanced rows")),
    "seed_word": (None, ["--seed=x"], ("SEED 'x'", "0,1,2")),
    "recipe_unknown": (None, ["--recipe=qwn"], ("'qwn'", "Did you mean qwen")),
    "recipe_key_unknown": (None, ["--set=rnk=3"], ("'rnk'", "Did you mean rank")),
    "target_modules_of_nothing": (None, ["--set=target_modules=[query]"], ("query", "q_proj", "down_proj")),
    "encoder_in_a_generative_recipe": (encoder, ["--recipe=qwen"], ("'qwen'", "encoder", "deberta")),
    "model_absent": (lambda folder: "nowhere/at/all", [], ("'nowhere/at/all'", "neither a folder")),
    "tokenizer_without_end": (no_end_token, [], ("end token", "tokenizer_config.json")),
    "loss_nan_of_damaged_weights": (nan_weights, [], ("loss is nan", "learning rate")),
    "loss_nan_of_a_high_rate": (None, ["--set=learning_rate=1.0e+38", "--set=steps={2: 20}"], ("loss is nan", "too high")),
    "learning_rate_that_never_rises": (
        None,
        ["--set=steps={2: 1}", "--set=warmup_share=1"],
        ("No trainable weight changed",),
    ),
    "context_too_short": (lambda folder: build_model(folder / "short", context=32), [], ("tokens", "context holds 32")),
    "dtype_for_no_training": (None, ["--dtype=float16"], ("'float16'", "bfloat16")),
    "data_dir_absent": (None, ["--data_dir=absent"], ("absent/train.tsv",)),
    "flag_unknown": (None, ["--sample=3", "--nonsense"], ("nonsense", "--help")),
    "out_read_only": (None, ["--output_path=/proc/out"], ("OUT", "/proc/out")),
    "report_to_nothing_known": (None, ["--report_to=nonsense"], ("REPORT_TO=nonsense",)),
    "report_to_what_is_not_installed": (None, ["--report_to=swanlab"], ("REPORT_TO=swanlab", "swanlab")),
    "task_unknown": (None, ["--task=sst2_1"], ("'sst2_1'", "Did you mean")),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_ends_in_one_line_and_makes_no_adapter(name, data, train, random_model, tmp_path):
    model, more, fragments = BAD[name]
    outcome = train(*flags(model(tmp_path) if model else random_model, data, tmp_path / "out", *more))
    for fragment in fragments:
        assert fragment in outcome.error
    assert not list((tmp_path / "out").glob("adapters/*"))


def test_tokenizer_without_padding_is_mended_and_that_is_said(data, train, tmp_path):
    model = build_model(tmp_path / "base", "llama")
    path = model / "tokenizer_config.json"
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "pad_token"}))
    outcome = train(*flags(model, data, tmp_path / "out"))
    assert outcome.code == 0, outcome.stderr
    assert "padding <|endoftext|> (the tokenizer has no padding token)" in outcome.stderr


@pytest.mark.slow
def test_disk_full_while_saving_leaves_the_checkpoint_before_whole(data, random_model, tmp_path):
    """A limit on file size stands in for a full disk; the next attempt goes on from what was whole."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "finetune", *flags(random_model, data, out, "--set=evaluations=4")]
    code = (
        "import runpy, sys, finetune.trainers as t; save = t.CheckedTrainer._save_checkpoint\n"
        "def full(self, *args):\n"
        "    if self.state.global_step == 3: raise OSError(28, 'No space left on device')\n"
        "    return save(self, *args)\n"
        "t.CheckedTrainer._save_checkpoint = full\n"
        "sys.argv[0] = 'finetune'; runpy.run_module('finetune', run_name='__main__')"
    )
    broken = subprocess.run([sys.executable, "-c", code, *command[3:]], capture_output=True, text=True, timeout=120)
    assert broken.returncode == 2, broken.stderr
    assert "No space left" in broken.stderr.splitlines()[-1]
    assert not list(out.glob("adapters/*"))
    assert (next(out.glob("unfinished/*")) / "checkpoint-2" / "trainer_state.json").is_file()
    again = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr
    assert manifests(out)[0]["steps_resumed"] == 2


def test_curves_of_several_runs_are_one_figure(data, train, random_model, tmp_path, pictures):
    assert train(*flags(random_model, data, tmp_path, "--seed=0,1")).code == 0
    assert train("curves", "-o", tmp_path, *tmp_path.glob("adapters/*")).code == 0
    (tmp_path / "curves.png").unlink()
    assert train("curves", f"--output_path={tmp_path}").code == 0
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    svg = (tmp_path / "curves.svg").read_text()
    assert svg.count("<svg") == 1
    assert "curves" not in train("curves", tmp_path / "absent", f"--output_path={tmp_path}").stdout
    assert "No loss history" in train("curves", tmp_path / "absent", f"--output_path={tmp_path}").error
    assert "No adapter" in train("curves", f"--output_path={tmp_path / 'empty'}").error


def test_tokenizer_of_the_tests_has_an_end_token():
    assert build_tokenizer().eos_token_id is not None
