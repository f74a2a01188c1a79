"""Names of `endpoint` for those who still ask here."""

from typing import Any

from harness_ext.backend.endpoint import CHAT, ENDPOINTS, NOT_IN_KEY, arguments, check_task
from harness_ext.backend.endpoint import line as line_of

__all__ = ["CHAT", "ENDPOINTS", "NOT_IN_KEY", "check_task", "line", "settle"]


def settle(config: Any, own: dict[str, Any], given: set[str] | frozenset[str]) -> None:
    """Check a request to a server, and write what was left open into lm-eval's configuration."""
    local = {"ADAPTER": own["adapter"], "DTYPE": own["dtype"], "DEVICE": "device" in given}
    batch = config.batch_size if "batch_size" in given else None
    template = config.apply_chat_template if "apply_chat_template" in given else None
    config.model_args = arguments(
        config.model, config.model_args, base_url=own["base_url"], batch=batch, local=local, chat_template=template
    )
    config.apply_chat_template = config.model == CHAT


def line(config: Any) -> str:
    """Say in one line how the server is asked."""
    return line_of(config.model, config.model_args)
