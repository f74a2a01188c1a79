"""`make doctor`: what would stop a run, said before anything large is downloaded or loaded.

Takes the options of `run` and asks the same questions with the same code, but goes on after a problem, so that all of
them are listed. Reads config, tokenizer, data and the sizes of files; of the weights at most the headers.
"""

import argparse
import contextlib
import errno
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness_ext.errors import DataError, UserError, writing_to
from harness_ext.model import memory, quantisation
from harness_ext.model.adapters import describe, find_adapter, virtual_tokens
from harness_ext.model.checkpoints import Checkpoint, inspect_model, is_classifier, leftover
from harness_ext.model.lengths import check_sentence, context_length, sentences_of
from harness_ext.model.loading import quieten_libraries
from harness_ext.model.memory import in_words
from harness_ext.model.settings import Settings
from harness_ext.run.passed_on import unexamined
from harness_ext.run.plan import Asking, find_tasks
from harness_ext.run.spec import CHECKPOINT_BACKENDS, Request, check_kind, complete, read_flags

OK, NOTE, PROBLEM = "ok", "note", "problem"


@dataclass(frozen=True)
class Check:
    """One line of the list.

    Attributes:
        name: What was looked at.
        state: ``ok``, ``note`` (worth knowing) or ``problem`` (the run would stop).
        said: What was found; for a problem also what to do.
    """

    name: str
    state: str
    said: str


def execute(args: argparse.Namespace) -> None:
    """Examine what the command line asks for and print the list, the first prompt and the verdict.

    Raises:
        UserError: The command line is so wrong that nothing can be examined.
        SystemExit: With code 2, if the run would stop.
    """
    as_json = vars(args).pop("json")
    quieten_libraries()
    examination = Examination(args)
    problems = [check for check in examination.checks if check.state == PROBLEM]
    named = ", ".join(check.name for check in problems)
    verdict = f"would not run: {len(problems)} problem{'s'[: len(problems) > 1]} ({named})" if problems else "would run"
    if as_json:
        found = {"runs": not problems, "verdict": verdict, "checks": [asdict(check) for check in examination.checks]}
        print(json.dumps(found | {"prompt": examination.prompt, "memory": examination.memory}, indent=2))
    else:
        for check in examination.checks:
            print(f"{check.state.upper() if check.state == PROBLEM else check.state:<8} {check.name:<13} {check.said}")
        if examination.prompt is not None:
            print(f"The first prompt: {examination.prompt!r}")
        print(f"Verdict: {verdict}.")
    if problems:
        sys.exit(2)


class Examination:
    """What was found out about a run that has not begun.

    Attributes:
        checks: In the order they were made.
        prompt: The first prompt, as the model would get it.
        memory: Estimated bytes by what they are for, and those of the device.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        """Examine.

        Raises:
            UserError: The command line is wrong, or names no model that can be found.
        """
        self.checks: list[Check] = []
        self.prompt: str | None = None
        self.memory: dict[str, int] = {}
        config, given, own = read_flags(args)
        if config.model not in CHECKPOINT_BACKENDS:
            raise UserError(f"doctor examines models that are loaded here; BACKEND {config.model!r} is not for it.")
        self.config, self.own, self.args = config, own, config.model_args
        adapter = self._adapter()
        base = self._base(adapter)
        if base is None or not base.config:
            return
        self._architecture(base, adapter)
        self._quantisation(base, adapter)
        self.request = complete(config, given, own, base, adapter)
        self.asking = Asking(self.request)
        for name in unexamined(self.args, base.config):
            self._say("model args", NOTE, f"{name!r} is handed on to transformers; whether it takes it is not examined")
        self._disk(base)
        self._out(Path(config.output_path))
        for task in self._tasks(config):
            self._task(task, base)

    def _say(self, name: str, state: str, said: str) -> None:
        self.checks.append(Check(name, state, " ".join(said.split())))

    @contextlib.contextmanager
    def _problem(self, name: str) -> Iterator[None]:
        """Turn an error of the user's into a line of the list."""
        try:
            yield
        except UserError as error:
            self._say("data" if isinstance(error, DataError) else name, PROBLEM, str(error))

    def _adapter(self) -> Checkpoint | None:
        if not self.args.get("peft"):
            return None
        with self._problem("adapter"):
            adapter = find_adapter(str(self.args["peft"]), allow_pickle=self.own["allow_pickle"])
            if not self.args.get("pretrained"):
                self.args["pretrained"] = adapter.config.get("base_model_name_or_path") or ""
            self._say("adapter", OK, f"{adapter.name!r}, {describe(adapter)}")
            return adapter
        return None

    def _base(self, adapter: Checkpoint | None) -> Checkpoint | None:
        text, revision = str(self.args.get("pretrained", "tiny")), str(self.args.get("revision", "main"))
        try:
            found = inspect_model(text, revision, allow_pickle=self.own["allow_pickle"])
        except UserError as error:
            if adapter is None:
                raise
            self._say("model", PROBLEM, f"{error} Give the adapter's base with MODEL=.")
            return None
        base, parts = found.checkpoint, {problem.part for problem in found.problems}
        where = f"on the Hub at {base.version}" if base.version else f"folder {base.path}"
        self._say("model", OK, f"{base.name!r}, {where}")
        for problem in found.problems:
            self._say(problem.part, PROBLEM, problem.said)
        if "weights" not in parts:
            size = in_words(sum(base.weights.values()))
            self._say("weights", OK, f"{len(base.weights)} file{'s'[: len(base.weights) > 1]}, {size}")
        if said := leftover(base):
            self._say("leftover", NOTE, said)
        self.has_tokenizer = not parts & {"files", "tokenizer"}
        return base

    def _architecture(self, base: Checkpoint, adapter: Checkpoint | None) -> None:
        import transformers
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

        kind, remote_code = str(base.config.get("model_type")), bool(self.args.get("trust_remote_code"))
        if kind not in CONFIG_MAPPING_NAMES and not remote_code:
            brought = "accept the code that it brings (ARGS=--trust_remote_code), or " if "auto_map" in base.config else ""
            self._say(
                "architecture",
                PROBLEM,
                f"transformers {transformers.__version__} does not know {kind!r}: {brought}take a newer transformers.",
            )
            return
        with self._problem("architecture"):
            check_kind(base, adapter, remote_code)
            does = "names a class" if is_classifier(base, adapter) else "writes its answer"
            self._say("architecture", OK, f"{kind}, {does}")

    def _quantisation(self, base: Checkpoint, adapter: Checkpoint | None) -> None:
        """Check what was asked; what a checkpoint is stored as has been examined with its files."""
        with self._problem("quantisation"):
            request = Request(self.config, frozenset(), self.own, base, adapter)
            quantisation.check_possible(base.name, base.config, request.quantise)
            if not any(check.name == "quantisation" for check in self.checks):
                stored = quantisation.stored(base.config)
                is_known = stored in (None, "fp4", *quantisation.ASKED, *quantisation.BITS)
                more = "" if is_known else "; whether transformers can read that here is not examined"
                self._say("quantisation", OK if is_known else NOTE, f"{request.quantise or stored or 'none'}{more}")
            return
        self.own["quantise"] = "none"  # so that the rest can be examined

    def _disk(self, base: Checkpoint) -> None:
        if Path(base.path).is_dir():
            return
        from huggingface_hub import constants, try_to_load_from_cache

        def is_cached(file: str) -> bool:
            return isinstance(try_to_load_from_cache(base.path, file, revision=base.revision), str)

        needed = sum(size for file, size in base.weights.items() if not is_cached(file))
        cache = Path(constants.HF_HUB_CACHE)
        free = shutil.disk_usage(next(path for path in (cache, *cache.parents) if path.exists())).free
        said = f"{in_words(needed)} to download, {in_words(free)} free in the Hub's cache"
        if needed > free:
            self._say("disk", PROBLEM, f"{said}. Make room, or set HF_HOME to a larger disk.")
        else:
            self._say("disk", OK, said)

    def _out(self, out: Path) -> None:
        with self._problem("results"), writing_to(out):
            first = next(path for path in (out, *out.absolute().parents) if path.exists())
            if not first.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, f"{first} is no folder")
            if not os.access(first, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, f"{first} is not yours to write to")

    def _tasks(self, config: Any) -> list[Any]:
        from harness_ext.task.find import build_tasks

        with self._problem("task"):
            return find_tasks(config, self.own, self.request.adapter)
        # The data or the task is missing; what else is wrong can be seen on the sentences that ship.
        self._say("stand-in", NOTE, "what follows is examined on the sentences that ship (sst2_01_mini)")
        return build_tasks(["sst2_01_mini"])

    def _task(self, task: Any, base: Checkpoint) -> None:
        if not any(check.name == "stand-in" for check in self.checks):
            self._say("task", OK, f"{task.task_name}, {len(task.eval_docs)} documents ({task.eval_docs.info.description})")
            if made := self.asking.trained_on(task):
                self._say("training", NOTE, f"the adapter was trained on {made['task']} ({made['data']})")
        if not self.has_tokenizer:
            return
        with self._problem("tokenizer"):
            kind = "fast" if getattr(self.asking.tokenizer, "is_fast", False) else "slow"
            self._say("tokenizer", OK, f"{kind}, {len(self.asking.tokenizer)} tokens")
            settings = self._choices(task)
            if settings is None:
                return
            longest = 0
            if self.request.is_classifier:
                self.asking.requests(task, settings)  # it reads no prompt, but the run's key holds them
                self._sentences(task, base)
            else:
                longest = self._prompts(task, base, settings)
            self._memory(task, base, settings, longest)

    def _choices(self, task: Any) -> Settings | None:
        """Choose as a run does; where only thinking is impossible, go on without it."""
        settings = None
        with self._problem("choices"):
            settings = self.asking.prepare(task, thinking=False)
        if settings and (task.config.metadata or {}).get("thinking"):
            with self._problem("thinking"):
                settings = self.asking.prepare(task)
        if settings:
            self._say("choices", OK, settings.line())
        return settings

    def _prompts(self, task: Any, base: Checkpoint, settings: Settings) -> int:
        """Render all prompts as a run does.

        Returns:
            Tokens of the longest; 0 if there is none.
        """
        from harness_ext.task.prompts import template_hash

        tokenizer, longest = self.asking.tokenizer, 0
        with self._problem("chat template"):
            prompts = self.asking.prompts(task, settings)
            self.asking.requests(task, settings)
            self.prompt = self.prompt or prompts[0]
            said = f"{template_hash(tokenizer)}, renders" if settings.chat_template else "none: prompts go as they are"
            self._say("chat template", OK, said)
            longest = self._tokens(prompts)
            self._context(task, base, longest)
        return longest

    def _sentences(self, task: Any, base: Checkpoint) -> None:
        """Compare the longest sentence with what a classifier reads."""
        with self._problem("context"):
            sentences = sentences_of(task.eval_docs)
            longest = max(map(len, self.asking.tokenizer(sentences)["input_ids"]))
            config = memory.text_config(base.config)
            limit = context_length(config) if config is not None else None
            room = limit and limit - virtual_tokens(self.request.adapter)
            check_sentence(longest, room)
            self._say("context", OK, f"the longest sentence has {longest} tokens{f' of {room}' if room else ', no limit'}")

    def _tokens(self, prompts: list[str]) -> int:
        """Tokenise prompts as a run does, and return the length of the longest; 0 if that is refused."""
        from harness_ext.task.prompts import encode_prompts

        tokenizer = self.asking.tokenizer
        with self._problem("begin token"):
            rows = encode_prompts(tokenizer, prompts)
            has_one = tokenizer.bos_token_id is not None and tokenizer.bos_token_id in rows[0]
            self._say("begin token", OK, f"{int(has_one)} in a prompt")
            return max(map(len, rows))
        return 0

    def _context(self, task: Any, base: Checkpoint, longest: int) -> None:
        """Compare the context with what a run needs of it, as HFLM finds it."""
        text = memory.text_config(base.config)
        room = self.args.get("max_length") or getattr(text, "max_position_embeddings", None)
        if room is None:
            self._say("context", NOTE, "its length is not in the config")
        elif longest + _budget(task) > int(room):
            self._say(
                "context",
                PROBLEM,
                f"A prompt has up to {longest} tokens and its answer {_budget(task)}, but the model's context holds {room}. "
                "Choose a model with a longer context, fewer examples (--num_fewshot) or a shorter answer "
                "(ARGS='--gen_kwargs max_gen_toks=N').",
            )
        else:
            self._say("context", OK, f"{longest} + {_budget(task)} tokens of {room}")

    def _memory(self, task: Any, base: Checkpoint, settings: Settings, longest: int) -> None:
        """Compare what a run needs with what the device has."""
        by_memory = not isinstance(settings.batch_size, int)
        rows = 1 if by_memory else int(settings.batch_size)
        batch = "each row of a batch" if by_memory else f"a batch of {rows}"
        tokens, quantise = longest + _budget(task), self.request.quantise
        positions = 1 if task.OUTPUT_TYPE == "generate_until" else longest
        weights = memory.weights_bytes(base.config, sum(base.weights.values()), settings.dtype, quantise)
        row = memory.logits_bytes(base.config, 1, positions)
        if not self.request.is_classifier:  # it reads a sentence once and keeps nothing of it
            row += memory.cache_bytes(base.config, tokens, settings.dtype)
        total, free = memory.total(settings.device), memory.available(settings.device)
        needed, fitting = weights + rows * row, (free - weights) // max(row, 1)
        self.memory = {"weights": weights, "batch": rows * row, "needed": needed, "free": free, "total": total}
        smaller = "a smaller model" if quantise or base.config.get("quantization_config") else "QUANT=nf4 or a smaller model"
        state, more = OK, ""
        if weights > total:
            state, more = PROBLEM, f". Too little: take {smaller}."
        elif fitting < 1:
            state, more = PROBLEM, f". Too little now: free some, or take {smaller}."
        elif fitting < rows and settings.thinking:
            state, more = NOTE, f". So much only if all answers use their whole budget; BATCH={fitting} fits even then."
        elif fitting < rows:
            state, more = PROBLEM, f". Too little now: take BATCH={fitting}."
        said = f"about {in_words(needed)}: weights {in_words(weights)}, {batch} {in_words(rows * row)}"
        self._say("memory", state, f"{said}; {settings.device} has {in_words(total)}, {in_words(free)} free{more}")


def _budget(task: Any) -> int:
    """Return the most tokens that an answer may have."""
    return int((task.config.generation_kwargs or {}).get("max_gen_toks", 256)) if task.OUTPUT_TYPE == "generate_until" else 1
