"""Answers written behind a shared prefix: always the most likely token, until nothing more could change label or kind.

Knows HFLM; how rows are run is `engine`'s and `shared_prefix`'s, when an answer is at its end `ending`'s.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs
from tqdm import tqdm

from harness_ext.backend.ending import Ending
from harness_ext.backend.engine import PrefixReader, Row, Watch, write
from harness_ext.backend.forced_choice import ForcedChoice, Margins
from harness_ext.backend.shared_prefix import SharedPrefix
from harness_ext.task.labels import ANSWERS

CHUNK = 4096  # requests tokenised at a time, so that memory does not grow with their number


@dataclass(frozen=True)
class Wanted:
    """What is to be known of answers; see `answer.AnswerLM.prepare`."""

    settled: Callable[[str], bool] | None = None
    choices: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Writer:
    """Writes answers to requests, and keeps the model's account."""

    lm: Any  # `answer.AnswerLM`
    prefix: SharedPrefix
    wanted: Wanted
    forced: ForcedChoice  # collects the choices that are wanted
    bar: tqdm
    close: set[int] = field(default_factory=set)  # the documents whose answer rounding could have turned

    def answer(self, requests: list) -> list[str]:
        """Answer requests of the same generation settings, the longest first, or say that they are `NotCovered`."""
        ending, answers = self._ending(requests[0].args[1]), [""] * len(requests)
        order = sorted(range(len(requests)), key=lambda number: -len(requests[number].args[0]))
        for start in range(0, len(order), CHUNK):
            chunk = order[start : start + CHUNK]
            for number, text in zip(chunk, self._chunk([requests[number] for number in chunk], ending), strict=True):
                answers[number] = text
        self.lm.account.near_ties = len(self.close)
        return answers

    def _ending(self, settings: dict[str, Any]) -> Ending:
        lm, kwargs = self.lm, normalize_gen_kwargs(settings, self.lm.max_gen_toks)
        ends = lm.model.generation_config.eos_token_id
        return Ending(
            lm.tokenizer,
            lm.tok_decode,
            # The model's own, and the tokenizer's, which HFLM stops at too.
            ends={lm.eot_token_id, *(ends if isinstance(ends, list) else [ends])} - {None},
            stops=handle_stop_sequences(kwargs.get("until"), eos=lm.tok_decode(lm.eot_token_id, skip_special_tokens=False)),
            limit=int(kwargs["max_gen_toks"]),
            settled=self.wanted.settled,
            answers=[answer.strip() for answer in self.wanted.answers] or ANSWERS,
        )

    def _chunk(self, requests: list, ending: Ending) -> list[str]:
        lm, texts = self.lm, [request.args[0] for request in requests]
        prompts = lm.encode_rows(texts)
        lm.check_length(max(map(len, prompts)), lm.max_length - ending.limit)
        heads = list(map(lm.opened_thinking, prompts))
        margins = Margins(self.wanted.answers, texts, prompts, lm._encode_pair)
        answers = [""] * len(requests)

        def run(reader: PrefixReader, batch: list[Row]) -> None:
            self._write(reader, batch, heads, ending, self._watch(reader, texts[batch[0].number], margins))
            for row in batch:
                answers[row.number] = ending.text(heads[row.number], row.written)
                lm.cache_hook.add_partial("generate_until", requests[row.number].args, answers[row.number])
            self.bar.update(len(batch))

        rows = self.prefix.run(prompts, run, limit=ending.limit)
        lm.account.tokens_in += sum(map(len, prompts))  # now: where they cannot be run so, the stock path counts them
        self.close.update(requests[row.number].doc_id for row in rows if row.near_tie)
        lm.account.margins |= {requests[number].doc_id: margin for number, margin in margins.found.items()}
        stopped = sum(not ending.is_plain(row.written) for row in rows)
        lm.account.path["stopped_when_settled"] = lm.account.path.get("stopped_when_settled", 0) + stopped
        return answers

    def _write(self, reader: PrefixReader, batch: list[Row], heads: list[list[int]], ending: Ending, watch: Watch) -> None:
        """Write all rows of a batch to their end; some may have been done when memory ran out."""
        penalty, before = self.lm.model.generation_config.repetition_penalty, sum(len(row.written) for row in batch)

        def is_done(row: Row) -> bool:
            return ending.is_reached(heads[row.number], row.written)

        try:
            if still_open := [row for row in batch if not row.done]:
                write(reader, still_open, is_done, penalty, watch, self.lm.resolution, ending.decides)
        finally:
            self.lm.account.tokens_out += sum(len(row.written) for row in batch) - before

    def _watch(self, reader: PrefixReader, prompt: str, margins: Margins) -> Watch:
        """Return what is shown the logits before each token: what collects margins and choices, and the progress bar."""
        watches: list[Watch] = [margins.collect]
        if self.wanted.choices:
            continuations = [self.lm._encode_pair(prompt, choice)[1] for choice in self.wanted.choices]
            watches.append(self.forced.watcher(reader.prefix, continuations))

        def watch(rows: list[Row], logits: torch.Tensor) -> None:
            if not self.bar.disable and len(rows[0].written) % 32 == 0:
                self.bar.set_postfix_str(f"{len(rows)} open at token {len(rows[0].written)}")
            for each in watches:
                each(rows, logits)

        return watch
