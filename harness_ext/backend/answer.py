"""`hf-answer`: lm-eval's HFLM, several times faster, with the same answers.

What is asked and how an answer is read are HFLM's (`checked`). The engine (`writing`, `forced_choice`) reads the prompts'
common beginning once, stops a row as soon as nothing that follows could change its label or kind, and keeps the
log-probabilities seen on the way for a forced choice on the same prompts. What it does not cover, such as sampling, runs the
stock way; the account's ``path`` says which way was taken and why. Either way is first compared with the model asked plainly
(`verified`).

Greedy tokens are those of stock lm-eval but for rounding: a logged response is a beginning of the one stock would log.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
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
from harness_ext.backend.shared_prefix import WRITTEN_AHEAD, NotCovered, SharedPrefix
from harness_ext.backend.verified import VerifiedLM
from harness_ext.backend.writing import Wanted, Writer
from harness_ext.model import generation_config

STOCK_ROWS, STOCK_ROWS_THINKING = 32, 8  # per batch where the stock path runs and the user left it open


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
    ) -> None:
        """Say what the next requests are for; what was seen of choices is kept until they were asked for."""
        if choices and self._forced.is_read:
            self._forced = ForcedChoice(self.softmax_dtype)
        self._wanted = Wanted(settled, tuple(choices), tuple(answers))

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
            self._check_covered([request.args[1] for request in requests])
            with self._at_work(len(requests), disable_tqdm) as bar:
                self.merge_adapter(samples)
                return Writer(self, self._prefix, self._wanted, self._forced, bar).answer(requests)
        except NotCovered as reason:
            why = str(reason)
        way = partial(selfcheck.generate_way, self.model, self.device, self.tokenizer)
        with self._stock_batches(why, "answers", samples, way, requests):
            return super().generate_until(requests, disable_tqdm=disable_tqdm or not sys.stderr.isatty())

    def _loglikelihood_tokens(self, requests: list, disable_tqdm: bool = False, **kwargs: Any) -> list[tuple[float, bool]]:
        self.account.near_ties = None
        by_length = sorted((context + answer[:-1] for _, context, answer in requests), key=len)
        self.check_length(len(by_length[-1]), self.max_length)
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

    def _check_covered(self, settings: Sequence[dict[str, Any]] = ()) -> None:
        """Say why requests, those that generate with such settings, are `NotCovered` by the engine, if they are not."""
        if self._engine == "stock":
            raise NotCovered("ENGINE=stock")
        if self.backend != "causal" or self.truncation or self.think_end_token is not None:
            raise NotCovered("backend, truncation or think_end_token is set")
        if not settings:
            return
        if any(other != settings[0] for other in settings):  # of several tasks together, which we never ask
            raise NotCovered("several generation settings")
        kwargs = normalize_gen_kwargs(settings[0], self.max_gen_toks)
        if kwargs.get("do_sample"):
            raise NotCovered("sampling")
        for extra in sorted(set(kwargs) - {"do_sample", "temperature", "until", "max_gen_toks"}):
            raise NotCovered(f"generation setting {extra}")
        config = self.model.generation_config
        asked = generation_config.named(config, generation_config.UNCOVERED)
        for name in [*asked, "num_beams"] if (config.num_beams or 1) > 1 else asked:
            raise NotCovered(f"the model's generation config sets {name}")

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
    def _stock_batches(
        self, why: str, kind: str, samples: list[list[int]], way: selfcheck.Way, requests: Sequence = ()
    ) -> Iterator[None]:
        """Prepare the stock path: rows of one where padding would be read, else what the user said.

        HFLM's own ``auto`` tries the whole context first; a number of rows is kinder where the user left it open.
        """
        given: Any = self.batch_size
        self.account.path = {"path": "stock", "why": why}
        if given == "auto":
            longest = max((request.args[1].get("max_gen_toks", 0) for request in requests), default=0)
            self.batch_size_per_gpu = STOCK_ROWS if longest <= WRITTEN_AHEAD else STOCK_ROWS_THINKING
        try:
            with self._computing():
                alone = self.must_go_one_by_one(kind, samples, way)
            if alone and self.batch_size != 1:
                self.batch_size_per_gpu = 1
                self.account.path["batches"] = "rows of one"
            yield
        finally:
            self.batch_size_per_gpu = given
