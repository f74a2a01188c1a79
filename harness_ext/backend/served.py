"""What a server of the OpenAI protocol is asked with, and how what it says is read: all that needs no connection.

The asking itself is lm-eval's (see `harness_ext.backend.server`). Knows nothing of tasks' contents.
"""

import re
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from harness_ext.errors import UserError

CHAT, COMPLETIONS = "local-chat-completions", "local-completions"  # lm-eval's names
ENDPOINTS = {CHAT: "/chat/completions", COMPLETIONS: "/completions"}
EXAMPLE = "http://127.0.0.1:8000/v1"
IN_FLIGHT = 16  # requests at once: enough for a server that batches, few enough for one that does not
NOT_IN_KEY = ("num_concurrent", "timeout", "max_retries")  # they change how long a run takes, not its answers
_SECRET_ARGS = ("auth_token", "header")
_HALVES = re.compile("[\ud800-\udfff]")  # of a character: JSON may name one alone, which no file can hold
_TEXT_PARTS = ("text", "output_text")  # beside them stand thinking, images, refusals


def complete_url(text: str, backend: str) -> str:
    """Complete a server's address to the endpoint that lm-eval asks.

    Args:
        text: Host, host with ``/v1`` or the whole endpoint.
        backend: A key of `ENDPOINTS`.

    Raises:
        UserError: It is no URL, or has more than scheme, host and path. What may be secret is not repeated.
    """
    try:
        url = urlsplit(text.strip())
        known = url.scheme in ("http", "https") and url.hostname and (url.port or True)
    except ValueError:
        known = False
    if not known:
        shown = f"{text[:80]!r} " if "@" not in text else ""
        raise UserError(f"BASE_URL {shown}is no address of a server, such as {EXAMPLE}.")
    if url.username or url.password or url.query or url.fragment:
        raise UserError(
            f"BASE_URL of {url.hostname} has more than scheme, host and path: it would stand in the run's record. "
            "A key goes into the environment variable OPENAI_API_KEY."
        )
    path = url.path.rstrip("/")
    for endpoint in ENDPOINTS.values():
        path = path.removesuffix(endpoint)
    return urlunsplit((url.scheme, url.netloc, (path or "/v1") + ENDPOINTS[backend], "", ""))


def settle(config: Any, own: dict[str, Any], given: set[str] | frozenset[str]) -> None:
    """Check a request to a server, and write what was left open into lm-eval's configuration.

    Args:
        config: lm-eval's configuration; its ``model`` is a key of `ENDPOINTS`.
        own: Our own flags.
        given: The fields of `config` that the user set.

    Raises:
        UserError: Something is missing, or given that a server decides.
    """
    args, backend = config.model_args, config.model
    url = own["base_url"] if own["base_url"] is not None else args.get("base_url")
    if not url:
        raise UserError(f"BACKEND={backend} needs the server's address: BASE_URL={EXAMPLE}.")
    for name in _SECRET_ARGS:
        if name in args:
            raise UserError(
                f"model_args {name} would stand in the run's record: set OPENAI_API_KEY in the environment instead."
            )
    args["base_url"] = complete_url(str(url), backend)
    args["pretrained"] = args.pop("model", None) or args.get("pretrained")
    if not args["pretrained"]:
        raise UserError(f"BACKEND={backend} needs MODEL=, the name under which the server knows the model.")
    local = {"ADAPTER": own["adapter"] or args.get("peft"), "DTYPE": own["dtype"], "DEVICE": "device" in given}
    for flag in (flag for flag, value in local.items() if value):
        raise UserError(f"{flag} is for a model that is loaded here; the server of BACKEND={backend} decides on its own.")
    is_chat = backend == CHAT
    if "apply_chat_template" in given and (str(config.apply_chat_template).lower() == "true") != is_chat:
        other = COMPLETIONS if is_chat else CHAT
        does = "applies" if is_chat else "does not apply"
        raise UserError(f"The server {does} the chat template with BACKEND={backend}. Use BACKEND={other}.")
    config.apply_chat_template = is_chat
    args.setdefault("num_concurrent", IN_FLIGHT)
    if "batch_size" in given:
        args["num_concurrent"] = _whole(config.batch_size, "BATCH")
    for name in NOT_IN_KEY:
        if name in args:
            args[name] = _whole(args[name], name)


def check_task(backend: str, name: str, output_type: str) -> None:
    """Check that a task can be asked at all.

    Raises:
        UserError: It compares likelihoods, which a chat does not tell.
    """
    if backend == CHAT and output_type != "generate_until":
        raise UserError(
            f"Task {name} compares likelihoods ({output_type}), which no chat tells. Use BACKEND={COMPLETIONS} with a "
            "server that returns the log-probabilities of a prompt, or a task that generates (TASK=sst2_01)."
        )


def whole_characters(text: str) -> str:
    """Replace each half of a character (a lone surrogate, as of an emoji that a budget cut in two) by U+FFFD."""
    return _HALVES.sub("\ufffd", text)


def content_text(content: Any) -> str | None:
    """Return the text of an answer's content; reasoning that stands beside it is no part of it.

    Args:
        content: A text, a list of parts with texts among them, or None, as after a budget spent on reasoning.

    Returns:
        The text, empty where there is none; None if the content is of another shape.
    """
    if content is None or isinstance(content, str):
        return whole_characters(content or "")
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
    return whole_characters("".join(texts))


def line(config: Any) -> str:
    """Say in one line how the server is asked."""
    template = "by the server" if config.model == CHAT else "off"
    args = config.model_args
    return f"server {args['base_url']} · chat template {template} · {args['num_concurrent']} requests at once"


def _whole(value: Any, name: str) -> int:
    if str(value) == "auto" and name == "BATCH":
        return IN_FLIGHT
    if not str(value).isdecimal() or int(value) < 1:
        raise UserError(f"{name} {str(value)!r} is no whole number above 0.")
    return int(value)
