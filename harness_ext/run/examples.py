"""`SHOTS=n`: the rows that `finetune` would train on stand in every prompt, the same before each document.

lm-eval draws other examples for every document, so that prompts share their instruction alone and no two runs of another
method see the same rows.
"""

import random
from typing import Any

from lm_eval.api.samplers import FirstNSampler

from harness_ext.errors import UserError
from harness_ext.model import memory
from harness_ext.model.checkpoints import Checkpoint
from harness_ext.model.lengths import context_length
from harness_ext.task.prompts import encode_prompts
from harness_ext.task.subsets import Subset

_LOOKED_AT = 8  # prompts, the longest in letters, of which one is the longest in tokens


def put_before(task: Any, subset: Subset, seed: int) -> None:
    """Let a task's prompts begin with the rows of a subset, in an order that follows from the seed."""
    rows = list(subset.rows)
    random.Random(f"examples {seed}").shuffle(rows)
    task.sampler = FirstNSampler(task.dataset["train"].select(rows).to_list())
    task.set_config(key="num_fewshot", value=len(rows))


def check_room(base: Checkpoint, tokenizer: Any, prompts: list[str], answer: int, shots: int) -> None:
    """Check that prompts with examples, and an answer of so many tokens, fit the model's context."""
    config = memory.text_config(base.config)
    room = context_length(config) if config is not None else None
    if room is None:
        return
    longest = max(map(len, encode_prompts(tokenizer, sorted(prompts, key=len)[-_LOOKED_AT:])))
    if longest + answer > room:
        fitting = int(shots * (room - answer) / longest) // 2 * 2
        raise UserError(
            f"SHOTS {shots} does not fit: a prompt has up to {longest:,} tokens and its answer {answer}, but the context of "
            f"{base.name!r} holds {room:,}. {f'About SHOTS={fitting} would' if fitting > 0 else 'Leave SHOTS out'}."
        )
