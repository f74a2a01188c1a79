"""`probe`: a logistic regression on the states of a frozen model, fitted on the rows that training would use.

Nothing of the model is trained; what its states already say of a text is what any fine-tuning has to beat (Alain and Bengio
2016, https://arxiv.org/abs/1610.01644). What is read of which model `frozen` says, how `states`, and what is kept of it
`kept_states`.
"""

import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers
from lm_eval.api.registry import register_model
from transformers import AutoConfig

from harness_ext.backend.kept_states import KeptStates
from harness_ext.backend.sentence import SentenceLM
from harness_ext.backend.states import Decoder, Encoder
from harness_ext.errors import UserError
from harness_ext.model import logistic
from harness_ext.model.frozen import Frozen
from harness_ext.model.lengths import context_length

READING = 1  # goes up when states are read otherwise: those that are kept are then read anew


@register_model("probe")
class ProbeLM(SentenceLM):
    """A probe under lm-eval's interface; it can be fitted on other rows at any time, and its model is loaded if need be.

    Its account says under ``path`` how many texts' states were computed and how many were kept, and under ``fitted`` what
    was chosen on the labels.
    """

    def __init__(
        self,
        pretrained: str,  # Hub id or folder
        name: str,  # of the model, for people
        frozen: Frozen,  # what is read of it
        version: str,  # of its weights and tokenizers, for what is kept of their states
        tokenizer: Any,
        revision: str = "main",  # Hub commit
        dtype: str = "float32",
        batch_size: int | str = "auto",  # rows per batch at the most, or ``auto`` to go by memory alone
        max_batch_size: int | None = None,  # not used; lm-eval passes it to every model
        device: str = "cpu",
        use_safetensors: bool | None = None,  # True to load nothing else
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__()
        self.batch_size_per_gpu, self.tokenizer, self._frozen = batch_size, tokenizer, frozen
        self._device, self._dtype, limit = torch.device(device), dtype, str(batch_size)
        self._name, rows = name, int(limit) if limit.isdecimal() else None
        options = {"revision": revision, "trust_remote_code": trust_remote_code}
        config = AutoConfig.from_pretrained(pretrained, **options)
        options |= {"pretrained_model_name_or_path": pretrained, "dtype": dtype, "use_safetensors": use_safetensors}
        kind = Decoder if frozen.is_prompted else Encoder
        self._model = kind(frozen, name, options, tokenizer, self._device, context=context_length(config), limit=rows)
        key = {
            "reading": READING,
            "version": version,
            "states": frozen.record(),
            "dtype": dtype,
            "device": self._device.type,
        }
        key |= {"transformers": transformers.__version__, "torch": torch.__version__}
        if dtype != "float32":  # there a batch's shape shows in its roundings
            key["batch"] = str(batch_size)
        self._kept = KeptStates(key, layers=max(1, len(frozen.layers)))
        self._fitted: logistic.Fitted | None = None

    @property
    def tokenizer_name(self) -> str:
        """Whose tokenizer it is; lm-eval keys a cache by it, which is refused."""
        return self._name

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Return the template, for lm-eval's results."""
        return self.tokenizer.chat_template if chat_template else None

    def fit(self, texts: list[str], labels: Sequence[int], asked: list[str], seed: int) -> None:
        """Fit the probe.

        Args:
            texts: What is read of the labelled rows: sentences of an encoder, prompts of a decoder.
            labels: Theirs, 0 or 1.
            asked: What will be asked, to see now whether all of it can be read.
            seed: Of the cross-validation's folds.
        """
        self._model.check_room(asked)
        states, start = self._states(texts), time.perf_counter()
        self.account.tokenise_s, self.account.tokens_in = 0.0, 0  # these are of what is answered
        frozen = self._frozen
        self._fitted = logistic.fit(states, labels, default=frozen.default, standardise=frozen.is_prompted, seed=seed)
        self.account.path["fit_s"] = time.perf_counter() - start
        self.account.fitted = self._chosen(self._fitted)

    def classify(self, sentences: list[str]) -> list[tuple[float, float]]:
        """Return the log-probabilities of 0 and 1, of sentences or prompts."""
        if self._fitted is None:
            raise UserError("A probe has to be fitted first.")
        known = self.account.path["kept"]
        margins = self._fitted.log_odds(self._states(sentences))
        self.account.path["documents_kept"] = self.account.path["kept"] - known
        if self._dtype == "float32":
            self.account.near_ties = 0  # states of 32 bits leave none
        zero, one = -np.logaddexp(0, margins), -np.logaddexp(0, -margins)
        return list(zip(zero.tolist(), one.tolist(), strict=True))

    def _texts_of(self, requests: list) -> list[str]:
        return [request.args[0] for request in requests] if self._frozen.is_prompted else super()._texts_of(requests)

    def _states(self, texts: list[str]) -> np.ndarray:
        """Return the states of texts, ``(layers, texts, hidden)``; those that are not kept are computed."""
        unique = list(dict.fromkeys(texts))
        found = self._kept.find(unique)
        missing = [text for text in unique if text not in found]

        def take(read: list[str], states: torch.Tensor) -> None:
            new = dict(zip(read, states.cpu().numpy(), strict=True))
            found.update(new)
            self._kept.keep(new)

        path, before = self.account.path, self._kept.problem
        try:
            if missing:
                self._model.read(missing, take, self.account)
        finally:
            self._kept.flush()  # also of a run that is interrupted
        if self._kept.problem and not before:
            print(f"Note: states are not kept for later runs: {self._kept.problem}.", file=sys.stderr, flush=True)
        path["path"] = "states of a frozen model"
        path["computed"] = path.get("computed", 0) + len(missing)
        path["kept"] = path.get("kept", 0) + len(unique) - len(missing)
        return np.stack([found[text] for text in texts], axis=1)

    def _chosen(self, fitted: logistic.Fitted) -> dict[str, Any]:
        """Say for the record what was chosen."""
        frozen = self._frozen
        place: dict[str, Any] = {"pooling": frozen.pooling.mode} if frozen.pooling else {}
        if frozen.layers:
            layer = frozen.layers[fitted.layer]
            place = {"layer": layer, "depth": frozen.depth, "depth_share": layer / frozen.depth}
        chosen = {
            "C": fitted.C,
            "cv_accuracy": fitted.accuracy,
            "cv_log_loss": fitted.log_loss,
            "chosen_on": fitted.chosen_on,
        }
        return {**place, **chosen}
