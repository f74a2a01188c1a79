"""Answers written behind a shared prefix, greedily or drawn, until nothing more could change label or kind.

Knows HFLM; how rows are run is `engine`'s, how a token is chosen `next_token`'s, when an answer is at its end `ending`'s.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lm_eval.models.utils import handle_stop_sequences
from tqdm import tqdm

from harness_ext.backend import drawn
from harness_ext.backend.account import keep_margin
from harness_ext.backend.ending import Ending
from harness_ext.backend.engine import Choose, Row, write
from harness_ext.backend.forced_choice import ForcedChoice, Margins, Watch
from harness_ext.backend.next_token import NextToken
from harness_ext.backend.shared_prefix import SharedPrefix
from harness_ext.task.labels import ANSWERS

CHUNK = 4096  # requests tokenised at a time, so that memory does not grow with their number


@dataclass(frozen=True)
class Wanted:
    """What is to be known of answers; see `answer.AnswerLM.prepare`."""

    settled: Callable[[str], bool] | None = None
    choices: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class Writer:
    """Writes answers to requests, and keeps the model's account."""

    lm: Any  # `answer.AnswerLM`
    prefix: SharedPrefix
    wanted: Wanted
    forced: ForcedChoice  # collects the choices that are wanted
    bar: tqdm
    settings: dict[str, Any]  # of generation, from lm-eval's `normalize_gen_kwargs`
    config: Any  # transformers' generation config with these
    close: set[int] = field(default_factory=set)  # the documents whose answer rounding could have turned

    def answer(self, requests: list) -> list[str]:
        """Answer requests, the longest first, or say that they are `NotCovered`."""
        is_drawn, answers = self.config.do_sample, [""] * len(requests)
        turns = drawn.turns(requests) if is_drawn else []  # lm-eval looks itself for kept answers that are not drawn
        kept = {number for number, turn in enumerate(turns) if drawn.name(*turn) in self.lm.kept}
        for number in kept:
            answers[number] = self.lm.kept[drawn.name(*turns[number])]
        self.lm.account.requests -= len(kept)  # the caller counts all
        self.bar.update(len(kept))
        waiting = [number for number in range(len(requests)) if number not in kept]
        waiting.sort(key=lambda number: -len(requests[number].args[0]))
        for start in range(0, len(waiting), CHUNK):
            numbers = waiting[start : start + CHUNK]
            their_turns = [turns[number] for number in numbers if is_drawn]
            for number, text in zip(numbers, self._chunk([requests[n] for n in numbers], their_turns), strict=True):
                answers[number] = sys.intern(text)  # most are alike
        self.lm.account.near_ties = None if is_drawn else len(self.close)
        return answers

    def _ending(self) -> Ending:
        lm, ends = self.lm, self.config.eos_token_id
        return Ending(
            lm.tokenizer,
            lm.tok_decode,
            # The model's own, and the tokenizer's, which HFLM stops at too.
            ends={lm.eot_token_id, *(ends if isinstance(ends, list) else [ends])} - {None},
            stops=handle_stop_sequences(
                self.settings.get("until"), lm.tok_decode(lm.eot_token_id, skip_special_tokens=False)
            ),
            limit=int(self.settings["max_gen_toks"]),
            settled=self.wanted.settled,
            answers=[answer.strip() for answer in self.wanted.answers] or ANSWERS,
        )

    def _chunk(self, requests: list, turns: list[tuple[int, int]]) -> list[str]:
        lm, ending, texts = self.lm, self._ending(), [request.args[0] for request in requests]
        prompts = lm.encode_rows(texts)
        lm.check_length(list(map(len, prompts)), lm.max_length - ending.limit)
        heads = list(map(lm.opened_thinking, prompts))
        reader = self.prefix.reader(prompts, ahead=ending.limit)
        room = self.prefix.room(reader)
        margins = Margins(self.wanted.answers, texts, prompts, lm._encode_pair)
        next_token = NextToken(
            reader,
            self.config,
            seed=lambda number: (self.wanted.seed, *turns[number]),
            resolution=lm.resolution,
            decides=ending.decides,
        )
        answers = [""] * len(requests)

        def finished(row: Row) -> None:
            answers[row.number] = text = ending.text(heads[row.number], row.written)
            keep_margin(lm, requests[row.number].doc_id, margins.found.get(row.number))
            if self.config.do_sample:
                lm.kept[drawn.name(*turns[row.number])] = text
            else:
                lm.cache_hook.add_partial("generate_until", requests[row.number].args, text)
            self.bar.update()

        rows = [Row(number, ids[len(reader.prefix) :]) for number, ids in enumerate(prompts)]
        watched = self._watched(next_token, reader.prefix, texts[0], margins)
        try:
            write(reader, rows, watched, lambda row: ending.is_reached(heads[row.number], row.written), finished, room)
        finally:
            lm.account.tokens_out += sum(len(row.written) for row in rows)
        lm.account.tokens_in += sum(map(len, prompts))
        self.prefix.note(reader, room)
        self.close.update(requests[row.number].doc_id for row in rows if row.near_tie)
        lm.account.margins |= {requests[number].doc_id: margin for number, margin in margins.found.items()}
        stopped = sum(not ending.is_plain(row.written) for row in rows)
        lm.account.path["stopped_when_settled"] = lm.account.path.get("stopped_when_settled", 0) + stopped
        return answers

    def _watched(self, choose: Choose, prefix: Sequence[int], prompt: str, margins: Margins) -> Choose:
        """Let what collects margins and choices see the logits before a token is chosen, and say how far that is."""
        watches: list[Watch] = [margins.collect]
        if self.wanted.choices:
            continuations = [self.lm._encode_pair(prompt, choice)[1] for choice in self.wanted.choices]
            watches.append(self.forced.watcher(prefix, continuations))

        def choose_watched(rows: list[Row], logits: torch.Tensor) -> list[int]:
            if not self.bar.disable and len(rows[0].written) % 32 == 0:
                self.bar.set_postfix_str(f"{len(rows)} open at token {len(rows[0].written)}")
            for each in watches:
                each(rows, logits)
            return choose(rows, logits)

        return choose_watched
