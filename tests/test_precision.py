"""Training with products in bfloat16, as on most GPUs: the adapter is kept, scored, and its base left as it was."""

import json
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import training
from builders import SENTENCES, build_model
from peft import PeftModel
from safetensors.torch import load_file, save_file
from training import adapters, words_folder
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from finetune import reload
from finetune.config import Recipe
from finetune.data import encode_sentences
from finetune.model import add_lora, draw_new_weights, load_base
from finetune.reload import check_saved, checksum
from harness_ext.errors import UserError
from harness_ext.model.checkpoints import find_model
from harness_ext.model.loading import load_tokenizer

CLASSIFIER = Recipe(kind="classifier", learning_rate=1e-3, batch_size=4, steps={2: 4}, rank=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return words_folder(tmp_path_factory.mktemp("data") / "words")


@pytest.fixture
def train(data, tmp_path):
    def call(model, *more):
        short = ("--set=steps={2: 3}", "--set=evaluations=1", "--set=warmup_share=0.0")
        return training.train(*training.flags(model, data, tmp_path / "out", *short, *more))

    return call


@pytest.mark.parametrize(
    ("architecture", "more", "dtype"),
    [
        ("llama", [], "bfloat16"),
        ("llama", ["--set=quantise=nf4"], "bfloat16"),
        ("llama", ["--set=quantise=int8"], "bfloat16"),
        ("deberta-v2", [], "float32"),  # a classifier's weights stay float32, its products are bfloat16
        ("bert", [], "float32"),
    ],
    ids=["generative", "nf4", "int8", "deberta", "bert"],
)
def test_adapter_trained_with_products_in_bfloat16_is_kept_and_scored(
    architecture, more, dtype, data, train, door, tmp_path
):
    sizes: dict[str, Any] = {"hidden_size": 64, "head_dim": 32} if more else {}  # nf4 works on blocks of 64
    model = build_model(tmp_path / "base", architecture, **sizes)
    recipe = ["--recipe=qwen"] if architecture == "llama" else []
    done = train(model, "--dtype=bfloat16", *recipe, *more)
    assert done.code == 0, done.stderr
    assert f"dtype {dtype}, products in bfloat16" in done.stderr
    ((folder, manifest),) = adapters(tmp_path / "out").items()
    assert (manifest["dtype"], manifest["products"]) == (dtype, "bfloat16")
    assert manifest["reload_difference"] == 0.0
    weights = load_file(folder / "adapter_model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}  # updates are not lost to rounding
    assert any(weight.abs().sum() > 0 for name, weight in weights.items() if "lora_B" in name)
    scored = door("run", f"--adapter={folder}", f"--data_dir={data}", f"--output_path={tmp_path / 'out'}")
    assert scored.code == 0, scored.stderr


def test_products_were_in_bfloat16_and_float32_stays_float32(train, random_model, tmp_path, monkeypatch):
    seen = []
    forward = torch.nn.functional.linear

    def watched(x, *args, **kwargs):
        result = forward(x, *args, **kwargs)
        seen.append(result.dtype)
        return result

    monkeypatch.setattr(torch.nn.functional, "linear", watched)
    assert train(random_model, "--dtype=bfloat16").code == 0
    assert set(seen) == {torch.bfloat16}
    seen.clear()
    assert train(random_model).code == 0
    assert set(seen) == {torch.float32}


@pytest.mark.slow
def test_several_jobs_in_bfloat16_equal_each_alone_and_leave_the_base_as_it_was_loaded(
    train, random_model, tmp_path, monkeypatch
):
    from finetune import train as module

    loaded = []
    load = module.load_base

    def kept(*args, **kwargs):
        base = load(*args, **kwargs)
        loaded.append((base.model, {name: weight.clone() for name, weight in base.model.state_dict().items()}))
        return base

    monkeypatch.setattr(module, "load_base", kept)
    assert train(random_model, "--dtype=bfloat16", "--seed=0,1").code == 0
    ((base, before),) = loaded  # once for both
    after = base.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], weight) and after[name].dtype == weight.dtype for name, weight in before.items())
    assert "forward" not in vars(base)  # accelerate's, under autocast
    together = {manifest["seed"]: load_file(folder / "adapter_model.safetensors")
                for folder, manifest in adapters(tmp_path / "out").items()}  # fmt: skip
    assert train(random_model, "--dtype=bfloat16", "--seed=1", f"--output_path={tmp_path / 'alone'}").code == 0
    (alone,) = (load_file(folder / "adapter_model.safetensors") for folder in adapters(tmp_path / "alone"))
    assert all(torch.equal(together[1][name], weight) for name, weight in alone.items())


# --- what the check must see --------------------------------------------------------------------------------------------


@pytest.fixture
def trained(tmp_path):
    """A classifier's adapter whose weights have moved, saved in a folder and on its base still, with rows to try it on."""
    checkpoint = find_model(str(build_model(tmp_path / "base", "deberta-v2")))
    tokenizer = load_tokenizer(checkpoint)
    base = load_base(checkpoint, CLASSIFIER, "float32", "cpu", tokenizer)
    examples = encode_sentences(tokenizer, [{"sentence": sentence, "label": label} for sentence, label in SENTENCES])
    torch.manual_seed(0)
    draw_new_weights(base.model, base.new)
    model = add_lora(base.model, CLASSIFIER)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += 0.1 * torch.randn_like(weight)
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter", model, examples


def check(folder, model, examples):
    return check_saved(model, folder, examples, nullcontext, "float32")


def test_adapter_as_saved_passes(trained):
    assert check(*trained) == 0.0


def spoil(folder, change):
    weights = load_file(folder / "adapter_model.safetensors")
    change(weights)
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def missing_lora(weights):
    del weights[next(name for name in weights if "lora_A" in name)]


def another_number(weights):
    weights[next(name for name in weights if "lora_B" in name)].view(-1)[0] += 1e-7


def another_size(weights):
    name = next(name for name in weights if "lora_A" in name)
    weights[name] = weights[name][:, :-1].contiguous()


@pytest.mark.parametrize(
    ("change", "said"),
    [(missing_lora, "other weights.*lora_A"), (another_number, "other weights"), (another_size, "does not load")],
)
def test_damage_to_one_tensor_of_the_saved_adapter_is_seen(change, said, trained):
    spoil(trained[0], change)
    with pytest.raises(UserError, match=said):
        check(*trained)


def test_head_that_was_not_saved_is_seen(trained):
    folder = trained[0]
    config = json.loads((folder / "adapter_config.json").read_text())
    assert "pooler" in config["modules_to_save"]
    config["modules_to_save"].remove("pooler")  # as peft would by itself (its issue 2171)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    spoil(folder, lambda weights: [weights.pop(name) for name in list(weights) if "pooler" in name])
    with pytest.raises(UserError, match=r"other weights.*pooler"):
        check(*trained)


def test_other_logits_of_the_same_weights_are_seen(trained):
    path = trained[0] / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"lora_alpha": 2 * config["lora_alpha"]}))  # LoRA's scale is in no tensor
    with pytest.raises(UserError, match="other logits"):
        check(*trained)


def test_checksum_sees_one_bit_of_the_base_and_its_dtype(tmp_path):
    model: Any = AutoModelForCausalLM.from_pretrained(build_model(tmp_path / "m"), dtype=torch.float32)
    before = checksum(model)
    weight = model.model.norm.weight.data
    weight[3] = torch.nextafter(weight[3], torch.tensor(9.0))
    assert checksum(model) != before
    assert checksum(model.to(torch.bfloat16)) != before


def test_training_that_changes_the_base_itself_is_refused(train, random_model, tmp_path, monkeypatch):
    from finetune.trainers import PromptTrainer

    step = PromptTrainer.training_step

    def careless(self, model, *args, **kwargs):
        model.get_base_model().model.norm.weight.data += 0.1
        return step(self, model, *args, **kwargs)

    monkeypatch.setattr(PromptTrainer, "training_step", careless)
    with pytest.raises(RuntimeError, match="base's own weights"):
        train(random_model)
    assert not adapters(tmp_path / "out")


def test_saved_classifier_is_what_transformers_and_peft_alone_make_of_it(train, tmp_path):
    """The check works in place; this is the proof from outside, with the head that the folder brings."""
    model = build_model(tmp_path / "base", "bert")
    assert train(model, "--dtype=bfloat16", "--recipe=deberta").code == 0  # a head of the model's own
    ((folder, _),) = adapters(tmp_path / "out").items()
    torch.manual_seed(5)
    plain = AutoModelForSequenceClassification.from_pretrained(model, num_labels=2)
    first = PeftModel.from_pretrained(plain, folder).eval()
    torch.manual_seed(6)  # another random head: nothing may be left of it
    second = PeftModel.from_pretrained(
        AutoModelForSequenceClassification.from_pretrained(model, num_labels=2), folder
    ).eval()
    ids = torch.randint(10, 300, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(first(ids).logits, second(ids).logits)


def test_tolerances_are_below_what_a_lost_head_makes(trained):
    _, model, examples = trained
    kept = reload._probe(model, examples)
    head = model.base_model.model.classifier
    with torch.no_grad():
        head.modules_to_save["default"].weight.copy_(head.original_module.weight)
    apart = (reload._probe(model, examples) - kept).abs().max() / kept.abs().max()
    assert apart > 10 * max(reload.TOLERANCE.values())
