"""Several processes that answer the requests of one run together (PROCS=).

Process 0 is the run: it alone builds prompts, keeps answers, writes and speaks. The others, its helpers, load the same model
and answer the share of the requests that it sends them. lm-eval sees one model in one process, so what it logs does not
depend on their number. (Its own way is to deal out documents: then each process draws other few-shot examples, an uneven
share is filled up with requests that stand in the log twice, and a process without a document fails.)

The helpers are started here, or all by `accelerate launch` or `torchrun`; either way they talk through torch.distributed.
"""

import dataclasses
import functools
import glob
import os
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from harness_ext.backend.meter import REQUESTS, Meter
from harness_ext.errors import UserError
from harness_ext.model.memory import peak_memory_bytes, reset_peak_memory
from harness_ext.run.cache import kept_safely

# As a launcher names them; taken out of the environment once read, or lm-eval and accelerate would deal out documents too.
_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
# What accelerate reads in their place, and MPI, Slurm's PMI among it, sets in every job.
_OTHERS = tuple(
    f"{maker}_{name}"
    for maker, names in {
        "PMI": ("RANK", "SIZE"),
        "MPI": ("LOCALRANKID", "LOCALNRANKS"),
        "OMPI_COMM_WORLD": ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE"),
        "MV2_COMM_WORLD": ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE"),
    }.items()
    for name in names
)
_MEETING = "HARNESS_MEETING"  # file at which processes started here find each other
_LAUNCHER = "TORCHELASTIC_RUN_ID"  # set by torchrun, and by `accelerate launch`, which calls it; by no scheduler
_FOREVER = timedelta(weeks=52)  # a helper may wait for its next request; that a process has ended is noticed at once


@dataclasses.dataclass(frozen=True)
class Place:
    """Which of how many processes this one is.

    Attributes:
        rank: From 0 up; 0 is the run.
        size: How many a launcher, or process 0 itself, has started.
        local_rank: Among those of this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0


@functools.cache
def place() -> Place:
    """Find out which process this is: one of several only where a launcher or process 0 started it.

    Slurm scripts and Ray leave RANK and WORLD_SIZE behind too, where nobody is there to be met: those are taken out of the
    environment, so that no library waits for the others either.
    """
    if not {_MEETING, _LAUNCHER} & os.environ.keys():
        for name in (*_NAMES, *_OTHERS):
            os.environ.pop(name, None)
        return Place()
    size = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0")) if size > 1 else 0
    return Place(rank, size, int(os.environ.get("LOCAL_RANK", rank)))


def read_size(text: str | None) -> int:
    """Read how many processes there shall be.

    Args:
        text: What the user typed; None for one, or as many as a launcher has started.

    Raises:
        UserError: It is no whole number from 1 up, or a launcher has started another number.
    """
    if text is None:
        return place().size
    if not (text.isascii() and text.isdecimal() and int(text) >= 1):
        raise UserError(f"PROCS {text!r} is no whole number from 1 up.")
    if (launched := place().size) not in (1, int(text)):
        raise UserError(f"PROCS {text} disagrees with the launcher, which has started {launched} processes: leave it out.")
    return int(text)


@dataclasses.dataclass(frozen=True)
class Reply:
    """What a helper sends back.

    Attributes:
        answers: To its requests, in their order.
        meter: What it has cost since the run began.
        memory: The most it has held, as `peak_memory_bytes` says it.
        near_ties: Answers that rounding could turn, as its model counts them.
        error: What went wrong instead.
    """

    answers: list[Any]
    meter: Meter
    memory: dict[str, int]
    near_ties: int | None = None
    error: Exception | None = None


class Team:
    """All processes of a command; process 0's view of them. Of one process, it changes nothing."""

    def __init__(self, size: int) -> None:
        """Prepare; no helper starts before there is work.

        Args:
            size: Number of processes, this one included.
        """
        self.size = size
        self._started: list[subprocess.Popen] = []
        self._folder: tempfile.TemporaryDirectory | None = None
        self._joined = False
        self._replies: list[Reply] = []

    def check_device(self, device: str) -> None:
        """Check that each process gets a device of its own, or that it is the CPU.

        Raises:
            UserError: There are fewer GPUs, or one was chosen by number.
        """
        if self.size == 1 or device == "cpu":
            return
        import torch

        if device != "cuda":
            raise UserError(f"PROCS {self.size} needs DEVICE=cuda (GPUs 0 to {self.size - 1}) or cpu, not {device}.")
        if self.size > (found := torch.cuda.device_count()):
            raise UserError(f"PROCS {self.size} is more than the {found} GPUs of this machine.")

    def call(self) -> None:
        """Start the helpers, unless they have been; they get ready while this process does."""
        if self.size == 1 or place().size > 1 or self._started:
            return
        import torch

        threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, torch.get_num_threads() // self.size))
        torch.set_num_threads(int(threads))
        self._folder = tempfile.TemporaryDirectory(prefix="harness-")
        os.environ[_MEETING] = str(Path(self._folder.name, "meeting"))
        common = {"WORLD_SIZE": self.size, "OMP_NUM_THREADS": threads, "TQDM_DISABLE": 1}
        for rank in range(1, self.size):
            numbers = {**common, "RANK": rank, "LOCAL_RANK": rank}
            self._started.append(
                subprocess.Popen(
                    [sys.executable, "-m", "harness_ext", "run"],
                    env=os.environ | {name: str(value) for name, value in numbers.items()},
                    stdin=subprocess.PIPE,  # closed when this process ends, however it ends
                    stdout=subprocess.PIPE,  # a line whenever there is something to hear
                    process_group=0,  # Ctrl-C is for this process alone
                )
            )

    def load(self, request: Any, settings: Any) -> None:
        """Let the helpers load the model, while this process does.

        Raises:
            UserError: A helper has ended.
        """
        if self.size > 1:
            self._join()
            self._tell([("load", request, settings)] * self.size)

    def share(self, lm: Any) -> Any:
        """Wait for the helpers' models, and let requests to `lm` be answered by all.

        Returns:
            `lm`, its methods wrapped.

        Raises:
            UserError: A helper could not load its model, or has ended.
        """
        if self.size > 1:
            self._hear()
            for name in REQUESTS:
                setattr(lm, name, functools.partial(self._answer, name, getattr(lm, name)))
        return lm

    def begin(self, wishes: tuple[Any, ...] | None, cache: str) -> str:
        """Begin a run: take over the answers that helpers kept in an interrupted attempt, and tell them where to keep more.

        Args:
            wishes: Further arguments of the helpers' ``adjust``.
            cache: lm-eval's ``use_cache``.

        Returns:
            `cache`.
        """
        _take_over(cache)
        self._replies = []
        if self.size > 1:
            self._tell([("begin", wishes, cache)] * self.size)
        return cache

    def total(self, meter: Meter) -> tuple[Meter, dict[str, int]]:
        """Add the helpers' costs to this process's: tokens add up; of seconds and memory, one process's largest counts."""
        helpers = [reply.meter for reply in self._replies]
        memory = [peak_memory_bytes(), *(reply.memory for reply in self._replies)]
        total = dataclasses.replace(
            meter,
            tokenise_s=max(each.tokenise_s for each in (meter, *helpers)),
            tokens_in=sum(each.tokens_in for each in (meter, *helpers)),
            tokens_out=sum(each.tokens_out for each in (meter, *helpers)),
        )
        return total, {name: max(each.get(name, 0) for each in memory) for name in memory[0]}

    def near_ties(self, own: int | None) -> int | None:
        """Add the helpers' answers that rounding could turn to this process's own; None where one has not counted them."""
        counts = [own, *(reply.near_ties for reply in self._replies)]
        return None if None in counts else sum(count for count in counts if count)

    def dismiss(self) -> None:
        """Let the helpers end, as all work is done."""
        if place().size > 1:
            self._join()
            self._tell([None] * self.size)
            _leave()

    def stop(self) -> None:
        """End the helpers that were started here, whatever they do."""
        for helper in self._started:
            helper.kill()
            helper.wait()
        if self._folder:
            self._folder.cleanup()

    def _join(self) -> None:
        if not self._joined:
            self._listen()
            _join(0, self.size)
            self._joined = True

    def _tell(self, messages: list[Any]) -> None:
        """Send each process its message; the first is this one's own."""
        import torch.distributed as dist

        dist.scatter_object_list([None], messages, src=0)

    def _listen(self) -> None:
        """Wait until every helper started here has something to say.

        Raises:
            UserError: One has ended.
        """
        for number, helper in enumerate(self._started, start=1):
            assert helper.stdout is not None
            if not helper.stdout.readline():  # unlike a wait in torch.distributed, Ctrl-C ends this one
                how = f"signal {-code}" if (code := helper.wait()) < 0 else f"exit code {code}"
                raise UserError(
                    f"Process {number} of 0 to {self.size - 1} has ended ({how}), as it does when memory runs out. "
                    "Try fewer PROCS=; the answers so far are kept."
                )

    def _hear(self) -> list[Reply]:
        """Collect the helpers' replies.

        Raises:
            Exception: What a helper raised.
        """
        import torch.distributed as dist

        self._listen()
        replies: list[Any] = [None] * self.size
        dist.gather_object(None, replies, dst=0)
        self._replies = replies[1:]
        for reply in self._replies:
            if reply.error:
                raise reply.error
        return self._replies

    def _answer(self, method: str, own: Callable, requests: list, **kwargs: Any) -> list[Any]:
        """Answer requests together.

        Args:
            method: Name of the model's method.
            own: The method itself, of this process's model.
            requests: lm-eval's.
            **kwargs: Further arguments of the method.

        Returns:
            The answers in the order of the requests.
        """
        shares = deal([request.doc_id for request in requests], self.size)
        self._tell([(method, [requests[index] for index in share]) for share in shares])
        answers = [own([requests[index] for index in shares[0]], **kwargs)]
        answers += [reply.answers for reply in self._hear()]
        by_index = {
            index: answer
            for share, theirs in zip(shares, answers, strict=True)
            for index, answer in zip(share, theirs, strict=True)
        }
        return [by_index[index] for index in range(len(requests))]


@contextmanager
def together(size: int) -> Iterator[Team]:
    """Give a command its processes, and end those started here when it ends."""
    team = Team(size)
    try:
        yield team
        team.dismiss()
    finally:
        team.stop()


def deal(doc_ids: list[int], size: int) -> list[list[int]]:
    """Deal out requests by document, as cards are dealt: all of a document go to the same process.

    Args:
        doc_ids: Of each request.
        size: Number of processes.

    Returns:
        For each process, the indices of its requests, in their order.
    """
    places = {doc_id: place for place, doc_id in enumerate(dict.fromkeys(doc_ids))}
    shares: list[list[int]] = [[] for _ in range(size)]
    for index, doc_id in enumerate(doc_ids):
        shares[places[doc_id] % size].append(index)
    return shares


def help_out(load: Callable[..., Any], adjust: Callable[..., None]) -> None:
    """Be a helper: do what process 0 says until it says no more, or ends.

    Args:
        load: Takes a request and settings, and returns lm-eval's model.
        adjust: Takes the model and what the next task wants of it.
    """
    say = _be_quiet() if _MEETING in os.environ else lambda: None
    lm, cache, seed, meter = None, "", 0, Meter()
    import torch
    import torch.distributed as dist

    say()
    here = place()
    _join(here.rank, here.size)

    def reply(answers: list[Any], error: Exception | None = None) -> None:
        say()
        near_ties = getattr(lm, "near_ties", None) if answers else 0
        dist.gather_object(Reply(answers, dataclasses.replace(meter), peak_memory_bytes(), near_ties, error), dst=0)

    while True:
        received: list[Any] = [None]
        dist.scatter_object_list(received, None, src=0)
        try:
            match received[0]:
                case None:
                    _leave()
                    return
                case "load", request, settings:
                    if settings.device == "cuda":
                        settings = dataclasses.replace(settings, device=f"cuda:{here.local_rank}")
                    lm = load(request, settings)
                    meter.watch(lm)
                    seed = (request.config.seed[2] or 0) + here.rank  # two samples of a document are to differ
                    reply([])
                case "begin", wishes, cache:
                    adjust(lm, *wishes)
                    meter.reset()
                    reset_peak_memory()
                    torch.manual_seed(seed)
                case method, requests:
                    reply(_answer_and_keep(lm, method, requests, f"{cache}_rank{here.rank}.db") if requests else [])
        except UserError as error:
            reply([], error)
        except Exception as error:  # process 0 says it
            named = RuntimeError(f"{type(error).__name__}: {error}")
            named.add_note(f"In process {here.rank}:\n{traceback.format_exc()}")
            reply([], named)


def _answer_and_keep(lm: Any, method: str, requests: list, cache: str) -> list[Any]:
    """Answer requests, each answer kept as it comes."""
    from lm_eval.api.model import CachingLM

    with kept_safely(lm):
        return getattr(CachingLM(lm, cache), method)(requests)


def _take_over(cache: str) -> None:
    """Move the answers that helpers have kept to where process 0 looks for answers."""
    from sqlitedict import SqliteDict

    prefix = Path(f"{cache}_rank")
    for file in prefix.parent.glob(f"{glob.escape(prefix.name)}[1-9]*.db"):
        with SqliteDict(f"{prefix}0.db") as kept, SqliteDict(str(file)) as more:
            kept.update(more)
            kept.commit()
        file.unlink()


def _be_quiet() -> Callable[[], None]:
    """Keep a helper's output off its standard output, which tells process 0 when to listen, and end it with process 0.

    Returns:
        What makes process 0 listen.
    """
    line = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    def wait_for_the_end() -> None:
        sys.stdin.buffer.read()
        os._exit(1)

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    return lambda: print("listen", file=line)


def _leave() -> None:
    """Part from the other processes; threads of gloo's that still run when the interpreter ends would abort it."""
    import torch.distributed as dist

    dist.destroy_process_group()


def _join(rank: int, size: int) -> None:
    """Meet the other processes."""
    import torch.distributed as dist

    place = os.environ.pop(_MEETING, None)
    if place:  # all on this machine, so nobody outside it may connect
        loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
        if loopback:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
    method = f"file://{place}" if place else "env://"
    dist.init_process_group("gloo", init_method=method, rank=rank, world_size=size, timeout=_FOREVER)
    for name in _NAMES:
        os.environ.pop(name, None)
