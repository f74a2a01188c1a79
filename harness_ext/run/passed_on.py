"""Settings that are handed on to lm-eval and transformers, checked before anything is loaded."""

import functools
from typing import Any

from harness_ext.errors import UserError, did_you_mean

BUDGET = "max_gen_toks"
ALIASES = ("max_new_tokens", "max_tokens", "max_completion_tokens")  # lm-eval reads them only where there is no max_gen_toks


def check_generation(settings: dict[str, Any], given: Any, by_transformers: bool) -> None:
    """Check how a task's answers are to be written.

    Args:
        settings: The task's ``generation_kwargs``, with what the user gave.
        given: What the user gave (--gen_kwargs).
        by_transformers: Whether transformers' ``generate`` gets them, whose names are known.

    Raises:
        UserError: The length is no number of tokens, or a name is unknown or without effect.
    """
    tokens = settings.get(BUDGET, 1)
    if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1:
        raise UserError(f"The model may write {BUDGET}={tokens} tokens: allow 1 or more (ARGS='--gen_kwargs {BUDGET}=N').")
    for name in given if isinstance(given, dict) else ():
        if name in ALIASES and BUDGET in settings:
            raise UserError(f"--gen_kwargs {name} has no effect beside the task's {BUDGET}={tokens}: say {BUDGET}=N.")
        if by_transformers and name not in _known() and name not in ALIASES:
            near = did_you_mean(name, _known()) or f" Did you mean {BUDGET}?"
            raise UserError(f"--gen_kwargs {name!r} is no setting of text generation.{near}")


def unexamined(model_args: dict[str, Any], config: dict[str, Any]) -> list[str]:
    """Name the arguments that only loading the model can tell to be right; a config's own fields can be replaced."""
    import inspect

    from lm_eval.models.huggingface import HFLM

    known = {*inspect.signature(HFLM.__init__).parameters, *config, "enable_thinking", "engine"}
    return sorted(set(model_args) - known)


@functools.cache
def _known() -> frozenset[str]:
    """The settings that lm-eval and transformers read."""
    import inspect

    from transformers import GenerationConfig, GenerationMixin

    ours = {"until", "do_sample", "temperature", BUDGET}
    return frozenset({*GenerationConfig().to_dict(), *inspect.signature(GenerationMixin.generate).parameters, *ours})
