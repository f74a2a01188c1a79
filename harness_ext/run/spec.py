"""From the command line of `run` to a checked request; lm-eval's flags with their meaning, and a few of ours."""

import argparse
import difflib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness_ext.backend import served, vllm
from harness_ext.errors import UserError
from harness_ext.model import presets, quantisation
from harness_ext.model.adapters import find_adapter
from harness_ext.model.checkpoints import Checkpoint, find_model, is_classifier, is_generative, is_version, leftover
from harness_ext.run.shards import read_size

if TYPE_CHECKING:
    from lm_eval.config.evaluate_config import EvaluatorConfig

DEFAULT_BACKEND = "hf-answer"
CLASSIFIER_BACKEND = "hf-classifier"
CHECKPOINT_BACKENDS = (
    DEFAULT_BACKEND,
    CLASSIFIER_BACKEND,
    "hf",
    vllm.VLLM,
)  # they load a checkpoint, which we find, check and choose for
BASELINES = ("majority", "tfidf")  # they are fitted on the task's train split
OWN_FLAGS = (
    "pretrained", "adapter", "base_url", "data_dir", "dtype", "quantise", "engine", "think_budget", "procs", "force",
    "allow_pickle", "train_samples",
)  # fmt: skip
ENGINES = ("shared", "stock")  # how hf-answer runs requests


@dataclass(frozen=True)
class Request:
    """What the user asked for.

    Attributes:
        config: lm-eval's own configuration.
        given: The fields of `config` that the user set, by flag or config file.
        own: Our own flags, by the names in `OWN_FLAGS`.
        base: The model; None for a backend that loads no checkpoint itself, such as a server's.
        adapter: The adapter on top of it.
    """

    config: "EvaluatorConfig"
    given: frozenset[str]
    own: dict[str, Any]
    base: Checkpoint | None
    adapter: Checkpoint | None

    @property
    def model(self) -> str:
        """How the model is called in tables and folder names."""
        args = self.config.model_args
        name = self.base.name if self.base else str(args.get("pretrained") or args.get("model") or self.config.model)
        if self.is_served and name.startswith(("/", "~")):
            return Path(name).name  # the rest tells whose machine it is
        return name

    @property
    def is_classifier(self) -> bool:
        """Whether the sentence is classified, rather than a prompt continued."""
        return self.config.model == CLASSIFIER_BACKEND

    @property
    def is_served(self) -> bool:
        """Whether a server of the OpenAI protocol answers."""
        return self.config.model in served.ENDPOINTS

    @property
    def is_baseline(self) -> bool:
        """Whether the model is fitted on the task's train split."""
        return self.config.model in BASELINES

    @property
    def quantise(self) -> str | None:
        """How bitsandbytes quantises the base: as asked for, else as the adapter's base was in training; None not at all."""
        made = self.adapter.manifest if self.adapter else {}
        trained_on = (made.get("recipe_settings") or made.get("settings") or {}).get("quantise")
        asked = self.own["quantise"] or trained_on
        return None if asked == "none" else asked

    def if_given(self, name: str) -> Any:
        """Return a field of `config` if the user set it; lm-eval's own default is None here."""
        return getattr(self.config, name) if name in self.given else None


def add_own_flags(parser: argparse.ArgumentParser) -> None:
    """Add what `make eval` needs and lm-eval has no flag for."""
    group = parser.add_argument_group("this project's own (what is left out is chosen and printed)")
    group.add_argument("--pretrained", metavar="<model>", help="Hub id, folder or short name (default: tiny)")
    group.add_argument("--adapter", metavar="<dir>", help="PEFT adapter or checkpoint folder; names its own base model")
    group.add_argument("--base_url", metavar="<url>", help="A server's address, for --model local-chat-completions")
    group.add_argument("--data_dir", metavar="<dir>", help="Folder with GLUE's train.tsv and dev.tsv, instead of the Hub")
    group.add_argument("--dtype", metavar="<dtype>", help="auto, float32, float16 or bfloat16")
    group.add_argument("--engine", metavar="<engine>", help="stock: run requests as lm-eval's HFLM does (default: shared)")
    group.add_argument("--think_budget", metavar="<n>", help="Tokens that a thinking model may write (default: the task's)")
    group.add_argument("--quantise", metavar="<kind>", help="nf4 or int8: quantise the weights while loading; or none")
    group.add_argument("--train_samples", metavar="<n>", help="for --model tfidf or majority: rows to fit on (default: all)")
    group.add_argument("--procs", metavar="<n>", help="Processes that share the documents, each on its own GPU (default: 1)")
    group.add_argument("--force", action="store_true", help="Run again what is already done")
    group.add_argument("--allow_pickle", action="store_true", help="Load weights that are no safetensors: they can run code")


def read_request(args: argparse.Namespace) -> Request:
    """Check the parsed command line and find the model it names.

    Raises:
        UserError: A value is wrong, or the model cannot be had.
    """
    config, given, own = read_flags(args)
    base, adapter = _find_checkpoints(config, own)
    return complete(config, given, own, base, adapter)


def read_flags(args: argparse.Namespace) -> tuple["EvaluatorConfig", set[str], dict[str, Any]]:
    """Check the parsed command line, and fill in what a preset knows of the model it names.

    Returns:
        The first three fields of a `Request`.

    Raises:
        UserError: A value is wrong.
    """
    from lm_eval.config.evaluate_config import EvaluatorConfig  # most of a second, which --help need not wait for

    own = {name: vars(args).pop(name) for name in OWN_FLAGS}
    given = {name for name, value in vars(args).items() if value is not None}
    args.output_path, args.log_samples = args.output_path or "results", True
    try:
        if args.config:
            given |= set(EvaluatorConfig.load_yaml_config(args.config))
        config = EvaluatorConfig.from_cli(args)
    except (ValueError, TypeError, OSError) as error:
        raise UserError(str(error)) from error
    if isinstance(config.tasks, str):
        config.tasks = config.tasks.split(",")
    if isinstance(config.tasks, list):
        config.tasks = [name for name in config.tasks if name]  # TASK=a, is one task
        if "tasks" in given and not config.tasks:
            raise UserError("TASK names no task. `python -m harness_ext ls` lists them.")
    if "model" not in given:
        config.model = DEFAULT_BACKEND
    try:
        _check_values(config)
    except TypeError as error:  # flags are typed; the values of a config file are not
        raise UserError(f"{args.config}: {error}.") from None
    quantisation.check_asked(own["quantise"])
    if own["train_samples"] is not None and config.model not in BASELINES:
        raise UserError(
            f"SAMPLES is for the baselines (BACKEND={' or '.join(BASELINES)}); a model is fine-tuned with `make finetune`."
        )
    if own["think_budget"] is not None:
        own["think_budget"] = _whole_number("THINK_BUDGET", own["think_budget"])
    own["procs"] = read_size(own["procs"])
    if own["procs"] > 1 and config.model not in CHECKPOINT_BACKENDS:
        raise UserError(f"PROCS is for models that are loaded here; BACKEND={config.model} runs in one: leave it out.")
    for flag, name in (("pretrained", "pretrained"), ("adapter", "peft")):
        if own[flag] is not None:
            config.model_args[name] = own[flag]
    _apply_preset(config, given, own)
    return config, given, own


def complete(
    config: "EvaluatorConfig",
    given: set[str],
    own: dict[str, Any],
    base: Checkpoint | None,
    adapter: Checkpoint | None,
) -> Request:
    """Fill in what follows from the model and the backend, where the user left it open."""
    if base:
        vllm.check(config.model, base, adapter)
    if config.model in served.ENDPOINTS:
        served.settle(config, own, given)
    elif own["base_url"] is not None:
        asks = " or ".join(served.ENDPOINTS)
        raise UserError(f"BASE_URL is for BACKEND={asks}; {config.model} asks no server. Leave it out, or set BACKEND=.")
    if "model" not in given and base and is_classifier(base, adapter):
        config.model = CLASSIFIER_BACKEND
    if base:
        _check_suits(config, base, is_classifier(base, adapter))
    if own["engine"] is not None:
        config.model_args["engine"] = _engine(own["engine"], config.model)
    request = Request(config, frozenset(given), own, base, adapter)
    if request.quantise and config.model != DEFAULT_BACKEND:
        raise UserError(
            f"QUANT={request.quantise} is for a prompted model that BACKEND={DEFAULT_BACKEND} loads; {config.model} does "
            "not quantise. Leave it out, or say QUANT=none."
        )
    if base:
        quantisation.check_possible(base.name, base.config, request.quantise)
    if not config.tasks:
        is_plain = not (own["pretrained"] or own["adapter"] or own["data_dir"] or given & {"model", "model_args"})
        config.tasks = ["sst2_01_mini" if is_plain else _default_task(adapter, config, own)]
    return request


def _check_suits(config: "EvaluatorConfig", base: Checkpoint, classifies: bool) -> None:
    """Check that a backend is for models of this kind."""
    if classifies and config.model != CLASSIFIER_BACKEND:
        raise UserError(f"Model {base.name!r} names a class and cannot be prompted: leave BACKEND={config.model} out.")
    if not classifies and config.model == CLASSIFIER_BACKEND and not config.model_args.get("trust_remote_code"):
        raise UserError(f"Model {base.name!r} is no classifier: leave BACKEND={config.model} out, or give it an ADAPTER=.")


def _apply_preset(config: "EvaluatorConfig", given: set[str], own: dict[str, Any]) -> None:
    """Fill in what a preset knows of the model and the user left open, and say what that was.

    On top of an adapter only the name is filled in: an adapter brings its own quantisation and task.
    """
    args = config.model_args
    if config.model not in CHECKPOINT_BACKENDS or not (preset := presets.find(str(args.get("pretrained", "")))):
        return
    args["pretrained"], said = preset.model, []
    if preset.revision and "revision" not in args:
        args["revision"] = preset.revision
        said.append(f"revision {preset.revision}")
    if not args.get("peft"):
        if preset.quantise and own["quantise"] is None and config.model == DEFAULT_BACKEND:
            own["quantise"] = preset.quantise
            said.append(f"quantised to {preset.quantise}")
        if not config.tasks:
            config.tasks = [preset.task]
            said.append(f"task {preset.task}")
        if preset.batch and config.tasks == [preset.task] and "batch_size" not in given:
            config.batch_size = preset.batch
            given.add("batch_size")
            said.append(f"batch {preset.batch}")
    print(f"Preset {preset.name}: {' · '.join([preset.model, *said])}", file=sys.stderr)


def _default_task(adapter: Checkpoint | None, config: "EvaluatorConfig", own: dict[str, Any]) -> str:
    """An adapter is scored on the task that it was made on, everything else on SST-2.

    Raises:
        UserError: The adapter was made on data that only the user has, and they are not given.
    """
    made = adapter.manifest if adapter else {}
    task, data = str(made.get("task") or "sst2_01"), str(made.get("data", ""))
    if own["data_dir"] or config.metadata.get("dataset"):
        return "sst2_01" if task == "sst2_01_mini" else task  # that one reads its own sample only
    if adapter and data.endswith("/train.tsv") and not data.startswith("embedded "):
        raise UserError(
            f"Adapter {adapter.name!r} was trained on {data}: give that folder with DATA_DIR=, to score it on its dev.tsv; "
            f"or TASK={task}, to score it on what that task reads by itself."
        )
    return task


def _whole_number(name: str, text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"{name} {text!r} is not a whole number above 0.")
    return int(text)


def _engine(name: str, backend: str) -> str:
    if name not in ENGINES:
        raise UserError(f"ENGINE {name!r} is not one of {', '.join(ENGINES)}.")
    if backend != DEFAULT_BACKEND:
        raise UserError(f"ENGINE is for the backend {DEFAULT_BACKEND}; {backend} has one way only.")
    return name


def _check_values(config: "EvaluatorConfig") -> None:
    if not isinstance(config.tasks, list) or not all(isinstance(name, str) for name in config.tasks):
        raise UserError(f"tasks: {config.tasks!r} is no list of task names.")
    limit = config.limit
    if limit is not None and not (0 < limit < 1 or (limit >= 1 and float(limit).is_integer())):
        raise UserError(f"LIMIT {limit:g} is neither a whole number above 0 nor a fraction between 0 and 1.")
    if config.num_fewshot is not None and not (isinstance(config.num_fewshot, int) and config.num_fewshot >= 0):
        raise UserError(f"num_fewshot {config.num_fewshot!r} is no whole number from 0 up.")
    if not all(seed is None or 0 <= seed < 2**32 for seed in config.seed):
        raise UserError(f"SEED {config.seed} is not within 0 and {2**32 - 1}.")
    if config.cache_requests:
        raise UserError(
            "--cache_requests is refused: lm-eval keys that cache by the task's name, not by its data or prompt, so that an "
            "edited task would be asked as before. Leave it out."
        )
    for flag in ("predict_only", "wandb_args", "trackio_args"):
        if getattr(config, flag):
            raise UserError(f"--{flag} is not for recorded runs. Use `lm-eval run --include_path tasks` for it.")


def _find_checkpoints(config: "EvaluatorConfig", own: dict[str, Any]) -> tuple[Checkpoint | None, Checkpoint | None]:
    """Find model and adapter."""
    args = config.model_args
    if config.model not in CHECKPOINT_BACKENDS:
        _check_backend(config.model)
        return None, None
    adapter = find_adapter(str(args["peft"]), allow_pickle=own["allow_pickle"]) if args.get("peft") else None
    named_by_adapter = adapter is not None and not args.get("pretrained")
    if adapter and named_by_adapter:
        args["pretrained"] = adapter.config.get("base_model_name_or_path") or ""
    try:
        base = find_model(
            str(args.get("pretrained", "tiny")),
            str(args.get("revision", "main")),
            allow_pickle=own["allow_pickle"],
        )
    except UserError as error:
        if named_by_adapter:
            raise UserError(
                f"{error} The adapter's own config names that base: give another place of it with MODEL=."
            ) from None
        raise
    check_kind(base, adapter, remote_code=bool(args.get("trust_remote_code")))
    if said := leftover(base):
        print(f"Note: {said}", file=sys.stderr)
    return base, adapter


def check_kind(base: Checkpoint, adapter: Checkpoint | None, remote_code: bool) -> None:
    """Check that base and adapter belong together, and can answer the task at all.

    Raises:
        UserError: They do not, or the model is an encoder without a classifier's head.
    """
    made_for = str(adapter.manifest.get("base_version", "")) if adapter else ""
    hashed = made_for.startswith("sha256:") and base.version.startswith("sha256:")
    if adapter and hashed and not is_version(base, made_for):
        raise UserError(
            f"Adapter {adapter.name!r} was trained on another base ({adapter.manifest.get('base')}, {made_for}) than "
            f"{base.name!r} ({base.version}). Give that one with MODEL=."
        )
    if not (is_classifier(base, adapter) or is_generative(base) or remote_code):
        called = (base.config.get("architectures") or [base.config.get("model_type")])[0]
        raise UserError(
            f"Model {base.name!r} is a {called}, which cannot generate text; the 0/1 task needs a generative model such as "
            "Qwen/Qwen2.5-0.5B, a classifier, or an adapter that makes it one (make finetune)."
        )


def _check_backend(name: str) -> None:
    import lm_eval.models  # noqa: F401  registers lm-eval's backends, without importing any
    from lm_eval.api.registry import model_registry

    known = {*model_registry.keys(), *CHECKPOINT_BACKENDS, *BASELINES}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3) or ["hf", "vllm", "local-completions"]
        raise UserError(f"BACKEND {name!r} is unknown. Did you mean {' or '.join(near)}?")
