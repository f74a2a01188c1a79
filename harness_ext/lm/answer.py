"""`hf-answer`: lm-eval's HFLM, several times faster, with the same answers.

What is asked and how an answer is read are HFLM's (`checked`); how requests are run is `engine`'s: the prompts' common
beginning is read once, a row stops as soon as nothing that follows could change its label or kind, and the
log-probabilities seen on the way answer the forced choice on the same prompts. What the engine does not cover, such as
sampling, runs the stock way; `path` says which way was taken and why.

Greedy tokens are those of stock lm-eval but for rounding: a logged response is a beginning of the one stock would log.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from lm_eval.api.registry import register_model
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from tqdm import tqdm

from harness_ext.lm import adapters, batches
from harness_ext.lm.checked import CheckedLM, finite, nan_error
from harness_ext.lm.engine import TOLERANCE, TOLERANCE_FLOAT32, PrefixReader, Row, common_prefix, write
from harness_ext.lm.forced import ForcedChoice
from harness_ext.prompts import encode_prompts

CHUNK = 4096  # requests tokenised at a time, so that memory does not grow with their number
STOCK_ROWS, STOCK_ROWS_THINKING = 32, 8  # per batch where the stock path runs and the user left it open
WRITTEN_AHEAD = 1024  # tokens a row is expected to write at the most when batches are planned; a longer one is rare
SETTLES_WITHIN = 8  # tokens after a digit in which a row is looked at; one that needs more only stops later
# What a generation config may ask for that the engine does not do. repetition_penalty it does.
UNCOVERED = (
    "bad_words_ids", "begin_suppress_tokens", "constraints", "dola_layers", "exponential_decay_length_penalty",
    "forced_bos_token_id", "forced_eos_token_id", "guidance_scale", "min_length", "min_new_tokens", "no_repeat_ngram_size",
    "penalty_alpha", "prompt_lookup_num_tokens", "sequence_bias", "stop_strings", "suppress_tokens", "watermarking_config",
)  # fmt: skip


@register_model("hf-answer")
class AnswerLM(CheckedLM):
    """A causal language model that answers a question.

    Attributes:
        path: How the last requests were run: ``path``, ``prefix_tokens`` and the like, or why the stock way.
    """

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
        self.path: dict[str, Any] = {}
        if engine == "shared":
            self._merge_adapter()
        self._holds_digit = lru_cache(maxsize=None)(self._token_holds_digit)

    def prepare(self, settled: Callable[[str], bool] | None, choices: Sequence[str] = ()) -> None:
        """Say what the next requests are for.

        Args:
            settled: Tells of the beginning of a response whether all filters have read enough; None: never.
            choices: Continuations whose log-probabilities will be asked for after the same prompts.
        """
        self._settled = settled
        if choices:
            self._forced = ForcedChoice(choices, self.softmax_dtype)

    def _merge_adapter(self) -> None:
        """Add LoRA weights to the base's; only where that is exact: rounding to 16 bits would change the adapter."""
        if adapters.can_merge(self.model):
            self._model: Any = self.model.merge_and_unload()

    def _is_quantised(self) -> bool:
        return getattr(self.model, "hf_quantizer", None) is not None or getattr(self.model, "is_quantized", False)

    # --- requests -----------------------------------------------------------------------------------------------------

    def generate_until(self, requests: list, disable_tqdm: bool = False) -> list[str]:
        """Answer requests as HFLM does; what differs is said at the top of this module.

        Raises:
            UserError: A prompt does not fit the context, logits are NaN, or a single row does not fit the memory.
        """
        self._check_room(requests)
        why = next(filter(None, (self._not_covered(request.args[1]) for request in requests)), None)
        if why is None:
            answers: list[str] = [""] * len(requests)
            with self._bar(len(requests), disable_tqdm) as bar, self._computing():
                for settings in {str(request.args[1]): request.args[1] for request in requests}.values():
                    members = [number for number, request in enumerate(requests) if request.args[1] == settings]
                    if why := self._answer_all(requests, members, settings, answers, bar):
                        break
        if why is None:
            return answers
        self.path = {"path": "stock", "why": why}
        with self._stock_batches(requests):
            return super().generate_until(requests, disable_tqdm=disable_tqdm)

    def _loglikelihood_tokens(self, requests: list, disable_tqdm: bool = False, **kwargs: Any) -> list[tuple[float, bool]]:
        why = self._not_covered({})
        if why is None:
            self._check_lengths(requests)
            with self._bar(len(requests), disable_tqdm) as bar, self._computing():
                results = self._score_all(requests, bar)
            if results is not None:
                return results
            why = "the model cannot read a shared prefix"
        self.path = {"path": "stock", "why": why}
        with self._stock_batches([]):
            return super()._loglikelihood_tokens(requests, disable_tqdm=disable_tqdm, **kwargs)

    # --- generation ---------------------------------------------------------------------------------------------------

    def _answer_all(
        self, requests: list, members: list[int], settings: dict[str, Any], answers: list[str], bar: tqdm
    ) -> str | None:
        """Answer the requests of one kind, in chunks; returns why not, if the model cannot be run this way."""
        kwargs = normalize_gen_kwargs(settings, self.max_gen_toks)
        stops = handle_stop_sequences(kwargs.get("until"), eos=self.tok_decode(self.eot_token_id, skip_special_tokens=False))
        limit, ends = int(kwargs["max_gen_toks"]), self._end_ids()
        config = self.model.generation_config
        shortages = stopped = 0
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
                if row.written[-1] in ends or len(row.written) >= limit or self._is_stopped(row, stops):
                    return True
                return self._is_settled(row, heads[row.number], stops)

            def run(batch: list[Row], reader: PrefixReader = reader, heads: dict[int, list[int]] = heads) -> None:
                watch = self._watcher(reader, requests[batch[0].number].args[0], bar)
                self.write_rows(reader, batch, is_done, config.repetition_penalty, watch)
                for row in batch:
                    text = self.tok_decode(heads[row.number] + row.written)
                    answers[row.number] = postprocess_generated_text(text, stop=stops, think_end_token=None)
                    self.cache_hook.add_partial("generate_until", requests[row.number].args, answers[row.number])
                bar.update(len(batch))

            room = self._room(reader, min(limit, WRITTEN_AHEAD))
            shortages += self._in_batches(rows, run, room)
            stopped += sum(len(row.written) < limit and row.written[-1] not in ends for row in rows)
            self.path = self._path(reader, shortages) | {"stopped_when_settled": stopped}
        return None

    def write_rows(
        self, reader: PrefixReader, rows: list[Row], is_done: Callable[[Row], bool], penalty: float | None, watch: Any
    ) -> list[int]:
        """Write all rows of a batch to their end.

        Returns:
            The numbers of tokens written now.

        Raises:
            UserError: Logits are NaN.
        """
        before = [len(row.written) for row in rows]
        still_open = [row for row in rows if not row.done]  # some may have been done when memory ran out
        try:
            if still_open:
                write(reader, still_open, is_done, penalty, watch)
        except FloatingPointError:
            raise nan_error(self.model.dtype) from None
        return [len(row.written) - count for row, count in zip(rows, before, strict=True)]

    def encode_rows(self, prompts: list[str]) -> list[list[int]]:
        """Tokenise prompts as HFLM does.

        Raises:
            UserError: The tokenizer is not this model's.
        """
        rows = encode_prompts(self.tokenizer, prompts, self.add_bos_token)
        self._check_vocabulary(max(map(max, rows)))
        return rows

    def _is_stopped(self, row: Row, stops: list[str]) -> bool:
        """Whether a stop string stands at the end; the last token may have brought its end only."""
        tail = row.written[-max(len(stop.encode()) for stop in stops) - 1 :]
        text = self.tokenizer.decode(tail)
        return any(stop in text for stop in stops)

    def _is_settled(self, row: Row, head: list[int], stops: list[str]) -> bool:
        """Whether nothing that could still be written, or cut off at a stop string, would change the reading."""
        if self._settled is None or not any(map(self._holds_digit, row.written[-SETTLES_WITHIN:])):
            return False
        text = self.tok_decode(head + row.written)
        return self._settled(text[: _begun(text, stops)])

    def _token_holds_digit(self, token: int) -> bool:
        text = self.tokenizer.decode([token])
        return "0" in text or "1" in text

    def _end_ids(self) -> set[int]:
        """The tokens that end an answer: the model's own, and the tokenizer's, which HFLM stops at too."""
        ends = self.model.generation_config.eos_token_id
        return {self.eot_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}

    # --- forced choice ------------------------------------------------------------------------------------------------

    def _score_all(self, requests: list, bar: tqdm) -> list[tuple[float, bool]] | None:
        """Score continuations: once per context, those seen while answers were written not at all."""
        results: list[Any] = [None] * len(requests)
        waiting: dict[tuple[int, ...], list[int]] = {}
        for number, (_, context, answer) in enumerate(requests):
            results[number] = self._forced.found(context, answer) if self._forced else None
            if results[number] is None:
                waiting.setdefault((*context, *answer[:-1]), []).append(number)
        seen = len(requests) - sum(map(len, waiting.values()))
        keep = max((len(requests[number][2]) for numbers in waiting.values() for number in numbers), default=1)
        shortages = 0
        keys = sorted(waiting, key=len, reverse=True)
        self.path = {"path": "shared prefix", "from_generation": seen}
        for start in range(0, len(keys), CHUNK):
            chunk = keys[start : start + CHUNK]
            # Never so long that the first token of a continuation is inside: its logits are wanted.
            reader = self._reader_of([list(ids) for ids in chunk], 0, leave=keep)
            if reader is None:
                return None
            rows = [Row(number, list(ids[len(reader.prefix) :])) for number, ids in enumerate(chunk)]

            def run(batch: list[Row], chunk: list[tuple[int, ...]] = chunk, reader: PrefixReader = reader) -> None:
                logits = self.read_rows(reader, batch, keep)
                for row, row_logits in zip(batch, logits, strict=True):
                    for number in waiting[chunk[row.number]]:
                        answer = torch.tensor(requests[number][2], device=logits.device)
                        at = row_logits[-len(answer) :]
                        chosen = at.gather(1, answer[:, None])
                        results[number] = (float(chosen.sum()), bool((at.argmax(-1) == answer).all()))
                    bar.update(len(waiting[chunk[row.number]]))

            shortages += self._in_batches(rows, run, self._room(reader, 0))
            self.path = self._path(reader, shortages) | {"from_generation": seen}
        for (text, _, _), result in zip(requests, results, strict=True):
            self.cache_hook.add_partial("loglikelihood", text, result)
        return results

    def read_rows(self, reader: PrefixReader, rows: list[Row], keep: int) -> torch.Tensor:
        """Read a batch; returns log-probabilities ``(rows, keep, vocabulary)``.

        Raises:
            UserError: Logits are NaN.
        """
        logits = finite(reader.read([row.ids for row in rows], keep).logits)
        return F.log_softmax(logits, dim=-1, dtype=self.softmax_dtype)

    def _watcher(self, reader: PrefixReader, context: str, bar: tqdm) -> Callable[[list[Row], torch.Tensor], None]:
        """Return what watches a batch being written: it says how many rows are open, and collects the forced choice."""
        collect = None
        if self._forced:
            continuations = [self._encode_pair(context, choice)[1] for choice in self._forced.choices]
            collect = self._forced.watcher(reader.prefix, continuations)

        def watch(rows: list[Row], logits: torch.Tensor) -> None:
            if not bar.disable and len(rows[0].written) % 32 == 0:
                bar.set_postfix_str(f"{len(rows)} open at token {len(rows[0].written)}")
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
        kwargs = normalize_gen_kwargs(settings, self.max_gen_toks) if settings else {}
        if kwargs.get("do_sample"):
            return "sampling"
        extra = sorted(set(kwargs) - {"do_sample", "temperature", "until", "max_gen_toks"})
        if extra:
            return f"generation setting {extra[0]}"
        config = self.model.generation_config
        asked = [name for name in UNCOVERED if getattr(config, name, None) not in (None, 0, [], {})]
        if (config.num_beams or 1) > 1:
            asked.append("num_beams")
        return f"the model's generation config sets {asked[0]}" if asked and settings else None

    def _reader_of(self, prompts: list[list[int]], limit: int, leave: int = 1) -> PrefixReader | None:
        """Return a reader of the prompts' common prefix, the last one if it fits; None if the model cannot do it."""
        prefix = common_prefix(prompts)
        prefix = prefix[: max(0, min(map(len, prompts)) - leave)]
        last = self._reader.prefix if self._reader else None
        longest = max(map(len, prompts)) + limit
        needs_equal = self._has_window_under(longest)
        if last and len(last) >= len(prefix) // 2 and prefix[: len(last)] == last and needs_equal <= self._equal_lengths:
            return self._reader
        extremes = [min(prompts, key=len)[len(prefix) :], max(prompts, key=len)[len(prefix) :]]
        tolerance = TOLERANCE_FLOAT32 if self.model.dtype == torch.float32 and not self._is_quantised() else TOLERANCE
        self._reader = None
        try:
            reader = PrefixReader(self.model, self.device, prefix, self.tokenizer.pad_token_id or 0)
            for self._equal_lengths in (True,) if needs_equal else (False, True):
                groups = [[row] for row in extremes] if self._equal_lengths else [extremes]
                if all(reader.agrees(group, tolerance) for group in groups):
                    self._reader = reader
                    break
        except (TypeError, ValueError, NotImplementedError, AttributeError, IndexError, KeyError):
            pass  # an architecture with a cache of its own, or none
        except RuntimeError as error:
            if batches.is_out_of_memory(error):
                raise
        return self._reader

    def _has_window_under(self, tokens: int) -> bool:
        """Whether padding could push tokens out of an attention window."""
        config = self.model.config.get_text_config()
        windows = (getattr(config, "sliding_window", None), getattr(config, "attention_chunk_size", None))
        return any(window and window < tokens for window in windows)

    def _in_batches(self, rows: list[Row], run: Any, room: Callable[[int], int]) -> int:
        return batches.run_in_batches(rows, run, length=len, rows=room, equal_lengths=self._equal_lengths)

    def _room(self, reader: PrefixReader, ahead: int) -> Callable[[int], int]:
        """Return from a batch's width to its rows, by the memory that is free now."""
        config = self.model.config.get_text_config()
        hidden = getattr(config, "hidden_size", 0) or 1024
        widest = max(getattr(config, "intermediate_size", 0) or 4 * hidden, hidden)
        per_token = reader.cache_bytes + 8 * (widest + hidden) * self.model.dtype.itemsize
        free = batches.free_bytes(self.device)

        def rows(width: int) -> int:
            held = len(reader.prefix) + ahead
            return batches.most_rows(width, self.device, free=free, bytes_per_token=per_token, held=held, limit=self._rows)

        return rows

    def _path(self, reader: PrefixReader, shortages: int) -> dict[str, Any]:
        padding = "equal lengths" if self._equal_lengths else "padded"
        return {
            "path": "shared prefix",
            "prefix_tokens": len(reader.prefix),
            "batches": padding,
            "halved_for_memory": shortages,
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
    def _stock_batches(self, requests: list) -> Iterator[None]:
        """HFLM's own ``auto`` tries the whole context first; a number of rows is kinder where the user left it open."""
        given: Any = self.batch_size
        if given == "auto":
            longest = max((request.args[1].get("max_gen_toks", 0) for request in requests), default=0)
            self.batch_size_per_gpu = STOCK_ROWS if longest <= WRITTEN_AHEAD else STOCK_ROWS_THINKING
        try:
            yield
        finally:
            self.batch_size_per_gpu = given


def _begun(text: str, stops: list[str]) -> int:
    """Return where the longest end of a text begins that may be growing into a stop string."""
    begun = len(text)
    for stop in stops:
        for size in range(min(len(stop) - 1, len(text)), 0, -1):
            if text.endswith(stop[:size]):
                begun = min(begun, len(text) - size)
                break
    return begun
