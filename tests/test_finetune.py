"""Adapters end to end on small models: made, saved, loaded by a fresh process, scored; resumed; guarded."""

import dataclasses
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import quick
import torch
import tqdm
import yaml
from builders import LINES, SENTENCES, answering_model, build_model, build_tokenizer, deberta_as_on_the_hub, tsv_folder
from peft import PeftModel
from safetensors.torch import load_file
from stock import samples_of
from training import adapters, flags, only_adapter, train, words_folder
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
)

import finetune.__main__
from finetune import progress
from finetune.plan import make_plan
from finetune.record import identity, readme
from finetune.spec import make_spec
from harness_ext.results.records import read_runs


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with 64 balanced rows to train on and 8 to score."""
    return words_folder(tmp_path_factory.mktemp("data") / "words")


@pytest.fixture(scope="module")
def made(data, random_model, tmp_path_factory):
    """OUT with an adapter of `random_model`, made by `flags` alone, its picture drawn; and what was said."""
    out = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quick, "draws", True)
        done = train(*flags(random_model, data, out))
    assert done.code == 0, done.stderr
    return out, done


@pytest.fixture
def copy(made, tmp_path):
    """OUT with that adapter, to be changed."""
    return Path(shutil.copytree(made[0], tmp_path / "copy"))


def manifests(out: Path) -> list[dict]:
    return list(adapters(out).values())


def weights_of(out: Path, name: str = "*") -> dict[str, torch.Tensor]:
    (path,) = out.glob(f"adapters/{name}/adapter_model.safetensors")
    return load_file(path)


def assert_same_weights(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], weight) for name, weight in theirs.items())


@pytest.mark.parametrize(
    "architecture", ["qwen2", "qwen3", "llama", "gemma3", pytest.param("deberta-v2", marks=pytest.mark.slow)]
)
def test_adapter_is_made_saved_and_scored(architecture, data, made, door, cli, tmp_path):
    out = made[0]
    if architecture != "qwen2":
        out = tmp_path / "out"
        done = train(*flags(build_model(tmp_path / "base", architecture), data, out))
        assert done.code == 0, done.stderr
    folder, manifest = only_adapter(out)
    assert manifest["reload_difference"] <= 1e-4
    assert (manifest["train_samples"], manifest["rows"], manifest["optimiser_steps"]) == (8, 8, 4)
    assert manifest["kind"] == ("classifier" if architecture == "deberta-v2" else "generative")
    assert manifest["trainable_parameters"] > 0
    assert {path.name for path in folder.iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "run.json", "README.md", "history.json", "curve.png",
        "curve.svg", "checkpoint-2", "checkpoint-4",
    }  # fmt: skip
    assert not [path for path in folder.rglob("*") if path.suffix in (".pt", ".bin", ".pth")]
    for adapter in (folder, folder / "checkpoint-4"):
        score = cli if (architecture, adapter) == ("deberta-v2", folder) else door  # once by a process of its own
        scored = score("run", f"--adapter={adapter}", f"--data_dir={data}", f"--output_path={tmp_path / adapter.name}")
        assert scored.code == 0, scored.stderr
    ((final,), (checkpoint,)) = (read_runs(tmp_path / adapter.name) for adapter in (folder, folder / "checkpoint-4"))
    assert final["key"] == checkpoint["key"]
    assert final["train_samples"] == 8
    assert final["training"]["optimiser_steps"] == 4
    assert final["training"]["held_out"] == manifest["held_out"]
    assert (manifest["median_words"], final["training"]["median_words"], final["median_words"]) == (4, 4, 5.5)
    assert final["counts"]["lenient"] == checkpoint["counts"]["lenient"]  # the last checkpoint is the final adapter


def test_adapter_of_schema_1_is_found_and_scored(made, copy, data, random_model, door):
    """As adapters were made until November 2026: the recipe's settings under another name, no experiment."""
    folder, manifest = only_adapter(copy)
    old = {name: value for name, value in manifest.items() if name not in ("experiment", "curve", "recipe_settings")}
    old |= {"schema": 1, "settings": manifest["recipe_settings"] | {"quantise": "nf4"}}
    (folder / "run.json").write_text(json.dumps(old))
    assert "Already done" in train(*flags(random_model, data, copy)).stderr
    scored = door(
        "run", f"--adapter={folder}", f"--data_dir={data}", f"--output_path={copy}", "--limit=2", "--quantise=none"
    )
    assert scored.code == 0, scored.stderr
    (path,) = copy.glob("runs/*/run.json")
    training = json.loads(path.read_text())["training"]
    assert (training["recipe_settings"], training["optimiser_steps"]) == (old["settings"], 4)


def test_experiment_is_the_key_without_the_seed_and_curve_without_the_samples_too(data, random_model):
    def of(**more):
        spec = make_spec(samples=(8, 16), seeds=(0, 1), model=str(random_model), data_dir=str(data), **more)
        plan = make_plan(spec)
        return [identity(plan, job) for job in plan.jobs]

    made, others = of(), of(overrides=["rank=4"])
    assert len({each["key"] for each in made}) == 4
    assert [each["experiment"] for each in made] == [made[0]["experiment"], made[1]["experiment"]] * 2
    assert len({each["experiment"] for each in made}) == 2
    assert len({each["curve"] for each in made}) == 1
    assert not {each["curve"] for each in made} & {each["curve"] for each in others}


def test_python_makes_what_the_command_makes(made, data, random_model, tmp_path):
    (folder,) = finetune.finetune(
        samples=8, model=str(random_model), data_dir=str(data), out=tmp_path,
        overrides=["steps={2: 4}", "evaluations=2", "batch_size=4"],
    )  # fmt: skip
    assert folder.parent == tmp_path / "adapters"
    assert_same_weights(weights_of(tmp_path), weights_of(made[0]))


def test_deberta_as_it_is_on_the_hub_is_made_a_classifier_once_its_pickle_is_accepted(data, door, tmp_path):
    model = deberta_as_on_the_hub(tmp_path / "deberta-v3")
    assert "--allow_pickle" in train(*flags(model, data, tmp_path / "out")).error
    made = train(*flags(model, data, tmp_path / "out", "--allow_pickle"))
    assert made.code == 0, made.stderr
    assert "recipe deberta (classifier)" in made.stderr
    folder, _ = only_adapter(tmp_path / "out")
    run = ("run", f"--adapter={folder}", f"--data_dir={data}", f"--output_path={tmp_path / 'out'}")
    assert "--allow_pickle" in door(*run).error
    scored = door(*run, "--allow_pickle")
    assert scored.code == 0, scored.stderr
    assert "cannot generate" in door("run", f"--pretrained={model}", f"--data_dir={data}", "--allow_pickle").error


@pytest.fixture(scope="module")
def classifier(data, tmp_path_factory):
    """OUT with a DeBERTa's adapters of two seeds, and the base."""
    folder = tmp_path_factory.mktemp("classifier")
    done = train(*flags(build_model(folder / "base", "deberta-v2"), data, folder / "out", "--seed=0,1"))
    assert done.code == 0, done.stderr
    return folder / "out", folder / "base"


@pytest.mark.parametrize("kind", ["generative", "classifier"])
def test_eval_gives_the_logits_of_the_adapter_as_peft_loads_it(kind, made, random_model, classifier):
    """What the harness answers with, LoRA merged into the base, is what peft makes of the same folder."""
    from harness_ext.backend.answer import AnswerLM
    from harness_ext.backend.classifier import ClassifierLM

    out, model = (made[0], random_model) if kind == "generative" else classifier
    folder = min(adapters(out))
    common: dict[str, Any] = {"peft": str(folder), "device": "cpu", "dtype": "float32"}
    if kind == "generative":
        lm: Any = AnswerLM(str(model), **common)
        plain: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    else:
        head = json.loads((folder / "adapter_config.json").read_text())["modules_to_save"]
        lm = ClassifierLM(str(model), **common, head=head)
        plain = AutoModelForSequenceClassification.from_pretrained(model, dtype=torch.float32, num_labels=2)
    unmerged = PeftModel.from_pretrained(plain, folder).eval()
    ids = torch.randint(10, 300, (4, 12), generator=torch.manual_seed(0))
    with torch.inference_mode():
        expected, base = unmerged(ids).logits, unmerged.get_base_model()
        assert torch.allclose(lm.model(ids).logits, expected, atol=1e-4)
        with unmerged.disable_adapter():
            assert not torch.allclose(base(ids).logits, expected, atol=1e-3)  # or this test would prove nothing


@pytest.mark.slow
def test_interrupted_training_ends_with_the_same_weights(data, tmp_path):
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
    assert_same_weights(weights_of(broken), weights_of(whole))
    histories = [json.loads((only_adapter(out)[0] / "history.json").read_text())["history"] for out in (broken, whole)]
    assert [entry["step"] for entry in histories[0]] == [entry["step"] for entry in histories[1]]


def test_finished_adapter_is_not_made_again_unless_forced(data, copy, random_model):
    path = only_adapter(copy)[0] / "run.json"
    before = path.read_bytes()
    again = train(*flags(random_model, data, copy))
    assert again.code == 0
    assert "Already done" in again.stderr
    assert path.read_bytes() == before
    assert train(*flags(random_model, data, copy, "--force")).code == 0
    assert path.read_bytes() != before
    assert not (copy / "unfinished").exists()


@pytest.mark.slow
def test_several_seeds_and_sizes_in_one_process_equal_each_alone(data, random_model, tmp_path):
    together, alone = tmp_path / "together", tmp_path / "alone"
    assert train(*flags(random_model, data, together, "--samples=4,8", "--seed=0,1")).code == 0
    assert len(manifests(together)) == 4
    assert train(*flags(random_model, data, alone, "--seed=1")).code == 0
    assert_same_weights(weights_of(alone), weights_of(together, only_adapter(alone)[0].name))


def test_several_classifiers_in_one_process_start_from_the_same_head_each(data, classifier, tmp_path):
    together, model = classifier
    assert train(*flags(model, data, tmp_path, "--seed=1")).code == 0
    ours = weights_of(tmp_path)
    assert {name for name in ours if "classifier" in name or "pooler" in name}
    assert_same_weights(ours, weights_of(together, only_adapter(tmp_path)[0].name))


def test_validation_split_is_never_read(data, made, random_model, tmp_path):
    folder = Path(shutil.copytree(data, tmp_path / "data"))
    (folder / "dev.tsv").unlink()
    assert train(*flags(random_model, folder, tmp_path / "without")).code == 0
    assert_same_weights(weights_of(tmp_path / "without"), weights_of(made[0]))


def test_rows_held_out_are_neither_trained_on_nor_of_another_seed(data, random_model, tmp_path):
    assert train(*flags(random_model, data, tmp_path, "--samples=all")).code == 0
    (manifest,) = manifests(tmp_path)
    assert (manifest["train_samples"], manifest["rows"], manifest["held_out"]["n"]) == ("all", 54, 10)  # 64 // 6 // 2 * 2


def test_few_steps_are_said_once_a_command_in_words_that_fit_the_model(data, random_model, tmp_path):
    done = train(*flags(random_model, data, tmp_path, "--seed=0,1"))
    assert done.stderr.count("Warning: 4 optimiser steps are planned, which may be too few") == 1
    assert "DeBERTa" not in done.stderr

    def warnings(model, steps):
        spec = make_spec(samples=8, model=str(model), data_dir=str(data), overrides=[f"steps={steps}"])
        return [job.warning for job in make_plan(spec).jobs]

    assert "DeBERTa stayed at the majority class (0.5091)" in warnings(build_model(tmp_path / "d", "deberta-v2"), 99)[0]
    assert warnings(random_model, 100) == [None]


def test_loss_before_training_is_the_base_s_own(made, random_model, data):
    """Of the forced choice that plain transformers make over the rows held out."""
    folder, manifest = only_adapter(made[0])
    plan = make_plan(make_spec(samples=8, model=str(random_model), data_dir=str(data)))
    plain: Any = AutoModelForCausalLM.from_pretrained(random_model, dtype=torch.float32).eval()
    losses = []
    for example in plan.jobs[0].held_out:
        zeros, ones = example["completions"]
        at, (zero, one) = next((n, pair) for n, pair in enumerate(zip(zeros, ones, strict=True)) if len(set(pair)) == 2)
        with torch.inference_mode():
            logits = plain(torch.tensor([example["prompt"] + zeros[:at]])).logits[0, -1]
        losses.append(-logits[[zero, one]].log_softmax(-1)[example["labels"]].item())
    assert manifest["held_out_before"]["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    first = json.loads((folder / "history.json").read_text())["history"][0]
    assert (first["step"], first["held_out_loss"]) == (0, manifest["held_out_before"]["loss"])


def test_resumed_training_keeps_the_loss_before_it(made, data, random_model, tmp_path, monkeypatch):
    from finetune.trainers import PromptTrainer

    plain, done = PromptTrainer.training_step, []

    def interrupted(*args, **kwargs):
        done.append(1)
        if len(done) == 4:
            raise KeyboardInterrupt
        return plain(*args, **kwargs)

    monkeypatch.setattr(PromptTrainer, "training_step", interrupted)
    assert train(*flags(random_model, data, tmp_path)).code == 1
    again = train(*flags(random_model, data, tmp_path))
    assert again.code == 0, again.stderr
    assert "4 steps, from step 2 on" in again.stderr
    (whole,), (resumed,) = manifests(made[0]), manifests(tmp_path)
    assert resumed["steps_resumed"] == 2
    for name in ("held_out_before", "held_out_lowest", "held_out", "no_better_than_base"):
        assert resumed[name] == whole[name]


def test_held_out_scores_are_of_the_last_step_whether_it_was_evaluated_or_not(data, random_model, tmp_path, monkeypatch):
    from finetune.trainers import PromptTrainer

    plain, passes, found = PromptTrainer.evaluation_loop, [], {}

    def counted(*args, **more):
        passes.append(1)
        return plain(*args, **more)

    monkeypatch.setattr(PromptTrainer, "evaluation_loop", counted)
    for evaluations, expected in ((1, 2), (2, 3)):  # before step 1 and after step 5; before 1, after 3, and at the end
        out = tmp_path / str(evaluations)
        done = train(*flags(random_model, data, out, "--set=steps={2: 5}", f"--set=evaluations={evaluations}"))
        assert done.code == 0, done.stderr
        assert len(passes) == expected
        passes.clear()
        found[evaluations] = only_adapter(out)[1]["held_out"]
    assert found[1] == found[2]


def test_loss_that_is_no_number_between_points_of_the_curve_is_in_no_checkpoint(data, random_model, tmp_path, monkeypatch):
    monkeypatch.setattr("finetune.trainer_setup.LOGS", 1)  # at step 4 alone
    done = train(*flags(random_model, data, tmp_path, "--set=learning_rate=1.0e+30"))
    assert "The loss is nan after step 2" in done.error
    assert not list(tmp_path.glob("unfinished/*/checkpoint-*"))


def test_rows_that_are_sentences_are_drawn_and_held_out_when_asked_for(random_model, tmp_path):
    texts = [(f"a film of {'many ' * (n % 2 * 9)}words {n} {label}", label) for n in range(24) for label in (0, 1)]
    data = tsv_folder(tmp_path / "data", texts[:4], texts)
    done = train(*flags(random_model, data, tmp_path / "out", "--rows=sentences"))
    assert done.code == 0, done.stderr
    folder, manifest = only_adapter(tmp_path / "out")
    assert (manifest["rows_from"], manifest["median_words"], manifest["held_out"]["n"]) == ("sentences", 15, 4)
    assert "8 samples (8 rows that are sentences)" in (folder / "README.md").read_text()
    plain, sentences = (make_plan(make_spec(samples=8, model=str(random_model), data_dir=str(data), rows=rows)).jobs[0]
                        for rows in ("all", "sentences"))  # fmt: skip
    assert plain.key != sentences.key
    drawn = sentences.subset.rows + sentences.subset.held_out
    assert all(len(texts[row][0].split()) >= 10 for row in drawn)


def test_adapter_that_is_no_better_than_its_base_is_marked(made, random_model, door, tmp_path):
    """Of one sentence with both labels no margin is better than none, and a high rate makes a wide one."""
    rows = [("a film", label) for _ in range(16) for label in (0, 1)]
    data = tsv_folder(tmp_path / "data", rows[:4], rows)
    done = train(*flags(random_model, data, tmp_path, "--set=learning_rate=0.1"))
    folder, manifest = only_adapter(tmp_path)
    assert manifest["held_out"]["loss"] > manifest["held_out_before"]["loss"]
    assert manifest["no_better_than_base"] is True
    assert f"Warning: {folder.name} is no better than its base: held-out log-loss" in done.stderr
    assert "NO BETTER THAN ITS BASE (loss " in (folder / "README.md").read_text()
    scored = door("run", f"--adapter={folder}", f"--data_dir={data}", f"--output_path={tmp_path}")
    assert "The adapter is no better than its base: on the rows held out log-loss" in scored.stdout
    assert only_adapter(made[0])[1]["no_better_than_base"] is False


def test_collapse_is_said_and_reaches_record_and_leaderboard(random_model, door, tmp_path):
    """Of one sentence with both labels there is nothing to learn but one answer to all."""
    rows = [("a film", label) for _ in range(16) for label in (0, 1)]
    data = tsv_folder(tmp_path / "data", rows[:4], rows)
    done = train(*flags(random_model, data, tmp_path))
    folder, manifest = only_adapter(tmp_path)
    answer, n = int(manifest["held_out"]["positive_share"]), manifest["held_out"]["n"]
    assert manifest["held_out"]["positive_share"] in (0, 1)
    assert manifest["collapsed"] is True
    assert (
        f"after 4 optimiser steps the adapter answers {answer} to all {n} sentences held out: it has collapsed"
        in done.stderr
    )
    assert "YES" in done.stdout
    assert "COLLAPSED" in (folder / "README.md").read_text()
    assert door("run", f"--adapter={folder}", f"--data_dir={data}", f"--output_path={tmp_path}").code == 0
    assert "collapsed" in door("leaderboard", f"--output_path={tmp_path}").stdout
    assert "| collapsed |" in (tmp_path / "leaderboard.md").read_text()
    (run,) = read_runs(tmp_path)
    assert run["training"]["train_s"] == manifest["time_s"]["train"]


def test_adapter_that_tells_sentences_apart_has_not_collapsed(answering, data, tmp_path):
    done = train(*flags(answering, data, tmp_path, "--set=learning_rate=1.0e-5"))
    _, manifest = only_adapter(tmp_path)
    assert 0 < manifest["held_out"]["positive_share"] < 1
    assert manifest["collapsed"] is False
    assert "collapsed to one class" not in done.stderr


@pytest.mark.parametrize("name", ["nf4", "int8"])
def test_quantised_base_is_trained_and_scored_as_transformers_and_peft_alone_score_it(name, data, door, tmp_path):
    model = answering_model(tmp_path / "base", "llama", hidden_size=64, head_dim=32)  # nf4 works on blocks of 64
    out = tmp_path / "out"
    done = train(*flags(model, data, out, "--recipe=qwen", f"--set=quantise={name}", "--set=learning_rate=1.0e-2"))
    assert done.code == 0, done.stderr
    folder, manifest = only_adapter(out)
    assert manifest["reload_difference"] <= 1e-4
    scored = door("run", f"--adapter={folder}", f"--data_dir={data}", f"--output_path={out}", "--tasks=sst2_01_choice")
    assert scored.code == 0, scored.stderr
    ours = torch.tensor([[float(each[0]) for each in sample["filtered_resps"]] for sample in samples_of(out)])

    nf4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    bits: dict[str, Any] = nf4 | {"bnb_4bit_compute_dtype": torch.float32} if name == "nf4" else {"load_in_8bit": True}
    plain: Any = AutoModelForCausalLM.from_pretrained(
        model, dtype=torch.float32, quantization_config=BitsAndBytesConfig(**bits), device_map={"": "cpu"}
    )
    for module in plain.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # else bitsandbytes computes in bfloat16 where a CPU can, asked or not
    tokenizer = AutoTokenizer.from_pretrained(model)
    alone = PeftModel.from_pretrained(plain, folder).eval()
    answers = [tokenizer.convert_tokens_to_ids(f"Ġ{digit}") for digit in "01"]

    @torch.inference_mode()
    def scores():
        prompts = [f"{LINES[0]}\n{LINES[1]}\n\nSentence: {sentence}\nAnswer:" for sentence, _ in SENTENCES]
        return torch.stack(
            [
                alone(tokenizer(prompt, return_tensors="pt").input_ids).logits[0, -1].log_softmax(-1)[answers]
                for prompt in prompts
            ]
        )

    expected = scores()
    with alone.disable_adapter():
        untrained = scores()
    allowed = {"nf4": 1e-3, "int8": 1.0}[name]  # int8 takes whole columns of a batch out by its largest value: 0.5 apart
    assert (ours - expected).abs().max() < allowed
    assert (untrained - expected).abs().max() > 4 * allowed  # or this test would prove nothing
    (record,) = (json.loads(path.read_text()) for path in out.glob("runs/*/run.json"))
    right = sum(label == int(one > zero) for (_, label), (zero, one) in zip(SENTENCES, expected.tolist(), strict=True))
    assert record["metrics"]["none"]["acc"] == right / len(SENTENCES)


# --- an adapter's README.md ------------------------------------------------------------------------------------------


def front_matter(text: str) -> dict[str, Any]:
    start, front, _ = text.split("---\n", 2)
    assert start == ""
    return yaml.safe_load(front)


def test_readme_says_what_the_record_says(made):
    folder, manifest = only_adapter(made[0])
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert front_matter(text) == {"library_name": "peft", "tags": ["lora", "generative", "sst2_01"]}  # a folder is no Hub id
    held_out = manifest["held_out"]
    for said in (folder.name, manifest["base_version"], "words/train.tsv: 8 samples (8 rows), seed 0", "4 steps of 4 rows",
                 f"{held_out['n']} rows: loss {held_out['loss']:.3f}, score {100 * held_out['score']:.1f}%",
                 manifest["command"], f"-m harness_ext run --adapter=.../{folder.name} --data_dir=.../words"):  # fmt: skip
        assert said in text
    assert str(made[0]) not in text  # whose machine it was
    assert not list(folder.glob("checkpoint-*/README.md"))


def test_readme_names_a_base_of_the_hub_and_keeps_hostile_names_as_text(made, data, random_model):
    hostile = "a|b`c`<script>\n---\n# x [y](z): *"
    plan = make_plan(make_spec(samples=8, model=str(random_model), data_dir=str(data)))
    base = dataclasses.replace(plan.base, name="owner/name", path="owner/name", version="0" * 40)
    plan = dataclasses.replace(plan, base=base, recipe_name=hostile, spec=dataclasses.replace(plan.spec, task=hostile))
    (manifest,) = manifests(made[0])
    record = manifest | identity(plan, plan.jobs[0]) | {"data": hostile, "task": hostile, "command": f"python '{hostile}'"}
    text = readme(plan, plan.jobs[0], record)
    assert front_matter(text) == {
        "base_model": "owner/name",
        "library_name": "peft",
        "tags": ["lora", "generative", hostile],
    }
    lines = text.splitlines()
    assert [line for line in lines if line.startswith("#")] == [f"# {plan.jobs[0].folder.name}"]
    assert lines.count("---") == 2
    assert all(len(line.replace("\\|", "").split("|")) == 4 for line in lines if line.startswith("|"))
    assert "<script>" not in "".join(line for line in lines[8:] if not line.startswith("    "))  # indented lines are code


# --- what is shown meanwhile -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_terminal", [True, False])
def test_bar_shows_loss_and_score_on_a_terminal_alone_and_no_log_line(
    is_terminal, data, random_model, tmp_path, capfd, monkeypatch
):
    bar = functools.partial(tqdm.tqdm, disable=False, mininterval=0)  # the tests' environment has TQDM_DISABLE
    monkeypatch.setattr(progress, "tqdm", bar)
    monkeypatch.setattr("sys.stderr.isatty", lambda: is_terminal)
    assert finetune.__main__.main(flags(random_model, data, tmp_path)) == 0
    said = capfd.readouterr()
    assert "{'" not in said.out + said.err
    parts = said.err.replace("\n", "\r").split("\r")
    last = next((part for part in reversed(parts) if "4/4" in part), "")
    (folder,) = adapters(tmp_path)
    for shown in (f"{folder.name}: 100%", ", loss=", "held-out loss=", "score="):
        assert (shown in f", {last}".replace("[", ", ")) == is_terminal, last
    bars = {part.strip().partition(":")[0] for part in parts if "%|" in part}
    assert bars == ({folder.name} if is_terminal else set())


def test_log_file_shows_how_far_training_is_line_by_line(made):
    _, done = made
    (folder,) = adapters(made[0])
    lines = done.stderr.splitlines()
    start = lines.index(f"Training {folder.name}: 4 steps")
    numbers = r"held-out loss \d+\.\d{3}, score \d+\.\d"
    for line, pattern in zip(
        lines[start + 1 : start + 4],
        [rf"step 0 of 4: {numbers}", rf"step 2 of 4: {numbers}, \d+ s left", rf"step 4 of 4: {numbers}"],
        strict=True,
    ):
        assert re.fullmatch(pattern, line)
    assert "\r" not in done.stderr
    assert "\x1b" not in done.stderr


def test_interrupt_says_how_to_go_on(data, random_model, tmp_path, monkeypatch):
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
    "loss_nan_of_a_high_rate": (None, ["--set=learning_rate=1.0e+30", "--set=steps={2: 20}"], ("loss is nan", "too high")),
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
def test_bad_input_ends_in_one_line_and_makes_no_adapter(name, data, random_model, tmp_path):
    model, more, fragments = BAD[name]
    outcome = train(*flags(model(tmp_path) if model else random_model, data, tmp_path / "out", *more))
    for fragment in fragments:
        assert fragment in outcome.error
    assert not list((tmp_path / "out").glob("adapters/*"))


def test_tokenizer_without_padding_is_mended_and_that_is_said(data, tmp_path):
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


def test_curves_of_several_runs_are_one_figure(classifier, tmp_path, pictures):
    out, _ = classifier
    assert train("curves", "-o", tmp_path, *adapters(out)).code == 0
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "curves.svg").read_text().count("<svg") == 1
    shutil.copytree(out / "adapters", tmp_path / "adapters", ignore=shutil.ignore_patterns("checkpoint-*"))
    before = (tmp_path / "curves.png").read_bytes()
    (tmp_path / "curves.png").unlink()
    assert train("curves", f"--output_path={tmp_path}").code == 0
    assert (tmp_path / "curves.png").read_bytes() == before
    assert "curves" not in train("curves", tmp_path / "absent", f"--output_path={tmp_path}").stdout
    assert "No loss history" in train("curves", tmp_path / "absent", f"--output_path={tmp_path}").error
    assert "No adapter" in train("curves", f"--output_path={tmp_path / 'empty'}").error


def test_tokenizer_of_the_tests_has_an_end_token():
    assert build_tokenizer().eos_token_id is not None
