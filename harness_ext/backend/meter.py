"""A run's costs for those who do not ask the account yet."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

from harness_ext.backend import account

REQUESTS = ("generate_until", "loglikelihood")


@dataclasses.dataclass
class Meter:
    """What `account.Account` says, and the seconds to load the model."""

    load_s: float = 0.0
    tokenise_s: float = 0.0
    answer_s: float = 0.0
    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0

    def reset(self) -> None:
        """Start a new run with the same model."""
        if told := getattr(self, "_account", None):
            told.reset()
        self.tokenise_s = self.answer_s = 0.0
        self.requests = self.tokens_in = self.tokens_out = 0

    def watch(self, lm: Any) -> None:
        """Take over what the model's account says after each call of its methods."""
        self._account = told = account.watch(lm)

        def wrap(inner: Callable) -> Callable:
            def outer(*args: Any, **kwargs: Any) -> Any:
                start = time.perf_counter()
                output = inner(*args, **kwargs)
                self.answer_s += time.perf_counter() - start
                self.requests += len(output)  # of all processes together
                vars(self).update({name: getattr(told, name) for name in ("tokenise_s", "tokens_in", "tokens_out")})
                return output

            return outer

        for name in REQUESTS:
            setattr(lm, name, wrap(getattr(lm, name)))
