"""What is trained on: the evaluated prompt token for token, and batches planned beforehand."""

from collections import Counter

import pytest
import torch
from builders import CHAT_TEMPLATE, SENTENCES, THINKING_TEMPLATE, build_model, build_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from finetune.data import IGNORED, collate_prompts, encode_examples, length, plan_batches
from harness_ext.backend.answer import AnswerLM
from harness_ext.task.find import build_tasks
from harness_ext.task.prompts import chat_renderer, common_prefix, encode_completions, render_prompt

ROWS = [{"sentence": sentence, "label": label} for sentence, label in SENTENCES]


def task_of(eight_rows):
    (task,) = build_tasks(["sst2_01"], metadata={"data_dir": str(eight_rows)})
    task.set_config(key="num_fewshot", value=0)
    return task


@pytest.mark.parametrize("architecture", ["qwen2", "llama"])
@pytest.mark.parametrize(
    ("template", "bos"),
    [(None, False), (None, True), (CHAT_TEMPLATE, False), ("<s>" + CHAT_TEMPLATE, True), (THINKING_TEMPLATE, False)],
)
def test_trained_prompt_equals_evaluated_prompt_token_for_token(architecture, template, bos, eight_rows, tmp_path):
    folder = build_model(tmp_path / "model", architecture, chat_template=template, bos=bos)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    task, lm = task_of(eight_rows), AnswerLM(str(folder), device="cpu", dtype="float32")
    render = chat_renderer(tokenizer, {"enable_thinking": False}) if template else None
    examples = encode_examples(task, tokenizer, ROWS, lambda row: render_prompt(task, row, render), bool(template))
    for row, example in zip(ROWS, examples, strict=True):
        (evaluated,), _ = lm.tok_batch_encode([render_prompt(task, row, render)])
        assert example["prompt"] == evaluated.tolist()
        text = tokenizer.decode(example["completions"][row["label"]][:-1])
        assert text == (str(row["label"]) if template else f" {row['label']}")
        assert {each[-1] for each in example["completions"]} == {tokenizer.eos_token_id}


def test_completion_whose_tokens_span_the_border_is_tokenised_alone():
    tokenizer = build_tokenizer("llama", lines=["abab abab abab"] * 5)
    assert len(tokenizer("abab")["input_ids"]) < len(tokenizer("aba")["input_ids"]) + 1  # the border falls into a token
    (completion,) = encode_completions(tokenizer, ["aba"], ["b"])
    assert completion == [*tokenizer("b")["input_ids"], tokenizer.eos_token_id]


def test_shared_prefix_leaves_every_prompt_a_rest():
    assert common_prefix([[1, 2, 3], [1, 2, 4]]) == [1, 2]
    assert common_prefix([[1, 2], [1, 2, 4]]) == [1]
    assert common_prefix([[1, 2, 3]]) == [1, 2]
    assert common_prefix([[5], [1]]) == []


def test_batch_of_prompts_ends_in_one_column_and_targets_only_what_follows():
    examples = [
        {"prompt": [9, 9, 1, 2, 3], "completions": [[5, 6, 0], [5, 7, 0]], "labels": 1},
        {"prompt": [9, 9, 4], "completions": [[5, 6, 0], [5, 7, 0]], "labels": 0},
    ]
    batch = collate_prompts(examples, 8, 2)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 5, 7, 0], [8, 8, 4, 5, 6, 0]]
    assert batch["attention_mask"].tolist() == [[1] * 6, [0, 0, 1, 1, 1, 1]]
    assert batch["targets"].tolist() == [[2, 3, 5, 7, 0, IGNORED], [IGNORED, IGNORED, 5, 6, 0, IGNORED]]
    assert batch["is_answer"].int().tolist() == [[1, 1, 1, 0]] * 2  # of the last four positions
    assert batch["choices"].tolist() == [[6, 7]] * 2
    at = torch.arange(2), batch["input_ids"].shape[1] - batch["choice_at"]
    assert batch["targets"][at].tolist() == [7, 6]  # the position that predicts the digit


@given(st.integers(2, 40), st.integers(2, 40), st.integers(1, 30), st.sampled_from([2, 4, 8]), st.integers(0, 5))
def test_planned_batches_are_balanced_and_use_each_row_before_any_again(zeros, ones, steps, batch_size, seed):
    labels = [0] * zeros + [1] * ones
    lengths = [5 + row % 7 for row in range(len(labels))]
    plan = plan_batches(labels, lengths, steps, batch_size, seed, balanced=True)
    assert len(plan) == steps * batch_size
    for start in range(0, len(plan), batch_size):
        assert sum(labels[row] for row in plan[start : start + batch_size]) * 2 == batch_size
    assert plan == plan_batches(labels, lengths, steps, batch_size, seed, balanced=True)


@pytest.mark.parametrize("balanced", [True, False])
def test_planned_batches_come_back_to_a_row_only_after_all_others(balanced):
    labels, lengths = [0, 1] * 64, list(range(128))
    counts = Counter(plan_batches(labels, lengths, 32, 8, 0, balanced=balanced))
    assert set(counts.values()) == {2}  # 32 * 8 = 2 * 128


def test_planned_batches_of_many_rows_hold_rows_of_similar_length():
    labels, lengths = [0, 1] * 2000, [row % 100 for row in range(4000)]
    plan = plan_batches(labels, lengths, 100, 16, 0, balanced=True)
    spreads = []
    for start in range(0, 1600, 16):
        batch = [lengths[row] for row in plan[start : start + 16]]
        spreads.append(max(batch) - min(batch))
    assert sum(spreads) / len(spreads) < 10  # of 100; unsorted it is about 88


def test_length_counts_prompt_and_answer():
    assert length({"prompt": [1, 2], "completions": [[3, 4], [3, 5]], "labels": 0}) == 4
    assert length({"input_ids": [1, 2, 3], "labels": 0}) == 3
