"""What a server of the OpenAI protocol is asked with, checked and completed before anything is asked.

Importing this costs nothing; the asking itself is `client`'s. Knows nothing of tasks' contents.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from harness_ext.backend.subject import CHAT, COMPLETIONS
from harness_ext.errors import UserError, whole_number

ENDPOINTS = {CHAT: "/chat/completions", COMPLETIONS: "/completions"}
EXAMPLE = "http://127.0.0.1:8000/v1"
IN_FLIGHT = 16  # requests at once: enough for a server that batches, few enough for one that does not
NOT_IN_KEY = ("num_concurrent", "timeout", "max_retries")  # they change how long a run takes, not its answers


def arguments(
    backend: str,  # a key of `ENDPOINTS`
    model_args: Mapping[str, Any],  # as the user gave them
    *,
    base_url: str | None,  # host, host with `/v1` or the whole endpoint; None if it may stand in `model_args`
    batch: Any = None,  # requests at once, if the user said so
    local: Mapping[str, Any],  # what is for models that are loaded here, by its variable; true where it was given
) -> dict[str, Any]:
    """Check what a server is to be asked with, and return the arguments of lm-eval's class.

    Raises:
        UserError: Something is missing, or given that a server decides.
    """
    args = dict(model_args)
    url = base_url if base_url is not None else args.get("base_url")
    if not url:
        raise UserError(f"BACKEND={backend} needs the server's address: BASE_URL={EXAMPLE}.")
    for name in {"auth_token", "header"} & args.keys():
        raise UserError(f"model_args {name} would stand in the run's record: set OPENAI_API_KEY in the environment instead.")
    args["base_url"] = complete_url(str(url), backend)
    args["pretrained"] = args.pop("model", None) or args.get("pretrained")
    if not args["pretrained"]:
        raise UserError(f"BACKEND={backend} needs MODEL=, the name under which the server knows the model.")
    if flag := next((flag for flag, value in local.items() if value), None):
        raise UserError(f"{flag} is for a model that is loaded here; the server of BACKEND={backend} decides on its own.")
    args.setdefault("num_concurrent", IN_FLIGHT)
    if batch is not None:
        args["num_concurrent"] = IN_FLIGHT if str(batch) == "auto" else whole_number("BATCH", batch)
    return args | {name: whole_number(name, args[name]) for name in NOT_IN_KEY if name in args}


def complete_url(text: str, backend: str) -> str:
    """Complete a server's address to the endpoint that lm-eval asks; what may be secret in a wrong one is not repeated."""
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


def check_template(backend: str, wanted: bool) -> None:
    """Check that the chat template is applied by the server if it is wanted, and only then."""
    if wanted != (backend == CHAT):
        does, other = ("applies", COMPLETIONS) if backend == CHAT else ("does not apply", CHAT)
        raise UserError(f"The server {does} the chat template with BACKEND={backend}. Use BACKEND={other}.")


def check_task(backend: str, name: str, output_type: str) -> None:
    """Check that a task can be asked: it may compare likelihoods, which a chat does not tell."""
    if backend == CHAT and output_type != "generate_until":
        raise UserError(
            f"Task {name} compares likelihoods ({output_type}), which no chat tells. Use BACKEND={COMPLETIONS} with a "
            "server that returns the log-probabilities of a prompt, or a task that generates (TASK=sst2_01)."
        )


def line(backend: str, args: Mapping[str, Any]) -> str:
    """Say in one line how the server is asked, from what `arguments` returned."""
    template = "by the server" if backend == CHAT else "off"
    return f"server {args['base_url']} · chat template {template} · {args['num_concurrent']} requests at once"
