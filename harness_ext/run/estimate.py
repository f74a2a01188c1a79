"""What a planned run needs and what there is: disk, context and memory, before anything large is downloaded or loaded.

Estimates may be wrong, so a run does not stop for them; `doctor` prints them.
"""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

from harness_ext import hub
from harness_ext.errors import UserError, writing_to
from harness_ext.model import memory
from harness_ext.model.adapters import virtual_tokens
from harness_ext.model.checkpoints import Checkpoint
from harness_ext.model.lengths import check_sentences, context_length, sentences_of
from harness_ext.model.memory import in_words
from harness_ext.model.quantisation import stored
from harness_ext.run.checks import NOTE, OK, PROBLEM, Checks
from harness_ext.run.plan import Plan
from harness_ext.run.run_plan import RunPlan
from harness_ext.task.prompts import encode_prompts, template_hash


def estimate(plan: Plan) -> dict[str, int]:
    """Add what a plan's runs need to its checks.

    Returns:
        Estimated bytes of the last run, by what they are for, and those of the device.
    """
    checks, found = plan.checks, {}
    if plan.subject and plan.subject.base:
        _disk(plan.subject.base, checks)
    with checks.problem("results"):
        _check_out(Path(plan.spec.output_path))
    for run in plan.runs:
        if run.asked.settings:
            found = _run(run, checks)
    return found


def too_long(run: RunPlan) -> list[int]:
    """Return which documents of a run, by place, the model cannot read whole; none where nothing tells how much it reads."""
    if run.asked.settings is None:
        return []
    lengths, room = _lengths_of_sentences(run) if run.asked.subject.reads_sentence else _lengths_of_prompts(run)
    return [place for place, length in enumerate(lengths) if room and length > room]


def _run(run: RunPlan, checks: Checks) -> dict[str, int]:
    asked, lengths = run.asked, [0]
    kind = "fast" if getattr(asked.tokenizer, "is_fast", False) else "slow"
    checks.say("tokenizer", f"{kind}, {len(asked.tokenizer)} tokens")
    if asked.subject.reads_sentence:
        with checks.problem("context"):
            _check_sentences(run, checks)
    else:
        renders = f"{template_hash(asked.tokenizer)}, renders" if asked.chat_template else "none: prompts go as they are"
        checks.say("chat template", renders)
        with checks.problem("begin token"):
            rows = encode_prompts(asked.tokenizer, run.prompts)
            lengths = list(map(len, rows))
            begin = asked.tokenizer.bos_token_id
            checks.say("begin token", f"{int(begin is not None and begin in rows[0])} in a prompt")
        with checks.problem("context"):
            _check_context(run, lengths, checks)
    return _memory(run, max(lengths), checks)


def _disk(base: Checkpoint, checks: Checks) -> None:
    if Path(base.path).is_dir():
        return
    from huggingface_hub import constants

    needed = sum(size for file, size in base.weights.items() if not hub.is_cached(base.path, file, base.revision))
    cache = Path(constants.HF_HUB_CACHE)
    free = shutil.disk_usage(next(path for path in (cache, *cache.parents) if path.exists())).free
    said = f"{in_words(needed)} to download, {in_words(free)} free in the Hub's cache"
    if needed > free:
        checks.say("disk", f"{said}. Make room, or set HF_HOME to a larger disk.", PROBLEM)
    else:
        checks.say("disk", said)


def _check_out(out: Path) -> None:
    with writing_to(out):
        first = next(path for path in (out, *out.absolute().parents) if path.exists())
        if not first.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{first} is no folder")
        if not os.access(first, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, f"{first} is not yours to write to")


def _check_sentences(run: RunPlan, checks: Checks) -> None:
    """Compare the longest sentence with what a classifier reads."""
    lengths, room = _lengths_of_sentences(run)
    check_sentences(lengths, room)
    checks.say("context", f"the longest sentence has {max(lengths)} tokens{f' of {room}' if room else ', no limit'}")


def _lengths_of_sentences(run: RunPlan) -> tuple[list[int], int | None]:
    """Count the tokens of a run's sentences, and those that a classifier reads."""
    asked = run.asked
    lengths = list(map(len, asked.tokenizer(sentences_of(asked.task.eval_docs))["input_ids"]))
    config = memory.text_config(asked.subject.base.config)  # type: ignore[union-attr]
    limit = context_length(config) if config is not None else None
    return lengths, limit and limit - virtual_tokens(asked.subject.adapter)


def _lengths_of_prompts(run: RunPlan) -> tuple[list[int], int | None]:
    """Count the tokens of a run's prompts, and those that the model reads before it answers."""
    rows = encode_prompts(run.asked.tokenizer, run.prompts)
    room, budget = _context(run)
    return list(map(len, rows)), room and room - budget


def _context(run: RunPlan) -> tuple[int | None, int]:
    """Return how many tokens the model's context holds, as HFLM finds it, and how many an answer may have."""
    subject = run.asked.subject
    text = memory.text_config(subject.base.config)  # type: ignore[union-attr]
    room = subject.args.get("max_length") or getattr(text, "max_position_embeddings", None)
    return room and int(room), 0 if subject.frozen else _budget(run.asked.task)


def _check_context(run: RunPlan, lengths: list[int], checks: Checks) -> None:
    """Compare the context with what a run needs of it."""
    longest, (room, budget) = max(lengths), _context(run)
    if room is None:
        checks.say("context", "its length is not in the config", NOTE)
    elif longest + budget > room:
        raise UserError(
            f"{sum(length + budget > room for length in lengths)} of {len(lengths)} prompts are too long: one has "
            f"{longest} tokens and its answer {budget}, but the model's context holds {room}. "
            "Choose a model with a longer context, fewer examples (--num_fewshot) or a shorter answer "
            "(ARGS='--gen_kwargs max_gen_toks=N')."
        )
    else:
        checks.say("context", f"{longest} + {budget} tokens of {room}")


def _memory(run: RunPlan, longest: int, checks: Checks) -> dict[str, int]:
    """Compare what a run needs with what the device has."""
    subject, settings, task = run.asked.subject, run.asked.settings, run.asked.task
    assert subject.base is not None
    assert settings is not None
    config = subject.base.config
    rows = settings.batch_size if isinstance(settings.batch_size, int) else 1
    batch = f"a batch of {rows}" if isinstance(settings.batch_size, int) else "each row of a batch"
    weights = memory.weights_bytes(config, sum(subject.base.weights.values()), settings.dtype, subject.quantise)
    row = memory.logits_bytes(config, 1, 1 if task.OUTPUT_TYPE == "generate_until" else longest)
    if not subject.reads_sentence:  # it reads a sentence once and keeps nothing of it
        row += memory.cache_bytes(config, longest + _budget(task), settings.dtype)
    total, free = memory.total(settings.device), memory.available(settings.device)
    fitting = (free - weights) // max(row, 1)
    is_quantised = subject.quantise or stored(config)
    smaller = "a smaller model" if is_quantised else "QUANT=nf4 or a smaller model"
    state, more = OK, ""
    if weights > total:
        state, more = PROBLEM, f". Too little: take {smaller}."
    elif fitting < 1:
        state, more = PROBLEM, f". Too little now: free some, or take {smaller}."
    elif fitting < rows and settings.thinking:
        state, more = NOTE, f". So much only if all answers use their whole budget; BATCH={fitting} fits even then."
    elif fitting < rows:
        state, more = PROBLEM, f". Too little now: take BATCH={fitting}."
    said = f"about {in_words(weights + rows * row)}: weights {in_words(weights)}, {batch} {in_words(rows * row)}"
    checks.say("memory", f"{said}; {settings.device} has {in_words(total)}, {in_words(free)} free{more}", state)
    return {"weights": weights, "batch": rows * row, "needed": weights + rows * row, "free": free, "total": total}


def _budget(task: Any) -> int:
    """Return the most tokens that an answer may have."""
    return int((task.config.generation_kwargs or {}).get("max_gen_toks", 256)) if task.OUTPUT_TYPE == "generate_until" else 1
