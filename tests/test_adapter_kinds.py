"""What an adapter is, by its content; loaded as peft loads it, with what it brings: head, tokenizer, template, tokens."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from builders import CHAT_TEMPLATE, SENTENCES, build_model
from conftest import Outcome
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from harness_ext.backend.classifier import ClassifierLM
from harness_ext.model.adapters import find_adapter, head_classes, whole_tensors
from harness_ext.model.loading import vocabulary_of

TEXTS = [sentence for sentence, _ in SENTENCES]
LORA: dict[str, Any] = {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT without a head, but with a pooler."""
    import transformers

    folder = build_model(tmp_path_factory.mktemp("models") / "encoder", "bert", spread=0.3)
    config = transformers.AutoConfig.from_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        transformers.BertModel(config).save_pretrained(folder)
    return folder


def write(folder: Path, base: Path, config: Any, *, classifies: bool = False, rows: int | None = None) -> Any:
    """Write an adapter of random weights, and return the PEFT model."""
    auto = AutoModelForSequenceClassification if classifies else AutoModelForCausalLM
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = auto.from_pretrained(base, dtype=torch.float32)
        if rows:
            model.resize_token_embeddings(rows, mean_resizing=False)
        adapted = peft.get_peft_model(model, config)
        for name, weight in adapted.named_parameters():
            if any(part in name for part in ("lora_", "ia3_", "prompt", "classifier", "score")):
                weight.data.normal_(0, 0.5)
    adapted.save_pretrained(folder)
    return adapted.eval()


def edit(folder: Path, **fields: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def load(base: Path, folder: Path) -> ClassifierLM:
    adapter = find_adapter(str(folder))
    return ClassifierLM(str(base), peft=str(folder), head=list(whole_tensors(adapter)))


CLASSIFIERS = {
    "lora": peft.LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query"]),
    "ia3": peft.IA3Config(task_type="SEQ_CLS", target_modules=["query", "value"], feedforward_modules=[]),
    "prompt tuning": peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=4),
    "prefix tuning": peft.PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=4),
}


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_classifier_adapter_of_any_kind_answers_as_peft_alone(kind: str, encoder: Path, tmp_path: Path):
    adapted = write(tmp_path, encoder, CLASSIFIERS[kind], classifies=True)
    if kind == "lora":
        edit(tmp_path, modules_to_save=None)  # as older versions of peft wrote it; the head is in the weights all the same
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    with torch.no_grad():
        expected = [adapted(**tokenizer(text, return_tensors="pt")).logits[0].log_softmax(-1).tolist() for text in TEXTS]
    for ours, theirs in zip(load(encoder, tmp_path).classify(TEXTS), expected, strict=True):
        assert list(ours) == pytest.approx(theirs, abs=1e-4)


@pytest.mark.parametrize("modules_to_save", [["score"], None])
def test_adapter_with_a_head_is_a_classifier_though_its_config_does_not_say_so(
    modules_to_save: list[str] | None, answering: Path, tmp_path: Path
):
    config = peft.LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["score"])
    adapted = write(tmp_path, answering, config, classifies=True)
    edit(tmp_path, modules_to_save=modules_to_save)
    found = find_adapter(str(tmp_path))
    assert (found.config["task_type"], head_classes(found)) == ("SEQ_CLS", 2)
    tokenizer = AutoTokenizer.from_pretrained(answering)
    with torch.no_grad():
        expected = [adapted(**tokenizer(text, return_tensors="pt")).logits[0].log_softmax(-1).tolist() for text in TEXTS]
    for ours, theirs in zip(load(answering, tmp_path).classify(TEXTS), expected, strict=True):
        assert list(ours) == pytest.approx(theirs, abs=1e-4)


def run(door: Callable[..., Outcome], data: Path, *flags: str | Path, ends: int = 0) -> Outcome:
    outcome = door("run", f"--data_dir={data}", "--output_path=out", *flags)
    assert outcome.code == ends, outcome.stderr
    return outcome


def answers(name: str) -> list[str]:
    """Read the answers of the one run whose folder begins so, in the documents' order."""
    (folder,) = Path("out/runs").glob(f"{name}--sst2_01*")
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    return [row["resps"][0][0] for row in sorted(rows, key=lambda row: row["doc_id"]) if row["filter"] == "lenient"]


def record(name: str) -> dict[str, Any]:
    (folder,) = Path("out/runs").glob(f"{name}--sst2_01*")
    return json.loads((folder / "run.json").read_text())


def test_untyped_classifier_adapter_is_run_and_examined_as_one(
    answering: Path, eight_rows: Path, elsewhere: Path, door: Callable[..., Outcome]
):
    config = peft.LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["score"])
    adapted = write(elsewhere / "adapter", answering, config, classifies=True)
    tokenizer = AutoTokenizer.from_pretrained(answering)
    with torch.no_grad():
        expected = [str(int(adapted(**tokenizer(text, return_tensors="pt")).logits[0].argmax())) for text in TEXTS]
    said = run(door, eight_rows, "--adapter=adapter")
    assert "classes 0 LABEL_0, 1 LABEL_1 (by their numbers" in said.stderr
    assert answers(f"{answering.name}--adapter") == expected
    assert record(f"{answering.name}--adapter")["engine"]["classes"]["1"] == "LABEL_1"
    assert "names a class" in door("doctor", f"--data_dir={eight_rows}", "--adapter=adapter").stdout


def test_adapter_that_changes_nothing_leaves_a_reversed_base_its_answers(
    encoder: Path, eight_rows: Path, elsewhere: Path, door: Callable[..., Outcome]
):
    torch.manual_seed(2)
    names = {0: "POSITIVE", 1: "NEGATIVE"}
    model = AutoModelForSequenceClassification.from_pretrained(
        encoder, id2label=names, label2id={v: k for k, v in names.items()}
    )
    model.save_pretrained("base")
    AutoTokenizer.from_pretrained(encoder).save_pretrained("base")
    idle = peft.get_peft_model(model, peft.LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query"]))
    idle.save_pretrained("idle")
    run(door, eight_rows, "--pretrained=base")
    assert "classes 0 NEGATIVE, 1 POSITIVE" in run(door, eight_rows, "--pretrained=base", "--adapter=idle").stderr
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    with torch.no_grad():
        expected = [str(1 - int(model.eval()(**tokenizer(text, return_tensors="pt")).logits[0].argmax())) for text in TEXTS]
    assert answers("base") == answers("base--idle") == expected


def test_classes_without_a_meaning_are_refused_by_run_and_doctor_until_the_user_says_which_is_one(
    encoder: Path, eight_rows: Path, elsewhere: Path, door: Callable[..., Outcome]
):
    torch.manual_seed(2)
    names = {0: "entailment", 1: "not_entailment"}
    model = AutoModelForSequenceClassification.from_pretrained(
        encoder, id2label=names, label2id={v: k for k, v in names.items()}
    )
    model.save_pretrained("nli")
    AutoTokenizer.from_pretrained(encoder).save_pretrained("nli")
    assert "positive=" in run(door, eight_rows, "--pretrained=nli", ends=2).error
    assert "positive=" in door("doctor", f"--data_dir={eight_rows}", "--pretrained=nli").stdout
    said = run(door, eight_rows, "--pretrained=nli", "--model_args", "positive=entailment")
    assert "classes 0 not_entailment, 1 entailment (as asked)" in said.stderr


def test_head_of_three_classes_on_an_adapter_is_refused(
    encoder: Path, eight_rows: Path, elsewhere: Path, door: Callable[..., Outcome]
):
    model = AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=3)
    peft.get_peft_model(model, CLASSIFIERS["lora"]).save_pretrained("three")
    edit(Path("three"), base_model_name_or_path=str(encoder))
    assert "3 classes" in run(door, eight_rows, "--adapter=three", ends=2).error


def test_pickled_adapter_is_refused_and_loaded_where_pickles_are_allowed(
    answering: Path, eight_rows: Path, elsewhere: Path, door: Callable[..., Outcome]
):
    write(Path("safe"), answering, peft.LoraConfig(**LORA))
    shutil.copytree("safe", "pickled")
    torch.save(load_file("safe/adapter_model.safetensors"), "pickled/adapter_model.bin")
    Path("pickled/adapter_model.safetensors").unlink()
    assert "--allow_pickle" in run(door, eight_rows, "--adapter=pickled", ends=2).error
    run(door, eight_rows, "--adapter=pickled", "--allow_pickle")
    run(door, eight_rows, "--adapter=safe")
    assert answers(f"{answering.name}--pickled") == answers(f"{answering.name}--safe")
    assert door("doctor", "--adapter=pickled", "--allow_pickle", f"--data_dir={eight_rows}").code == 0
    Path("pickled/adapter_model.bin").write_bytes(b"no pickle")
    assert "damaged" in run(door, eight_rows, "--adapter=pickled", "--allow_pickle", ends=2).error


def test_adapter_given_as_a_model_is_sent_to_adapter(answering: Path, elsewhere: Path, door: Callable[..., Outcome]):
    write(Path("adapter"), answering, peft.LoraConfig(**LORA))
    assert "ADAPTER=" in door("run", "--pretrained=adapter").error
    assert "ADAPTER=" in door("doctor", "--pretrained=adapter").error


def test_chat_template_that_an_adapter_brings_is_applied(
    answering: Path, eight_rows: Path, elsewhere: Path, door: Callable[..., Outcome]
):
    write(Path("adapter"), answering, peft.LoraConfig(**LORA))
    tokenizer = AutoTokenizer.from_pretrained(answering)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained("adapter")
    said = run(door, eight_rows, "--adapter=adapter")
    assert "chat template on" in said.stderr
    assert "tokenizer the adapter's own" in said.stderr
    assert record(f"{answering.name}--adapter")["prompt"]["first"].startswith("<|im_start|>user")
    assert "tokenizer the adapter's own" in door("doctor", "--adapter=adapter", f"--data_dir={eight_rows}").stdout


def test_tokens_that_an_adapter_adds_fit_its_embeddings(
    answering: Path, eight_rows: Path, elsewhere: Path, door: Callable[..., Outcome]
):
    tokenizer = AutoTokenizer.from_pretrained(answering)
    tokenizer.add_tokens(["<|x1|>", "<|x2|>"])
    config = peft.LoraConfig(**LORA, modules_to_save=["embed_tokens", "lm_head"])
    adapted = write(Path("adapter"), answering, config, rows=len(tokenizer))
    tokenizer.save_pretrained("adapter")
    assert vocabulary_of("adapter", AutoModelForCausalLM.from_pretrained(answering)) == len(tokenizer)
    run(door, eight_rows, "--adapter=adapter")
    prompt = record(f"{answering.name}--adapter")["prompt"]["first"]
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    with torch.no_grad():
        written = adapted.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=10, do_sample=False)
    expected = str(tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True))
    assert expected.startswith(answers(f"{answering.name}--adapter")[0])  # which ends where the label is settled
