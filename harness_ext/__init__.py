"""What lm-evaluation-harness lacks to settle "prompt a big model or fine-tune a small one?".

From Python: ``from harness_ext import evaluate, outcomes`` (see `harness_ext.api`).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness_ext.api import evaluate, outcomes

__version__ = "0.1.0"
__all__ = ["evaluate", "outcomes"]


def __getattr__(name: str) -> Any:
    """Import the Python API when it is asked for: every command passes here."""
    if name in __all__:
        return getattr(import_module("harness_ext.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
