"""What a backend says of the requests it has answered: their number and cost, which way they went, and how clearly.

Our models report to their account where the work happens; lm-eval's own are watched from outside. Knows lm-eval's LM
interface; nothing of tasks, prompts or records.
"""

import dataclasses
import functools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import MethodType
from typing import Any

MARGIN = "margin of document "  # what a margin is called among the answers that are kept, before the document's number


@dataclasses.dataclass
class Account:
    """What has been since `reset`; only ``self_check`` holds beyond it, as the model does."""

    requests: int = 0  # answered by the model; those from lm-eval's response cache do not count
    answer_s: float = 0.0  # in answering them, tokenising included
    tokenise_s: float = 0.0  # of which in the tokenizer; of lm-eval's own backends not told apart
    tokens_in: int = 0  # prompt tokens read, padding not counted
    tokens_out: int = 0  # tokens written, padding not counted
    near_ties: int | None = None  # documents whose answers rounding could have turned; None: not counted
    path: dict[str, Any] = dataclasses.field(default_factory=dict)  # which way requests were run, and why
    self_check: dict[str, Any] | None = None  # how the model compares with itself asked plainly
    # log p(answer 1) - log p(answer 0) after the prompt, by document; the answers are "0" and "1", or a task's own.
    margins: dict[int, float] = dataclasses.field(default_factory=dict)
    # How often each shape was run, "rows x tokens"; a shared prefix is not counted.
    batches: Counter[str] = dataclasses.field(default_factory=Counter)
    load_s: float = 0.0
    peak_memory: dict[str, int] = dataclasses.field(default_factory=dict)
    fitted: dict[str, Any] | None = None  # what was chosen on the labels, where the model was fitted on some

    def reset(self) -> None:
        """Start a new run with the same model."""
        vars(self).update(vars(Account(self_check=self.self_check)))

    @contextmanager
    def tokenising(self) -> Iterator[None]:
        """Count the seconds of a block as the tokenizer's."""
        start = time.perf_counter()
        yield
        self.tokenise_s += time.perf_counter() - start

    @classmethod
    def total(cls, accounts: Sequence["Account"]) -> "Account":
        """Add up what several processes say of their shares of a run.

        Tokens, requests, margins and batches add up; of seconds the largest counts. Near ties are known if all that have
        answered anything know theirs; the path and the self-check are those of the first that has.
        """
        busy = [account for account in accounts if account.requests]
        near = [account.near_ties for account in busy]
        held = dict.fromkeys(of for account in accounts for of in account.peak_memory)
        return cls(
            requests=sum(account.requests for account in accounts),
            answer_s=max(account.answer_s for account in accounts),
            tokenise_s=max(account.tokenise_s for account in accounts),
            tokens_in=sum(account.tokens_in for account in accounts),
            tokens_out=sum(account.tokens_out for account in accounts),
            near_ties=sum(ties for ties in near if ties is not None) if near and None not in near else None,
            path=next((account.path for account in busy if account.path), {}),
            self_check=next((account.self_check for account in busy if account.self_check), None),
            margins={doc: margin for account in accounts for doc, margin in account.margins.items()},
            batches=sum((account.batches for account in accounts), Counter[str]()),
            load_s=max(account.load_s for account in accounts),
            peak_memory={of: max(account.peak_memory.get(of, 0) for account in accounts) for of in held},
        )

    def to_json(self) -> dict[str, Any]:
        """Return all fields; JSON makes texts of documents' numbers, which `from_json` undoes."""
        return vars(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Account":
        """Return the account that `to_json` has told."""
        margins = {int(doc): margin for doc, margin in fields["margins"].items()}
        return cls(**fields | {"margins": margins, "batches": Counter(fields["batches"])})


def answers_requests(method: Callable) -> Callable:
    """Let a model's ``account`` count what its ``generate_until`` or ``loglikelihood`` answers, and how long that takes."""

    @functools.wraps(method)
    def answer(self: Any, requests: list, *args: Any, **kwargs: Any) -> list:
        start = time.perf_counter()
        answers = method(self, requests, *args, **kwargs)
        self.account.answer_s += time.perf_counter() - start
        self.account.requests += len(answers)
        if answers and isinstance(answers[0], tuple):
            self.account.margins |= _margins(requests, [score for score, _ in answers])
        return answers

    return answer


def keep_margin(lm: Any, document: int, margin: float | None) -> None:
    """Keep a margin, if it is known, before the answer is kept: a document that has one is not asked again."""
    kept = getattr(lm.cache_hook, "dbdict", None)
    if kept is not None and margin is not None:
        kept[f"{MARGIN}{document}"] = margin


def watch(lm: Any) -> Account:
    """Return a model's account; one of lm-eval's own is given one first, by wrapping methods on the instance."""
    if not hasattr(lm, "account"):
        lm.account = Account()
        for name in ("generate_until", "loglikelihood"):
            setattr(lm, name, MethodType(answers_requests(getattr(type(lm), name)), lm))
        _count_tokens(lm)
    return lm.account


def _margins(requests: Sequence[Any], scores: Sequence[float]) -> dict[int, float]:
    """Return the margins of documents whose two choices were scored, in lm-eval's order of a task's choices."""
    by_document: dict[int, dict[int, float]] = {}
    for request, score in zip(requests, scores, strict=True):
        by_document.setdefault(request.doc_id, {})[request.idx] = score
    return {doc: choices[1] - choices[0] for doc, choices in by_document.items() if choices.keys() == {0, 1}}


def _count_tokens(lm: Any) -> None:
    """Count tokens where lm-eval's ``hf`` and ``vllm`` run their model; others tell none."""
    account, generate, score = lm.account, getattr(lm, "_model_generate", None), getattr(lm, "_loglikelihood_tokens", None)
    if generate is None or score is None:
        return

    def counted(*args: Any, **kwargs: Any) -> Any:
        output = generate(*args, **kwargs)
        if kwargs.get("generate"):  # vLLM's; without it it scores
            account.tokens_in += sum(map(len, kwargs["requests"]))
            account.tokens_out += sum(len(answer.outputs[0].token_ids) for answer in output)
        elif "context" in kwargs:
            account.tokens_in += int(kwargs["attention_mask"].sum())
            account.tokens_out += int((output[:, kwargs["context"].shape[1] :] != lm.tokenizer.pad_token_id).sum())
        return output

    def scored(requests: list, *args: Any, **kwargs: Any) -> Any:
        account.tokens_in += sum(len(context) + len(answer) for _, context, answer in requests)
        return score(requests, *args, **kwargs)

    lm._model_generate, lm._loglikelihood_tokens = counted, scored
