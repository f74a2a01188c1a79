"""`PROCS=n`: n processes answer documents i mod n each into their own response caches, and the run reads those.

Every process plans the same spec and builds the same requests, few-shot examples included, so that none has to be told what
to ask: it is told a run's key and where to keep answers, a line of JSON, and says what that has cost in another. The run
itself loads no model. (lm-eval's own way is to deal out documents: then each process draws other few-shot examples, an
uneven share is filled up with requests that stand in the log twice, and a process without a document fails.)
"""

import contextlib
import gc
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from lm_eval.api.model import LM, CachingLM, hash_args
from sqlitedict import SqliteDict

from harness_ext.backend import drawn
from harness_ext.backend.account import Account
from harness_ext.errors import UserError
from harness_ext.run.cache import kept_safely, take_over
from harness_ext.run.plan import Plan, plan
from harness_ext.run.run_plan import RunPlan
from harness_ext.run.spec import RunSpec
from harness_ext.run.worker import LocalWorker, Worker, collect_again, on_device


class _StandIn(LM):
    """Stands where lm-eval wants a model that renders prompts, but does not answer by itself."""

    tokenizer_name = ""  # lm-eval keys a cache of requests by it, which is refused

    def __init__(self, run: RunPlan) -> None:
        super().__init__()
        self.tokenizer = run.asked.tokenizer
        self._template = self.tokenizer.chat_template if run.asked.chat_template and self.tokenizer else None
        if run.asked.chat_template:
            self.apply_chat_template: Any = run.asked.renderer

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Return the template, for lm-eval's results."""
        return self._template

    def generate_until(self, requests: list, **kwargs: Any) -> list:
        """Answer requests."""
        return self._answer("generate_until", requests)

    def loglikelihood(self, requests: list, **kwargs: Any) -> list:
        """Score continuations."""
        return self._answer("loglikelihood", requests)

    def loglikelihood_rolling(self, requests: list, **kwargs: Any) -> list:
        """Score texts."""
        return self._answer("loglikelihood_rolling", requests)

    def _answer(self, method: str, requests: list) -> list:
        raise NotImplementedError


class Answered(_StandIn):
    """A model all of whose answers are in the cache; `info` is what the processes with the model say of it."""

    def __init__(self, run: RunPlan, cache: str, info: dict[str, Any]) -> None:
        super().__init__(run)
        self._cache, self._info = cache, info

    def get_model_info(self) -> dict[str, Any]:
        """Return what lm-eval's results say of the model."""
        return self._info

    def _answer(self, method: str, requests: list) -> list:
        """Answer what lm-eval does not look for in its cache: answers that are drawn."""
        with SqliteDict(f"{self._cache}_rank0.db") as kept:
            return [kept[name] for name in drawn.names(requests)]


class Shards:
    """Several processes as one worker."""

    def __init__(self, spec: RunSpec, size: int) -> None:
        self.size = size
        self._spec = spec
        self._started: list[subprocess.Popen] = []
        self._account = Account()

    def ready(self, run: RunPlan, later: list[RunPlan], cache: str) -> Any:
        """Let all processes answer their shares.

        Raises:
            UserError: One has met bad input, or has ended.
        """
        self._start()
        for process in self._started:
            self._tell(process, {"key": run.key, "later": [each.key for each in later], "cache": cache})
        said = self._hear_all()
        take_over(cache)
        self._account = Account.total([Account.from_json(each["account"]) for each in said])
        return Answered(run, cache, said[0]["info"])

    def account(self) -> Account:
        """Say what the last run has cost: of seconds and memory, the largest of one process."""
        return self._account

    def close(self) -> None:
        """End the processes, whatever they do."""
        for process in self._started:
            process.kill()
            process.wait()
        self._started = []

    def _start(self) -> None:
        if self._started:
            return
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // self.size))
        for number in range(self.size):
            quiet = {"TQDM_DISABLE": "1"} if number else {}
            process = subprocess.Popen(
                [sys.executable, "-m", "harness_ext.run.shards"],
                env=os.environ | {"OMP_NUM_THREADS": threads} | quiet,
                stdin=subprocess.PIPE,  # closed when this process ends, however it ends
                stdout=subprocess.PIPE,
                text=True,
                process_group=0,  # Ctrl-C is for this process alone
            )
            self._started.append(process)
            self._tell(process, {"spec": self._spec.to_json(), "number": number, "size": self.size})
        collect_again()

    def _tell(self, process: subprocess.Popen, message: dict[str, Any]) -> None:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # that it has ended is heard
            print(json.dumps(message), file=process.stdin, flush=True)

    def _hear_all(self) -> list[dict[str, Any]]:
        """Wait for all; the first that fails ends the others, which may have hours to go."""
        with ThreadPoolExecutor(self.size) as pool:
            waiting = [pool.submit(self._hear, number, process) for number, process in enumerate(self._started)]
            try:
                for heard in as_completed(waiting):
                    heard.result()
            except BaseException:
                self.close()  # or the threads would go on waiting
                raise
        return [heard.result() for heard in waiting]

    def _hear(self, number: int, process: subprocess.Popen) -> dict[str, Any]:
        assert process.stdout is not None
        line = process.stdout.readline()
        said = json.loads(line) if line else {}
        if "error" in said:
            raise UserError(said["error"])
        if not said:
            if (code := process.wait()) >= 0:
                raise RuntimeError(f"Process {number} of 0 to {self.size - 1} has failed (exit code {code}): see above.")
            raise UserError(
                f"Process {number} of 0 to {self.size - 1} has ended (signal {-code}), as it does when memory runs out. "
                "Try fewer PROCS=; the answers so far are kept."
            )
        return said


def worker_for(plan: Plan) -> Worker:
    """Return what does the work of a plan."""
    return Shards(plan.spec, plan.spec.procs) if plan.spec.procs > 1 else LocalWorker()


class _ShareIsDone(BaseException):  # no error, and not to be taken for one
    """The requests of one process are answered; nothing is to be scored here."""


class _Shard(_StandIn):
    """A model that answers the share of one process, as far as it is not in the run's cache already."""

    def __init__(self, run: RunPlan, lm: Any, number: int, size: int, cache: str) -> None:
        super().__init__(run)
        self._lm, self._number, self._size, self._cache = lm, number, size, cache

    def _answer(self, method: str, requests: list) -> list:
        share = deal([request.doc_id for request in requests], self._size)[self._number]
        mine = [requests[index] for index in share]
        own = f"{self._cache}_rank{self._number + 1}.db"
        names = drawn.names(mine) if method == "generate_until" and drawn.are_drawn(mine) else []
        with SqliteDict(f"{self._cache}_rank0.db") as before, SqliteDict(own) as kept:
            kept.update({name: before[name] for name in names if name in before})
            kept.commit()
            if not names:
                mine = [request for request in mine if hash_args(method, request.args) not in before]
        if mine:
            with kept_safely(self._lm):
                answers = getattr(CachingLM(self._lm, own), method)(mine)
            with SqliteDict(own) as kept:
                kept.update(zip(names, answers, strict=False))
                kept.commit()
        raise _ShareIsDone


def deal(doc_ids: list[int], size: int) -> list[list[int]]:
    """Deal out requests by document, as cards are dealt: all of a document go to the same process.

    Returns:
        For each process, the indices of its requests, in their order.
    """
    places = {doc_id: place for place, doc_id in enumerate(dict.fromkeys(doc_ids))}
    shares: list[list[int]] = [[] for _ in range(size)]
    for index, doc_id in enumerate(doc_ids):
        shares[places[doc_id] % size].append(index)
    return shares


def _serve() -> None:
    """Be one of the processes: answer this one's share of each run that is asked for, until there is no more to hear."""
    from harness_ext.run.command import quieten

    lines, say = _listen()
    quieten(None)
    first = json.loads(next(lines))
    try:
        runs = {run.key: run for run in plan(RunSpec.from_json(first["spec"])).runs}
        worker = LocalWorker()
        for line in lines:
            order = json.loads(line)
            run = on_device(runs[order["key"]], first["number"])
            lm = worker.ready(run, [runs[key] for key in order["later"]])
            _answer_share(run, _Shard(run, lm, first["number"], first["size"], order["cache"]), first["number"])
            info = lm.get_model_info() if hasattr(lm, "get_model_info") else {}
            say({"account": worker.account().to_json(), "info": info})
    except UserError as error:
        say({"error": str(error)})


def _answer_share(run: RunPlan, shard: _Shard, number: int) -> None:
    from harness_ext.run.execute import evaluate_task

    with contextlib.suppress(_ShareIsDone):
        evaluate_task(shard, run, None, seed_shift=number)  # two samples of a document are to differ


def _listen() -> tuple[Iterator[str], Any]:
    """Keep this process's output off its standard output, on which it answers, and end it with the one that started it."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    heard: queue.Queue[str] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin:
            heard.put(line)
        os._exit(1)

    threading.Thread(target=listen, daemon=True).start()
    return iter(heard.get, ""), lambda message: print(json.dumps(message, default=str), file=out)


if __name__ == "__main__":
    gc.disable()  # as in harness_ext.__main__
    _serve()
