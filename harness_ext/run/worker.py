"""What does the work of runs: a model, loaded when the first one needs it, and kept for the next."""

import time
from dataclasses import dataclass, replace
from typing import Any, Protocol

from harness_ext.backend import account
from harness_ext.backend.account import Account
from harness_ext.backend.build import Load, adjust, create_model
from harness_ext.backend.subject import VLLM, Subject
from harness_ext.errors import one_line_errors
from harness_ext.model.memory import peak_memory_bytes, reset_peak_memory
from harness_ext.model.settings import Settings
from harness_ext.run.run_plan import RunPlan


@dataclass(frozen=True)
class Cost:
    """What a run has cost beside what the backend accounts for.

    Attributes:
        load_s: Seconds to load the model.
        memory: The most bytes held, as `peak_memory_bytes` says it.
    """

    load_s: float
    memory: dict[str, int]


class Worker(Protocol):
    """Who answers a run's requests."""

    size: int  # processes

    def ready(self, run: RunPlan, later: list[RunPlan], cache: str) -> Any:
        """Return lm-eval's LM for a run.

        Args:
            run: The run.
            later: Those that come after it.
            cache: lm-eval's ``use_cache``.
        """

    def total(self) -> tuple[Account, Cost]:
        """Say what the last run has cost."""

    def close(self) -> None:
        """End."""


class LocalWorker:
    """One model in this process. It may be given to several `execute` calls; what is loaded already is not loaded again."""

    size = 1

    def __init__(self) -> None:
        self._lm: Any = None
        self._loaded: tuple[Subject, Settings | None] | None = None
        self._load_s = 0.0
        self._account = Account()

    def ready(self, run: RunPlan, later: list[RunPlan], cache: str = "") -> Any:
        """Load the model if need be, and adjust it to the task; see `Worker.ready`.

        Raises:
            UserError: It does not load, or the task does not fit.
        """
        asked = run.asked
        tokens = _tokens_of(run)
        reset_peak_memory()
        if not self._holds(asked.subject, asked.settings):
            self._load(run, tokens)
        if tokens:
            from harness_ext.backend import vllm

            vllm.check_room(self._lm, tokens)
        if asked.settings:
            if asked.chat_template:
                # What was checked is what is asked. lm-eval's own drops a system message that is refused, reads the clock,
                # and (0.4.13, vllm) loses the thinking switch when it is off.
                self._lm.apply_chat_template = asked.renderer
            _adjust(self._lm, run, later)
        self._account.reset()
        return self._lm

    def total(self) -> tuple[Account, Cost]:
        """Say what the last run has cost."""
        return self._account, Cost(self._load_s, peak_memory_bytes())

    def close(self) -> None:
        """Let go of the model."""
        self._lm = self._loaded = None

    def _holds(self, subject: Subject, settings: Settings | None) -> bool:
        """Whether the model that is loaded is this one, run in the same precision on the same device."""
        if self._lm is None or self._loaded is None or subject.is_baseline:
            return False
        return _loads(*self._loaded) == _loads(subject, settings)

    def _load(self, run: RunPlan, tokens: int) -> None:
        asked, start = run.asked, time.perf_counter()
        subject, spec = asked.subject, asked.spec
        self.close()
        rows = asked.task.dataset["train"].select(asked.subset.rows).to_list() if asked.subset else []
        load = Load(batch_size(spec.batch_size), spec.device or "cuda:0", spec.max_batch_size, rows, tokens)
        adapter = f" with adapter {subject.adapter.name!r}" if subject.adapter else ""
        with one_line_errors(loading=f"Model {subject.name!r}{adapter} does not load: "):
            self._lm = create_model(subject, asked.settings, load)
        self._loaded = subject, asked.settings
        self._load_s = time.perf_counter() - start
        self._account = account.watch(self._lm)


def _loads(subject: Subject, settings: Settings | None) -> tuple[Any, ...]:
    """What a loaded model depends on."""
    if settings is None:
        return subject, None
    return subject, (settings.device, settings.dtype, settings.quantisation, repr(settings.classes), settings.tokenizer)


def _adjust(lm: Any, run: RunPlan, later: list[RunPlan]) -> None:
    from harness_ext.task.filters import settled_test

    asked = run.asked
    assert asked.settings is not None
    choices: dict[str, None] = {}
    if asked.task.OUTPUT_TYPE == "generate_until":
        for other in later:
            if other.asked.task.OUTPUT_TYPE == "multiple_choice":
                document = other.asked.task.eval_docs[0]
                requests = other.asked.task.construct_requests(document, "", apply_chat_template=asked.chat_template)
                choices |= dict.fromkeys(request.args[1] for request in requests)
    delimiter = "" if asked.chat_template else asked.task.config.target_delimiter
    adjust(lm, asked.settings, settled_test(asked.task), list(choices), [f"{delimiter}{digit}" for digit in "01"])


def _tokens_of(run: RunPlan) -> int:
    """Count the tokens that vLLM is started for; 0 for other backends."""
    asked = run.asked
    if asked.subject.backend != VLLM:
        return 0
    from harness_ext.backend import vllm

    return vllm.needed_tokens(asked.task, asked.tokenizer, run.prompts)


def batch_size(text: str | None) -> int | str:
    """Return lm-eval's batch size, where the backend is not one that we choose for."""
    return 1 if text is None else int(text) if text.isdecimal() else text


def on_device(run: RunPlan, number: int) -> RunPlan:
    """Return a run for one of several processes, on the GPU of its number."""
    settings = run.asked.settings
    if settings is None or settings.device != "cuda":
        return run
    return replace(run, asked=replace(run.asked, settings=replace(settings, device=f"cuda:{number}")))
