"""How many tokens a model can read: what its table of positions holds, which its config alone does not always say.

A RoBERTa of 514 positions reads 512 tokens, as positions begin behind that of the padding token; a DeBERTa or a model
with ALiBi, whose positions are relative, has no limit, whatever its config names.
"""

import contextlib
from collections.abc import Collection
from typing import Any

from harness_ext.errors import UserError
from harness_ext.model.memory import without_weights

_TABLES = {"position_embeddings", "position_embedding", "embed_positions", "wpe", "positions_embed", "pos_embed"}
_ROTARY = ("rope_parameters", "rope_theta", "rope_scaling", "rotary_dim", "rotary_pct", "rotary_emb_base")


def context_length(config: Any, model: Any = None) -> int | None:
    """Return how many tokens a model of a transformers config reads; None where nothing but memory sets a limit."""
    text = config.get_text_config()
    named = getattr(text, "max_position_embeddings", None)
    named = named if isinstance(named, int) and named > 0 else None  # XLNet says -1
    if model is None:
        from transformers import AutoModelForSequenceClassification

        with contextlib.suppress(Exception):  # what is wrong with a config is said when the model is loaded
            model = without_weights(config, AutoModelForSequenceClassification)
    rows = _rows(model)
    if rows is not None:
        return min(rows, named or rows)
    if getattr(text, "alibi", False) or not any(getattr(text, name, None) for name in _ROTARY):
        return None
    return named


def window_below(config: Any, tokens: int) -> int | None:
    """Return an attention window of fewer tokens than the longest row, out of which padding could push some; else None."""
    text = config.get_text_config()
    windows = (getattr(text, "sliding_window", None), getattr(text, "attention_chunk_size", None))
    return next((window for window in windows if window and window < tokens), None)


def sentences_of(documents: Any) -> list[str]:
    """Return what a classifier reads of documents."""
    if any("sentence" not in document for document in documents):
        raise UserError("A classifier reads the column 'sentence', which this task's documents do not have.")
    return [document["sentence"] for document in documents]


def check_sentences(lengths: Collection[int], room: int | None) -> None:
    """Check that sentences, by their numbers of tokens, can be read whole: none is ever cut."""
    if room is not None and (longest := max(lengths, default=0)) > room:
        raise UserError(
            f"{sum(length > room for length in lengths)} of {len(lengths)} texts are too long: one has {longest} tokens, "
            f"but the model reads {room}. Choose a model that reads more, or shorten them or leave them out."
        )


def _rows(model: Any) -> int | None:
    """Return how many tokens a table of positions has room for; None if the model has none."""
    from torch import nn

    for name, module in model.named_modules() if model is not None else ():
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2] in _TABLES:
            skipped = 0 if module.padding_idx is None else module.padding_idx + 1  # RoBERTa's and its relatives'
            return module.num_embeddings - skipped - int(getattr(module, "offset", 0))  # OPT's and BART's offset
    return None
