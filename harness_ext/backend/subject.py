"""What is asked: a checkpoint, with or without an adapter, a baseline or a server; and the backend that runs it.

Knows lm-eval's names of backends; loads nothing.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness_ext.model.checkpoints import Checkpoint
from harness_ext.model.frozen import Frozen

ANSWER, CLASSIFIER, PROBE, HF, VLLM = "hf-answer", "hf-classifier", "probe", "hf", "vllm"
CHECKPOINT_BACKENDS = (ANSWER, CLASSIFIER, PROBE, HF, VLLM)  # they load a checkpoint, which we find, check and choose for
BASELINES = ("majority", "tfidf")  # they are fitted on the task's train split
CHAT, COMPLETIONS = "local-chat-completions", "local-completions"
SERVED = (CHAT, COMPLETIONS)  # a server of the OpenAI protocol answers


@dataclass(frozen=True)
class Subject:
    """What is asked."""

    backend: str  # lm-eval's name of it
    args: dict[str, Any] = field(default_factory=dict)  # lm-eval's `model_args`, completed
    base: Checkpoint | None = None  # None where the backend loads none that we find, such as a server's
    adapter: Checkpoint | None = None  # on top of the base
    tokenizer: Checkpoint | None = None  # one that the user names in place of the model's own
    quantise: str | None = None  # how bitsandbytes quantises the base while it loads
    allow_pickle: bool = False  # weights may be pickled
    frozen: Frozen | None = None  # what a probe reads of the base

    @property
    def name(self) -> str:
        """How the model is called in tables and folder names."""
        if self.base:
            return self.base.name
        name = str(self.args.get("pretrained") or self.args.get("model") or self.backend)
        # The rest of a server's path tells whose machine it is.
        return Path(name).name if self.is_served and name.startswith(("/", "~")) else name

    @property
    def is_classifier(self) -> bool:
        """Whether the sentence is classified, rather than a prompt continued."""
        return self.backend == CLASSIFIER

    @property
    def is_served(self) -> bool:
        """Whether a server of the OpenAI protocol answers."""
        return self.backend in SERVED

    @property
    def is_baseline(self) -> bool:
        """Whether the model is fitted on the task's train split."""
        return self.backend in BASELINES

    @property
    def is_fitted(self) -> bool:
        """Whether rows of the train split are needed: by a baseline, or by a probe."""
        return self.is_baseline or self.backend == PROBE

    @property
    def reads_sentence(self) -> bool:
        """Whether the sentence alone is read, whatever the prompt around it."""
        return self.is_classifier or self.is_baseline or bool(self.frozen and not self.frozen.is_prompted)

    @property
    def remote_code(self) -> bool:
        """Whether the checkpoint may bring code of its own."""
        return bool(self.args.get("trust_remote_code"))
