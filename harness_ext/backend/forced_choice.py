"""The forced choice, answered from the log-probabilities that are seen while answers are written to the same prompts."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F

from harness_ext.backend.engine import Row

Result = tuple[float, bool]  # log-probability, and whether it is the greedy continuation


class ForcedChoice:
    """Collects the log-probabilities of a few continuations after each prompt.

    A continuation of several tokens is seen as far as the model itself writes it: its last token may be any.

    Attributes:
        choices: The continuations, as text.
    """

    def __init__(self, choices: Sequence[str], softmax_dtype: torch.dtype | None = None) -> None:
        """Begin with nothing seen.

        Args:
            choices: The continuations.
            softmax_dtype: As HFLM's.
        """
        self.choices = tuple(choices)
        self._softmax_dtype = softmax_dtype
        self._seen: dict[tuple[int, ...], dict[tuple[int, ...], Result]] = {}
        self._largest: dict[tuple[int, ...], float] = {}

    def found(self, context: Sequence[int], continuation: Sequence[int]) -> Result | None:
        """Return what HFLM would compute for a continuation of a prompt, if it has been seen."""
        return self._seen.get(tuple(context), {}).get(tuple(continuation))

    def largest(self, context: Sequence[int]) -> float:
        """Return the size of the largest logit after a prompt that has been seen."""
        return self._largest.get(tuple(context), 0.0)

    def watcher(
        self, prefix: Sequence[int], continuations: Sequence[Sequence[int]]
    ) -> Callable[[list[Row], torch.Tensor], None]:
        """Return what is to be shown rows and their logits ``(rows, vocabulary)`` before each token.

        Args:
            prefix: The tokens before every row.
            continuations: Tokens of each choice after these prompts.
        """
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
                    self._largest[(*prefix, *row.ids)] = sizes[place]
                    self._seen.setdefault((*prefix, *row.ids), {})[tokens] = result
                else:
                    begun[row, tokens[: step + 1]] = result

        return watch


class Margins:
    """Collects, while answers are written, by how much the second of a task's two answers is likelier than the first.

    Of answers that differ in their last token only; what they begin with is seen if the model itself writes it.

    Attributes:
        found: The margins, by the number of the row.
    """

    def __init__(
        self,
        answers: Sequence[str],
        prompts: Mapping[int, str],
        encode_pair: Callable[[str, str], tuple[list[int], list[int]]],
    ) -> None:
        """Tokenise the answers, as they follow each prompt.

        Args:
            answers: Two texts; margins of any other number are not known.
            prompts: By the number of their row.
            encode_pair: From a prompt and an answer to the tokens of both, as lm-eval's.
        """
        self.found: dict[int, float] = {}
        self._wanted: dict[int, tuple[list[int], list[int]]] = {}
        by_end: dict[tuple[str, str], list[list[int]]] = {}  # tokens depend on the word before them, at the most
        for number, prompt in prompts.items() if len(answers) == 2 else ():
            end = (prompt.split()[-1:] or [""])[0], prompt[len(prompt.rstrip()) :]
            if end not in by_end:
                by_end[end] = [encode_pair(prompt, answer)[1] for answer in answers]
            zero, one = by_end[end]
            if zero[:-1] == one[:-1] and zero != one:
                self._wanted[number] = zero[:-1], [zero[-1], one[-1]]

    def collect(self, rows: list[Row], logits: torch.Tensor) -> None:
        """Be shown rows and their logits ``(rows, vocabulary)`` before each token."""
        due = {
            row.number: (place, wanted[1])
            for place, row in enumerate(rows)
            if (wanted := self._wanted.get(row.number)) and row.written == wanted[0]
        }
        if not due:
            return
        places, tokens = zip(*due.values(), strict=True)
        pairs = logits[torch.tensor(places, device=logits.device)].gather(1, torch.tensor(tokens, device=logits.device))
        # Both are normalised by the same sum, so the difference of logits is that of log-probabilities.
        self.found |= zip(due, (pairs[:, 1].float() - pairs[:, 0].float()).tolist(), strict=True)


def close_calls(requests: Sequence[tuple], scores: Sequence[float], blurs: Sequence[float]) -> int:
    """Count the documents whose two best choices are nearer to each other than rounding lets one tell.

    Args:
        requests: lm-eval's: text, tokens of the prompt, tokens of the continuation.
        scores: Log-probability of each.
        blurs: By how much rounding may move each.
    """
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
