"""A classifier in batches says what transformers and peft alone say of each sentence, whatever its architecture."""

import functools
import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from builders import SENTENCES, build_tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from harness_ext.backend.classifier import ClassifierLM
from harness_ext.model.adapters import find_adapter, whole_tensors

TEXTS = [" ".join([sentence] * times) for times, (sentence, _) in enumerate(SENTENCES, 1)]  # 5 to 80 tokens
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
MODELS = {
    "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 2},  # absolute positions, counted from the left
    "OPT": {"hidden_size": 32, "ffn_dim": 64, "word_embed_proj_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
    "Llama": {**SIZES, "num_key_value_heads": 1},
    "Bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 2},  # ALiBi
    "Bert": SIZES,
    "Roberta": {**SIZES, "max_position_embeddings": 200},  # positions begin behind the padding token's number
    "MPNet": {**SIZES, "max_position_embeddings": 200},
    "XLNet": {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64},  # reads the last token, padding and all
    "FNet": {**SIZES, "type_vocab_size": 4},  # knows no attention mask
    "Jamba": {
        **SIZES,
        "num_key_value_heads": 1,
        "use_mamba_kernels": False,
        "num_experts": 2,
        "attn_layer_offset": 1,
        "attn_layer_period": 2,
    },  # keeps a state
}


def write(folder: Path, name: str, padding_side: str = "left", **config: object) -> Path:
    """Write a random two-class model, its weights so large that positions and masks matter."""
    tokenizer = build_tokenizer("llama")
    tokenizer.padding_side = padding_side
    special = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
    fields = {"vocab_size": len(tokenizer), "num_labels": 2, **special, **MODELS[name], **config}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = getattr(transformers, f"{name}ForSequenceClassification")(getattr(transformers, f"{name}Config")(**fields))
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.data.normal_(0, 0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def one_by_one(folder: Path) -> list[list[float]]:
    """Ask transformers alone, a sentence at a time."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    accepted = set(inspect.signature(model.forward).parameters)
    with torch.no_grad():
        inputs = [tokenizer(text, return_tensors="pt") for text in TEXTS]
        return [
            model(**{name: value for name, value in each.items() if name in accepted}).logits[0].log_softmax(-1).tolist()
            for each in inputs
        ]


@pytest.mark.parametrize("name", MODELS)
def test_batch_gives_what_transformers_gives_for_each_sentence(name: str, tmp_path: Path):
    write(tmp_path, name)
    lm = ClassifierLM(str(tmp_path))
    for ours, theirs in zip(lm.classify(TEXTS), one_by_one(tmp_path), strict=True):
        assert list(ours) == pytest.approx(theirs, abs=1e-3)
    assert lm.account.self_check is not None
    assert lm.account.self_check["passed"]
    expected = {"XLNet": ("left", False), "FNet": (None, False)}.get(name, ("right", False))
    assert (lm.account.path["padding"], lm.account.path["alone"]) == expected


def test_model_whose_logits_are_nan_behind_padding_is_asked_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path, "Bert")
    model = transformers.BertForSequenceClassification
    forward = model.forward

    @functools.wraps(forward)
    def overflowing(self, **inputs):
        output = forward(self, **inputs)
        output.logits[(inputs["attention_mask"] == 0).any(1)] = torch.nan
        return output

    monkeypatch.setattr(model, "forward", overflowing)
    lm = ClassifierLM(str(tmp_path))
    for ours, theirs in zip(lm.classify(TEXTS), one_by_one(tmp_path), strict=True):
        assert list(ours) == pytest.approx(theirs, abs=1e-3)
    assert (lm.account.path["padding"], lm.account.path["alone"]) == (None, False)


def test_padding_token_that_ends_every_text_is_not_taken_for_padding(tmp_path: Path):
    write(tmp_path, "Llama", pad_token_id=None)
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = ends_with(tokenizer.eos_token, tokenizer.eos_token_id)
    tokenizer.save_pretrained(tmp_path)
    lm = ClassifierLM(str(tmp_path))
    for ours, theirs in zip(lm.classify(TEXTS), one_by_one(tmp_path), strict=True):
        assert list(ours) == pytest.approx(theirs, abs=1e-3)
    assert lm.account.path["alone"]


def ends_with(token: str, number: int):
    from tokenizers.processors import TemplateProcessing

    return TemplateProcessing(single=f"$A {token}", special_tokens=[(token, number)])


def test_adapter_that_merging_damages_stays_unmerged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import peft

    base = write(tmp_path / "base", "Bert")
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(base)
    adapted = peft.get_peft_model(model, peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"]))
    for name, weight in adapted.named_parameters():
        if "lora_" in name:
            weight.data.normal_()
    adapted.save_pretrained(str(tmp_path / "adapter"))
    with torch.no_grad():
        tokenizer = AutoTokenizer.from_pretrained(base)
        logits = [adapted.eval()(**tokenizer(text, return_tensors="pt")).logits[0] for text in TEXTS]
    head = [name for name, _ in model.named_parameters() if name.startswith("classifier")]
    for is_merged in (True, False):
        if not is_merged:  # merging now only takes the adapter off
            monkeypatch.setattr(peft.tuners.lora.model.LoraModel, "merge_and_unload", peft.tuners.lora.LoraModel.unload)
        lm = ClassifierLM(str(base), peft=str(tmp_path / "adapter"), head=head)
        for ours, theirs in zip(lm.classify(TEXTS), logits, strict=True):
            assert list(ours) == pytest.approx(theirs.log_softmax(-1).tolist(), abs=1e-3)
        assert lm.account.path["merged"] is is_merged


@pytest.mark.parametrize(
    ("apart", "dtype", "ties"), [(0.0, "float32", 8), (1e-3, "float32", 0), (2**-7, "bfloat16", 8), (2**-6, "bfloat16", 0)]
)
def test_near_ties_are_documents_whose_logits_the_dtype_hardly_tells_apart(
    apart: float, dtype: str, ties: int, tmp_path: Path
):
    write(tmp_path, "Bert")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    model.classifier.weight.data.zero_()
    model.classifier.bias.data = torch.tensor([1.0, 1.0 + apart])  # the logits themselves: bfloat16's eps is 2^-7
    model.save_pretrained(tmp_path)
    lm = ClassifierLM(str(tmp_path), dtype=dtype)
    requests = [
        SimpleNamespace(doc_id=n, doc={"sentence": text}, args=("", f" {digit}"), idx=int(digit))
        for n, text in enumerate(TEXTS)
        for digit in "01"
    ]
    lm.loglikelihood(requests)
    assert lm.account.near_ties == ties


@pytest.mark.real
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_minilm_with_an_adapter_answers_in_batches_as_alone(dtype: str, real_models: Path, tmp_path: Path):
    import peft

    base = real_models / "all-MiniLM-L6-v2"
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(base, dtype=getattr(torch, dtype), num_labels=2)
    config = peft.LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query", "value"], init_lora_weights=False)
    adapted = peft.get_peft_model(model, config).eval()
    adapted.save_pretrained(str(tmp_path))
    head = list(whole_tensors(find_adapter(str(tmp_path))))
    lm = ClassifierLM(str(base), dtype=dtype, peft=str(tmp_path), head=head)
    tokenizer = AutoTokenizer.from_pretrained(base)
    with torch.no_grad():
        alone = [adapted(**tokenizer(text, return_tensors="pt")).logits[0].float().log_softmax(-1) for text in TEXTS]
    apart = (torch.tensor(lm.classify(TEXTS)) - torch.stack(alone)).abs().max()
    assert apart < {"float32": 1e-5, "bfloat16": 0.05}[dtype]
    assert lm.account.path == lm.account.path | {"padding": "right", "merged": dtype == "float32", "alone": False}
