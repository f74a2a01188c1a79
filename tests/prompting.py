"""A model of ours asked directly, and the same of transformers and peft alone."""

from pathlib import Path
from typing import Any

import torch
from builders import LINES, SENTENCES
from lm_eval.api.instance import Instance
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPTS = [f"{LINES[1]}\nSentence: {sentence}\nAnswer:" for sentence, _ in SENTENCES[:5]]


def answer_lm(model: Path, **options: Any) -> Any:
    """Load a model as a run does; `options` are those of `AnswerLM`."""
    from harness_ext.backend.answer import AnswerLM

    return AnswerLM(pretrained=str(model), **{"device": "cpu", "dtype": "float32", "batch_size": "auto", **options})


def texts(lm: Any, tokens: int = 8, prompts: list[str] = PROMPTS) -> list[str]:
    """Let a model of ours write after each prompt."""
    settings = {"until": [], "max_gen_toks": tokens, "do_sample": False}
    return lm.generate_until(
        [Instance("generate_until", {}, (prompt, dict(settings)), 0, ("t", n, 1)) for n, prompt in enumerate(prompts)]
    )


def plain_texts(model: Path, adapter: Path | None = None, tokens: int = 8, prompts: list[str] = PROMPTS) -> list[str]:
    """Let transformers and peft write after each prompt, one at a time; once for the same files and copies of them."""
    key = (_state(model), adapter and _state(adapter), tokens, tuple(prompts))
    if key not in _plain:
        _plain[key] = _plain_texts(model, adapter, tokens, prompts)
    return _plain[key]


_plain: dict[tuple[Any, ...], list[str]] = {}


def _state(folder: Path) -> tuple[tuple[str, int, int], ...]:
    return tuple(sorted((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in folder.iterdir()))


def _plain_texts(model: Path, adapter: Path | None, tokens: int, prompts: list[str]) -> list[str]:
    from peft import PeftModel

    tokenizer = AutoTokenizer.from_pretrained(adapter if adapter and (adapter / "tokenizer.json").exists() else model)
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    if adapter:
        loaded = PeftModel.from_pretrained(loaded, adapter).eval()
    written = []
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt")
        output = loaded.generate(
            **ids, max_new_tokens=tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id, tokenizer=tokenizer
        )
        written.append(str(tokenizer.decode(output[0, ids.input_ids.shape[1] :], skip_special_tokens=True)))
    return written


def choices(lm: Any, prompts: list[str] = PROMPTS) -> list[float]:
    """Ask a model of ours for the log-probability of " 0" after each prompt."""
    requests = [Instance("loglikelihood", {}, (prompt, " 0"), 0, ("t", n, 1)) for n, prompt in enumerate(prompts)]
    return [score for score, _ in lm.loglikelihood(requests)]


def write_until(
    reader: Any, rows: list, is_done: Any, limit: int | None = None, config: Any = None, **choosing: Any
) -> None:
    """Let the engine write after rows, at most `limit` at a time."""
    from harness_ext.backend.batches import Room
    from harness_ext.backend.engine import write
    from harness_ext.backend.next_token import NextToken

    room = Room(reader.device, reader.model, lambda width: 0, limit=limit)
    write(reader, rows, NextToken(reader, config, **choosing), is_done, lambda row: None, room)
