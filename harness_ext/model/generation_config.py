"""A generative model's own settings beside its weights: how it writes by its generation config, and where its texts end.

Knows transformers' names for them; loads no weights.
"""

from typing import Any

from harness_ext.errors import UserError

# What transformers 5 does only with code from elsewhere, or by writing over the prompt.
REFUSED = ("constraints", "force_words_ids", "dola_layers", "penalty_alpha", "token_healing")
# How the text is computed and handed back, which is ours, and how long it may be, which is the task's.
OURS: dict[str, Any] = {
    "assistant_early_exit": None, "cache_config": None, "cache_implementation": None, "compile_config": None,
    "is_assistant": None, "max_new_tokens": None, "max_time": None, "num_return_sequences": None, "output_attentions": None,
    "output_hidden_states": None, "output_logits": None, "output_scores": None, "prefill_chunk_size": None,
    "prompt_lookup_num_tokens": None, "return_dict_in_generate": None, "use_cache": True,
}  # fmt: skip


def named(settings: Any, names: tuple[str, ...]) -> list[str]:
    """Return which of these names a ``GenerationConfig`` sets to something."""
    values = {name: getattr(settings, name, None) for name in names}
    nothing: tuple[Any, ...] = (None, [], {})  # and 0 where it is not a token
    return [name for name, value in values.items() if value not in nothing and (value or name.endswith("_token_id"))]


def take_over(settings: Any) -> None:
    """Give a loaded model's ``GenerationConfig`` the values that are ours to choose."""
    for name, value in OURS.items():
        if hasattr(settings, name):
            setattr(settings, name, value)


def read_own(path: str, revision: str | None = "main") -> Any:
    """Read the ``generation_config.json`` of a folder or Hub id; None where there is none."""
    from transformers import GenerationConfig

    try:
        return GenerationConfig.from_pretrained(path, revision=revision or "main")
    except OSError:
        return None
    except ValueError as error:
        said = " ".join(str(error).split())
        raise UserError(f"The model's generation_config.json cannot be used ({said[:200]}): mend it in a copy.") from None


def check_own(settings: Any, name: str) -> None:
    """Check that a model of this name can write as its own generation config, from `read_own`, says."""
    if refused := named(settings, REFUSED):
        raise UserError(
            f"{name!r} asks for {refused[0]} in its generation_config.json, which is not supported: "
            "take that line out of a copy of the model's folder."
        )


def give_end_token(tokenizer: Any, *settings: Any) -> None:
    """Give a tokenizer that names no end token the one that a generation config or a model's config names."""
    if tokenizer.eos_token_id is not None:
        return
    known = len(tokenizer)
    for each in settings:
        ends = each.get("eos_token_id") if isinstance(each, dict) else getattr(each, "eos_token_id", None)
        for end in ends if isinstance(ends, list) else [ends]:
            if isinstance(end, int) and 0 <= end < known:
                tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
                return
    raise UserError(
        "Neither the tokenizer nor the model's config names an end token (eos_token), so no answer would end: "
        "name it in tokenizer_config.json."
    )


def check_nothing_behind(tokenizer: Any) -> None:
    """Check that a tokenizer ends no text by itself: behind an end token a causal model begins another text."""
    bare, whole = (tokenizer("a b", add_special_tokens=special)["input_ids"] for special in (False, True))
    if len(whole) <= len(bare) or whole[-1] == bare[-1]:
        return
    token = tokenizer.convert_ids_to_tokens(whole[-1])
    raise UserError(
        f"The tokenizer puts {token} behind every text, so a prompt would end before its answer. Take it out of the "
        "post-processor in tokenizer.json, and add_eos_token out of tokenizer_config.json, in a copy of the model's folder."
    )
