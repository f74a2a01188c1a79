"""Pretrained models, end to end: what tiny random ones cannot show. `make test-real REAL_MODELS=folder`."""

import json
from pathlib import Path

import pytest
import torch
from builders import SENTENCES, tsv_folder
from stock import assert_same_answers, samples_of, stock_samples

import finetune.__main__

pytestmark = pytest.mark.real

ADJECTIVES = ("good", "warm", "funny", "clever", "moving", "bright", "rich", "bold")
OTHERS = ("bad", "cold", "dull", "silly", "boring", "dark", "thin", "weak")


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """64 balanced rows to train on, 8 others to score."""
    rows = [(f"a {word} film {n}", label) for n in range(4) for label in (0, 1) for word in (OTHERS, ADJECTIVES)[label]]
    return tsv_folder(tmp_path_factory.mktemp("data") / "films", SENTENCES, rows)


@pytest.fixture(autouse=True)
def _all_cores():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def record_of(out: Path) -> dict:
    (file,) = out.glob("runs/*/run.json")
    return json.loads(file.read_text(encoding="utf-8"))


def test_smollm2_in_float32_gives_stock_lm_evals_labels(real_models, films, tmp_path, door):
    model = real_models / "SmolLM2-135M-Instruct"
    done = door("run", f"--pretrained={model}", f"--data_dir={films}", f"--output_path={tmp_path}", "--dtype=float32")
    assert done.code == 0, done.stderr
    assert record_of(tmp_path)["engine"]["path"] == "shared prefix"
    assert_same_answers(samples_of(tmp_path), stock_samples(model, films, "sst2_01", chat=True))


@pytest.mark.parametrize(
    ("name", "dtype", "settings"),
    [
        ("SmolLM2-135M-Instruct", "bfloat16", {"recipe": "qwen", "steps": 30}),
        ("all-MiniLM-L6-v2", "bfloat16", {"recipe": "deberta", "steps": 40}),
        ("all-MiniLM-L6-v2", "float32", {"recipe": "deberta", "steps": 40}),
    ],
)
def test_an_adapter_of_a_pretrained_model_is_kept_and_scored(name, dtype, settings, real_models, films, tmp_path, door):
    trained = finetune.__main__.main(
        [
            f"--model={real_models / name}",
            f"--recipe={settings['recipe']}",
            f"--set=steps={{16: {settings['steps']}}}",
            "--set=evaluations=1",
            "--set=batch_size=8",
            "--samples=16",
            f"--dtype={dtype}",
            f"--data_dir={films}",
            f"--output_path={tmp_path}",
        ]
    )
    assert trained == 0
    (adapter,) = (path.parent for path in tmp_path.glob("adapters/*/run.json"))
    history = json.loads((adapter / "history.json").read_text())["history"]
    assert history[-1]["held_out_loss"] < history[0]["held_out_loss"]
    done = door("run", f"--adapter={adapter}", f"--data_dir={films}", f"--output_path={tmp_path}")
    assert done.code == 0, done.stderr
    assert record_of(tmp_path)["counts"]["lenient"]["not_following"] == {}


@pytest.mark.parametrize("name", ["SmolLM2-135M-Instruct", "all-MiniLM-L6-v2"])
def test_doctor_says_of_a_pretrained_model_what_a_run_does(name, real_models, films, tmp_path, door):
    options = [f"--pretrained={real_models / name}", f"--data_dir={films}", f"--output_path={tmp_path}", "--limit=2"]
    examined, run = door("doctor", *options), door("run", *options)
    assert ("would run" in examined.stdout) == (run.code == 0)
