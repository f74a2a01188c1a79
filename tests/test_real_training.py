"""Adapters of pretrained models, with products in bfloat16 as on most GPUs: made, kept, scored."""

import json
from pathlib import Path

import pytest
from builders import tsv_folder

import finetune.__main__

pytestmark = pytest.mark.real


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("SmolLM2-135M-Instruct", []),
        ("SmolLM2-135M-Instruct", ["--set=quantise=nf4"]),
        ("all-MiniLM-L6-v2", ["--recipe=deberta"]),
    ],
    ids=["smollm2", "smollm2-nf4", "minilm"],
)
def test_pretrained_model_is_trained_in_bfloat16_and_scored(name, more, real_models: Path, door, tmp_path):
    rows = [(f"this is a {word} film of {n}", label) for n in range(9) for label, word in enumerate(("dull", "fine"))]
    data, out = tsv_folder(tmp_path / "data", rows[:6], rows * 2), tmp_path / "out"
    argv = [f"--model={real_models / name}", f"--data_dir={data}", f"--output_path={out}", "--samples=8", "--dtype=bfloat16",
            "--set=steps={2: 3}", "--set=evaluations=1", "--set=batch_size=2", *more]  # fmt: skip
    assert finetune.__main__.main(argv) == 0
    (path,) = out.glob("adapters/*/run.json")
    manifest = json.loads(path.read_text(encoding="utf-8"))
    assert manifest["products"] == "bfloat16"
    assert manifest["reload_difference"] == 0.0
    assert manifest["shared_prefix"] is None or manifest["shared_prefix"]["tokens"] > 30
    scored = door("run", f"--adapter={path.parent}", f"--data_dir={data}", f"--output_path={out}", "--limit=4")
    assert scored.code == 0, scored.stderr
