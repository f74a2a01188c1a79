"""DEVICE= reaches whatever computes: Trainer, accelerate, a quantised base. torch.cuda and MPS are played."""

import types
from contextlib import ExitStack

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from builders import SENTENCES, build_model, tsv_folder
from transformers import PretrainedConfig, PreTrainedModel

from finetune import model as finetune_model
from finetune.plan import make_plan
from finetune.spec import make_spec
from finetune.trainer_setup import training_arguments
from finetune.trainers import CheckedTrainer


class Somewhere(PreTrainedModel):
    """A model that writes down where it is sent instead of going there."""

    config_class = PretrainedConfig

    def __init__(self):
        super().__init__(PretrainedConfig())
        self.weight = torch.nn.Parameter(torch.zeros(2))
        self.sent: list[torch.device] = []

    def to(self, device):  # type: ignore[override]
        self.sent.append(torch.device(device))
        return self


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("device")
    build_model(folder / "model", "llama", hidden_size=64, head_dim=32)
    build_model(folder / "encoder", "bert")
    rows = [(f"a {word} film {n}", label) for n in range(6) for label, word in enumerate(("bad", "good"))]
    tsv_folder(folder / "data", SENTENCES, rows)
    return folder


@pytest.fixture
def two_gpus(monkeypatch):
    """Two GPUs, and which of them is the current one."""
    current = types.SimpleNamespace(device=torch.device("cuda", 0))

    def set_device(device):
        current.device = torch.device(device)

    for name, answer in {
        "is_available": lambda: True,
        "device_count": lambda: 2,
        "current_device": lambda: current.device.index,
        "set_device": set_device,
        "is_bf16_supported": lambda *args, **kwargs: True,
        "get_device_name": lambda *args: "A100",
        "get_device_capability": lambda *args: (8, 0),
        "manual_seed_all": lambda seed: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    yield current
    AcceleratorState._reset_state(reset_partial_state=True)


def plan_of(files, model="model", **more):
    return make_plan(make_spec(samples=4, model=str(files / model), data_dir=str(files / "data"), **more))


def trainer_of(plan, work):
    model = Somewhere()
    arguments = training_arguments(plan, plan.jobs[0], work, from_start=True)
    return CheckedTrainer(model=model, args=arguments, train_dataset=[{"labels": 0}], eval_dataset=[{"labels": 0}]), model


@pytest.mark.parametrize(
    ("asked", "device"), [("cuda:1", "cuda:1"), ("cuda:0", "cuda:0"), ("cuda", "cuda:0"), (None, "cuda:0")]
)
def test_gpu_that_was_asked_for_is_trainers_and_accelerates(asked, device, files, two_gpus, tmp_path):
    plan = plan_of(files, device=asked)
    trainer, model = trainer_of(plan, tmp_path)
    assert trainer.args.device == trainer.accelerator.device == PartialState().device == torch.device(device)
    assert set(model.sent) == {torch.device(device)}
    assert two_gpus.device == torch.device(device)  # what kernels take that are not told
    assert trainer.args.n_gpu == 1  # no DataParallel over both
    assert "products in bfloat16" in plan.notes[-1]


def test_cpu_that_was_asked_for_is_used_beside_gpus(files, two_gpus, tmp_path):
    trainer, model = trainer_of(plan_of(files, device="cpu"), tmp_path)
    assert trainer.args.device == trainer.accelerator.device == torch.device("cpu")
    assert set(model.sent) <= {torch.device("cpu")}
    assert trainer.args.n_gpu == 0


@pytest.mark.parametrize("asked", ["mps", "cpu", None])
def test_mps_is_used_where_it_is_asked_for_or_found(asked, files, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr("transformers.training_args.is_torch_mps_available", lambda *args, **kwargs: True)
    try:
        trainer, model = trainer_of(plan_of(files, device=asked), tmp_path)
        device = torch.device(asked or "mps")
        assert trainer.args.device == trainer.accelerator.device == device
        assert set(model.sent) <= {device}
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
@pytest.mark.parametrize("device", ["cuda:1", "cpu"])
def test_quantised_base_is_loaded_on_the_device_that_was_asked_for(kind, device, files, two_gpus, monkeypatch):
    plan, seen = plan_of(files, device=device, overrides=[f"quantise={kind}"]), []

    def loading(*args, **kwargs):
        seen.append(kwargs["device_map"])
        raise RuntimeError("no GPU here")

    monkeypatch.setattr(finetune_model.AutoModelForCausalLM, "from_pretrained", loading)
    with ExitStack() as stack:
        stack.enter_context(pytest.raises(ValueError, match="no GPU here"))
        finetune_model.load_base(plan.base, plan.recipe, plan.dtype, plan.settings.device, plan.tokenizer)
    assert seen == [{"": device}]


@pytest.mark.parametrize("device", ["cuda:1", "cpu"])
def test_evaluation_loads_a_quantised_model_on_the_device_that_was_asked_for(device, files, two_gpus, monkeypatch):
    """lm-eval hands its device on as the map of devices; this test sees it if it no longer does."""
    from harness_ext.backend.answer import AnswerLM
    from harness_ext.model.loading import WholeModel

    seen = []

    def loading(self, *args, **kwargs):
        seen.append(kwargs["device_map"])
        raise RuntimeError("no GPU here")

    monkeypatch.setattr(WholeModel, "from_pretrained", loading)
    with pytest.raises(RuntimeError, match="no GPU here"):
        AnswerLM(str(files / "model"), device=device, dtype="float32", quantise="nf4")
    assert seen == [{"": device}]


def test_classifier_is_refused_bfloat16_on_a_device_without_it(files, two_gpus, monkeypatch):
    from harness_ext.errors import UserError

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *args, **kwargs: False)
    with pytest.raises(UserError, match="DTYPE=bfloat16"):
        plan_of(files, "encoder", dtype="bfloat16")
