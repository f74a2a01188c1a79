"""Probes against scikit-learn on states that plain transformers gives, and what a run keeps and says of them."""

import csv
import json
import sqlite3
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import CHAT_TEMPLATE, LINES, build_model, tsv_folder
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from harness_ext.backend import states
from harness_ext.backend.kept_states import KeptStates
from harness_ext.model import logistic
from harness_ext.task.data import load_splits
from harness_ext.task.subsets import draw

WORDS = {0: ("bad", "dull", "a mess", "far too long", "nothing works"), 1: ("good", "warm", "a wonder", "funny", "the best")}
OF = ("the film", "its plot", "the acting of the year", "it", "a small part of the second half of it")
TRAIN = [(f"{of} is {word} {n}", label) for n in range(3) for label in (0, 1) for word in WORDS[label] for of in OF]
DEV = [(f"{of} was {word}", label) for label in (0, 1) for word in WORDS[label] for of in OF[:2]]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tsv_folder(tmp_path_factory.mktemp("data"), DEV, TRAIN)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return build_model(tmp_path_factory.mktemp("models") / "encoder", "bert")


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    return build_model(
        tmp_path_factory.mktemp("models") / "decoder", "llama", chat_template=CHAT_TEMPLATE, bos=True, num_hidden_layers=6
    )


@dataclass(frozen=True)
class Probe:
    record: dict[str, Any]
    margins: list[float]
    stderr: str


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder that states are kept in; there are none yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "prompt-or-finetune" / "states"


@pytest.fixture
def probe(door, data, tmp_path, cache):
    """Fit a probe in a run of its own."""
    numbers = count()

    def run(model: Path, *flags: str, samples: object = 16, seed: int = 0) -> Probe:
        out = tmp_path / f"out{next(numbers)}"
        common = (f"--pretrained={model}", f"--train_samples={samples}", f"--seed={seed}", f"--data_dir={data}", f"-o{out}")
        outcome = door("run", "--model=probe", "--tasks=sst2_01", *common, *flags)
        assert outcome.code == 0, outcome.stderr
        (folder,) = out.glob("runs/*")
        with (folder / "outcomes.csv").open() as file:
            margins = [float(row["margin"]) for row in csv.DictReader(file)]
        return Probe(json.loads((folder / "run.json").read_text()), margins, outcome.stderr)

    return run


def labelled(samples, seed=0):
    rows = [TRAIN[row] for row in draw([label for _, label in TRAIN], str(samples), seed).rows]
    return [text for text, _ in rows], [label for _, label in rows]


def embeddings(model, texts):
    """Each sentence by itself, as the README of all-MiniLM-L6-v2 does it."""
    tokenizer, body = AutoTokenizer.from_pretrained(model), AutoModel.from_pretrained(model).eval()
    with torch.no_grad():
        found = [body(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0) for text in texts]
    return torch.nn.functional.normalize(torch.stack(found), dim=-1).double().numpy()


def prompt_states(model, texts):
    """The states behind each prompt by itself, of all layers, ``(layers, texts, hidden)``."""
    tokenizer, whole = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model).eval()
    found = []
    for text in texts:
        content = f"{LINES[0]}\n{LINES[1]}\n\nSentence: {text}\nAnswer:"
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        with torch.no_grad():
            layers = whole(**tokenizer(prompt, return_tensors="pt"), output_hidden_states=True).hidden_states
        found.append(torch.stack([layer[0, -1] for layer in layers]))
    return torch.stack(found, dim=1).double().numpy()


def regression(strength=1.0, standardise=False, tolerance=1e-8):
    model = LogisticRegression(C=strength, max_iter=5000, tol=tolerance)
    return make_pipeline(StandardScaler(), model) if standardise else model


def tried(layers, labels, standardise=False):
    """What cross-validation makes of each layer and C: share of errors, log-loss."""
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    return {
        (number, strength): tuple(
            round(offset - cross_val_score(model, layer, labels, cv=folds, scoring=scoring).mean(), 9)
            for offset, scoring in ((1, "accuracy"), (0, "neg_log_loss"))
        )
        for number, layer in enumerate(layers)
        for strength in (logistic.STANDARDISED if standardise else logistic.STRENGTHS)
        for model in [regression(strength, standardise, 1e-4)]
    }


def probabilities(margins):
    return 1 / (1 + np.exp(-np.array(margins)))


def test_probe_of_an_encoder_is_scikit_learns_on_the_mean_of_its_last_states(probe, encoder):
    found = probe(encoder)
    texts, labels = labelled(16)
    theirs = (
        regression().fit(embeddings(encoder, texts), labels).predict_proba(embeddings(encoder, [text for text, _ in DEV]))
    )
    assert probabilities(found.margins) == pytest.approx(theirs[:, 1], abs=1e-5)
    assert found.record["counts"]["lenient"]["correct"] == sum(theirs.argmax(1) == [label for _, label in DEV])
    assert (found.record["method"], found.record["train_samples"], found.record["seed"]) == ("probe", 16, 0)
    made = found.record["training"]
    assert (made["pooling"], made["C"], made["cv_log_loss"]) == ("mean", 1.0, None)
    assert (found.record["near_ties"], found.record["settings"]["dtype"]) == (0, "float32")


def test_probe_of_a_decoder_reads_the_last_token_of_the_prompt_at_two_thirds_of_the_depth(probe, decoder):
    found = probe(decoder)
    texts, labels = labelled(16)
    fitted = regression(0.1, standardise=True).fit(prompt_states(decoder, texts)[4], labels)
    theirs = fitted.predict_proba(prompt_states(decoder, [text for text, _ in DEV])[4])
    assert probabilities(found.margins) == pytest.approx(theirs[:, 1], abs=1e-5)
    assert {name: found.record["training"][name] for name in ("layer", "depth")} == {"layer": 4, "depth": 6}
    assert found.record["engine"]["batches"] == "padded"
    assert found.record["self_check"]["passed"]


def test_from_64_labels_on_strength_is_chosen_by_the_labels_alone(probe, encoder):
    texts, labels = labelled(64)
    states = embeddings(encoder, texts)
    found = tried([states], labels)
    (_, strength), (errors, loss) = min(found.items(), key=lambda each: each[1])
    said = probe(encoder, samples=64)
    made = said.record["training"]
    assert (made["C"], made["chosen_on"]) == (strength, 64)
    assert made["cv_log_loss"] == pytest.approx(loss, abs=1e-3)
    assert made["cv_accuracy"] == pytest.approx(1 - errors)
    theirs = regression(strength).fit(states, labels).predict_proba(embeddings(encoder, [text for text, _ in DEV]))
    assert probabilities(said.margins) == pytest.approx(theirs[:, 1], abs=1e-5)


def test_with_labels_enough_a_decoders_layer_is_chosen_too(probe, decoder, monkeypatch):
    few = probe(decoder, samples=64).record["training"]
    assert (few["layer"], few["C"], few["chosen_on"]) == (4, 0.1, None)
    monkeypatch.setattr(logistic, "ENOUGH_STANDARDISED", 64)
    monkeypatch.setattr(logistic, "STANDARDISED", (0.01, 0.1))
    texts, labels = labelled(64)
    offered = [2, 3, 4, 5, 6]
    found = tried(prompt_states(decoder, texts)[offered], labels, standardise=True)
    (place, strength), (errors, loss) = min(found.items(), key=lambda each: each[1])
    made = probe(decoder, samples=64).record["training"]
    assert (made["layer"], made["C"]) == (offered[place], strength)
    assert made["cv_log_loss"] == pytest.approx(loss, abs=1e-3)
    assert made["cv_accuracy"] == pytest.approx(1 - errors)


def test_choice_is_made_by_a_bounded_number_of_labels_and_all_are_fitted(monkeypatch):
    monkeypatch.setattr(logistic, "MOST", 100)
    states = np.random.default_rng(0).normal(size=(1, 400, 5))
    labels = (states[0, :, 0] + np.random.default_rng(1).normal(size=400) > 0).astype(int)
    fitted = logistic.fit(states, labels.tolist())
    assert fitted.chosen_on == 100
    theirs = regression(fitted.C).fit(states[0], labels).decision_function(states[0])
    assert fitted.log_odds(states) == pytest.approx(theirs, abs=1e-4)


@pytest.mark.parametrize("rare", [1, 4])
def test_nothing_is_chosen_where_a_class_is_too_rare_to_be_in_each_fold(rare):
    states = np.random.default_rng(0).normal(size=(1, 100, 5))
    labels = [1] * rare + [0] * (100 - rare)
    fitted = logistic.fit(states, labels)
    assert fitted.chosen_on is None
    assert fitted.log_odds(states) == pytest.approx(
        regression().fit(states[0], labels).decision_function(states[0]), abs=1e-4
    )


def test_a_class_that_is_rare_among_many_rows_is_no_error(monkeypatch):
    monkeypatch.setattr(logistic, "MOST", 100)
    states = np.random.default_rng(0).normal(size=(1, 400, 5))
    assert logistic.fit(states, [1] * 19 + [0] * 381).chosen_on is None
    assert logistic.fit(states, [1] * 20 + [0] * 380).chosen_on == 100


def test_tokens_that_were_answered_are_counted(probe, encoder):
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    assert probe(encoder).record["tokens"]["in"] == sum(len(tokenizer(text)["input_ids"]) for text, _ in DEV)


def test_pooling_is_what_the_checkpoints_makers_say(probe, encoder, tmp_path):
    model = build_model(tmp_path / "cls", "bert")
    (model / "1_Pooling").mkdir()
    (model / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}')
    by_first, by_mean = probe(model), probe(encoder)
    assert by_first.record["training"]["pooling"] == "cls"
    assert by_first.margins != pytest.approx(by_mean.margins, abs=1e-3)
    assert by_first.record["key"] != by_mean.record["key"]


def test_a_second_run_loads_no_model_and_says_the_same(probe, encoder, monkeypatch):
    first = probe(encoder)
    monkeypatch.setattr(states.FrozenModel, "_load", lambda model: pytest.fail("the model is loaded"))
    second = probe(encoder)
    assert second.margins == first.margins
    assert (first.record["engine"]["computed"], first.record["engine"]["kept"]) == (16 + len(DEV), 0)
    assert (second.record["engine"]["computed"], second.record["engine"]["kept"]) == (0, 16 + len(DEV))
    assert (second.record["tokens"]["in"], second.record["docs_per_s"]) == (0, None)


def test_seeds_are_one_experiment_and_sizes_one_curve(probe, encoder):
    one, other, larger = probe(encoder), probe(encoder, seed=1), probe(encoder, samples=32)
    assert one.record["experiment"] == other.record["experiment"] != larger.record["experiment"]
    assert one.record["curve"] == other.record["curve"] == larger.record["curve"]
    assert one.record["key"] != other.record["key"]


def test_an_interrupted_run_leaves_what_it_has_read(probe, encoder, data, door, monkeypatch, tmp_path, cache):
    keep, batches = KeptStates.keep, count()

    def interrupted(kept, new):
        keep(kept, new)
        if next(batches) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(KeptStates, "keep", interrupted)
    monkeypatch.setitem(states.batches.TOKENS, "cpu", 60)
    flags = (f"--pretrained={encoder}", "--train_samples=16", f"--data_dir={data}", f"-o{tmp_path}")
    assert door("run", "--model=probe", *flags).code not in (0, 2)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent.parent))
    assert 2 <= probe(encoder).record["engine"]["kept"] < 16


@pytest.mark.parametrize("harm", ["garbage", "cut off", "foreign", "a folder", "a state changed"])
def test_a_damaged_or_foreign_file_of_states_is_no_error_and_changes_nothing(harm, probe, encoder, cache):
    first = probe(encoder)
    (file,) = cache.iterdir()
    content = file.read_bytes()
    if harm == "garbage":
        file.write_bytes(b"not a database at all" * 1000)
    elif harm == "cut off":
        file.write_bytes(content[: len(content) // 2])
    elif harm == "a folder":
        file.unlink()
        file.mkdir()
    elif harm == "foreign":
        file.unlink()
        with sqlite3.connect(file) as other:
            other.execute("CREATE TABLE states (something)")
    else:
        with sqlite3.connect(file) as same:
            same.execute("UPDATE states SET state = zeroblob(length(state))")
    again = probe(encoder)
    assert again.margins == pytest.approx(first.margins, abs=1e-6)
    assert again.record["engine"]["computed"] > 0
    third = probe(encoder)
    assert third.margins == pytest.approx(first.margins, abs=1e-6)
    assert (third.record["engine"]["computed"] == 0) == (harm != "a folder")


def test_where_states_cannot_be_kept_the_run_goes_on_and_says_so_once(probe, encoder, monkeypatch):
    class Full(sqlite3.Connection):
        def executemany(self, *args):
            raise sqlite3.OperationalError("database or disk is full")

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **options: connect(*args, **options, factory=Full))
    found = probe(encoder, "--tasks=sst2_01")
    assert found.stderr.count("states are not kept for later runs: database or disk is full") == 1
    monkeypatch.undo()
    assert probe(encoder).margins == pytest.approx(found.margins, abs=1e-6)


def test_two_at_once_keep_what_both_have_read(cache):
    one, other = KeptStates({"model": 1}, 2), KeptStates({"model": 1}, 2)
    state = np.arange(6, dtype=np.float32).reshape(2, 3)
    one.keep({"a": state})
    other.keep({"a": state, "b": state + 1})
    one.flush()
    other.flush()
    third = KeptStates({"model": 1}, 2).find(["a", "b", "c"])
    assert third.keys() == {"a", "b"}
    assert (third["b"] == state + 1).all()
    assert not KeptStates({"model": 2}, 2).find(["a"])


def test_a_model_that_cannot_be_padded_is_read_right_all_the_same(probe, encoder, monkeypatch):
    expected = probe(encoder)
    monkeypatch.setattr(
        states.Encoder,
        "_pooled",
        lambda self, rows: self._pool(
            self.model(**(inputs := self._ask(rows, max(map(len, rows))))).last_hidden_state,
            torch.ones_like(inputs["attention_mask"]),
        )[:, None],
    )
    monkeypatch.setattr(KeptStates, "find", lambda *args: {})
    found = probe(encoder)
    assert found.record["engine"]["batches"] == "equal lengths"
    assert found.margins == pytest.approx(expected.margins, abs=1e-5)


def test_every_variant_of_the_task_is_answered_on_one_load(door, encoder, data, tmp_path, monkeypatch):
    loads, load = count(), states.WholeModel.from_pretrained
    monkeypatch.setattr(
        states.WholeModel, "from_pretrained", lambda *args, **options: (next(loads), load(*args, **options))[1]
    )
    outcome = door("run", "--model=probe", f"--pretrained={encoder}", "--train_samples=16", f"--data_dir={data}",
                   "--tasks=sst2_01,sst2_01_choice", f"-o{tmp_path}")  # fmt: skip
    assert outcome.code == 0, outcome.stderr
    found = [json.loads(path.read_text())["counts"] for path in tmp_path.glob("runs/*/run.json")]
    assert len({each["correct"] for counts in found for each in counts.values()}) == 1
    assert next(loads) <= 1


BAD: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "beyond the split": (("--train_samples=500",), ("SAMPLES 500", "held out")),
    "odd": (("--train_samples=15",), ("SAMPLES '15'", "even")),
    "a server": (("--base_url=http://localhost:1",), ("BASE_URL", "probe asks no server")),
    "an adapter": (("--adapter=somewhere",), ("ADAPTER", "BACKEND=probe")),
    "quantised": (("--quantise=nf4",), ("QUANT=nf4", "probe")),
    "engine": (("--engine=stock",), ("ENGINE", "probe has one way only")),
    "processes": (("--procs=2",), ("PROCS", "BACKEND=probe")),
    "examples": (("--num_fewshot=2",), ("--num_fewshot", "SAMPLES=")),
    "shots": (("--shots=2",), ("SHOTS", "BACKEND=probe")),
    "calibrated": (("--calibrate=batch",), ("CALIBRATE", "BACKEND=probe")),
    "unknown argument": (("--model_args=nonsense=1",), ("nonsense",)),
}


@pytest.mark.parametrize("name", BAD)
def test_what_a_probe_cannot_do_is_one_line(name, door, encoder, data, tmp_path):
    flags, said = BAD[name]
    asked = ("run", "--model=probe", f"--pretrained={encoder}", f"--data_dir={data}", f"-o{tmp_path}", *flags)
    error = door(*asked).error
    assert all(part in error for part in said), error


def test_an_encoder_decoder_is_refused(door, encoder, data, tmp_path):
    model = build_model(tmp_path / "t5", "bert")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"is_encoder_decoder": True}))
    error = door("run", "--model=probe", f"--pretrained={model}", f"--data_dir={data}", f"-o{tmp_path}").error
    assert "'t5' is an encoder-decoder" in error


def test_pooling_that_is_unknown_here_is_refused(door, data, tmp_path):
    model = build_model(tmp_path / "odd", "bert")
    (model / "1_Pooling").mkdir()
    (model / "1_Pooling" / "config.json").write_text('{"pooling_mode_weightedmean_tokens": true}')
    error = door("run", "--model=probe", f"--pretrained={model}", f"--data_dir={data}", f"-o{tmp_path}").error
    assert "pools by weightedmean_tokens" in error


def test_a_sentence_beyond_the_context_is_refused_before_the_model_is_loaded(door, tmp_path, monkeypatch, cache):
    model = build_model(tmp_path / "short", "bert", context=60)
    data = tsv_folder(tmp_path / "long", [("good " * 100, 1)], TRAIN)
    monkeypatch.setattr(states.FrozenModel, "_load", lambda model: pytest.fail("the model is loaded"))
    flags = ("--train_samples=16", "--tasks=sst2_01", f"--data_dir={data}", f"-o{tmp_path}")
    error = door("run", "--model=probe", f"--pretrained={model}", *flags).error
    assert "but the model reads 60" in error


def test_doctor_says_what_a_probe_reads_and_learns_from(door, encoder, decoder, data, tmp_path):
    flags = ("--model=probe", "--train_samples=16", f"--data_dir={data}", f"-o{tmp_path}")
    said = door("doctor", f"--pretrained={encoder}", *flags).stdout
    assert "pooled by mean" in said
    assert f"16 rows of {data.name}/train.tsv" in said
    assert "Verdict: would run." in said
    said = door("doctor", f"--pretrained={decoder}", *flags).stdout
    assert "layers 2, 3, 4, 5, 6 of 6" in said
    assert "The first prompt: '<|im_start|>user" in said
    assert "labels" in door("doctor", f"--pretrained={encoder}", *flags, "--train_samples=500").stdout


def test_shipped_decoder_is_probed_on_the_sentences_that_ship(door, tmp_path):
    outcome = door("run", "--model=probe", "--pretrained=tiny-base", "--train_samples=64", f"-o{tmp_path}")
    assert outcome.code == 0, outcome.stderr
    (path,) = tmp_path.glob("runs/*/run.json")
    record = json.loads(path.read_text())
    assert (record["task"], record["model"], record["n"]) == ("sst2_01_mini", "tiny-base", 120)


@pytest.mark.real
def test_probe_of_minilm_is_scikit_learns_on_its_sentence_embeddings(real_models, shared, door, tmp_path, cache):
    model, sst2 = real_models / "all-MiniLM-L6-v2", shared / "data" / "sst2"
    asked = (f"--pretrained={model}", f"--data_dir={sst2}", "--limit=100", f"-o{tmp_path}", "--tasks=sst2_01")
    outcome = door("run", "--model=probe", "--train_samples=64", *asked)
    assert outcome.code == 0, outcome.stderr
    (folder,) = tmp_path.glob("runs/*")
    strength = json.loads((folder / "run.json").read_text())["training"]["C"]
    rows, dev = (load_splits(data_dir=str(sst2))[split].to_list() for split in ("train", "validation"))
    drawn = [rows[row] for row in draw([row["label"] for row in rows], "64", 0).rows]
    fitted = regression(strength).fit(embeddings(model, [row["sentence"] for row in drawn]), [row["label"] for row in drawn])
    theirs = fitted.predict_proba(embeddings(model, [row["sentence"] for row in dev[:100]]))[:, 1]
    with (folder / "outcomes.csv").open() as file:
        ours = probabilities([float(row["margin"]) for row in csv.DictReader(file)])
    assert ours == pytest.approx(theirs, abs=1e-5)
