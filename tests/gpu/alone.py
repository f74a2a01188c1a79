"""What transformers, peft and bitsandbytes alone answer: one document at a time, no padding, no merge, no harness."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from builders import LINES
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from gpu.conftest import ROWS, free


class Choice(NamedTuple):
    """What is chosen, and by how much: the difference of the two scores that decide."""

    label: str
    margin: float


@torch.inference_mode()
def prompted(
    folder: Path,
    device: str,
    dtype: str,
    *,
    adapter: Path | None = None,
    nf4: bool = False,
    words: tuple[str, str] = (" 0", " 1"),
) -> list[Choice]:
    """Ask for the next token after the task's prompt, and choose between two."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = _load(AutoModelForCausalLM, folder, device, dtype, adapter, nf4)
    answers = [tokenizer(word, add_special_tokens=False).input_ids[-1] for word in words]
    found = []
    for sentence, _ in ROWS:
        prompt = f"{LINES[0]}\n{LINES[1]}\n\nSentence: {sentence}\nAnswer:"
        logits = model(tokenizer(prompt, return_tensors="pt").input_ids.to(device)).logits[0, -1].float()
        zero, one = logits[answers].tolist()
        found.append(Choice(str(int(one > zero)), one - zero))
    del model
    free()
    return found


@torch.inference_mode()
def classified(folder: Path, device: str, *, adapter: Path) -> list[Choice]:
    """Classify each sentence by itself."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = _load(
        AutoModelForSequenceClassification, folder, device, "float32", adapter, pad_token_id=tokenizer.pad_token_id
    )
    found = []
    for sentence, _ in ROWS:
        zero, one = model(**tokenizer(sentence, return_tensors="pt").to(device)).logits[0].tolist()
        found.append(Choice(str(int(one > zero)), one - zero))
    del model
    free()
    return found


def turned(predictions: list[Any], alone: list[Choice]) -> list[float]:
    """Return the margins of the documents that got another label, as shares of the largest margin."""
    largest = max(abs(choice.margin) for choice in alone)
    pairs = zip(predictions, alone, strict=True)
    return [abs(choice.margin) / largest for prediction, choice in pairs if prediction != choice.label]


def _load(
    auto: Any,
    folder: Path,
    device: str,
    dtype: str,
    adapter: Path | None,
    nf4: bool = False,
    pad_token_id: int | None = None,
) -> Any:
    options: dict[str, Any] = {"dtype": getattr(torch, dtype)}
    if auto is AutoModelForSequenceClassification:
        options |= {"num_labels": 2}
    if nf4:
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=options["dtype"],
        )
        options["device_map"] = {"": device}
    model = auto.from_pretrained(folder, **options)
    if pad_token_id is not None:
        model.config.pad_token_id = pad_token_id
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(adapter), autocast_adapter_dtype=False)
    return (model if nf4 else model.to(device)).eval()
