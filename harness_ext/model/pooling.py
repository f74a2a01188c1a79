"""How the states of an encoder's tokens become one vector: as its own ``1_Pooling/config.json`` says, else their mean.

That file is sentence-transformers'. Knows torch when a text is pooled, and nothing of models.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness_ext.errors import UserError
from harness_ext.model import files
from harness_ext.model.checkpoints import Checkpoint

FILE = "1_Pooling/config.json"
_MODES = {
    "mean_tokens": "mean",
    "cls_token": "cls",
    "max_tokens": "max",
    "lasttoken": "last",
}  # as that file says it
MODES = tuple(_MODES.values())


@dataclass(frozen=True)
class Pooling:
    """Which vector stands for a text; it is of length 1."""

    mode: str = "mean"  # over the tokens that are no padding: mean, max, the first (cls) or the last

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UserError(f"Pooling {self.mode!r} is not one of {', '.join(MODES)}.")

    def __call__(self, states: Any, mask: Any) -> Any:
        """Pool states ``(batch, tokens, hidden)``, given which tokens are no padding ``(batch, tokens)``."""
        import torch

        real = mask.unsqueeze(-1).to(states.dtype)
        if self.mode == "mean":
            pooled = (states * real).sum(1) / real.sum(1).clamp(min=1)
        elif self.mode == "max":
            pooled = states.masked_fill(real == 0, float("-inf")).amax(1)
        else:
            at = mask.long().argmax(1) if self.mode == "cls" else mask.shape[1] - 1 - mask.long().flip(1).argmax(1)
            pooled = states[torch.arange(len(states), device=states.device), at]
        return torch.nn.functional.normalize(pooled, dim=-1)


def pooling_of(checkpoint: Checkpoint, default: str = "mean") -> Pooling:
    """Read how a model's makers pool; the `default` where they do not say.

    Raises:
        UserError: They pool in a way that is not known here.
    """
    said = _read(checkpoint)
    modes = [name for name, is_on in said.items() if name.startswith("pooling_mode_") and is_on is True]
    if not said:
        return Pooling(default)
    modes = [name.removeprefix("pooling_mode_") for name in modes] or [str(said.get("pooling_mode", "mean_tokens"))]
    if len(modes) > 1 or (found := _MODES.get(modes[0], modes[0])) not in MODES:
        raise UserError(f"Model {checkpoint.name!r} pools by {' and '.join(modes)} ({FILE}); known are {', '.join(MODES)}.")
    return Pooling(found)


def of_adapter(adapter: Checkpoint | None) -> Pooling | None:
    """Return how an adapter's classifier pools, as the record beside it says; None where it uses its base's own head.

    Raises:
        UserError: Its weights are those of a pooling classifier, but the record that says how is not there.
    """
    said = adapter.manifest.get("pooling") if adapter else None
    if said:
        return Pooling(str(said.get("mode")))
    if adapter and any(name.startswith("base_model.model.body.") for name in adapter.tensors):
        raise UserError(
            f"Adapter {adapter.name!r} pools the states of its base, but no run.json beside it says how: "
            "copy that of the folder it was made in."
        )
    return None


def _read(checkpoint: Checkpoint) -> dict[str, Any]:
    if Path(checkpoint.path).is_dir():
        folder, _, name = FILE.rpartition("/")
        parent = Path(checkpoint.path, folder)
        return files.read_json(parent, name) if (parent / name).is_file() else {}
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        file = Path(hf_hub_download(checkpoint.path, FILE, revision=checkpoint.revision))
    except (EntryNotFoundError, LocalEntryNotFoundError):  # it has none, or none is in the cache
        return {}
    return files.read_json(file.parent, file.name)
