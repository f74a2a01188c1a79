"""What does the work of runs: a model, loaded when the first one needs it, and kept for the next."""

import gc
import time
from dataclasses import replace
from typing import Any, Protocol

from harness_ext.backend import account, vllm
from harness_ext.backend.account import Account
from harness_ext.backend.build import Load, adjust, create_model
from harness_ext.backend.subject import VLLM, Subject
from harness_ext.errors import one_line_errors
from harness_ext.model.memory import peak_memory_bytes, reset_peak_memory
from harness_ext.model.settings import Settings
from harness_ext.run.run_plan import RunPlan


class Worker(Protocol):
    """Who answers the requests of runs, one run after the other, in `size` processes."""

    size: int

    def ready(self, run: RunPlan, later: list[RunPlan], cache: str) -> Any:
        """Return lm-eval's LM for a run, which keeps its answers in `cache`; the runs `later` are to come."""

    def account(self) -> Account:
        """Say what the last run was and what it has cost."""

    def close(self) -> None:
        """Let go of models and processes."""


class LocalWorker:
    """One model in this process; what several runs have in common is loaded once, and adapters are swapped on their base."""

    size = 1

    def __init__(self) -> None:
        self._lm: Any = None
        self._loaded: tuple[Subject, Settings | None] | None = None
        self._load_s = 0.0

    def ready(self, run: RunPlan, later: list[RunPlan], cache: str = "") -> Any:
        """Load the model if need be, and adjust it to the task.

        Raises:
            UserError: It does not load, or the task does not fit.
        """
        asked, tokens = run.asked, _tokens_of(run)
        reset_peak_memory()
        if not self._holds(asked.subject, asked.settings):
            self._load(run, tokens)
        if tokens:
            vllm.check_room(self._lm, tokens)
        if asked.settings and asked.chat_template:
            # What was checked is what is asked. lm-eval's own drops a system message that is refused, reads the clock,
            # and (0.4.13, vllm) loses the thinking switch when it is off.
            self._lm.apply_chat_template = asked.renderer
        _adjust(self._lm, run, later)
        account.watch(self._lm).reset()
        if asked.subject.frozen and asked.subset:
            rows, asks = asked.labelled(), [document for _, document in asked.documents()]
            self._lm.fit(asked.read(rows), [row["label"] for row in rows], asked.read(asks), asked.seed)
        return self._lm

    def account(self) -> Account:
        """Say what the last run was and what it has cost."""
        return replace(account.watch(self._lm), load_s=self._load_s, peak_memory=peak_memory_bytes())

    def close(self) -> None:
        """Let go of the model."""
        self._lm = self._loaded = None

    def _holds(self, subject: Subject, settings: Settings | None) -> bool:
        """Whether the model that is loaded is this one, or another adapter's on the same base, which then is swapped."""
        if self._loaded is None or subject.is_baseline:
            return False
        loaded, (before, _) = _needs(*self._loaded), self._loaded
        if loaded == _needs(subject, settings):
            return True
        if not (before.adapter and subject.adapter and hasattr(self._lm, "swap_adapter")):
            return False
        if loaded != _needs(replace(subject, adapter=before.adapter), settings):
            return False
        if self._lm.swap_adapter(subject.adapter.path):
            self._loaded = subject, settings
            return True
        return False

    def _load(self, run: RunPlan, tokens: int) -> None:
        asked, spec, start = run.asked, run.asked.spec, time.perf_counter()
        self.close()
        rows = asked.labelled() if asked.subject.is_baseline else []
        load = Load(batch_size(spec.batch_size), spec.device or "cuda:0", spec.max_batch_size, rows, tokens)
        adapter = f" with adapter {asked.subject.adapter.name!r}" if asked.subject.adapter else ""
        with one_line_errors(loading=f"Model {asked.subject.name!r}{adapter} does not load: "):
            self._lm = create_model(asked.subject, asked.settings, load)
        self._loaded, self._load_s = (asked.subject, asked.settings), time.perf_counter() - start
        collect_again()


def _needs(subject: Subject, settings: Settings | None) -> tuple[Any, ...]:
    """What a loaded model depends on."""
    subject = replace(subject, args={name: value for name, value in subject.args.items() if name != "peft"})
    if settings is None:
        return subject, None
    return subject, settings.device, settings.dtype, settings.quantisation, repr(settings.classes), settings.tokenizer


def _adjust(lm: Any, run: RunPlan, later: list[RunPlan]) -> None:
    from harness_ext.task.filters import answers_of, settled_test

    asked, prompts = run.asked, set(run.prompts)
    choices: dict[str, None] = {}
    for other in later if asked.task.OUTPUT_TYPE == "generate_until" else ():
        if other.asked.task.OUTPUT_TYPE == "multiple_choice" and not prompts.isdisjoint(other.prompts):
            document = other.asked.task.eval_docs[0]
            requests = other.asked.task.construct_requests(document, "", apply_chat_template=asked.chat_template)
            choices |= dict.fromkeys(request.args[1] for request in requests)
    delimiter = "" if asked.chat_template else asked.task.config.target_delimiter
    answers = [f"{delimiter}{answer}" for answer in answers_of(asked.task)]
    adjust(lm, asked.settings, settled_test(asked.task), list(choices), answers, asked.draw_seed)


def _tokens_of(run: RunPlan) -> int:
    """Count the tokens that vLLM is started for; 0 for other backends."""
    if run.asked.subject.backend != VLLM:
        return 0
    return vllm.needed_tokens(run.asked.task, run.asked.tokenizer, run.prompts)


def batch_size(text: str | None) -> int | str:
    """Return lm-eval's batch size, where the backend is not one that we choose for."""
    return 1 if text is None else int(text) if text.isdecimal() else text


def collect_again() -> None:
    """Look for garbage from here on, where a process has begun without that; what there is by now stays to its end."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def on_device(run: RunPlan, number: int) -> RunPlan:
    """Return a run for one of several processes, on the GPU of its number."""
    settings = run.asked.settings
    if settings is None or settings.device != "cuda":
        return run
    return replace(run, asked=replace(run.asked, settings=replace(settings, device=f"cuda:{number}")))
