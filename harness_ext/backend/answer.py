"""`hf-answer`: lm-eval's HFLM, several times faster, with the same answers.

What is asked and how an answer is read are HFLM's (`checked`); how requests are run is `engine`'s: the prompts' common
beginning is read once, a row stops as soon as nothing that follows could change its label or kind, and the
log-probabilities seen on the way answer the forced choice on the same prompts. What the engine does not cover, such as
sampling, runs the stock way; `path` says which way was taken and why. Either way is first compared with the model asked
plainly (`verified`).

Greedy tokens are those of stock lm-eval but for rounding: a logged response is a beginning of the one stock would log.
"""

import sys
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from lm_eval.api.registry import register_model
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from tqdm import tqdm

from harness_ext.backend import batches, selfcheck
from harness_ext.backend.account import answers_requests
from harness_ext.backend.checked import finite, nan_error
from harness_ext.backend.ending import Ending
from harness_ext.backend.engine import PrefixReader, Row, write
from harness_ext.backend.forced_choice import ForcedChoice, Margins, close_calls
from harness_ext.backend.verified import CANNOT, VerifiedLM
from harness_ext.model import generation_config
from harness_ext.model.lengths import window_below
from harness_ext.task.prompts import common_prefix, encode_prompts

CHUNK = 4096  # requests tokenised at a time, so that memory does not grow with their number
STOCK_ROWS, STOCK_ROWS_THINKING = 32, 8  # per batch where the stock path runs and the user left it open
WRITTEN_AHEAD = 1024  # tokens a row is expected to write at the most when batches are planned; a longer one is rare


@register_model("hf-answer")
class AnswerLM(VerifiedLM):
    """A causal language model that answers a question; its account says under ``path`` how, or why the stock way."""

    def __init__(self, *args: Any, engine: str = "shared", **kwargs: Any) -> None:
        """Load the model.

        Args:
            *args: HFLM's.
            engine: ``shared``, or ``stock`` for HFLM's own way of running requests.
            **kwargs: HFLM's, and ``quantise`` (see `loading`).
        """
        super().__init__(*args, **kwargs)
        self._engine, self._rows = engine, None if self.batch_size == "auto" else int(self.batch_size)
        self._settled: Callable[[str], bool] | None = None
        self._forced: ForcedChoice | None = None
        self._reader: PrefixReader | None = None
        self._equal_lengths = False
        self._answers: tuple[str, ...] = ()

    def prepare(
        self, settled: Callable[[str], bool] | None, choices: Sequence[str] = (), answers: Sequence[str] = ()
    ) -> None:
        """Say what the next requests are for.

        Args:
            settled: Tells of the beginning of a response whether all filters have read enough; None: never.
            choices: Continuations whose log-probabilities will be asked for after the same prompts.
            answers: The task's two answers as they follow its prompts, such as " 0" and " 1": margins are told between them.
        """
        self._settled, self.account.near_ties = settled, None
        self._answers = tuple(answers)
        if choices:
            self._forced = ForcedChoice(choices, self.softmax_dtype)

    # --- requests -----------------------------------------------------------------------------------------------------

    @answers_requests
    def generate_until(self, requests: list, disable_tqdm: bool = False) -> list[str]:
        """Answer requests as HFLM does; what differs is said at the top of this module.

        Raises:
            UserError: A prompt does not fit the context, logits are NaN, or a single row does not fit the memory.
        """
        self.account.near_ties = None if requests else 0
        if not requests:
            return []
        self._check_room(requests)
        why = next(filter(None, (self._not_covered(request.args[1]) for request in requests)), None)
        samples = self.samples_of([request.args[0] for request in requests])
        if why is None:
            answers: list[str] = [""] * len(requests)
            close: set[int] = set()
            with self._bar(len(requests), disable_tqdm) as bar, self._computing():
                self.merge_adapter(samples)
                for settings in {str(request.args[1]): request.args[1] for request in requests}.values():
                    members = [number for number, request in enumerate(requests) if request.args[1] == settings]
                    if why := self._answer_all(requests, members, settings, answers, close, bar):
                        break
        if why is None:
            self.account.near_ties = len({requests[number].doc_id for number in close})
            return answers
        pad = self.tokenizer.pad_token_id
        way = partial(selfcheck.generate_way, self.model, self.device, pad, tokenizer=self.tokenizer)
        with self._stock_batches(why, "answers", samples, way, requests):
            return super().generate_until(requests, disable_tqdm=disable_tqdm)

    def _loglikelihood_tokens(self, requests: list, disable_tqdm: bool = False, **kwargs: Any) -> list[tuple[float, bool]]:
        self.account.near_ties = None
        self.account.tokens_in += sum(len(context) + len(answer) for _, context, answer in requests)
        why = self._not_covered({})
        self._check_lengths(requests)
        by_length = sorted((context + answer[:-1] for _, context, answer in requests), key=len)
        samples = [by_length[0], by_length[-1]]
        if why is None:
            with self._bar(len(requests), disable_tqdm) as bar, self._computing():
                self.merge_adapter(samples)
                results = self._score_all(requests, bar)
            if results is not None:
                return results
            why = "the model cannot read a shared prefix"
        with self._stock_batches(why, "choices", samples, partial(selfcheck.score_way, self.model, self.device)):
            return super()._loglikelihood_tokens(requests, disable_tqdm=disable_tqdm, **kwargs)

    # --- generation ---------------------------------------------------------------------------------------------------

    def _answer_all(
        self, requests: list, members: list[int], settings: dict[str, Any], answers: list[str], close: set[int], bar: tqdm
    ) -> str | None:
        """Answer the requests of one kind, in chunks; returns why not, if the model cannot be run this way.

        Args:
            requests: All.
            members: The numbers of those to be answered.
            settings: Their generation settings.
            answers: Filled in, by number.
            close: Is given the numbers of those whose answer rounding could have turned.
            bar: Shown.
        """
        kwargs = normalize_gen_kwargs(settings, self.max_gen_toks)
        limit = int(kwargs["max_gen_toks"])
        stops = handle_stop_sequences(kwargs.get("until"), eos=self.tok_decode(self.eot_token_id, skip_special_tokens=False))
        ending = Ending(
            self.tokenizer, self.tok_decode, ends=self._end_ids(), stops=stops, limit=limit, settled=self._settled
        )
        ran, stopped = batches.Ran(), 0
        members = sorted(members, key=lambda number: -len(requests[number].args[0]))
        for start in range(0, len(members), CHUNK):
            chunk = members[start : start + CHUNK]
            prompts = self.encode_rows([requests[number].args[0] for number in chunk])
            longest = max(map(len, prompts))
            if longest > self.max_length - limit:
                raise self._too_long(longest, self.max_length - limit)
            reader = self._reader_of(prompts, limit)
            if reader is None:
                return "the model cannot read a shared prefix"
            before = len(reader.prefix)
            heads = {number: self._opened_thinking(ids) for number, ids in zip(chunk, prompts, strict=True)}
            rows = [Row(number, ids[before:]) for number, ids in zip(chunk, prompts, strict=True)]

            def is_done(row: Row, heads: dict[int, list[int]] = heads) -> bool:
                return ending.is_reached(heads[row.number], row.written)

            margins = Margins(self._answers, {number: requests[number].args[0] for number in chunk}, self._encode_pair)

            def run(
                batch: list[Row],
                reader: PrefixReader = reader,
                heads: dict[int, list[int]] = heads,
                margins: Margins = margins,
            ) -> None:
                watch = self._watcher(reader, requests[batch[0].number].args[0], bar, margins)
                penalty = self.model.generation_config.repetition_penalty
                self.write_rows(reader, batch, is_done, penalty, watch, ending.decides)
                for row in batch:
                    text = self.tok_decode(heads[row.number] + row.written)
                    answers[row.number] = postprocess_generated_text(text, stop=stops, think_end_token=None)
                    self.cache_hook.add_partial("generate_until", requests[row.number].args, answers[row.number])
                bar.update(len(batch))

            ran += self._in_batches(rows, run, self._room(reader, min(limit, WRITTEN_AHEAD)))
            stopped += sum(not ending.is_plain(row.written) for row in rows)
            close |= {row.number for row in rows if row.near_tie}
            self.account.margins |= {requests[number].doc_id: margin for number, margin in margins.found.items()}
            self.account.path = self._path(reader, ran) | {"stopped_when_settled": stopped}
        self.account.batches += ran.shapes
        return None

    def write_rows(
        self,
        reader: PrefixReader,
        rows: list[Row],
        is_done: Callable[[Row], bool],
        penalty: float | None,
        watch: Any,
        decides: Callable[[int], Hashable],
    ) -> list[int]:
        """Write all rows of a batch to their end.

        Raises:
            UserError: Logits are NaN.
        """
        before = [len(row.written) for row in rows]
        still_open = [row for row in rows if not row.done]  # some may have been done when memory ran out
        try:
            if still_open:
                write(reader, still_open, is_done, penalty, watch, self._resolution(), decides)
        except FloatingPointError:
            raise nan_error(self.model.dtype) from None
        finally:
            self.account.tokens_out += sum(len(row.written) for row in rows) - sum(before)
        return [len(row.written) - count for row, count in zip(rows, before, strict=True)]

    def encode_rows(self, prompts: list[str]) -> list[list[int]]:
        """Tokenise prompts as HFLM does.

        Raises:
            UserError: The tokenizer is not this model's.
        """
        with self.account.tokenising():
            rows = encode_prompts(self.tokenizer, prompts, self.add_bos_token)
        self.account.tokens_in += sum(map(len, rows))
        self._check_vocabulary(max(map(max, rows)))
        return rows

    def _end_ids(self) -> set[int]:
        """The tokens that end an answer: the model's own, and the tokenizer's, which HFLM stops at too."""
        ends = self.model.generation_config.eos_token_id
        return {self.eot_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}

    def _resolution(self) -> float:
        """Return how near two logits may be, relative to the largest, before their order is left to rounding.

        Each of two logits is rounded by half a unit in its last place, and so is all that they are computed from. Measured
        on SmolLM2-135M and gemma-3-270m in bfloat16, two readings of a prompt differ by up to 1.8 such units of the largest.
        """
        return 2 * torch.finfo(self.mixed_precision_dtype or self.model.dtype).eps

    # --- forced choice ------------------------------------------------------------------------------------------------

    def _score_all(self, requests: list, bar: tqdm) -> list[tuple[float, bool]] | None:
        """Score continuations: once per context, those seen while answers were written not at all."""
        results: list[Any] = [None] * len(requests)
        blurs = [0.0] * len(requests)
        waiting: dict[tuple[int, ...], list[int]] = {}
        for number, (_, context, answer) in enumerate(requests):
            results[number] = self._forced.found(context, answer) if self._forced else None
            if results[number] is None:
                waiting.setdefault((*context, *answer[:-1]), []).append(number)
            elif self._forced:
                blurs[number] = self._resolution() * self._forced.largest(context)
        seen = len(requests) - sum(map(len, waiting.values()))
        keep = max((len(requests[number][2]) for numbers in waiting.values() for number in numbers), default=1)
        ran = batches.Ran()
        keys = sorted(waiting, key=len, reverse=True)
        self.account.path = {"path": "shared prefix", "from_generation": seen}
        for start in range(0, len(keys), CHUNK):
            chunk = keys[start : start + CHUNK]
            # Never so long that the first token of a continuation is inside: its logits are wanted.
            reader = self._reader_of([list(ids) for ids in chunk], 0, leave=keep)
            if reader is None:
                return None
            rows = [Row(number, list(ids[len(reader.prefix) :])) for number, ids in enumerate(chunk)]

            def run(batch: list[Row], chunk: list[tuple[int, ...]] = chunk, reader: PrefixReader = reader) -> None:
                logits = finite(reader.read([row.ids for row in batch], keep).logits)
                scores = F.log_softmax(logits, dim=-1, dtype=self.softmax_dtype)
                largest = logits.abs().amax(dim=(1, 2)).tolist()
                for row, row_scores, size in zip(batch, scores, largest, strict=True):
                    for number in waiting[chunk[row.number]]:
                        answer = torch.tensor(requests[number][2], device=scores.device)
                        at = row_scores[-len(answer) :]
                        chosen = at.gather(1, answer[:, None])
                        results[number] = (float(chosen.sum()), bool((at.argmax(-1) == answer).all()))
                        blurs[number] = self._resolution() * size
                    bar.update(len(waiting[chunk[row.number]]))

            ran += self._in_batches(rows, run, self._room(reader, 0))
            self.account.path = self._path(reader, ran) | {"from_generation": seen}
        self.account.batches += ran.shapes
        for (text, _, _), result in zip(requests, results, strict=True):
            self.cache_hook.add_partial("loglikelihood", text, result)
        self.account.near_ties = close_calls(requests, [score for score, _ in results], blurs)
        return results

    def _watcher(
        self, reader: PrefixReader, context: str, bar: tqdm, margins: Margins
    ) -> Callable[[list[Row], torch.Tensor], None]:
        """Return what watches a batch being written: says how many rows are open, collects margins and the forced choice."""
        collect = None
        if self._forced:
            continuations = [self._encode_pair(context, choice)[1] for choice in self._forced.choices]
            collect = self._forced.watcher(reader.prefix, continuations)

        def watch(rows: list[Row], logits: torch.Tensor) -> None:
            if not bar.disable and len(rows[0].written) % 32 == 0:
                bar.set_postfix_str(f"{len(rows)} open at token {len(rows[0].written)}")
            margins.collect(rows, logits)
            if collect:
                collect(rows, logits)

        return watch

    # --- how it is run ------------------------------------------------------------------------------------------------

    def _not_covered(self, settings: dict[str, Any]) -> str | None:
        """Say why requests with these settings have to run the stock way; None if they have not."""
        if self._engine == "stock":
            return "ENGINE=stock"
        if self.backend != "causal" or self.truncation or self.think_end_token is not None:
            return "backend, truncation or think_end_token is set"
        if not settings:
            return None
        kwargs = normalize_gen_kwargs(settings, self.max_gen_toks)
        if kwargs.get("do_sample"):
            return "sampling"
        extra = sorted(set(kwargs) - {"do_sample", "temperature", "until", "max_gen_toks"})
        if extra:
            return f"generation setting {extra[0]}"
        config = self.model.generation_config
        asked = generation_config.named(config, generation_config.UNCOVERED)
        if (config.num_beams or 1) > 1:
            asked.append("num_beams")
        return f"the model's generation config sets {asked[0]}" if asked else None

    def _reader_of(self, prompts: list[list[int]], limit: int, leave: int = 1) -> PrefixReader | None:
        """Return a reader of the prompts' common prefix, the last one if it fits; None if the model cannot do it."""
        prefix = common_prefix(prompts, leave)
        last = self._reader.prefix if self._reader else None
        # Padding could push tokens out of an attention window.
        needs_equal = window_below(self.model.config, max(map(len, prompts)) + limit) is not None
        if last and len(last) >= len(prefix) // 2 and prefix[: len(last)] == last and needs_equal <= self._equal_lengths:
            return self._reader
        extremes = [min(prompts, key=len), max(prompts, key=len)]
        pad = self.tokenizer.pad_token_id or 0
        self._reader = None
        try:
            for self._equal_lengths in (True,) if needs_equal else (False, True):
                way = selfcheck.shared_way(self.model, self.device, prefix, pad, not self._equal_lengths)
                if self.examine(extremes, way):
                    self._reader = PrefixReader(self.model, self.device, prefix, pad)
                    break
        except CANNOT:
            pass  # an architecture with a cache of its own, or none
        except RuntimeError as error:
            if batches.is_out_of_memory(error):
                raise
        return self._reader

    def _in_batches(self, rows: list[Row], run: Any, room: Callable[[int], int]) -> batches.Ran:
        return batches.run_in_batches(rows, run, length=len, rows=room, equal_lengths=self._equal_lengths)

    def _room(self, reader: PrefixReader, ahead: int) -> Callable[[int], int]:
        """Return from a batch's width to its rows, by the memory that the device has beside the weights."""
        config = self.model.config.get_text_config()
        hidden = getattr(config, "hidden_size", 0) or 1024
        widest = max(getattr(config, "intermediate_size", 0) or 4 * hidden, hidden)
        per_token = reader.cache_bytes + 8 * (widest + hidden) * self.model.dtype.itemsize
        room = batches.room_bytes(self.device, self.model)
        held = len(reader.prefix) + ahead

        def rows(width: int) -> int:
            return batches.most_rows(width, self.device, room=room, bytes_per_token=per_token, held=held, limit=self._rows)

        return rows

    def _path(self, reader: PrefixReader, ran: batches.Ran) -> dict[str, Any]:
        return {
            "path": "shared prefix",
            "prefix_tokens": len(reader.prefix),
            "batches": "equal lengths" if self._equal_lengths else "padded",
            "halved_for_memory": ran.shortages,
        }

    @contextmanager
    def _bar(self, total: int, disable: bool) -> Iterator[tqdm]:
        with tqdm(total=total, desc="answers", unit="doc", disable=disable or not sys.stderr.isatty()) as bar:
            yield bar

    @contextmanager
    def _computing(self) -> Iterator[None]:
        dtype = self.mixed_precision_dtype
        with torch.inference_mode(), torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None):
            yield

    @contextmanager
    def _stock_batches(
        self, why: str, kind: str, samples: list[list[int]], way: Callable[[bool], selfcheck.Way], requests: Sequence = ()
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
