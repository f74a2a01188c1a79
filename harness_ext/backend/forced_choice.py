"""Forced choices and margins, from the log-probabilities after a prompt.

Those that are seen while answers are written to the same prompts are collected, so that nothing is read twice.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from tqdm import tqdm

from harness_ext.backend import batches
from harness_ext.backend.engine import Row
from harness_ext.backend.logits import finite
from harness_ext.backend.shared_prefix import SharedPrefix

Result = tuple[float, bool]  # log-probability, and whether it is the greedy continuation
Watch = Callable[[list[Row], torch.Tensor], None]  # is shown rows and their logits (rows, vocabulary) before each token


class ForcedChoice:
    """Collects the log-probabilities of a few continuations after each prompt, task after task.

    A continuation of several tokens is seen as far as the model itself writes it: its last token may be any.
    """

    def __init__(self, softmax_dtype: torch.dtype | None = None) -> None:
        self.is_read = False  # whether what was collected has been asked for
        self._softmax_dtype = softmax_dtype
        self._seen: dict[tuple[tuple[int, ...], tuple[int, ...]], Result] = {}
        self._largest: dict[tuple[int, ...], float] = {}

    def found(self, context: Sequence[int], continuation: Sequence[int]) -> Result | None:
        """Return what HFLM would compute for a continuation of a prompt, if it has been seen."""
        self.is_read = True
        return self._seen.get((tuple(context), tuple(continuation)))

    def largest(self, context: Sequence[int]) -> float:
        """Return the size of the largest logit after a prompt that has been seen."""
        return self._largest.get(tuple(context), 0.0)

    def watcher(self, prefix: Sequence[int], continuations: Sequence[Sequence[int]]) -> Watch:
        """Return what collects each choice, of such tokens, after prompts that begin with a prefix."""
        wanted = [tuple(tokens) for tokens in continuations]
        begun: dict[tuple[Row, tuple[int, ...]], Result] = {}

        def watch(rows: list[Row], logits: torch.Tensor) -> None:
            live = [
                (place, tokens)
                for place, row in enumerate(rows)
                for tokens in wanted
                if len(row.written) < len(tokens) and tuple(row.written) == tokens[: len(row.written)]
            ]
            if not live:
                return
            scores = F.log_softmax(logits, dim=-1, dtype=self._softmax_dtype)
            greedy, sizes = scores.argmax(-1).tolist(), logits.abs().amax(-1).tolist()
            for place, tokens in live:
                row, step = rows[place], len(rows[place].written)
                before = begun.get((row, tokens[:step])) if step else (0.0, True)
                if before is None:
                    continue
                result = before[0] + float(scores[place, tokens[step]]), before[1] and greedy[place] == tokens[step]
                if step + 1 == len(tokens):
                    context = (*prefix, *row.ids)
                    self._largest[context], self._seen[context, tokens] = sizes[place], result
                else:
                    begun[row, tokens[: step + 1]] = result

        return watch


class Margins:
    """Collects, while answers are written, by how much the second of a task's two answers is likelier than the first.

    Of answers that differ in their last token only; what they begin with is seen if the model itself writes it. Margins are
    ``found`` by the number of the row.
    """

    def __init__(
        self,
        answers: Sequence[str],
        prompts: Sequence[str],
        rows: Sequence[list[int]],
        encode_pair: Callable[[str, str], tuple[list[int], list[int]]],
    ) -> None:
        """Tokenise two answers as they follow each prompt, with lm-eval's `encode_pair`; `rows` are the prompts' tokens."""
        self.found: dict[int, float] = {}
        self._wanted: dict[int, tuple[list[int], list[int]]] = {}
        by_end: dict[tuple[str, ...], list[list[int]]] = {}  # tokens depend on the word before them, at the most
        for number, (prompt, ids) in enumerate(zip(prompts, rows, strict=True)) if len(answers) == 2 else ():
            end = (*prompt[-80:].split()[-1:], prompt[len(prompt.rstrip()) :])
            if end not in by_end:
                by_end[end] = [_behind(ids, *encode_pair(prompt, answer)) for answer in answers]
            zero, one = by_end[end]
            if zero[:-1] == one[:-1] and zero != one:
                self._wanted[number] = zero[:-1], [zero[-1], one[-1]]

    def collect(self, rows: list[Row], logits: torch.Tensor) -> None:
        """Look whether it is time; a `Watch`."""
        due = {
            row.number: (place, wanted[1])
            for place, row in enumerate(rows)
            if (wanted := self._wanted.get(row.number)) and row.written == wanted[0]
        }
        if not due:
            return
        places, tokens = (torch.tensor(each, device=logits.device) for each in zip(*due.values(), strict=True))
        pairs = logits[places[:, None], tokens].float()
        # Both are normalised by the same sum, so the difference of logits is that of log-probabilities.
        self.found |= zip(due, (pairs[:, 1] - pairs[:, 0]).tolist(), strict=True)


def _behind(prompt: list[int], context: list[int], continuation: list[int]) -> list[int]:
    """Return a continuation without the space that lm-eval takes from the end of a prompt to its beginning."""
    whole = context + continuation
    return whole[len(prompt) :] if whole[: len(prompt)] == prompt else continuation


def score(lm: Any, prefix: SharedPrefix, seen: ForcedChoice, requests: list, bar: tqdm) -> list[Result]:
    """Score continuations for a model (`answer.AnswerLM`): each context is read once, those `seen` not at all.

    A request is a text, the tokens of the prompt, the tokens of the continuation. The model may say `NotCovered`.
    """
    results: list[Any] = [seen.found(context, answer) for _, context, answer in requests]
    blurs = [lm.resolution * seen.largest(context) for _, context, _ in requests]
    waiting: dict[tuple[int, ...], list[int]] = {}
    for number, (_, context, answer) in enumerate(requests):
        if results[number] is None:
            waiting.setdefault((*context, *answer[:-1]), []).append(number)
    lm.account.path = {"path": "shared prefix", "from_generation": len(requests) - results.count(None)}
    contexts = sorted(waiting, key=len, reverse=True)
    # Never so long a prefix that the first token of a continuation is inside: its logits are wanted.
    keep = max((len(requests[number][2]) for numbers in waiting.values() for number in numbers), default=1)

    def run(batch: list[int]) -> None:
        logits = finite(reader.read([contexts[number][len(reader.prefix) :] for number in batch], keep=keep))
        scores = F.log_softmax(logits, dim=-1, dtype=lm.softmax_dtype)
        largest = logits.abs().amax(dim=(1, 2)).tolist()
        for place, row_scores, size in zip(batch, scores, largest, strict=True):
            for number in waiting[contexts[place]]:
                answer = torch.tensor(requests[number][2], device=scores.device)
                at = row_scores[-len(answer) :]
                chosen = at.gather(1, answer[:, None])
                results[number] = (float(chosen.sum()), bool((at.argmax(-1) == answer).all()))
                blurs[number] = lm.resolution * size
            bar.update(len(waiting[contexts[place]]))

    if contexts:
        reader = prefix.reader([list(ids) for ids in contexts], leave=keep)
        room = prefix.room(reader)
        batches.run_in_batches(
            range(len(contexts)), run, length=lambda place: len(contexts[place]) - len(reader.prefix), room=room
        )
        prefix.note(reader, room)
    for (text, _, _), result in zip(requests, results, strict=True):
        lm.cache_hook.add_partial("loglikelihood", text, result)
    lm.account.near_ties = _close_calls(requests, [score for score, _ in results], blurs)
    return results


def _close_calls(requests: Sequence[tuple], scores: Sequence[float], blurs: Sequence[float]) -> int:
    """Count the documents whose two best choices are nearer to each other than rounding may move each."""
    by_prompt: dict[tuple[int, ...], dict[tuple[int, ...], tuple[float, float]]] = {}
    asked: Counter[tuple[int, ...]] = Counter()
    for (_, context, answer), score, blur in zip(requests, scores, blurs, strict=True):
        by_prompt.setdefault(tuple(context), {})[tuple(answer)] = score, blur
        asked[tuple(context)] += 1
    close = 0
    for context, choices in by_prompt.items():
        best = sorted(choices.values(), reverse=True)[:2]
        if len(best) == 2 and best[0][0] - best[1][0] < max(best[0][1], best[1][1]):
            close += asked[context] // len(choices)  # two documents may be put by the same prompt
    return close
