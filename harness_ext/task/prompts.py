"""Prompts and answers as text and as tokens: what is trained is what is evaluated, because both come from here.

First what a task asks of a document, then chat templates around it, then tokens. Knows tokenizers; nothing of models.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, tzinfo
from typing import Any

from jinja2 import TemplateError
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.utils import has_bos_prefix

from harness_ext.errors import UserError

# What a chat template that asks for the date is told, or no two days would have the same prompts. It is the date that
# Llama 3's templates write themselves where there is no clock.
DATE = datetime(2024, 7, 26)
_PROBE = [{"role": "user", "content": "Which of 0 and 1?"}]
_PARTS_AS_TEXT = re.compile(r"""['"]type['"]: ?['"]text['"]""")  # a list of parts, printed as such


def render_prompt(
    task: ConfigurableTask,
    document: dict,
    chat_template: Callable[..., str] | None = None,  # renders messages, such as `chat_renderer`'s; None for plain text
    system_instruction: str | None = None,
    fewshot_as_multiturn: bool = True,  # with a chat template, give each few-shot example turns of its own
) -> str:
    """Render the prompt of a document exactly as lm-eval does in a run: the text a model continues with its answer."""
    return task.fewshot_context(
        document,
        num_fewshot=task.config.num_fewshot or 0,
        system_instruction=system_instruction,
        apply_chat_template=chat_template is not None,
        fewshot_as_multiturn=fewshot_as_multiturn and chat_template is not None,
        chat_template=chat_template,
        gen_prefix=task.doc_to_prefix(document),
    )


def render_completion(task: ConfigurableTask, document: dict, chat: bool = False) -> str:
    """Render the right answer as it follows `render_prompt`: with the task's delimiter, bare in a chat turn."""
    choice = task.doc_to_choice(document)[task.doc_to_target(document)]
    return choice if chat else f"{task.config.target_delimiter}{choice}"


def chat_renderer(tokenizer: Any, template_args: dict[str, Any]) -> Callable[..., str]:
    """Return what renders messages with a tokenizer's chat template.

    It does what ``HFLM.apply_chat_template`` does, with three exceptions, so that no text is lost and none changes by the
    day. Where the template refuses a system message, as Gemma's does, or drops it, it goes to the head of the first
    user's turn. Where the template reads a message's content as a list of parts only, it is given one, as vLLM does. And
    the date is always `DATE`. The arguments are further ones of the template, such as ``enable_thinking``.
    """

    def render(messages: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        ways: list[list[dict]] = [messages, fold_system(messages)] if messages[0]["role"] == "system" else [messages]
        parts = [[{**each, "content": [{"type": "text", "text": each["content"]}]} for each in way] for way in ways]
        failed, lost = [], []
        for way in (*ways, *parts):
            try:
                rendered = _render(tokenizer, template_args, way, add_generation_prompt)
            except TemplateError as error:
                failed.append(error)
                continue
            missing = _lost(messages, rendered)
            if not missing:
                return rendered
            lost.append(missing)
        if lost:
            raise UserError(f"the text of the {lost[0]} is not in what it renders")
        raise failed[len(ways) - 1]  # what it says of lists of parts is no one's concern

    return render


def template_notes(tokenizer: Any, template_args: dict[str, Any]) -> list[str]:
    """Say what is particular about a chat template: that it asks for the date, or reads lists of parts only."""
    notes = [f"its date is {DATE:%Y-%m-%d}"] if asks_for_date(tokenizer) else []
    with contextlib.suppress(TemplateError):
        if _lost(_PROBE, _render(tokenizer, template_args, _PROBE)):
            notes.append("texts as lists of parts")
    return notes


def asks_for_date(tokenizer: Any) -> bool:
    """Tell whether a tokenizer's chat template reads the clock."""
    return "strftime_now" in str(tokenizer.chat_template)


def show_messages(messages: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
    """Stand in for the chat template of a server, which gets the messages themselves."""
    return json.dumps([messages, add_generation_prompt], ensure_ascii=False)


def template_hash(tokenizer: Any) -> str:
    """Identify the chat template that `chat_renderer` applies: ``sha256:`` and 16 hex digits over its text."""
    return f"sha256:{hashlib.sha256(tokenizer.get_chat_template().encode()).hexdigest()[:16]}"


def render_question(tokenizer: Any, template_args: dict[str, Any]) -> str:
    """Render a question, to see what a chat template does with its arguments; empty if it renders none."""
    with contextlib.suppress(TemplateError, UserError):
        return chat_renderer(tokenizer, template_args)(_PROBE)
    return ""


def check_sentence(prompt: str, sentence: str, what: str) -> None:
    """Check that a prompt holds its text, whatever case and white space; `what` rendered it (``'tiny''s chat template``)."""
    if _squeezed(sentence) not in _squeezed(prompt):
        raise UserError(
            f"A prompt lacks the sentence that it asks about ({sentence[:60]!r}): {what} drops or changes it. Mend that, or "
            "choose another task or model."
        )


def fold_system(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """Move the text of a leading system message to the head of the user's turn behind it, an empty line between."""
    system, *rest = messages
    if not rest or rest[0]["role"] != "user":
        return [{"role": "user", "content": system["content"]}, *rest]
    return [{**rest[0], "content": f"{system['content']}\n\n{rest[0]['content']}"}, *rest[1:]]


def _render(tokenizer: Any, template_args: dict[str, Any], messages: list[dict], add_generation_prompt: bool = True) -> str:
    try:
        with _stopped_clock():
            return tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
                **template_args,
            )
    except TemplateError:
        raise
    except Exception as error:  # a template may do anything, such as adding a text to a list
        raise TemplateError(f"{type(error).__name__}: {error}") from error


def _lost(messages: list[dict[str, str]], rendered: str) -> str:
    """Name the message whose text is not in what was rendered of it; empty if there is none.

    Answers in examples may lose something: templates cut thinking out of them.
    """
    text = _squeezed(rendered)
    if _PARTS_AS_TEXT.search(rendered):
        return "messages (but for a list printed as Python does)"
    asked = [message for message in messages if message["role"] != "assistant"]
    return next((f"{each['role']}'s message" for each in asked if _squeezed(each["content"]) not in text), "")


def _squeezed(text: str) -> str:
    return " ".join(text.split()).casefold()


@contextlib.contextmanager
def _stopped_clock() -> Iterator[None]:
    """Let it be `DATE` for transformers' ``strftime_now``; an argument of that name would reach the template as text."""
    from transformers.utils import chat_template_utils

    class Stopped(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return DATE

    utils: Any = chat_template_utils
    clock, utils.datetime = utils.datetime, Stopped
    try:
        yield
    finally:
        utils.datetime = clock


def encode_prompts(tokenizer: Any, prompts: list[str], add_bos: bool | None = None) -> list[list[int]]:
    """Tokenise prompts, at least one, exactly as ``HFLM.tok_batch_encode`` does for a causal model.

    That is with one BOS token, wherever it comes from; `add_bos`, HFLM's ``add_bos_token``, may leave it to the tokenizer.
    """
    special = {} if add_bos is None else {"add_special_tokens": add_bos}
    if has_bos_prefix(prompts[0], getattr(tokenizer, "bos_token", None)):
        special = {"add_special_tokens": False}
    rows = tokenizer(prompts, **special)["input_ids"]
    check_bos(tokenizer, [rows[0], rows[-1]])
    return rows


def common_prefix(rows: Sequence[list[int]], leave: int = 1) -> list[int]:
    """Return the tokens that all rows begin with, but leave each row at least so many of its own."""
    first, last = min(rows), max(rows)  # of rows in lexical order, the two that differ first
    most = max(0, min(map(len, rows)) - leave)
    same = next((place for place, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), most)
    return first[: min(same, most)]


def check_bos(tokenizer: Any, rows: list[list[int]]) -> None:
    """Check that no prompt, as token ids without padding, begins with two BOS tokens: no model has seen that in training."""
    bos = tokenizer.bos_token_id
    if bos is not None and any(row[:2] == [bos, bos] for row in rows):
        raise UserError(
            f"A prompt begins with two BOS tokens ({tokenizer.bos_token}): the chat template writes one, and it or the "
            "tokenizer (add_bos_token) another. Leave add_bos_token out, or mend the template of the model's folder."
        )


def encode_completions(tokenizer: Any, prompts: list[str], completions: list[str]) -> list[list[int]]:
    """Tokenise what follows each prompt, the end token behind it.

    The prompt's tokens are fixed when a model is asked, so a token that would span the border is not used.
    """
    before = encode_prompts(tokenizer, prompts)
    whole = encode_prompts(tokenizer, [prompt + answer for prompt, answer in zip(prompts, completions, strict=True)])
    answers = []
    for start, ids, completion in zip(before, whole, completions, strict=True):
        fits = ids[: len(start)] == start
        answer = ids[len(start) :] if fits else tokenizer(completion, add_special_tokens=False)["input_ids"]
        answers.append([*answer, tokenizer.eos_token_id])
    return answers
