"""What lm-eval's ``vllm`` is built with: the checks and settings that need no vLLM.

Source: ``lm_eval/models/vllm_causallms.py`` and vLLM's ``vllm/config/lora.py`` (as of v0.27.1).
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from harness_ext.backend.subject import Subject
from harness_ext.errors import UserError
from harness_ext.model.adapters import brings_tokenizer
from harness_ext.model.checkpoints import Checkpoint, is_classifier
from harness_ext.model.gguf import LINK
from harness_ext.model.settings import Settings
from harness_ext.task.labels import ends_open

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM reserves room for; an adapter may use less of it
ROOM = 4096  # tokens beyond those needed, for a later task; the model's whole context may need more cache than there is
DEFAULT_BUDGET = 256  # lm-eval's
OURS = {"pretrained", "peft", "revision", "dtype", "chat_template_args", "enable_thinking"}  # of the arguments


def check(base: Checkpoint, adapter: Checkpoint | None) -> None:
    """Check what can be checked before anything is loaded."""
    if find_spec("vllm") is None:
        raise UserError("BACKEND=vllm needs the package vllm: `.venv/bin/pip install -e '.[vllm]'` (a GPU with CUDA).")
    if is_classifier(base, adapter):
        raise UserError(f"Model {base.name!r} answers with a class, not with text. Leave BACKEND= out.")
    if adapter:
        lora_rank(adapter)


def lora_rank(adapter: Checkpoint) -> int:
    """Return the room for ranks that vLLM needs for an adapter: its highest rank, rounded up to what vLLM allows."""
    rank = max([adapter.config.get("r") or 0, *(adapter.config.get("rank_pattern") or {}).values()])
    if rank > LORA_RANKS[-1]:
        raise UserError(
            f"Adapter {adapter.name!r} has rank {rank}, and vLLM takes at most {LORA_RANKS[-1]}. Leave BACKEND=vllm out, or "
            "merge the adapter into its base."
        )
    return next(room for room in LORA_RANKS if rank <= room)


def needed_tokens(task: Any, tokenizer: Any, prompts: Sequence[str]) -> int:
    """Count the tokens of a task's longest prompt and of its answer's budget together.

    Raises:
        UserError: The prompts open a thinking block: lm-eval's ``vllm`` shows an answer only from there on, so that thinking
            which does not end would be read as the answer.
    """
    from harness_ext.task.prompts import encode_prompts

    if ends_open(prompts[0]):
        raise UserError(
            "The chat template opens the thinking block itself, which BACKEND=vllm cannot tell from an answer. Leave it out."
        )
    budget = (task.config.generation_kwargs or {}).get("max_gen_toks", DEFAULT_BUDGET)
    return max(map(len, encode_prompts(tokenizer, list(prompts)))) + (budget if isinstance(budget, int) else DEFAULT_BUDGET)


def model_args(subject: Subject, settings: Settings, tokens: int) -> dict[str, Any]:
    """Return the arguments of lm-eval's ``vllm``, the user's among them; vLLM itself finds how the weights are quantised.

    Raises:
        UserError: The model's context is shorter than the tokens that are needed.
    """
    base, adapter = subject.base, subject.adapter
    assert base is not None
    context = base.config.get("max_position_embeddings") or tokens + ROOM
    if tokens > context:
        raise UserError(
            f"The longest prompt and the answer's budget have {tokens} tokens, but the model's context holds {context}. "
            "Allow fewer (ARGS='--gen_kwargs max_gen_toks=N'), or choose a model with a longer context."
        )
    args = {
        "pretrained": base.path, "revision": base.revision, "dtype": settings.dtype, "batch_size": settings.batch_size,
        "enable_prefix_caching": True, "max_model_len": min(context, tokens + ROOM),
    }  # fmt: skip
    if base.file:
        args |= {"pretrained": str(Path(base.path, LINK)), "tokenizer": base.path, "hf_config_path": base.path}
    if adapter:
        args |= {"lora_local_path": adapter.path, "max_lora_rank": lora_rank(adapter)}
    args |= {name: value for name, value in subject.args.items() if name not in OURS}
    if subject.tokenizer:
        args |= {"tokenizer": subject.tokenizer.path, "tokenizer_revision": subject.tokenizer.revision}
    elif adapter and brings_tokenizer(adapter):
        args["tokenizer"] = adapter.path
    return args


def check_room(lm: Any, tokens: int) -> None:
    """Check that a task fits what the engine was started for, by another task or the user; lm-eval would cut the prompts."""
    if tokens > lm.max_length:
        raise UserError(
            f"The task needs {tokens} tokens, but vLLM was started for {lm.max_length}. Run it alone, without max_model_len."
        )
