"""Prompts and answers as text and as tokens: what is trained is what is evaluated, because both come from here."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

from jinja2 import TemplateError
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.utils import has_bos_prefix

from harness_ext.errors import UserError


def render_prompt(
    task: ConfigurableTask,
    document: dict,
    chat_template: Callable[..., str] | None = None,
    system_instruction: str | None = None,
    fewshot_as_multiturn: bool = True,
) -> str:
    """Render the prompt of a document exactly as lm-eval does in a run.

    Args:
        task: A built task; its ``num_fewshot`` applies.
        document: A row of the task's data.
        chat_template: Renders messages to text, such as ``HFLM.apply_chat_template``; None for plain text.
        system_instruction: Text put first, as after ``--system_instruction``.
        fewshot_as_multiturn: With a chat template, give each few-shot example turns of its own.

    Returns:
        The text a model continues with its answer.
    """
    return task.fewshot_context(
        document,
        num_fewshot=task.config.num_fewshot or 0,
        system_instruction=system_instruction,
        apply_chat_template=chat_template is not None,
        fewshot_as_multiturn=fewshot_as_multiturn and chat_template is not None,
        chat_template=chat_template,
        gen_prefix=task.doc_to_prefix(document),
    )


def chat_renderer(tokenizer: Any, template_args: dict[str, Any]) -> Callable[..., str]:
    """Return what renders messages with a tokenizer's chat template.

    It does what ``HFLM.apply_chat_template`` does, except where the template refuses a system message, as Gemma's does:
    HFLM drops it, and here it goes to the head of the first user's turn.

    Args:
        tokenizer: A tokenizer with a chat template.
        template_args: Further arguments of the template, such as ``enable_thinking``.
    """

    def render(messages: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        try:
            return tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
                **template_args,
            )
        except TemplateError:
            if messages[0]["role"] != "system":
                raise
            return render(fold_system(messages), add_generation_prompt)

    return render


def fold_system(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """Move the text of a leading system message to the head of the user's turn behind it, an empty line between."""
    system, *rest = messages
    if not rest or rest[0]["role"] != "user":
        return [{"role": "user", "content": system["content"]}, *rest]
    return [{**rest[0], "content": f"{system['content']}\n\n{rest[0]['content']}"}, *rest[1:]]


def show_messages(messages: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
    """Stand in for the chat template of a server, which gets the messages themselves."""
    return json.dumps([messages, add_generation_prompt], ensure_ascii=False)


def template_hash(tokenizer: Any) -> str:
    """Identify the chat template that `chat_renderer` applies: ``sha256:`` and 16 hex digits over its text."""
    return f"sha256:{hashlib.sha256(tokenizer.get_chat_template().encode()).hexdigest()[:16]}"


def render_completion(task: ConfigurableTask, document: dict, chat: bool = False) -> str:
    """Render the right answer as it follows `render_prompt`: with the task's delimiter, bare in a chat turn."""
    choice = task.doc_to_choice(document)[task.doc_to_target(document)]
    return choice if chat else f"{task.config.target_delimiter}{choice}"


def encode_prompts(tokenizer: Any, prompts: list[str], add_bos: bool | None = None) -> list[list[int]]:
    """Tokenise prompts exactly as ``HFLM.tok_batch_encode`` does for a causal model: one BOS, wherever it comes from.

    Args:
        tokenizer: The model's.
        prompts: At least one.
        add_bos: HFLM's ``add_bos_token``; None leaves it to the tokenizer.

    Raises:
        UserError: The first or the last begins with two BOS tokens.
    """
    special = {} if add_bos is None else {"add_special_tokens": add_bos}
    if has_bos_prefix(prompts[0], getattr(tokenizer, "bos_token", None)):
        special = {"add_special_tokens": False}
    rows = tokenizer(prompts, **special)["input_ids"]
    check_bos(tokenizer, [rows[0], rows[-1]])
    return rows


def check_bos(tokenizer: Any, rows: list[list[int]]) -> None:
    """Check that no prompt begins with two BOS tokens, which no model has seen in training.

    Args:
        tokenizer: What the rows were made with.
        rows: Token ids of prompts, without padding.

    Raises:
        UserError: One does.
    """
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
