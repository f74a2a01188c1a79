"""What a run costs, measured from outside the model: seconds, tokens, memory.

Knows lm-eval's LM interface and nothing else; a backend that has no tokenizer of its own (a server)
is timed all the same.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

REQUESTS = ("generate_until", "loglikelihood")


@dataclass
class Meter:
    """Running totals.

    Attributes:
        load_s: Seconds to load the model.
        tokenise_s: Seconds in the tokenizer while requests were answered.
        answer_s: Seconds in answering requests, tokenising included.
        requests: Requests answered, those from the response cache not counted.
        tokens_in: Prompt tokens read, padding not counted.
        tokens_out: Tokens written, end and padding tokens not counted.
    """

    load_s: float = 0.0
    tokenise_s: float = 0.0
    answer_s: float = 0.0
    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0

    def reset(self) -> None:
        """Start a new run with the same model."""
        self.tokenise_s = self.answer_s = 0.0
        self.requests = self.tokens_in = self.tokens_out = 0

    def watch(self, lm: Any) -> None:
        """Count what `lm` does from now on, by wrapping its methods on the instance."""
        for name in REQUESTS:
            self._wrap(lm, name, "answer_s", self._count_requests)
        self._wrap(lm, "tok_encode", "tokenise_s", None)
        self._wrap(lm, "tok_batch_encode", "tokenise_s", self._count_batch)
        self._wrap(lm, "encode_rows", "tokenise_s", self._count_rows)
        self._wrap(lm, "parse_generations", None, self._count_usage)  # of a server, which counts its tokens itself
        self._wrap(lm, "_loglikelihood_tokens", None, self._count_scored)
        self._wrap(lm, "write_rows", None, self._count_row_tokens)
        self._wrap(lm, "_model_generate", None, lambda args, kwargs, output: self._count_written(lm, kwargs, output))

    def _wrap(self, lm: Any, name: str, clock: str | None, count: Callable[[tuple, dict, Any], None] | None) -> None:
        inner = getattr(lm, name, None)
        if inner is None:
            return

        def outer(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            output = inner(*args, **kwargs)
            if clock:
                setattr(self, clock, getattr(self, clock) + time.perf_counter() - start)
            if count:
                count(args, kwargs, output)
            return output

        setattr(lm, name, outer)

    def _count_requests(self, args: tuple, kwargs: dict, output: Any) -> None:
        self.requests += len(output)

    def _count_batch(self, args: tuple, kwargs: dict, output: Any) -> None:
        self.tokens_in += int(output[1].sum())

    def _count_rows(self, args: tuple, kwargs: dict, output: Any) -> None:
        self.tokens_in += sum(map(len, output))

    def _count_row_tokens(self, args: tuple, kwargs: dict, output: Any) -> None:
        self.tokens_out += sum(output)

    def _count_scored(self, args: tuple, kwargs: dict, output: Any) -> None:
        self.tokens_in += sum(len(context) + len(answer) for _, context, answer in args[0])

    def _count_usage(self, args: tuple, kwargs: dict, output: Any) -> None:
        usage = kwargs["outputs"].get("usage")
        told = usage if isinstance(usage, dict) else {}
        counts = (told.get(name) for name in ("prompt_tokens", "completion_tokens"))
        read, wrote = (count if isinstance(count, int) else 0 for count in counts)
        self.tokens_in += read
        self.tokens_out += wrote

    def _count_written(self, lm: Any, kwargs: dict, output: Any) -> None:
        if isinstance(output, list):  # vLLM's, which also scores this way; that is counted already
            if kwargs.get("generate"):
                self.tokens_in += sum(map(len, kwargs["requests"]))
                self.tokens_out += sum(len(answer.outputs[0].token_ids) for answer in output)
            return
        written = output[:, kwargs["context"].shape[1] :]
        self.tokens_out += int((written != lm.tokenizer.pad_token_id).sum())
