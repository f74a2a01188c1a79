"""A model's logits where they are wanted, and what it means if they are no numbers. Knows torch, transformers and peft."""

from typing import Any

import torch

from harness_ext.errors import UserError


def logits_at(model: Any, at: torch.Tensor, **inputs: Any) -> torch.Tensor:
    """Run a model, but its output layer at some positions only: over all of them logits may take more than the model.

    Args:
        model: Of transformers, or under peft.
        at: Positions for each row, ``(rows, some)``.
        **inputs: The model's.

    Returns:
        Logits, ``(rows, some, vocabulary)``.
    """
    rows = torch.arange(len(at), device=at.device)[:, None]
    head = inner_model(model).get_output_embeddings()
    if not isinstance(head, torch.nn.Module):
        return model(**inputs).logits[rows, at]

    def only_there(layer: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        states = args[0]
        there = at + (states.shape[1] - inputs["input_ids"].shape[1])  # learned prompts stand before the tokens
        return (states[rows.to(states.device), there.to(states.device)], *args[1:])

    handle = head.register_forward_pre_hook(only_there)
    try:
        logits = model(**inputs).logits
    finally:
        handle.remove()
    return logits if logits.shape[1] == at.shape[1] else logits[rows, at]


def inner_model(model: Any) -> Any:
    """Return the model of transformers under peft's, if there is one."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def finite(logits: torch.Tensor) -> torch.Tensor:
    """Return logits ``(..., vocabulary)`` if none is NaN; -inf is a legal way to forbid a token."""
    if torch.isnan(logits).any():
        raise nan_error(logits.dtype)
    return logits


def nan_error(dtype: torch.dtype) -> UserError:
    """Say what NaN logits mean, for a model that computes in `dtype`."""
    cause = (
        "Its weights are damaged: download them again."
        if dtype == torch.float32
        else f"It may overflow in {str(dtype).removeprefix('torch.')}: try DTYPE=float32."
    )
    return UserError(f"The model's logits are NaN, so its answers would mean nothing. {cause}")
