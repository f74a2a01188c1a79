"""What other libraries say at length ends in one line that says first what to do."""

import json
from pathlib import Path

import pytest
from transformers import AutoConfig

from harness_ext.errors import UserError, one_line_errors

LONG = "and much else before it comes to the point, " * 12


def line(raised: Exception) -> str:
    with pytest.raises(UserError) as caught, one_line_errors(loading="Model 'x' does not load: "):
        raise raised
    return str(caught.value)


def test_model_with_code_of_its_own_says_how_to_accept_it(tmp_path: Path):
    fields = {"model_type": "own", "auto_map": {"AutoConfig": "configuration_own.OwnConfig"}}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(UserError) as caught, one_line_errors(loading="Model 'x' does not load: "):
        AutoConfig.from_pretrained(tmp_path)
    assert "ARGS=--trust_remote_code" in str(caught.value)[:150]


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        (
            f"{LONG} packages that were not found in your environment: einops. Run `pip install einops`",
            "install -c constraints.txt einops",
        ),
        (
            f"Using `low_cpu_mem_usage` {LONG} requires Accelerate: `pip install 'accelerate>=0.26.0'`",
            "constraints.txt accelerate",
        ),
        (f"{LONG} install sentencepiece: pip install -U sentencepiece", "constraints.txt sentencepiece"),
        (f"You are trying to access a gated repo.\n{LONG}", "run `hf auth login`"),
    ],
)
def test_advice_that_comes_last_is_said_first(said: str, advice: str):
    found = line(ImportError(said))
    assert advice in found[:180]
    assert len(found) < 420


def test_other_errors_are_cut_where_it_shows():
    assert line(ValueError("short")) == "Model 'x' does not load: ValueError: short"
    assert line(ValueError(LONG)).endswith("…")
