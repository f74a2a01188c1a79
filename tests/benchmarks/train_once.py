"""One measured training run: `python train_once.py ours|plain|trl`; prints steps/s and peak memory as JSON.

The same model, LoRA weights, rows, order and loss (completion only) for all three: a Qwen2 body of 26 million random
parameters under a vocabulary of 151,936, batches of 16, SST-2's prompt over the embedded sentences.

`python train_once.py command --samples=64 ...` is `python -m finetune` instead, and prints the seconds of its parts.
"""

import functools
import json
import sys
import tempfile
import time
import warnings
from typing import Any

import torch
from transformers import (
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Qwen2Config,
    Qwen2ForCausalLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import finetune.__main__
from finetune import head
from finetune.config import Recipe
from finetune.data import collate_prompts, encode_examples, plan_batches
from finetune.model import add_lora
from finetune.trainers import PromptTrainer
from harness_ext.model.loading import quieten_libraries
from harness_ext.model.memory import peak_memory_bytes
from harness_ext.paths import SHIPPED
from harness_ext.task.find import build_tasks
from harness_ext.task.prompts import common_prefix, render_prompt

BATCH, STEPS, WARM_UP = 16, 8, 2
RECIPE = Recipe(kind="generative", learning_rate=1e-4, batch_size=BATCH, steps={16: STEPS})


class Clock(TrainerCallback):
    """Times the steps after the first ones."""

    started = stopped = 0.0

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == WARM_UP:
            self.started = time.perf_counter()
        self.stopped = time.perf_counter()


def build_model(tokenizer):
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=151_936, hidden_size=512, intermediate_size=1408, num_hidden_layers=8, num_attention_heads=8,
        num_key_value_heads=4, tie_word_embeddings=True, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    return Qwen2ForCausalLM(config)


def as_rows(examples):
    """Rows as plain trainers take them: whole texts, labels on the completion."""
    rows = []
    for example in examples:
        prompt, completion = example["prompt"], example["completions"][example["labels"]]
        ids = prompt + completion
        labels = [-100] * len(prompt) + completion
        rows.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels})
    return rows


def build_trainer(variant, folder):
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED["tiny-base"])
    (task,) = build_tasks(["sst2_01_mini"], metadata={"train_only": True})
    task.set_config(key="num_fewshot", value=0)
    documents = task.dataset["train"].to_list()
    examples = encode_examples(task, tokenizer, documents, lambda row: render_prompt(task, row), False)
    labels, lengths = [example["labels"] for example in examples], [len(example["prompt"]) for example in examples]
    examples = [examples[row] for row in plan_batches(labels, lengths, STEPS, BATCH, 0, balanced=True)]
    common = {
        "max_steps": STEPS, "per_device_train_batch_size": BATCH, "use_cpu": True, "report_to": "none",
        "train_sampling_strategy": "sequential", "save_strategy": "no", "disable_tqdm": True, "output_dir": folder,
    }  # fmt: skip
    model = add_lora(build_model(tokenizer), RECIPE)
    if variant == "ours":
        prefix = common_prefix([example["prompt"] for example in examples])
        arguments = TrainingArguments(**common, remove_unused_columns=False, label_names=["labels"])
        collate: Any = functools.partial(collate_prompts, pad=tokenizer.pad_token_id, prefix_length=len(prefix))
        trainer = PromptTrainer(model=model, args=arguments, train_dataset=examples, data_collator=collate)
        trainer.prefix = torch.tensor(prefix)
        return trainer
    collate = DataCollatorForSeq2Seq(tokenizer)
    if variant == "plain":
        return Trainer(model=model, args=TrainingArguments(**common), train_dataset=as_rows(examples), data_collator=collate)
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    arguments = SFTConfig(**common, bf16=False, dataset_kwargs={"skip_prepare_dataset": True}, max_length=None)
    return SFTTrainer(
        model=model, args=arguments, train_dataset=Dataset.from_list(as_rows(examples)), data_collator=collate,
        processing_class=tokenizer,
    )  # fmt: skip


def time_command(words):
    """Run the command and print the seconds of its steps (forward and backward), scoring and heads, and of the process."""
    seconds: dict[str, float] = {}

    def clock(owner, name, said):
        plain = getattr(owner, name)

        def clocked(*args, **kwargs):
            begun = time.perf_counter()
            try:
                return plain(*args, **kwargs)
            finally:
                seconds[said] = seconds.get(said, 0) + time.perf_counter() - begun

        setattr(owner, name, clocked)

    clock(Trainer, "training_step", "steps_s")
    clock(Trainer, "evaluation_loop", "scoring_s")
    clock(head, "fit", "heads_s")
    assert finetune.__main__.main(words) == 0
    print(json.dumps(seconds | {"cpu_s": time.process_time()}))


def main():
    if sys.argv[1] == "command":
        return time_command(sys.argv[2:])
    quieten_libraries()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(sys.argv[1], folder)
        clock = Clock()
        trainer.add_callback(clock)
        before = peak_memory_bytes()["process"]
        trainer.train()
    seconds = clock.stopped - clock.started
    print(json.dumps({
        "steps_per_s": (STEPS - WARM_UP) / seconds,
        "samples_per_s": (STEPS - WARM_UP) * BATCH / seconds,
        "peak_bytes": peak_memory_bytes()["process"],
        "peak_bytes_over_model": peak_memory_bytes()["process"] - before,
        "first_loss": trainer.state.log_history[0].get("train_loss"),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
