"""What answers a 0/1 task from the sentence itself, whatever the prompt around it says.

A question to be generated is answered with what the task asks for that class, such as "0" or "positive", a choice with the
log-probability of the class, so every variant of the task works unchanged. Knows lm-eval's interface; how a sentence is
classified is its subclasses' matter.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence

from lm_eval.api.model import LM

from harness_ext.backend.account import Account, answers_requests, keep_margin
from harness_ext.errors import UserError
from harness_ext.model.lengths import sentences_of
from harness_ext.task.labels import ANSWERS


class SentenceLM(LM):
    """A classifier of sentences under lm-eval's interface."""

    def __init__(self) -> None:
        super().__init__()
        self.account = Account()
        self._answers: Sequence[str] = ANSWERS

    def prepare(
        self,
        settled: Callable[[str], bool] | None = None,
        choices: Sequence[str] = (),
        answers: Sequence[str] = ANSWERS,
        seed: int = 0,
    ) -> None:
        """Say what the next task asks for class 0 and class 1; the rest is for models that write."""
        self._answers = [answer.strip() for answer in answers]

    @abstractmethod
    def classify(self, sentences: list[str]) -> list[tuple[float, float]]:
        """Return the log-probabilities of 0 and 1 for each sentence."""

    @answers_requests
    def generate_until(self, requests: list) -> list[str]:
        """Answer each request with what the task asks for its class."""
        answers = [self._answers[one > zero] for zero, one in self._answer(requests)]
        for request, answer in zip(requests, answers, strict=True):
            keep_margin(self, request.doc_id, self.account.margins.get(request.doc_id))
            self.cache_hook.add_partial("generate_until", request.args, answer)
        return answers

    @answers_requests
    def loglikelihood(self, requests: list) -> list[tuple[float, bool]]:
        """Return for each request the log-probability of the class that its continuation names, and if it is the larger."""
        results = []
        for request, row in zip(requests, self._answer(requests), strict=True):
            continuation = request.args[1].strip()
            if continuation not in self._answers:
                said = " or ".join(self._answers)
                raise UserError(f"A classifier answers {said}; the task asks for the likelihood of {continuation!r}.")
            named = self._answers.index(continuation)
            result = (row[named], row[named] > row[1 - named])
            self.cache_hook.add_partial("loglikelihood", request.args, result)
            results.append(result)
        return results

    def loglikelihood_rolling(self, requests: list) -> list[float]:
        """Refuse."""
        raise UserError("A classifier has no likelihood of a text. Choose a task of 0/1 questions.")

    def _texts_of(self, requests: list) -> list[str]:
        """Return what is classified."""
        return sentences_of([request.doc for request in requests])

    def _answer(self, requests: list) -> list[tuple[float, float]]:
        rows = self.classify(self._texts_of(requests))
        self.account.margins |= {request.doc_id: one - zero for request, (zero, one) in zip(requests, rows, strict=True)}
        return rows
