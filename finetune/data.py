"""From sentences to batches: what each kind of model is trained on, in which order."""

import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from harness_ext.errors import UserError
from harness_ext.task.prompts import encode_completions, encode_prompts, render_completion

IGNORED = -100  # a position without a target, as in torch's cross-entropy
BUCKET = 50  # batches whose rows are sorted by length together


def encode_sentences(tokenizer: Any, rows: Sequence[dict]) -> list[dict[str, Any]]:
    """Tokenise sentences for a classifier: for each row all that the tokenizer makes of it, and ``labels`` (the class)."""
    found = tokenizer([row["sentence"] for row in rows], return_attention_mask=True)
    return [{name: column[n] for name, column in found.items()} | {"labels": row["label"]} for n, row in enumerate(rows)]


def encode_examples(task: Any, tokenizer: Any, rows: Sequence[dict], render: Callable, chat: bool) -> list[dict[str, Any]]:
    """Tokenise a task's documents for a generative model, which `render` makes prompts of, in a chat template or not.

    A row has ``prompt`` (token ids), ``completions`` (of "0" and of "1", end token included) and ``labels``.
    """
    prompts = list(map(render, rows))
    answers = [[render_completion(task, {**row, "label": label}, chat) for row in rows] for label in (0, 1)]
    completions = zip(*(encode_completions(tokenizer, prompts, each) for each in answers), strict=True)
    encoded = zip(encode_prompts(tokenizer, prompts), completions, rows, strict=True)
    return [{"prompt": ids, "completions": pair, "labels": row["label"]} for ids, pair, row in encoded]


def collate_sentences(examples: list[dict], tokenizer: Any) -> dict[str, torch.Tensor]:
    """Pad sentences to the longest of their batch, on the right, which leaves positions as they are."""
    columns = {name: [example[name] for example in examples] for name in examples[0]}
    labels = torch.tensor(columns.pop("labels"))
    return {**tokenizer.pad(columns, padding_side="right", return_tensors="pt"), "labels": labels}


def collate_prompts(examples: list[dict], pad: int, prefix_length: int = 0) -> dict[str, torch.Tensor]:
    """Batch prompts after their shared prefix, padded on the left so that answers end in one column.

    Returns:
        ``input_ids`` and ``attention_mask`` ``(batch, tokens)``, ``targets`` (the next token at each position) of the same
        shape, ``is_answer`` (of the last positions, as many as there may be), ``choices`` ``(batch, 2)`` (the tokens that
        tell "0" and "1" apart), ``choice_at`` ``(batch,)`` (the position that predicts them, counted from the end) and
        ``labels`` ``(batch,)``.
    """
    pairs = [each["completions"] for each in examples]
    answers = [each["completions"][each["labels"]] for each in examples]
    rows = [torch.tensor(each["prompt"][prefix_length:] + answer) for each, answer in zip(examples, answers, strict=True)]
    differ_at = [next(n for n, (a, b) in enumerate(zip(*pair, strict=False)) if a != b) for pair in pairs]
    lengths = torch.tensor(list(map(len, answers)))
    padded = partial(pad_sequence, batch_first=True, padding_side="left")
    ids = padded(rows, padding_value=pad)
    from_end = torch.arange(max(map(len, answers)) + 1, 0, -1)
    return {
        "input_ids": ids,
        "attention_mask": padded([torch.ones_like(row) for row in rows]),
        "targets": padded([torch.cat([row[1:], torch.tensor([IGNORED])]) for row in rows], padding_value=IGNORED),
        "is_answer": (from_end > 1) & (from_end <= lengths[:, None] + 1),
        "choices": torch.tensor([[tokens[at] for tokens in pair] for pair, at in zip(pairs, differ_at, strict=True)]),
        "choice_at": lengths + 1 - torch.tensor(differ_at),
        "labels": torch.tensor([each["labels"] for each in examples]),
    }


def plan_batches(
    labels: Sequence[int], lengths: Sequence[int], steps: int, batch_size: int, seed: int, *, balanced: bool
) -> list[int]:
    """Plan the row numbers of all batches beforehand, so that a resumed run sees the rows that an uninterrupted one sees.

    Every row comes up once before any comes up again (within its class, if balanced); rows of similar length share a
    batch where there are rows enough. If balanced, a batch, then of even size, holds as many 0s as 1s.
    """
    rng = random.Random(f"order {seed}")
    classes = ([0], [1]) if balanced else ([0, 1],)
    groups = [[row for row, label in enumerate(labels) if label in each] for each in classes]
    share = batch_size // len(groups)
    streams = [_endless(group, rng) for group in groups]
    bucket = max(1, min(BUCKET, min(map(len, groups)) // (4 * share)))  # four buckets an epoch: mixed, yet short
    plan: list[int] = []
    while len(plan) < steps * batch_size:
        drawn = [sorted((next(stream) for _ in range(bucket * share)), key=lengths.__getitem__) for stream in streams]
        batches = [[row for rows in drawn for row in rows[n * share : (n + 1) * share]] for n in range(bucket)]
        rng.shuffle(batches)
        plan += [row for batch in batches for row in batch]
    return plan[: steps * batch_size]


def check_lengths(examples: Sequence[dict[str, Any]], context: int | None) -> None:
    """Refuse rows that the model cannot read whole."""
    lengths = list(map(length, examples))
    if context is not None and max(lengths) > context:
        raise UserError(
            f"{sum(each > context for each in lengths)} of {len(lengths)} training texts are too long: one has "
            f"{max(lengths)} tokens, but the model's context holds {context}. Choose another model, or leave them out."
        )


def length(example: dict[str, Any]) -> int:
    """Count the tokens of an example."""
    if "prompt" in example:
        return len(example["prompt"]) + len(example["completions"][example["labels"]])
    return len(example["input_ids"])


def _endless(rows: list[int], rng: random.Random) -> Iterator[int]:
    while True:
        yield from rng.sample(rows, len(rows))
