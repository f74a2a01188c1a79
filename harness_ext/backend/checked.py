"""lm-eval's HFLM with what it passes over in silence made visible.

* weights or adapter weights that the checkpoint lacks are an error, where transformers fills them with
  random numbers and peft warns;
* a prompt longer than the context is an error, where HFLM cuts off its beginning: the instruction;
* a system message that the chat template refuses goes to the user's turn, where HFLM drops it;
* NaN logits are an error, where an argmax over them answers token 0;
* a thinking block that the prompt opened is repeated at the head of the response, and thinking tags and
  channel markers survive decoding, so that `labels` sees every block whole.

Prompts, tokens and answers are otherwise exactly HFLM's.
"""

import sys
from collections.abc import Sequence
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils_hf import get_dtype
from transformers import LogitsProcessor

from harness_ext.backend import batches
from harness_ext.backend.account import Account, answers_requests
from harness_ext.backend.logits import finite
from harness_ext.errors import UserError
from harness_ext.model import generation_config
from harness_ext.model.loading import WholeModel, put_on, quantiser
from harness_ext.task.labels import ends_open, markers_in
from harness_ext.task.prompts import chat_renderer, encode_prompts


class CheckedLM(HFLM):
    """A causal language model; the arguments are HFLM's, and ``quantise`` (see `loading`)."""

    AUTO_MODEL_CLASS: Any = None  # HFLM finds it by the model's config

    def __init__(self, *args: Any, quantise: str | None = None, **kwargs: Any) -> None:
        self._quantise, self.account = quantise, Account()
        super().__init__(*args, **kwargs)
        del self._model.tie_weights
        if getattr(self.model, "generation_config", None):
            generation_config.take_over(self.model.generation_config)
        if self.tokenizer.pad_token_id >= self._known_tokens():  # one that was added after the model was trained
            self.tokenizer.pad_token = self.tokenizer.eos_token
        vocabulary = self.tokenizer.get_vocab()
        tags = {vocabulary[tag] for tag in markers_in(vocabulary)}
        self._special = set(self.tokenizer.all_special_ids) - tags
        self._tags_are_special = bool(tags & set(self.tokenizer.all_special_ids))

    def _create_model(self, *args: Any, peft: str | None = None, **kwargs: Any) -> None:
        if peft and kwargs.get("delta"):
            raise UserError("peft and delta cannot both be put on a model: leave one out.")
        auto_class = self.AUTO_MODEL_CLASS
        dtype = get_dtype(kwargs.get("dtype", "auto"))
        self.AUTO_MODEL_CLASS = WholeModel(auto_class, **quantiser(self._quantise, dtype))
        try:
            super()._create_model(*args, **kwargs)
        finally:
            self.AUTO_MODEL_CLASS = auto_class
        if peft:
            self._model: Any = put_on(self.model, peft)
        # HFLM ties weights once more: those that an adapter, or a checkpoint with a head of its own, has just told apart.
        self._model.tie_weights = lambda *args, **kwargs: None

    def _create_tokenizer(self, pretrained: Any, *args: Any, **kwargs: Any) -> None:
        super()._create_tokenizer(pretrained, *args, **kwargs)
        own = generation_config.read_own(pretrained, kwargs.get("revision")) if isinstance(pretrained, str) else None
        generation_config.give_end_token(self.tokenizer, own, self.config)
        if self.backend == "causal":
            generation_config.check_nothing_behind(self.tokenizer)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Render messages; a system message that the template refuses goes to the first user's turn."""
        return chat_renderer(self.tokenizer, self.chat_template_args)(chat_history, add_generation_prompt)

    def tok_decode(self, tokens: Any, skip_special_tokens: bool = True) -> str:
        """Decode as HFLM does, but keep thinking tags that are special tokens."""
        if skip_special_tokens and self._tags_are_special:
            tokens, skip_special_tokens = [token for token in tokens if token not in self._special], False
        return super().tok_decode(tokens, skip_special_tokens)

    def tok_encode(self, *args: Any, **kwargs: Any) -> list[int]:
        """Encode as HFLM does."""
        with self.account.tokenising():
            return super().tok_encode(*args, **kwargs)

    def tok_batch_encode(
        self, strings: list[str], padding_side: str = "left", left_truncate_len: int | None = None, truncation: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode a batch to ids and mask, ``(batch, tokens)`` each, refusing to cut a prompt; the longest come first."""
        with self.account.tokenising():
            ids, mask = super().tok_batch_encode(strings, padding_side, None, truncation)
        if left_truncate_len:
            self.check_length([ids.shape[1]], left_truncate_len)
        self._check_vocabulary(int(ids.max()))
        self.account.tokens_in += int(mask.sum())
        return ids, mask

    def encode_rows(self, prompts: list[str]) -> list[list[int]]:
        """Encode prompts as `tok_batch_encode` does, without padding and without counting their tokens."""
        with self.account.tokenising():
            rows = encode_prompts(self.tokenizer, prompts, self.add_bos_token)
        self._check_vocabulary(max(map(max, rows)))
        return rows

    @answers_requests
    def loglikelihood(self, requests: list, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Score as HFLM does."""
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm or not sys.stderr.isatty())

    def _loglikelihood_tokens(self, requests: list, **kwargs: Any) -> list[tuple[float, bool]]:
        self.account.tokens_in += sum(len(context) + len(answer) for _, context, answer in requests)
        return super()._loglikelihood_tokens(requests, **kwargs)

    def _model_call(self, inps: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        self.account.batches[batches.shape(*inps.shape)] += 1
        return finite(super()._model_call(inps, *args, **kwargs))

    def _model_generate(self, context: torch.Tensor, max_length: int, stop: list[str], **kwargs: Any) -> torch.Tensor:
        given = {"logits_processor": [_FiniteLogits()], "tokenizer": self.tokenizer}  # the latter for its own stop strings
        output = super()._model_generate(context, max_length, stop, **given, **kwargs)
        before, written = output[:, : context.shape[1]], output[:, context.shape[1] :]
        self.account.batches[batches.shape(*context.shape)] += 1
        self.account.tokens_out += int((written != self.tokenizer.pad_token_id).sum())
        opened = len(self.opened_thinking(context[0].tolist()))
        return torch.cat([before, context[:, context.shape[1] - opened :], written], dim=1)

    def opened_thinking(self, prompt: list[int]) -> list[int]:
        """Return the tokens at the end of a prompt that open a thinking block."""
        tail = prompt[-16:]
        if not ends_open(self.tokenizer.decode(tail)):
            return []
        return next(tail[-n:] for n in range(1, len(tail) + 1) if ends_open(self.tokenizer.decode(tail[-n:])))

    def check_length(self, lengths: Sequence[int], room: int) -> None:
        """Check that prompts fit, by their numbers of tokens; of a padded batch the longest stands for all."""
        if (longest := max(lengths)) > room:
            count = f"{sum(each > room for each in lengths)} of {len(lengths)} prompts are too long: one"
            raise UserError(
                f"{count if len(lengths) > 1 else 'A prompt'} has {longest} tokens, but the model's context of "
                f"{self.max_length} leaves room for {room}. Choose a model with a longer context, or fewer examples "
                "(--num_fewshot), or leave the texts out."
            )

    def _check_room(self, requests: list) -> None:
        """Check that the answers' budget leaves room in the context for a prompt."""
        budget = max(request.args[1].get("max_gen_toks", self.max_gen_toks) for request in requests)
        if budget < 1:
            raise UserError(
                f"The model may write max_gen_toks={budget} tokens: allow 1 or more (ARGS='--gen_kwargs max_gen_toks=N')."
            )
        if budget >= self.max_length:
            raise UserError(
                f"The task lets the model write {budget} tokens, but its context holds {self.max_length}. "
                f"Allow fewer (ARGS='--gen_kwargs max_gen_toks=N') or choose another task."
            )

    def _check_vocabulary(self, token: int) -> None:
        if token >= (rows := self._known_tokens()):
            raise UserError(f"The tokenizer writes token {token}, but the model knows {rows}: they do not belong together.")

    def _known_tokens(self) -> int:
        return int(self.model.get_input_embeddings().weight.shape[0])


class _FiniteLogits(LogitsProcessor):
    """Pass the logits of a generation step on, if they are numbers."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return finite(scores)
