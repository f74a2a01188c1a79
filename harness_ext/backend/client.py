"""A server of the OpenAI protocol behind lm-eval's own client, with its failures told in one line.

lm-eval's client hands each answer to the response cache as it comes, so an interrupted run continues. What is changed:

* it sends every request at once into a failure, and repeats what cannot succeed, such as a refused key. Here the
  first request goes alone, and a request that waits for its next try keeps its place;
* an answer without the expected fields is an error, where lm-eval makes an empty answer of it;
* its text may come in parts, and with halves of characters, which no file could hold;
* an empty list of stop strings, which some servers refuse, is left out.

What it is asked with is `server`'s matter. Knows nothing of tasks' contents.
"""

import asyncio
import json
import logging
import math
import re
from functools import partial
from types import SimpleNamespace
from typing import Any

import aiohttp
from lm_eval.models.api_models import TemplateAPI
from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI
from tenacity import retry, retry_if_exception, stop_after_attempt, wait_exponential

from harness_ext.backend.account import Account, answers_requests
from harness_ext.backend.server import IN_FLIGHT
from harness_ext.backend.subject import CHAT, COMPLETIONS
from harness_ext.errors import UserError, one_line_errors

TRIES = 6  # with pauses of 1, 1, 2, 4 and 8 s between them
TIMEOUT_S = 300
SLOWEST_TOKENS_PER_S = 10  # what a request may take beyond that, by its budget
_HALVES = re.compile("[\ud800-\udfff]")  # of a character: JSON may name one alone, which no file can hold
_NOTHING = object()  # the content of an answer that has none, which None would be
_TEXT_PARTS = ("text", "output_text")  # beside them stand thinking, images, refusals
_client_log = logging.getLogger("lm_eval.models.api_models")


class RefusedError(Exception):
    """The server answered with an error: an HTTP status, and what it said about it."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(status, said)
        self.status, self.said = status, said


class ServedModel(TemplateAPI):
    """What both kinds of server have in common; mixed into lm-eval's classes."""

    def __init__(
        self,
        num_concurrent: int = IN_FLIGHT,  # requests at once
        max_retries: int = TRIES,  # how often a request is tried
        timeout: int | None = None,  # seconds it may take; by default `TIMEOUT_S`, and more with the answer's budget
        **kwargs: Any,  # lm-eval's, among them ``pretrained``, ``base_url`` and ``tokenizer``
    ) -> None:
        self._in_flight, self._tries, self._timeout = num_concurrent, max_retries, timeout
        self._tokenizer_from = kwargs.get("tokenizer") or kwargs.get("pretrained")
        self._answered, self.account = 0, Account()
        # One at a time is another path in lm-eval's client; the places below keep the number here.
        several = {"num_concurrent": max(2, num_concurrent), "max_retries": 1, "batch_size": 1}
        super().__init__(tokenizer_backend=None, max_length=2**31, **several, **kwargs)
        if not _client_log.isEnabledFor(logging.INFO):
            _client_log.setLevel(logging.CRITICAL)  # it logs every failed try as an error

    generate_until = answers_requests(TemplateAPI.generate_until)

    async def get_batched_requests(self, *args: Any, **kwargs: Any) -> list:
        """Ask for all answers as lm-eval does; one that cannot be had ends the run."""
        self._places = asyncio.Semaphore(self._in_flight if self._answered else 1)
        self._failed = False
        budget = (kwargs.get("gen_kwargs") or {}).get("max_gen_toks", 0)
        self.timeout = self._timeout or TIMEOUT_S + budget // SLOWEST_TOKENS_PER_S
        try:
            return await super().get_batched_requests(*args, **kwargs)
        except (RefusedError, aiohttp.ClientError, TimeoutError, ValueError, RecursionError) as error:
            if isinstance(error, UserError):
                raise
            kept = f" Answers kept so far: {self._answered}; the same command continues." if self._answered else ""
            raise UserError(f"{self._explain(error)}{kept}") from error

    async def amodel_call(self, session: Any, sem: asyncio.Semaphore, messages: list, **kwargs: Any) -> list:
        """Ask for one answer, again and again where that may help."""
        checked: Any = SimpleNamespace(post=partial(session.post, raise_for_status=_check_status))
        ask = retry(
            retry=retry_if_exception(self._may_pass),
            stop=stop_after_attempt(self._tries),
            wait=wait_exponential(multiplier=0.5, min=1, max=10),
            reraise=True,
        )(super().amodel_call)
        await self._places.acquire()
        try:
            answers = await ask(checked, sem, messages, **kwargs)
        except Exception:
            if self._failed:  # one failure ends the run, and asyncio prints every further one that nobody asks for
                await asyncio.Event().wait()
            self._failed = True
            raise
        for _ in range(1 if self._answered else self._in_flight):
            self._places.release()  # by an answer only: after a failure nothing more is asked
        self._answered += 1
        return answers

    def _may_pass(self, error: BaseException) -> bool:
        """Tell whether trying again may help; before the first answer only what a busy server says does."""
        if isinstance(error, RefusedError):
            return error.status in (408, 409, 425, 429) or error.status >= 500
        if isinstance(error, TimeoutError | UserError):
            return False
        return bool(self._answered) and isinstance(error, aiohttp.ClientError | ValueError | RecursionError)

    def _explain(self, error: Exception) -> str:
        where = f"The server at {self.base_url}"
        if isinstance(error, TimeoutError):
            return f"{where} has not answered within {self.timeout} s. Wait longer with ARGS='--model_args timeout=N'."
        if isinstance(error, aiohttp.ClientConnectionError):
            why = _short(getattr(error, "strerror", None) or error) or "it hung up"
            return f"{where} cannot be reached ({why}). Is it running, and is BASE_URL right?"
        if not isinstance(error, RefusedError):
            return f"{where} answers with something else than a completion ({_short(error)}). Is BASE_URL right?"
        said = f"{error.status}: {error.said}" if error.said else str(error.status)
        if error.status in (401, 403):
            return f"{where} refuses the key ({said}). Set OPENAI_API_KEY to one that may use {self.model!r}."
        if error.status == 404:
            return f"{where} is not there or does not know the model {self.model!r} ({said}). Check BASE_URL and MODEL."
        if error.status == 429:
            return f"{where} has too many requests, {self._tries} times in a row ({said}). Try a smaller BATCH=, or later."
        if error.status >= 500:
            return f"{where} failed {self._tries} times in a row ({said}). Its own log says why."
        return f"{where} refuses the request for model {self.model!r} ({said})."

    def _create_payload(self, *args: Any, **kwargs: Any) -> dict:
        payload = super()._create_payload(*args, **kwargs)
        return {name: value for name, value in payload.items() if name != "stop" or value}

    def _text(self, content: Any, outputs: dict[str, Any], lacking: str) -> str:
        """Read an answer's text, and count the tokens that the server says it has read and written."""
        text = content_text(content)
        if text is None:
            raise ValueError(lacking)
        usage = outputs.get("usage")
        told = usage if isinstance(usage, dict) else {}
        read, wrote = told.get("prompt_tokens"), told.get("completion_tokens")
        self.account.tokens_in += read if isinstance(read, int) else 0
        self.account.tokens_out += wrote if isinstance(wrote, int) else 0
        return text


class ChatServer(ServedModel, LocalChatCompletion):
    """``local-chat-completions``: the server applies the chat template."""

    def parse_generations(self, outputs: Any, **kwargs: Any) -> list[str]:
        """Return the answer's text, empty where the budget was spent on reasoning."""
        message = _only_choice(outputs).get("message")
        content = message.get("content") if isinstance(message, dict) and message else _NOTHING
        text = self._text(content, outputs, "its choice has no message with text")
        return super().parse_generations({"choices": [{"index": 0, "message": {"content": text}}]}, **kwargs)


class CompletionServer(ServedModel, LocalCompletionsAPI):
    """``local-completions``: the prompt goes as plain text; likelihoods where the server tells them."""

    def parse_generations(self, outputs: Any, **kwargs: Any) -> list[str]:
        """Return the answer's text."""
        return [self._text(_only_choice(outputs).get("text", _NOTHING), outputs, "its choice has no text")]

    @answers_requests
    def loglikelihood(self, requests: list, **kwargs: Any) -> list[tuple[float, bool]]:
        """Score answers as lm-eval does; their tokens are counted with the model's tokenizer, which is loaded here."""
        if self.tokenizer is None:
            from transformers import AutoTokenizer

            with one_line_errors(
                loading=f"Likelihoods need the model's tokenizer (ARGS='--model_args tokenizer=folder'), and "
                f"{self._tokenizer_from!r} does not load: "
            ):
                self.tokenizer: Any = AutoTokenizer.from_pretrained(self._tokenizer_from)
            self.tokenizer_backend = "huggingface"
            self.add_bos_token = True  # as the tokenizer itself does, like a model loaded here
        self.tokenized_requests = True
        try:
            return super().loglikelihood(requests, **kwargs)
        finally:
            self.tokenized_requests = False  # text is cut by nobody and tokenised by the server

    def parse_logprobs(
        self, outputs: Any, tokens: Any = None, ctxlens: Any = None, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Read the answer's log-probability, if the prompt's tokens stand before it.

        llama.cpp's server tells only the token that it wrote itself; lm-eval would make 0 of that for every answer.
        """
        choice = _only_choice(outputs)
        scored = choice.get("logprobs") or {}
        length = len(scored.get("token_logprobs") or ()) if isinstance(scored, dict) else 0
        if length != len(tokens[0]) + 1 or not scored.get("top_logprobs"):
            raise UserError(
                f"The server at {self.base_url} tells {length} log-probabilities for a prompt of {len(tokens[0])} tokens: "
                "likelihoods need those of the prompt (echo). Use another server, or a task that generates (TASK=sst2_01)."
            )
        try:
            scores = super().parse_logprobs({"choices": [choice]}, tokens, ctxlens, **kwargs)
        except (TypeError, AttributeError, KeyError):
            scores = [(math.nan, False)]
        if not all(math.isfinite(score) for score, _ in scores):
            raise ValueError("its log-probabilities are not numbers")
        self.account.tokens_in += len(tokens[0])
        return scores


MODELS = {CHAT: ChatServer, COMPLETIONS: CompletionServer}


async def _check_status(response: aiohttp.ClientResponse) -> None:
    if not response.ok:
        raise RefusedError(response.status, _message(await response.text(errors="replace")))


def _message(body: str) -> str:
    """Find what an error answer says: OpenAI's ``error.message``, FastAPI's ``detail``, else the beginning of its text."""
    try:
        found = json.loads(body)
        found = found.get("error") or found.get("detail") or found.get("message") or body
        found = found.get("message", found) if isinstance(found, dict) else found
    except (ValueError, AttributeError):
        found = body
    return _short(found)


def _short(said: Any) -> str:
    return " ".join(_whole_characters(str(said)).split())[:150]


def _only_choice(outputs: Any) -> dict[str, Any]:
    """Return the one choice of an answer; a request asks for one."""
    choices = outputs.get("choices") if isinstance(outputs, dict) else None
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        raise ValueError(f"no choice in {_message(json.dumps(outputs))}")
    return {**choices[0], "index": 0}


def content_text(content: Any) -> str | None:
    """Return the text of an answer's content, empty where there is none; None if the content is of another shape.

    It is a text, a list of parts with texts among them, or None, as after a budget spent on reasoning; reasoning that stands
    beside it is no part of it.
    """
    if content is None or isinstance(content, str):
        return _whole_characters(content or "")
    if not isinstance(content, list):
        return None
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        text = part.get("text") if kind in _TEXT_PARTS else part
        if isinstance(text, str):
            texts.append(text)
        elif not isinstance(kind, str) or kind in _TEXT_PARTS:
            return None
    return _whole_characters("".join(texts))


def _whole_characters(text: str) -> str:
    """Replace each half of a character (a lone surrogate, as of an emoji that a budget cut in two) by U+FFFD."""
    return _HALVES.sub("\ufffd", text)
