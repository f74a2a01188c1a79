"""Names of `server` for those who still ask here."""

from typing import Any

from harness_ext.backend import server
from harness_ext.backend.server import CHAT, ENDPOINTS, NOT_IN_KEY, check_task

__all__ = ["CHAT", "ENDPOINTS", "NOT_IN_KEY", "check_task", "line", "settle"]


def settle(config: Any, own: dict[str, Any], given: set[str] | frozenset[str]) -> None:
    """Check a request to a server, and write what was left open into lm-eval's configuration."""
    adapter = own["adapter"] or config.model_args.get("peft")
    local = {"ADAPTER": adapter, "DTYPE": own["dtype"], "DEVICE": "device" in given}
    batch = config.batch_size if "batch_size" in given else None
    config.model_args = server.arguments(config.model, config.model_args, base_url=own["base_url"], batch=batch, local=local)
    if "apply_chat_template" in given:
        server.check_template(config.model, str(config.apply_chat_template).lower() == "true")
    config.apply_chat_template = config.model == CHAT


def line(config: Any) -> str:
    """Say in one line how the server is asked."""
    return server.line(config.model, config.model_args)
