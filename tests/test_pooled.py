"""Classifiers on pooled states: they start as scikit-learn's probe, and are evaluated as they were trained.

The references are plain transformers' states, pooled here by numpy, scikit-learn, and LoRA's matrices multiplied by hand.
"""

import itertools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from builders import SENTENCES, build_model
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss
from stock import samples_of
from training import adapters, flags, only_adapter, train, words_folder
from transformers import AutoModel, AutoTokenizer

from finetune import head
from finetune.config import read_recipe
from finetune.plan import make_plan
from finetune.spec import make_spec
from finetune.trainers import pair_loss
from harness_ext.errors import UserError
from harness_ext.model.pooled import PooledClassifier
from harness_ext.model.pooling import MODES, Pooling
from harness_ext.task import subsets

TEXTS = [sentence for sentence, _ in SENTENCES]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return words_folder(tmp_path_factory.mktemp("data") / "words")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model(tmp_path_factory.mktemp("models") / "encoder", "bert", spread=0.3)


@pytest.fixture(scope="module")
def made(data: Path, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, Any]]]:
    """By recipe an adapter of the encoder, and its record; the first by the recipe that such a base gets unasked."""
    out, found = tmp_path_factory.mktemp("made"), {}
    for recipe in ("encoder", "setfit"):
        asked = [] if recipe == "encoder" else ["--recipe=setfit"]
        done = train(*flags(encoder, data, out / recipe, "--set=learning_rate=1.0e-2", *asked))
        assert done.code == 0, done.stderr
        assert ("optimiser steps are planned" in done.stderr) == (recipe == "encoder")  # of pairs 60 are enough
        found[recipe] = only_adapter(out / recipe)
    return found


def rows_of(data: Path, seed: int = 0) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """Read the rows that SAMPLES=8 trains on, and those held out."""
    lines = (data / "train.tsv").read_text(encoding="utf-8").splitlines()[1:]
    rows = [(text.rstrip(), int(label)) for text, label in (line.split("\t") for line in lines)]
    subset = subsets.draw([label for _, label in rows], "8", seed)
    return [rows[row] for row in subset.rows], [rows[row] for row in subset.held_out]


def with_lora(base: Path, folder: Path) -> Any:
    """Load a base by transformers alone, and add an adapter's matrices to its weights."""
    model: Any = AutoModel.from_pretrained(base, dtype=torch.float32).eval()
    config = json.loads((folder / "adapter_config.json").read_text())
    weights = load_file(folder / "adapter_model.safetensors")
    layers = {name.partition(".lora_A")[0] for name in weights if ".lora_A" in name}
    assert layers
    for layer in layers:
        change = weights[f"{layer}.lora_B.weight"] @ weights[f"{layer}.lora_A.weight"]
        target = model.get_submodule(layer.removeprefix("base_model.model.body."))
        target.weight.data += config["lora_alpha"] / config["r"] * change
    return model


def mean_vectors(model: Any, base: Path, texts: Sequence[str]) -> np.ndarray:
    """Take each text's states by itself; their mean, at length 1."""
    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    with torch.no_grad():
        states = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].numpy() for text in texts]
    means = np.stack([each.mean(0) for each in states])
    return means / np.linalg.norm(means, axis=1, keepdims=True)


@pytest.mark.parametrize("recipe", ["encoder", "setfit"])
def test_step_0_is_scikit_learns_regression_on_plain_states(recipe, made, data, encoder):
    folder, manifest = made[recipe]
    rows, held_out = rows_of(data)
    plain = AutoModel.from_pretrained(encoder, dtype=torch.float32).eval()
    states = [mean_vectors(plain, encoder, [text for text, _ in each]) for each in (rows, held_out)]
    regression = LogisticRegression().fit(states[0], [label for _, label in rows])
    labels = [label for _, label in held_out]
    first = json.loads((folder / "history.json").read_text())["history"][0]
    assert first["step"] == 0
    assert first["held_out_loss"] == pytest.approx(log_loss(labels, regression.predict_proba(states[1])), abs=1e-5)
    assert first["held_out_score"] == accuracy_score(labels, regression.predict(states[1]))
    assert manifest["recipe"] == recipe
    assert (manifest["head"]["rows"], manifest["head"]["C"]) == (8, 1.0)


@pytest.mark.parametrize("recipe", ["encoder", "setfit"])
@pytest.mark.parametrize("step", ["", "checkpoint-4"])
def test_evaluation_gives_the_logits_of_states_pooled_by_hand(recipe, step, made, data, encoder, door, tmp_path):
    folder = made[recipe][0] / step
    scored = door("run", f"--adapter={folder}", f"--data_dir={data}", f"-o{tmp_path}", "--tasks=sst2_01_choice")
    assert scored.code == 0, scored.stderr
    ours = [[float(each[0]) for each in sample["filtered_resps"]] for sample in samples_of(tmp_path)]
    weights = load_file(folder / "adapter_model.safetensors")
    weight, bias = (weights[f"base_model.model.classifier.{part}"] for part in ("weight", "bias"))
    tuned = torch.from_numpy(mean_vectors(with_lora(encoder, folder), encoder, TEXTS))
    assert ours == pytest.approx((tuned @ weight.T + bias).log_softmax(-1).numpy(), abs=1e-4)
    plain = torch.from_numpy(mean_vectors(AutoModel.from_pretrained(encoder).eval(), encoder, TEXTS))
    assert (plain - tuned).abs().max() > 0.01  # or this test would prove nothing
    (path,) = tmp_path.glob("runs/*/run.json")
    assert json.loads(path.read_text())["key_parts"]["pooling"] == "mean"


def test_contrastive_head_is_scikit_learns_regression_on_the_tuned_states(made, data, encoder):
    folder, _ = made["setfit"]
    rows, _ = rows_of(data)
    tuned = mean_vectors(with_lora(encoder, folder), encoder, [text for text, _ in rows])
    regression = LogisticRegression().fit(tuned, [label for _, label in rows])
    weight = load_file(folder / "adapter_model.safetensors")["base_model.model.classifier.weight"]
    assert (weight[1] - weight[0]).numpy() == pytest.approx(regression.coef_[0], abs=1e-3)


def test_final_head_is_fitted_to_all_rows_where_those_between_were_not(made, data, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(head, "SOME", 4)
    done = train(*flags(encoder, data, tmp_path, "--recipe=setfit", "--set=learning_rate=1.0e-2"))
    assert done.code == 0, done.stderr
    folder, manifest = only_adapter(tmp_path)
    final, expected, between = (
        load_file(each / "adapter_model.safetensors") for each in (folder, made["setfit"][0], folder / "checkpoint-4")
    )
    assert all(torch.equal(final[name], weight) for name, weight in expected.items())
    assert {name for name in final if not torch.equal(final[name], between[name])} == {
        f"base_model.model.classifier.{part}" for part in ("weight", "bias")
    }
    assert [manifest[name] for name in ("head", "held_out")] == [made["setfit"][1][name] for name in ("head", "held_out")]


def test_contrastive_stage_brings_rows_of_one_class_together(made, data, encoder):
    rows, _ = rows_of(data)
    labels = np.array([label for _, label in rows])
    same = np.equal.outer(labels, labels)

    def apart(model):
        vectors = mean_vectors(model, encoder, [text for text, _ in rows])
        cosines = vectors @ vectors.T
        return cosines[same].mean() - cosines[~same].mean()

    before = apart(AutoModel.from_pretrained(encoder, dtype=torch.float32).eval())
    assert apart(with_lora(encoder, made["setfit"][0])) > 1.2 * before > 0


def test_pair_loss_is_sentence_transformers_formula():
    """``CosineSimilarityLoss``: the mean over the pairs of (label - cos(u, v))^2."""
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(6, 5))
    labels = [0, 1, 1, 0, 1, 0]
    losses = []
    for a, b in itertools.combinations(range(6), 2):
        cosine = vectors[a] @ vectors[b] / np.linalg.norm(vectors[a]) / np.linalg.norm(vectors[b])
        losses.append((float(labels[a] == labels[b]) - cosine) ** 2)
    unit = torch.nn.functional.normalize(torch.tensor(vectors), dim=-1)
    assert pair_loss(unit, torch.tensor(labels)).item() == pytest.approx(np.mean(losses))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_no_logits_of_a_pooled_classifier(mode, side, encoder):
    torch.manual_seed(0)
    model = PooledClassifier(AutoModel.from_pretrained(encoder), Pooling(mode)).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(encoder)
    pieces = [tokenizer(text).input_ids for text in TEXTS[:3]]
    padded = tokenizer.pad({"input_ids": pieces}, padding_side="right", return_tensors="pt")
    if side == "left":
        model.body.embeddings.position_embeddings.weight.data.zero_()  # BERT counts positions from the left, padding and all
        padded = tokenizer.pad({"input_ids": pieces}, padding_side="left", return_tensors="pt")
    with torch.no_grad():
        together = model(**padded).logits
        alone = torch.cat([model(torch.tensor([ids])).logits for ids in pieces])
    assert len({len(ids) for ids in pieces}) > 1
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("rows", "kept"), [(1024, 1024), (1500, 1024)])
def test_head_between_steps_is_fitted_to_some_of_many_rows_half_of_each_class(rows, kept):
    job: Any = SimpleNamespace(examples=[{"row": row, "labels": int(row % 3 == 0 or row > 1000)} for row in range(rows)])
    some = head.some(job)
    assert len(some) == len({each["row"] for each in some}) == kept
    if rows > kept:
        assert sum(each["labels"] for each in some) == kept / 2


def test_final_adapter_of_the_contrastive_stage_is_its_last_checkpoint(made):
    folder, _ = made["setfit"]
    last, final = (load_file(each / "adapter_model.safetensors") for each in (folder / "checkpoint-4", folder))
    assert all(torch.equal(last[name], weight) for name, weight in final.items())


def test_encoders_start_from_the_probe_and_debertas_from_their_own_pooler(data, encoder, tmp_path):
    deberta = build_model(tmp_path / "deberta", "deberta-v2")
    plans = [make_plan(make_spec(samples=8, model=str(model), data_dir=str(data))) for model in (encoder, deberta)]
    assert [plan.recipe_name for plan in plans] == ["encoder", "deberta"]
    assert [plan.pooling for plan in plans] == [Pooling("mean"), None]


def test_how_the_makers_of_a_base_pool_is_followed_and_counts(data, encoder, tmp_path):
    own = Path(shutil.copytree(encoder, tmp_path / "encoder"))
    (own / "1_Pooling").mkdir()
    keys = {}
    for mode in ("mean", "cls"):
        said = {f"pooling_mode_{name}_tokens".replace("cls_tokens", "cls_token"): name == mode for name in ("cls", "mean")}
        (own / "1_Pooling" / "config.json").write_text(json.dumps(said))
        plan = make_plan(make_spec(samples=8, model=str(own), data_dir=str(data)))
        assert plan.pooling == Pooling(mode)
        keys[mode] = plan.jobs[0].key
    named = make_plan(make_spec(samples=8, model=str(own), data_dir=str(data), overrides=["pooling=cls"]))
    assert keys["mean"] != keys["cls"]
    assert named.pooling == Pooling("cls")


def test_decoder_is_pooled_at_its_last_token_and_scored_as_it_was_trained(data, answering, door, tmp_path):
    done = train(*flags(answering, data, tmp_path, "--recipe=encoder", "--set=learning_rate=1.0e-3"))
    assert done.code == 0, done.stderr
    folder, manifest = only_adapter(tmp_path)
    assert manifest["pooling"] == {"mode": "last"}
    scored = door("run", f"--adapter={folder}", f"--data_dir={data}", f"-o{tmp_path}", "--tasks=sst2_01_choice")
    assert scored.code == 0, scored.stderr
    ours = [[float(each[0]) for each in sample["filtered_resps"]] for sample in samples_of(tmp_path)]
    model, tokenizer = with_lora(answering, folder), AutoTokenizer.from_pretrained(answering)
    weights = load_file(folder / "adapter_model.safetensors")
    weight, bias = (weights[f"base_model.model.classifier.{part}"] for part in ("weight", "bias"))
    with torch.no_grad():
        last = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, -1] for text in TEXTS]
        logits = torch.nn.functional.normalize(torch.stack(last), dim=-1) @ weight.T + bias
    assert ours == pytest.approx(logits.log_softmax(-1).numpy(), abs=1e-4)


def test_another_pooling_in_an_adapters_record_is_another_run(made, data, door, tmp_path):
    folder = Path(shutil.copytree(made["encoder"][0], tmp_path / "adapter"))
    path = folder / "run.json"
    for mode in ("mean", "max"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"pooling": {"mode": mode}}))
        done = door("run", f"--adapter={folder}", f"--data_dir={data}", f"-o{tmp_path}")
        assert done.code == 0
        assert "Already done" not in done.stderr
    path.unlink()
    said = door(
        "run", f"--adapter={folder}", f"--data_dir={data}", f"-o{tmp_path}", "--pretrained", made["encoder"][1]["base"]
    )
    assert "no run.json beside it says how" in said.error


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["pooling=middle"], "pooling 'middle' is not one of None, own, mean, cls, max, last"),
        (["kind=generative"], "pooling and contrastive are for classifiers"),
        (["pooling=null", "contrastive=true"], "contrastive needs a pooling"),
        (["contrastive=true", "batch_size=2"], "batches of 4 rows or more"),
    ],
    ids=["unknown", "generative", "no-pooling", "no-pairs"],
)
def test_recipe_that_cannot_pool_is_refused_in_one_line(more, said):
    with pytest.raises(UserError, match=said):
        make_spec(samples=8, recipe="encoder", overrides=more)


def test_steps_of_a_classifier_that_starts_from_the_probe_are_200_where_rows_are_few_and_one_epoch_where_they_are_all():
    recipe = read_recipe("encoder")
    assert [recipe.planned_steps(rows) for rows in (16, 64, 1024)] == [200, 200, 20 * 1024 // 16]
    assert recipe.planned_steps(66_849) <= 67_349 / 16


def test_two_rows_make_no_pairs(encoder, data):
    with pytest.raises(UserError, match="SAMPLES=2 holds one of each"):
        make_plan(make_spec(samples=2, model=str(encoder), data_dir=str(data), recipe="setfit"))


def test_pooling_that_is_not_known_here_is_refused_before_the_base_is_loaded(encoder, data, tmp_path, monkeypatch):
    own = Path(shutil.copytree(encoder, tmp_path / "encoder"))
    (own / "1_Pooling").mkdir()
    (own / "1_Pooling" / "config.json").write_text('{"pooling_mode_weightedmean_tokens": true}')
    monkeypatch.setattr("finetune.train.load_base", lambda *args: pytest.fail("it was loaded"))
    assert "pools by weightedmean_tokens" in train(*flags(own, data, tmp_path)).error
    assert not adapters(tmp_path)


@pytest.mark.real
def test_minilm_starts_as_its_probe(real_models: Path, data: Path, tmp_path: Path):
    base = real_models / "all-MiniLM-L6-v2"
    done = train(*flags(base, data, tmp_path, "--set=steps={2: 2}", "--set=evaluations=1"))
    assert done.code == 0, done.stderr
    folder, manifest = only_adapter(tmp_path)
    rows, held_out = rows_of(data)
    plain = AutoModel.from_pretrained(base, dtype=torch.float32).eval()
    states = [mean_vectors(plain, base, [text for text, _ in each]) for each in (rows, held_out)]
    regression = LogisticRegression(tol=1e-8).fit(states[0], [label for _, label in rows])  # by default it stops 1e-5 away
    first, *_, last = json.loads((folder / "history.json").read_text())["history"]
    expected = log_loss([label for _, label in held_out], regression.predict_proba(states[1]))
    assert first["held_out_loss"] == pytest.approx(expected, abs=1e-5)
    assert manifest["reload_difference"] == 0
    weights = load_file(folder / "adapter_model.safetensors")
    tuned = torch.from_numpy(mean_vectors(with_lora(base, folder), base, [text for text, _ in held_out]))
    weight, bias = (weights[f"base_model.model.classifier.{part}"] for part in ("weight", "bias"))
    logits = tuned @ weight.T + bias
    after = torch.nn.functional.cross_entropy(logits, torch.tensor([label for _, label in held_out]))
    assert last["held_out_loss"] == pytest.approx(after.item(), abs=1e-5)
