"""Which states of a frozen model a probe reads: an encoder's, pooled over a sentence, or a decoder's behind a prompt.

Read off the config; no weights are loaded. That the middle layers of decoders say more than the last is an old finding (Liu
et al. 2019, https://arxiv.org/abs/1903.08855).
"""

from dataclasses import dataclass
from typing import Any

from harness_ext.errors import UserError
from harness_ext.model.checkpoints import Checkpoint, is_classifier, is_generative
from harness_ext.model.memory import text_config
from harness_ext.model.pooling import Pooling, pooling_of

SHARES = (1 / 3, 1 / 2, 2 / 3, 5 / 6, 1.0)  # of a decoder's depth, at which states are offered to the probe
DEFAULT_SHARE = 2 / 3  # with too few labels to choose


@dataclass(frozen=True)
class Frozen:
    """What is read of a frozen model: either pooled states of the last layer, or those of some layers."""

    pooling: Pooling | None = None  # of an encoder
    layers: tuple[int, ...] = ()  # of a decoder; 0 is the embedding, and behind the last there is the final norm
    depth: int = 0  # its number of layers

    @property
    def is_prompted(self) -> bool:
        """Whether the task's prompt is read, rather than the sentence alone."""
        return self.pooling is None

    @property
    def default(self) -> int:
        """The index, among the layers, of that at `DEFAULT_SHARE`."""
        return self.layers.index(round(DEFAULT_SHARE * self.depth)) if self.layers else 0

    def record(self) -> dict[str, Any]:
        """Say it for a key or a record."""
        if self.pooling:
            return {"pooling": self.pooling.mode}
        return {"layers": list(self.layers), "depth": self.depth}

    def line(self) -> str:
        """Say it for people."""
        if self.pooling:
            return f"the last layer's states of a sentence, pooled by {self.pooling.mode}"
        return f"the states after a prompt's last token, of layers {', '.join(map(str, self.layers))} of {self.depth}"


def frozen(base: Checkpoint) -> Frozen:
    """Decide what a probe reads of a checkpoint.

    Raises:
        UserError: It is an encoder-decoder, its depth is unknown, or its makers pool in a way that is unknown here.
    """
    if base.config.get("is_encoder_decoder"):
        raise UserError(f"Model {base.name!r} is an encoder-decoder, which a probe cannot read: take one or the other.")
    if is_classifier(base) or not is_generative(base):
        return Frozen(pooling_of(base))
    depth = getattr(text_config(base.config) or object(), "num_hidden_layers", None) or base.config.get("num_hidden_layers")
    if not depth:
        raise UserError(f"Model {base.name!r} does not say how many layers it has (num_hidden_layers in its config.json).")
    return Frozen(layers=tuple(sorted({round(share * depth) for share in (*SHARES, DEFAULT_SHARE)})), depth=depth)
