"""Models and data from the Hub, over the real download code, against a hub on 127.0.0.1 (`fakehub`).

The client libraries read their endpoint and offline switch when they are imported, so what is evaluated here is
evaluated in processes of their own, 5 to 10 seconds each; what only asks the hub a question stays in this one.
"""

import json
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from builders import SENTENCES
from conftest import Outcome
from fakehub import FakeHub
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness_ext.model.checkpoints import find_model, leftover
from harness_ext.model.loading import WholeModel

CLOSED = "http://127.0.0.1:9"  # the discard port: nothing answers


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory, answering: Path) -> dict[str, dict[str, Path]]:
    """What the hub serves: a model, one with pickled weights only, and SST-2 under both of its names."""
    from datasets import Dataset

    folder = tmp_path_factory.mktemp("hub")
    pickled = Path(shutil.copytree(answering, folder / "pickled"))
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    adapter, leftover = folder / "adapter", Path(shutil.copytree(answering, folder / "leftover"))
    model = AutoModelForCausalLM.from_pretrained(answering)
    torch.manual_seed(0)
    adapted = get_peft_model(
        model, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"], init_lora_weights=False)
    )
    for place in (adapter, leftover):
        adapted.save_pretrained(str(place))
    tokenizer = folder / "tokenizer"
    AutoTokenizer.from_pretrained(answering).save_pretrained(tokenizer)
    rows = {"idx": [], "sentence": [], "label": []} | {  # the Hub's columns and order
        "idx": list(range(len(SENTENCES))),
        "sentence": [f"{sentence} " for sentence, _ in SENTENCES],
        "label": [label for _, label in SENTENCES],
    }
    for below in ("sst2/data", "glue/sst2"):
        (folder / below).mkdir(parents=True)
        for split in ("train", "validation"):
            Dataset.from_dict(rows).to_parquet(folder / below / f"{split}-00000-of-00001.parquet")
    (folder / "glue" / "README.md").write_text(
        "---\nconfigs:\n- config_name: sst2\n  data_files:\n  - split: train\n    path: sst2/train-*\n"
        "  - split: validation\n    path: sst2/validation-*\n---\n"
    )
    return {
        "models": {
            "org/name": answering,
            "org/pickled": pickled,
            "org/gated": answering,
            "org/adapter": adapter,
            "org/leftover": leftover,
            "org/tokenizer": tokenizer,
        },
        "datasets": {"stanfordnlp/sst2": folder / "sst2", "nyu-mll/glue": folder / "glue"},
    }


@pytest.fixture(scope="module")
def hub(repositories: dict[str, dict[str, Path]]) -> Iterator[FakeHub]:
    with FakeHub(**repositories, gated=["org/gated"]) as hub:
        yield hub


def manifest(out: Path) -> dict:
    """Read the manifest of the one run under OUT."""
    (path,) = out.glob("runs/*/run.json")
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_hub_model_and_data_are_evaluated_and_again_when_the_hub_is_gone(
    tmp_path: Path, hub: FakeHub, cli: Callable[..., Outcome]
):
    run = ("run", "--pretrained=org/name", "--limit=4")
    start = time.perf_counter()
    online = cli(*run, "--output_path=online", env=hub.env(tmp_path / "home"))
    online_s = time.perf_counter() - start
    assert online.code == 0, online.stderr
    record = manifest(tmp_path / "online")
    assert record["model"] == "org/name"
    assert record["key_parts"]["weights"] == FakeHub.sha("org/name")
    assert (record["n"], record["n_available"], record["data"]) == (4, 8, "stanfordnlp/sst2 validation")

    start = time.perf_counter()
    closed = cli(*run, "--output_path=closed", env=hub.env(tmp_path / "home", HF_ENDPOINT=CLOSED))
    assert closed.code == 0, closed.stderr
    assert time.perf_counter() - start < online_s + 20, "the client's retries take 23 s a file"
    assert "The Hub cannot be reached: working from the local cache." in closed.stderr
    assert manifest(tmp_path / "closed")["key"] == record["key"]


def test_unreachable_hub_without_a_cache_is_one_line_in_seconds(tmp_path: Path, hub: FakeHub, cli: Callable[..., Outcome]):
    start = time.perf_counter()
    outcome = cli("run", "--pretrained=org/name", env=hub.env(tmp_path / "home", HF_ENDPOINT=CLOSED))
    assert "Cannot reach the Hub for model 'org/name'" in outcome.error
    assert time.perf_counter() - start < 20, "the client's retries take 23 s a file"
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("name", "is_cached", "is_said"), [("smollm", False, False), ("gpt2", True, True), ("org/name", False, True)]
)
def test_name_that_cannot_be_the_hubs_is_not_answered_with_the_hubs_state(
    name: str,
    is_cached: bool,
    is_said: bool,
    here_online: None,
    tmp_path: Path,
    door: Callable[..., Outcome],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", CLOSED)
    if is_cached:
        (tmp_path / "home" / f"models--{name}").mkdir(parents=True)
    outcome = door("run", f"--pretrained={name}")
    assert f"Cannot reach the Hub for model '{name}'" in outcome.error
    assert ("The Hub cannot be reached" in outcome.stderr) == is_said


@pytest.mark.slow  # waits for the client to give up
def test_hub_that_accepts_and_never_answers_counts_as_unreachable(tmp_path: Path, hub: FakeHub, cli: Callable[..., Outcome]):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        env = hub.env(tmp_path / "home", HF_ENDPOINT=f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert "Cannot reach the Hub for model 'org/name'" in cli("run", "--pretrained=org/name", env=env, timeout=30).error


@pytest.mark.parametrize(
    ("argv", "fragments"),
    [
        (["--pretrained=org/gated"], ["'org/gated'", "gated", "HF_TOKEN", "hf auth login"]),
        (["--pretrained=org/nmae"], ["no model 'org/nmae'", "HF_TOKEN"]),
        (["--pretrained=org/name", "--model_args", "revision=v9"], ["'org/name'", "no revision 'v9'"]),
        (["--pretrained=org/adapter"], ["'org/adapter' is an adapter", "hf download org/adapter", "ADAPTER="]),
        (["--pretrained=org/pickled"], ["'org/pickled'", "pytorch_model.bin", "--allow_pickle"]),
        (["--pretrained=org/name", "--metadata", "dataset=org/data"], ["no dataset 'org/data'"]),
    ],
    ids=["gated", "unknown", "revision", "adapter", "pickled", "dataset"],
)
def test_hub_refusal_is_one_line(
    argv: list[str],
    fragments: list[str],
    tmp_path: Path,
    hub: FakeHub,
    here_online: None,
    door: Callable[..., Outcome],
):
    outcome = door("run", *argv, f"--output_path={tmp_path / 'out'}")
    missing = [fragment for fragment in fragments if fragment not in outcome.error]
    assert not missing, f"{missing} not in: {outcome.error}"
    assert not (tmp_path / "out").exists()


@pytest.fixture
def here_online(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process use the hub, for questions that end before anything large is downloaded."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")


def test_adapter_in_a_models_repository_is_left_out_and_said(hub: FakeHub, here_online: None, answering: Path):
    found = find_model("org/leftover")
    assert "ADAPTER=" in str(leftover(found))
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(answering)(input_ids=ids).logits
        stock = AutoModelForCausalLM.from_pretrained(found.path, revision=found.revision)(input_ids=ids).logits
        ours = WholeModel(AutoModelForCausalLM).from_pretrained(found.path, revision=found.revision)(input_ids=ids).logits
    assert not torch.allclose(stock, expected, atol=1e-3)
    assert torch.equal(ours, expected)


def test_doctor_asks_the_hub_for_sizes_and_downloads_no_weights(
    tmp_path: Path, hub: FakeHub, here_online: None, answering: Path, door: Callable[..., Outcome]
):
    before = len(hub.requests)
    outcome = door("doctor", "--pretrained=org/name", "--tasks=sst2_01_mini", "--json")
    assert outcome.code == 0, outcome.stdout
    said = {check["name"]: check["said"] for check in json.loads(outcome.stdout)["checks"]}
    assert said["model"] == f"'org/name', on the Hub at {FakeHub.sha('org/name')}"
    size = (answering / "model.safetensors").stat().st_size
    assert said["disk"].startswith(f"{size / 1e6:.1f} MB to download")
    assert json.loads(outcome.stdout)["memory"]["weights"] == size
    assert not [path for _, path in hub.requests[before:] if path.endswith(".safetensors")]


def test_doctor_of_a_gated_model_says_what_to_do(hub: FakeHub, here_online: None, door: Callable[..., Outcome]):
    assert "HF_TOKEN" in door("doctor", "--pretrained=org/gated").error


@pytest.mark.slow  # two more processes, for a second data set and a second way to be offline
def test_glue_and_allowed_pickles_are_evaluated_and_again_when_told_to_be_offline(
    tmp_path: Path, hub: FakeHub, cli: Callable[..., Outcome]
):
    run = ("run", "--pretrained=org/pickled", "--allow_pickle", "--metadata", "dataset=nyu-mll/glue/sst2", "--limit=4")
    online = cli(*run, "--output_path=online", env=hub.env(tmp_path / "home"))
    assert online.code == 0, online.stderr
    record = manifest(tmp_path / "online")
    assert record["data"] == "nyu-mll/glue validation"
    assert record["key_parts"]["weights"] == FakeHub.sha("org/pickled")

    asked = len(hub.requests)
    offline = cli(*run, "--output_path=offline", env=hub.env(tmp_path / "home", HF_HUB_OFFLINE="1"))
    assert offline.code == 0, offline.stderr
    assert len(hub.requests) == asked, "HF_HUB_OFFLINE=1 still asked the hub"
    assert manifest(tmp_path / "offline")["key"] == record["key"]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["hf-answer", "hf"])
def test_tokenizer_of_another_repository_is_asked_for_at_its_own_commit(backend, tmp_path, hub, cli):
    """transformers is handed the model's revision for both, and that commit is unknown in the other repository."""
    flags = ("run", "--pretrained=org/name", "--model_args=tokenizer=org/tokenizer", f"--model={backend}", "--limit=2")
    done = cli(*flags, "-oout", env=hub.env(tmp_path / "home"))
    assert done.code == 0, done.stderr
    record = manifest(tmp_path / "out")
    assert record["key_parts"]["tokenizer"] == FakeHub.sha("org/tokenizer")
    asked = [path for _, path in hub.requests if path.startswith("/org/tokenizer/resolve/")]
    assert asked
    assert not [path for path in asked if FakeHub.sha("org/name") in path]
