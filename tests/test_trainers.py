"""The losses, against their closed forms and transformers' own; the shared-prefix pass, against the plain one."""

import functools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from builders import SENTENCES, build_model
from torch.utils._python_dispatch import TorchDispatchMode
from training import words_folder
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments

from finetune import trainer_setup
from finetune.config import Recipe
from finetune.data import collate_prompts, encode_examples
from finetune.model import add_lora, load_base
from finetune.plan import make_plan
from finetune.spec import make_spec
from finetune.trainer_setup import build_trainer
from finetune.trainers import PromptTrainer, passes_s, why_prefix_is_not_shared
from harness_ext.task.find import build_tasks
from harness_ext.task.prompts import common_prefix, render_prompt

RECIPE = Recipe(kind="generative", learning_rate=1e-3, batch_size=8, steps={16: 300}, rank=2)
ROWS = [{"sentence": sentence, "label": label} for sentence, label in SENTENCES]


def trainer_of(folder, eight_rows, tmp_path, *, weights=torch.float32, bf16=False):
    """A trainer over an adapted model whose LoRA weights are all random, with the eight rows as examples."""
    (task,) = build_tasks(["sst2_01"], metadata={"data_dir": str(eight_rows)})
    task.set_config(key="num_fewshot", value=0)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    examples = encode_examples(task, tokenizer, ROWS, lambda row: render_prompt(task, row), False)
    torch.manual_seed(0)
    model = add_lora(AutoModelForCausalLM.from_pretrained(folder, dtype=weights), RECIPE)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    args = TrainingArguments(output_dir=str(tmp_path / "out"), use_cpu=True, bf16=bf16, report_to="none")
    collate = functools.partial(collate_prompts, pad=tokenizer.pad_token_id)
    return PromptTrainer(model=model, args=args, data_collator=collate), collate, examples


def shared_prefix(examples):
    return common_prefix([example["prompt"] for example in examples])


def gradients(trainer, batch):
    trainer.model.zero_grad()
    with trainer.accelerator.autocast():
        loss, chosen = trainer.loss_of(trainer.model, batch)
    loss.backward()
    grads = {name: weight.grad.clone() for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    return loss.item(), chosen, grads


@pytest.mark.parametrize(
    ("architecture", "config"),
    [("qwen2", {}), ("qwen3", {}), ("llama", {}), ("gpt2", {}), ("gemma3", {"sliding_window": 256})],
)
def test_prefix_run_once_gives_the_plain_loss_and_gradients(architecture, config, eight_rows, tmp_path):
    trainer, collate, examples = trainer_of(build_model(tmp_path / "m", architecture, **config), eight_rows, tmp_path)
    prefix = shared_prefix(examples)
    assert len(prefix) > 20
    plain_loss, plain_choices, plain = gradients(trainer, collate(examples))
    trainer.prefix = torch.tensor(prefix)
    loss, choices, grads = gradients(trainer, collate(examples, prefix_length=len(prefix)))
    assert loss == pytest.approx(plain_loss, rel=1e-5)
    torch.testing.assert_close(choices, plain_choices, rtol=1e-4, atol=1e-4)
    norm = torch.cat([grad.flatten() for grad in plain.values()]).norm()
    apart = torch.cat([(grads[name] - grad).flatten() for name, grad in plain.items()]).norm()
    assert norm > 0
    assert apart / norm < 1e-5
    trainer.prefix = None
    assert why_prefix_is_not_shared(trainer, collate, examples, prefix) is None


def test_timing_both_passes_leaves_weights_gradients_and_random_numbers_as_they_are(eight_rows, tmp_path):
    trainer, collate, examples = trainer_of(build_model(tmp_path / "m"), eight_rows, tmp_path)
    trainer.train_dataset = examples
    weights = [weight.clone() for weight in trainer.model.parameters()]
    dropped = []
    trainer.model.register_forward_hook(lambda *_: dropped.append(torch.rand(1)))  # draws, as a recipe's dropout does
    before = torch.get_rng_state()
    found = passes_s(trainer, collate, shared_prefix(examples))
    assert dropped
    assert set(found) == {"shared_s", "plain_s"}
    assert min(found.values()) > 0
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(weights, trainer.model.parameters(), strict=True))
    assert not [weight for weight in trainer.model.parameters() if weight.grad is not None]


@pytest.mark.parametrize(("plain_s", "is_shared"), [(0.5, False), (2.0, True)])
def test_faster_pass_is_kept_and_both_times_are_recorded(plain_s, is_shared, monkeypatch, capsys):
    """On what is no CPU; "meta" stands for it, as it needs no device."""
    monkeypatch.setattr(trainer_setup, "why_prefix_is_not_shared", lambda *_: None)
    monkeypatch.setattr(trainer_setup, "passes_s", lambda *_: {"shared_s": 1.0, "plain_s": plain_s})
    trainer: Any = SimpleNamespace(args=SimpleNamespace(device=torch.device("meta")), data_collator=None)
    trainer_setup.share_prefix(trainer, lambda: None, [{"prompt": [1, 2, 3]}, {"prompt": [1, 2, 4]}])
    times = {"shared_s": 1.0, "plain_s": plain_s}
    assert times.items() <= trainer.shared.items()
    assert (trainer.shared["tokens"], trainer.prefix is not None) == ((2, True) if is_shared else (0, False))
    assert ("that is faster here" in capsys.readouterr().err) == (not is_shared)


class Reads(TorchDispatchMode):
    """Counts the numbers that are read out of tensors: each would make the host wait for a GPU."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return func(*args, **(kwargs or {}))


def test_step_reads_no_number_off_the_device(eight_rows, tmp_path):
    """With the prefix run once: without it transformers itself asks whether a mask masks anything."""
    trainer, collate, examples = trainer_of(build_model(tmp_path / "m"), eight_rows, tmp_path)
    prefix = shared_prefix(examples)
    trainer.prefix = torch.tensor(prefix)
    batch = collate(examples, prefix_length=len(prefix))
    with Reads() as reads:
        loss = trainer.compute_loss(trainer.model, batch)
        loss.backward()
        assert reads.count == 0
        loss.item()
        assert reads.count == 1  # or this test would prove nothing


def distance(ours, exact):
    """How far gradients are from others, of these ones' length."""
    norm = torch.cat([grad.flatten() for grad in exact.values()]).norm()
    return float(torch.cat([(ours[name] - grad).flatten() for name, grad in exact.items()]).norm() / norm)


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("architecture", ["qwen2", "llama", "gemma3"])
def test_prefix_run_once_in_bfloat16_is_no_further_from_float32_than_the_plain_pass(
    architecture, weights, eight_rows, tmp_path
):
    """Rounding is all that may come between: the reference is the plain pass over the same weights in float32."""
    sizes: dict[str, Any] = {"sliding_window": 256} if architecture == "gemma3" else {}
    folder = build_model(tmp_path / "m", architecture, **sizes)
    if weights == torch.bfloat16:
        AutoModelForCausalLM.from_pretrained(folder, dtype=weights).save_pretrained(folder)
    exact, collate, examples = trainer_of(folder, eight_rows, tmp_path)
    trainer, _, _ = trainer_of(folder, eight_rows, tmp_path, weights=weights, bf16=True)
    prefix = shared_prefix(examples)
    _, _, reference = gradients(exact, collate(examples))
    _, _, plain = gradients(trainer, collate(examples))
    assert why_prefix_is_not_shared(trainer, collate, examples, prefix) is None
    trainer.prefix = torch.tensor(prefix)
    _, _, shared = gradients(trainer, collate(examples, prefix_length=len(prefix)))
    assert 1e-4 < distance(plain, reference) < 0.2  # it was computed in bfloat16
    assert distance(shared, reference) < 1.5 * distance(plain, reference)


def test_check_of_the_prefix_computes_as_training_does(eight_rows, tmp_path, monkeypatch):
    trainer, collate, examples = trainer_of(build_model(tmp_path / "m"), eight_rows, tmp_path, bf16=True)
    seen = set()
    forward = type(trainer.model).forward

    def watched(self, *args, **kwargs):
        seen.add(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(trainer.model), "forward", watched)
    assert why_prefix_is_not_shared(trainer, collate, examples, shared_prefix(examples)) is None
    assert seen == {torch.bfloat16}


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_loss_equals_transformers_own(weight, eight_rows, tmp_path):
    trainer, collate, examples = trainer_of(build_model(tmp_path / "m"), eight_rows, tmp_path)
    trainer.prompt_loss_weight = weight
    batch = collate(examples)
    loss, _ = trainer.loss_of(trainer.model, batch)
    counted = torch.zeros_like(batch["targets"], dtype=torch.bool)
    if weight == 0:
        counted[:, -batch["is_answer"].shape[1] + 1 :] = batch["is_answer"][:, :-1]
    else:
        counted[:, 1:] = batch["targets"][:, :-1] >= 0
    labels = batch["input_ids"].masked_fill(~counted, -100)
    theirs = trainer.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels,
                           position_ids=(batch["attention_mask"].cumsum(1) - 1).clamp(min=0)).loss  # fmt: skip
    assert loss.item() == pytest.approx(theirs.item(), rel=1e-5)


def closed_form(trainer, examples):
    """Mean losses over rows read one by one by the plain model: the two answers', the whole answer's, and -log p({0, 1})."""
    two_way, full, following = [], [], []
    for example in examples:
        answer, other = (example["completions"][label] for label in (example["labels"], 1 - example["labels"]))
        ids = torch.tensor([example["prompt"] + answer])
        log_p = trainer.model(input_ids=ids).logits[0, len(example["prompt"]) - 1 : -1].log_softmax(-1)
        at = next(n for n, tokens in enumerate(zip(answer, other, strict=True)) if len(set(tokens)) == 2)
        of_both = torch.stack([log_p[at, answer[at]], log_p[at, other[at]]])
        two_way.append(torch.logsumexp(of_both, 0) - of_both[0])
        following.append(-torch.logsumexp(of_both, 0))
        full.append(-log_p[range(len(answer)), answer])
        torch.testing.assert_close(full[-1][at], two_way[-1] + following[-1])  # CE_vocab = CE_2way - log p({0, 1})
    return torch.stack(two_way).mean(), torch.cat(full).mean()


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_loss_is_that_between_the_answers_and_a_share_of_the_full_one(share, shared, eight_rows, tmp_path):
    trainer, collate, examples = trainer_of(build_model(tmp_path / "m"), eight_rows, tmp_path)
    two_way, full = closed_form(trainer, examples)
    trainer.full_loss_weight = share
    prefix = shared_prefix(examples) if shared else []
    trainer.prefix = torch.tensor(prefix) if shared else None
    batch = collate(examples, prefix_length=len(prefix))
    loss, _ = trainer.loss_of(trainer.model, batch)
    assert loss.item() == pytest.approx((two_way + share * full).item(), rel=1e-5)
    scored = trainer.compute_loss(trainer.model, batch, return_outputs=True)[0]
    assert scored.item() == pytest.approx(two_way.item(), rel=1e-5)  # whatever is trained


def test_original_s_recipe_trains_on_transformers_own_loss_over_the_whole_text(random_model, tmp_path):
    plan = make_plan(make_spec(
        samples=16, model=str(random_model), recipe="paper-qwen", data_dir=str(words_folder(tmp_path / "data")),
    ))  # fmt: skip
    base = load_base(plan.base, plan.recipe, plan.dtype, "cpu", plan.tokenizer)
    (tmp_path / "work").mkdir()
    trainer: Any = build_trainer(plan, plan.jobs[0], tmp_path / "work", add_lora(base.model, plan.recipe), from_start=True)
    batch = trainer.data_collator([trainer.train_dataset[row] for row in range(8)])
    labels = batch["input_ids"].masked_fill(batch["attention_mask"].cumsum(1) < 2, -100)  # nothing predicts the first token
    theirs = trainer.model(**{name: batch[name] for name in ("input_ids", "attention_mask")}, labels=labels,
                           position_ids=(batch["attention_mask"].cumsum(1) - 1).clamp(min=0)).loss  # fmt: skip
    assert trainer.loss_of(trainer.model, batch)[0].item() == pytest.approx(theirs.item(), rel=1e-5)


def test_prompt_loss_weight_lies_between(eight_rows, tmp_path):
    trainer, collate, examples = trainer_of(build_model(tmp_path / "m"), eight_rows, tmp_path)
    batch = collate(examples)

    def loss(weight):
        trainer.prompt_loss_weight = weight
        return trainer.loss_of(trainer.model, batch)[0].item()

    answers, half, everything = loss(0.0), loss(0.5), loss(1.0)
    assert min(answers, everything) < half < max(answers, everything)


def test_attention_window_shorter_than_the_prompts_falls_back(eight_rows, tmp_path):
    folder = build_model(tmp_path / "m", "gemma3", sliding_window=16)
    trainer, collate, examples = trainer_of(folder, eight_rows, tmp_path)
    assert "16 tokens is shorter" in str(why_prefix_is_not_shared(trainer, collate, examples, shared_prefix(examples)))


@pytest.mark.parametrize("bf16", [False, True])
def test_architecture_that_reads_a_prefix_otherwise_falls_back(bf16, eight_rows, tmp_path, monkeypatch):
    trainer, collate, examples = trainer_of(build_model(tmp_path / "m"), eight_rows, tmp_path, bf16=bf16)
    prefix = shared_prefix(examples)
    inner = trainer.model.forward

    def forgets_its_cache(*args, past_key_values=None, attention_mask=None, **kwargs):
        if past_key_values is not None and attention_mask is not None:
            attention_mask, past_key_values = attention_mask[:, -kwargs["input_ids"].shape[1] :], None
        return inner(*args, past_key_values=past_key_values, attention_mask=attention_mask, **kwargs)

    monkeypatch.setattr(trainer.model, "forward", forgets_its_cache)
    assert "answers would differ by" in str(why_prefix_is_not_shared(trainer, collate, examples, prefix))

    def has_no_cache(*args, past_key_values=None, **kwargs):
        if past_key_values is not None:
            raise TypeError("unexpected keyword argument 'past_key_values'")
        return inner(*args, **kwargs)

    monkeypatch.setattr(trainer.model, "forward", has_no_cache)
    assert "this architecture cannot (TypeError" in str(why_prefix_is_not_shared(trainer, collate, examples, prefix))
