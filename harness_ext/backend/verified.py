"""A model that is compared, before it answers, with what it says when it is asked plainly; see `selfcheck`.

A way of answering that fails is left for another: rows of one instead of padded batches, an adapter beside its base
instead of merged. Where none is left the run ends.
"""

import warnings
from collections.abc import Sequence
from typing import Any

from accelerate.utils import release_memory

from harness_ext.backend import batches, merging, selfcheck
from harness_ext.backend.checked import CheckedLM
from harness_ext.errors import UserError
from harness_ext.model.loading import put_on, vocabulary_of
from harness_ext.task.prompts import encode_prompts

# What transformers, and code that a checkpoint brings, raise where a model cannot be run in some way.
CANNOT = (TypeError, ValueError, NotImplementedError, AttributeError, IndexError, KeyError)


class VerifiedLM(CheckedLM):
    """A causal language model, compared with itself; how the last comparison came out its account says."""

    def __init__(self, *args: Any, peft: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, peft=peft, **kwargs)
        self._adapter = peft
        self._merging: dict[str, Any] | None = None
        self._one_by_one: dict[str, bool] = {}
        self._base_is_whole = True

    def samples_of(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenise a few prompts to compare by: those with the most and the least padding, and one between."""
        by_length = sorted(texts, key=len)
        few = dict.fromkeys((by_length[0], by_length[-1], by_length[len(by_length) // 2]))
        return encode_prompts(self.tokenizer, list(few), self.add_bos_token)

    def merge_adapter(self, rows: Sequence[Sequence[int]]) -> None:
        """Add an adapter's weights to the base's where that is exact, and see by a few prompts that it was; once only."""
        if self._merging is not None:
            return
        self._merging = {}
        model: Any = self.model
        if not merging.can_merge(model):
            return
        apart = [selfcheck.plain(model, self.device, row) for row in rows]
        try:
            model.merge_adapter()
            difference = selfcheck.distance([selfcheck.plain(model, self.device, row) for row in rows], apart)
        except CANNOT:  # a kind of adapter that has no such form
            difference = float("inf")
        if difference <= selfcheck.FLOOR:
            with warnings.catch_warnings(action="ignore"):  # it says that there is nothing left to merge
                self._model: Any = model.merge_and_unload()
            self._merging = {"merged_difference": difference}
        else:
            model.unmerge_adapter()
            self._base_is_whole = False

    def swap_adapter(self, adapter: str) -> bool:
        """Put another adapter on the base that is loaded, if the base has stayed as it was; else do nothing.

        It has not where the adapter was merged, if only for a comparison (taking it off again rounds), brought layers of its
        own, or another vocabulary. Tells whether it was done.
        """
        model: Any = self.model
        if not self._base_is_whole or not hasattr(model, "unload"):
            return False
        if any(config.modules_to_save for config in model.peft_config.values()):
            return False
        if any(vocabulary_of(each, model.get_base_model()) for each in (adapter, self._adapter or adapter)):
            return False
        self._model = put_on(model.unload(), adapter)
        self._adapter, self._merging, self._one_by_one = adapter, None, {}
        self.account.path, self.account.self_check = {}, None
        return True

    def examine(self, rows: Sequence[Sequence[int]], way: selfcheck.Way) -> bool:
        """Compare a way of answering with the plain model, with fewer prompts if memory is short."""
        rows = sorted(rows, key=len)
        while True:
            try:
                self.account.self_check = selfcheck.examine(self.model, self.device, rows, way) | (self._merging or {})
                return bool(self.account.self_check["passed"])
            except RuntimeError as error:
                if not batches.is_out_of_memory(error) or len(rows) == 1:
                    raise
                rows = rows[: len(rows) // 2]
            release_memory()  # outside the handler, which would keep the tensors alive

    def must_go_one_by_one(self, kind: str, rows: Sequence[Sequence[int]], way: selfcheck.Way) -> bool:
        """Tell whether the stock way, which pads, answers a kind of request right only without padding.

        Some architectures do not know padding. Each kind is examined once, by a few prompts; one that is answered right in
        no way is a UserError.
        """
        if self.backend != "causal":
            return False
        if kind not in self._one_by_one:
            self._one_by_one[kind] = self._only_right_alone(rows, way)
        return self._one_by_one[kind]

    def _only_right_alone(self, rows: Sequence[Sequence[int]], way: selfcheck.Way) -> bool:
        for together in (False,) if self.batch_size == 1 else (True, False):
            try:
                if self.examine(rows, way if together else selfcheck.one_by_one(way)):
                    return not together
            except CANNOT as error:
                why = f"{type(error).__name__}: {error}"[:200]
                self.account.self_check = {"prompts": len(rows), "passed": None, "why": why}
        check = self.account.self_check or {}
        if check.get("passed") is None:
            return True  # it cannot be compared: nothing about its padding is known
        raise UserError(
            f"The model's logits are not those that it gives when it is asked plainly (they differ by "
            f"{check['difference']:.2g}, where {check['tolerance']:.2g} is rounding), so its answers would mean nothing. "
            "Try DTYPE=float32, and without ADAPTER= or QUANT= to see which part it is."
        )
