"""`hf-answer`: lm-eval's HFLM, several times faster, with the same answers.

What is asked and how an answer is read are HFLM's (`checked`). The engine (`writing`, `forced_choice`) reads the prompts'
common beginning once, stops a row as soon as nothing that follows could change its label or kind, and keeps the
log-probabilities seen on the way for a forced choice on the same prompts. What it does not cover, such as beams, runs as
with ENGINE=stock; the account's ``path`` says which way was taken and why. Either way is first compared with the model
asked plainly (`verified`).

Greedy tokens are those of stock lm-eval but for rounding: a logged response is a beginning of the one stock would log. What
is drawn follows from the run's seed and the document, whatever the batches.
"""

import sys
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from tqdm import tqdm

from harness_ext.backend import selfcheck
from harness_ext.backend.account import answers_requests
from harness_ext.backend.forced_choice import ForcedChoice, score
from harness_ext.backend.next_token import merged_config
from harness_ext.backend.shared_prefix import NotCovered, SharedPrefix
from harness_ext.backend.verified import VerifiedLM
from harness_ext.backend.writing import Wanted, Writer

STOCK_ROWS = 32  # per batch where the stock path runs and the user left it open; HFLM's `auto` tries the whole context first


@register_model("hf-answer")
class AnswerLM(VerifiedLM):
    """A causal language model that answers a question."""

    def __init__(self, *args: Any, engine: str = "shared", **kwargs: Any) -> None:
        """Load the model as HFLM does; `engine` is ``shared``, or ``stock`` for HFLM's own way of running requests."""
        super().__init__(*args, **kwargs)
        self._engine, self._prefix, self._wanted = engine, SharedPrefix(self), Wanted()
        self._forced = ForcedChoice(self.softmax_dtype)

    def prepare(
        self,
        settled: Callable[[str], bool] | None,  # whether all filters have read enough of a response; None: never
        choices: Sequence[str] = (),  # whose log-probabilities will be asked for after the same prompts
        answers: Sequence[str] = (),  # the two, such as " 0" and " 1", that are read, and between which margins are told
        seed: int = 0,  # of what is drawn
    ) -> None:
        """Say what the next requests are for; what was seen of choices is kept until they were asked for."""
        if choices and self._forced.is_read:
            self._forced = ForcedChoice(self.softmax_dtype)
        self._wanted = Wanted(settled, tuple(choices), tuple(answers), seed)

    @property
    def kept(self) -> MutableMapping[str, str]:
        """What lm-eval's cache keeps of this run, by name; answers that are drawn we name ourselves (`drawn`)."""
        kept = getattr(self.cache_hook, "dbdict", None)
        return {} if kept is None else kept

    def examine_anew(self) -> None:
        """Let what comes next be examined by its own prompts: those so far may have been too alike to need padding."""
        self._prefix, self._one_by_one = SharedPrefix(self), {}

    def swap_adapter(self, adapter: str) -> bool:
        """Put another adapter on the base that is loaded; see `verified.VerifiedLM.swap_adapter`."""
        self._prefix, self._wanted = SharedPrefix(self), Wanted()
        self._forced = ForcedChoice(self.softmax_dtype)
        return super().swap_adapter(adapter)

    @property
    def resolution(self) -> float:
        """How near two logits may be, relative to the largest, before their order is left to rounding.

        Each of two logits is rounded by half a unit in its last place, and so is all that they are computed from. Measured
        on SmolLM2-135M and gemma-3-270m in bfloat16, two readings of a prompt differ by up to 1.8 such units of the largest.
        """
        return 2 * torch.finfo(self.mixed_precision_dtype or self.model.dtype).eps

    @answers_requests
    def generate_until(self, requests: list, disable_tqdm: bool = False) -> list[str]:
        """Answer requests as HFLM does; what differs is said at the top of this module."""
        self.account.near_ties, self.account.path = None, {}
        if not requests:
            return []
        self._check_room(requests)
        samples = self.samples_of([request.args[0] for request in requests])
        try:
            self._check_covered()
            settings, config = self._settings([request.args[1] for request in requests])
            with self._at_work(len(requests), disable_tqdm) as bar:
                self.merge_adapter(samples)
                return Writer(self, self._prefix, self._wanted, self._forced, bar, settings, config).answer(requests)
        except NotCovered as reason:
            why = str(reason)
        way = partial(selfcheck.generate_way, self.model, self.device, self.tokenizer)
        with self._stock_batches(why, "answers", samples, way):
            return super().generate_until(requests, disable_tqdm=disable_tqdm or not sys.stderr.isatty())

    def _loglikelihood_tokens(self, requests: list, disable_tqdm: bool = False, **kwargs: Any) -> list[tuple[float, bool]]:
        self.account.near_ties = None
        by_length = sorted((context + answer[:-1] for _, context, answer in requests), key=len)
        self.check_length(list(map(len, by_length)), self.max_length)
        samples = [by_length[0], by_length[-1]]
        try:
            self._check_covered()
            with self._at_work(len(requests), disable_tqdm) as bar:
                self.merge_adapter(samples)
                found = score(self, self._prefix, self._forced, requests, bar)
            self.account.tokens_in += sum(len(context) + len(answer) for _, context, answer in requests)
            return found
        except NotCovered as reason:
            why = str(reason)
        with self._stock_batches(why, "choices", samples, partial(selfcheck.score_way, self.model, self.device)):
            return super()._loglikelihood_tokens(requests, disable_tqdm=disable_tqdm, **kwargs)

    def _check_covered(self) -> None:
        """Say why requests are `NotCovered` by the engine, if they are not."""
        if self._engine == "stock":
            raise NotCovered("ENGINE=stock")
        if self.backend != "causal" or self.truncation or self.think_end_token is not None:
            raise NotCovered("backend, truncation or think_end_token is set")

    def _settings(self, given: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], Any]:
        """Return what requests say of how to generate, and the generation config that follows for transformers."""
        if any(other != given[0] for other in given):  # of several tasks together, which we never ask
            raise NotCovered("several generation settings")
        settings = normalize_gen_kwargs(given[0], self.max_gen_toks)
        own = {name: value for name, value in settings.items() if name not in ("until", "max_gen_toks")}
        if not own["do_sample"]:
            own.pop("temperature", None)
        config, unknown = merged_config(self.model, own, int(settings["max_gen_toks"]))
        unlike = {"num_beams": 1, "num_return_sequences": 1, "guidance_scale": 1, "stop_strings": None}
        asked = [name for name, plain in unlike.items() if getattr(config, name, None) not in (None, plain)]
        for name in [*asked, *unknown]:
            raise NotCovered(f"generation setting {name}")
        return settings, config

    @contextmanager
    def _at_work(self, total: int, hidden: bool) -> Iterator[tqdm]:
        """Compute, and show how far that is; None lets tqdm show it on a terminal only."""
        with tqdm(total=total, desc="answers", unit="doc", disable=hidden or None) as bar, self._computing():
            yield bar

    @contextmanager
    def _computing(self) -> Iterator[None]:
        dtype = self.mixed_precision_dtype
        with torch.inference_mode(), torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None):
            yield

    @contextmanager
    def _stock_batches(self, why: str, kind: str, samples: list[list[int]], way: selfcheck.Way) -> Iterator[None]:
        """Prepare the stock path: rows of one where padding would be read, else what the user said."""
        given: Any = self.batch_size
        self.account.path = {"path": "stock", "why": why}
        if given == "auto":
            self.batch_size_per_gpu = STOCK_ROWS
        try:
            with self._computing():
                alone = self.must_go_one_by_one(kind, samples, way)
            if alone and self.batch_size != 1:
                self.batch_size_per_gpu = 1
                self.account.path["batches"] = "rows of one"
            yield
        finally:
            self.batch_size_per_gpu = given
