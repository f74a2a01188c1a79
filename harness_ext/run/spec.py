"""What a user asked of one run, and nothing else: a frozen, JSON-able record of the command line or of `evaluate(...)`.

What was left open is None; `plan` decides it. Looks at no file and loads no library but lm-eval's reader of its own flags.
"""

import argparse
import glob
import itertools
import json
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from harness_ext.errors import UserError, did_you_mean, whole_number
from harness_ext.paths import file_of
from harness_ext.run.provenance import flags
from harness_ext.task import own_data, subsets

ENGINES = ("shared", "stock")  # how hf-answer runs requests
CALIBRATIONS = ("context", "batch", "labels")  # what a forced choice's boundary may follow from; `task.calibration`
_NOT_FOR_RECORDS = ("predict_only", "wandb_args", "trackio_args")


@dataclass(frozen=True)
class RunSpec:
    """What was asked for; the names are those of the flags."""

    pretrained: str | None = None  # the model
    adapter: str | None = None
    model: str | None = None  # the backend, as lm-eval calls them
    model_args: dict[str, Any] = field(default_factory=dict)  # handed on to it
    base_url: str | None = None
    quantise: str | None = None
    dtype: str | None = None
    device: str | None = None
    engine: str | None = None
    allow_pickle: bool = False

    tasks: tuple[str, ...] | None = None  # names, patterns or files
    include_path: str | None = None
    data_dir: str | None = None
    data: str | None = None  # a table of the user's own; the next five say what it holds, as `task.own_data.OwnData` does
    text: str | None = None
    label: str | None = None
    positive: str | None = None
    test: str | None = None
    question: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    num_fewshot: int | None = None  # lm-eval's: others before each document
    shots: str | None = None  # ours: the same before each document
    fewshot_as_multiturn: bool | None = None
    apply_chat_template: bool | str | None = None
    system_instruction: str | None = None
    gen_kwargs: dict[str, Any] = field(default_factory=dict)
    think_budget: int | None = None
    calibrate: str | None = None  # how a forced choice's boundary is set

    limit: float | None = None  # documents, or a share of them
    samples: dict[str, list[int]] | None = None  # numbers of documents, by task
    seed: tuple[int | None, ...] = (0, 1234, 1234, 1234)  # of Python, numpy, torch and the few-shot sampler
    train_samples: str | None = None  # labelled rows of the train split that the method is fitted on
    rows: str | None = None  # which rows of the train split these are drawn from: all or sentences

    batch_size: str | None = None
    max_batch_size: int | None = None
    procs: int = 1
    output_path: str = "results"
    force: bool = False
    use_cache: str | None = None
    check_integrity: bool = False
    write_out: bool = False
    show_config: bool = False
    confirm_run_unsafe_code: bool = False
    hf_hub_log_args: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the values that can be checked by themselves; a `UserError` names the one that is wrong."""
        limit, shots = self.limit, self.num_fewshot
        own_data.given(asdict(self))
        if self.tasks is not None and not self.tasks:
            raise UserError("TASK names no task. `python -m harness_ext ls` lists them.")
        if limit is not None and not (0 < limit < 1 or (limit >= 1 and float(limit).is_integer())):
            raise UserError(f"LIMIT {limit:g} is neither a whole number above 0 nor a fraction between 0 and 1.")
        if shots is not None and not (isinstance(shots, int) and shots >= 0):
            raise UserError(f"num_fewshot {shots!r} is no whole number from 0 up.")
        if self.samples is not None and not _are_documents(self.samples):
            raise UserError(
                f"--samples {str(self.samples)[:60]} does not name documents by number and task, as in "
                """'{"sst2_01": [0, 5]}'; labelled rows to fit on are SAMPLES= (--train_samples)."""
            )
        if len(self.seed) != 4:
            raise UserError(f"SEED {list(self.seed)}: give one, or four (of Python, numpy, torch and the few-shot sampler).")
        if not all(seed is None or 0 <= seed < 2**32 for seed in self.seed):
            raise UserError(f"SEED {list(self.seed)} is not within 0 and {2**32 - 1}.")
        for name, given in (("SAMPLES", self.train_samples), ("SHOTS", self.shots)):
            for samples in given.split(",") if given else ():
                subsets.check_samples(samples, name)
        if self.shots == "all" or (self.shots and self.num_fewshot):
            raise UserError("SHOTS is a number of examples, half of them of each class, and goes without --num_fewshot.")
        if self.rows is not None:
            subsets.check_rows(self.rows)
        if self.calibrate is not None and self.calibrate not in CALIBRATIONS:
            raise UserError(f"CALIBRATE {self.calibrate!r} is not one of {', '.join(CALIBRATIONS)}.")
        if self.engine is not None and self.engine not in ENGINES:
            raise UserError(f"ENGINE {self.engine!r} is not one of {', '.join(ENGINES)}.")

    def to_json(self) -> str:
        """Write it down, for another process or a record."""
        return json.dumps(asdict(self))

    def words(self) -> list[str]:
        """Write it as the words of a command line that asks for the same."""
        values = {each.name: getattr(self, each.name) for each in fields(self) if getattr(self, each.name) != each.default}
        if self.samples:
            values["samples"] = json.dumps(self.samples)
        # lm-eval puts model_args there too.
        values["metadata"] = {name: own for name, own in self.metadata.items() if self.model_args.get(name) != own}
        return ["run", *flags(values.items())]

    @classmethod
    def from_json(cls, text: str) -> "RunSpec":
        """Read what `to_json` wrote."""
        values = json.loads(text)
        return cls(**values | {name: values[name] and tuple(values[name]) for name in ("tasks", "seed")})


# Our flags beside lm-eval's: name, what stands for the value in the help, and the help.
_FLAGS = (
    ("pretrained", "<model>", "Hub id, folder or short name (default: tiny)"),
    ("gguf", "<file>", "Which GGUF file of --pretrained, where that holds several"),
    ("adapter", "<dir>", "PEFT adapter or checkpoint folder; names its own base model"),
    ("base_url", "<url>", "A server's address, for --model local-chat-completions"),
    ("data_dir", "<dir>", "Folder with GLUE's train.tsv and dev.tsv, instead of the Hub"),
    *own_data.FLAGS,
    ("dtype", "<dtype>", "auto, float32, float16 or bfloat16"),
    ("engine", "<engine>", "stock: run requests as lm-eval's HFLM does (default: shared)"),
    ("think_budget", "<n>", "Tokens that a thinking model may write (default: the task's)"),
    ("quantise", "<kind>", "nf4 or int8: quantise the weights while loading; or none"),
    ("train_samples", "<n>", "Labelled rows to fit on, for --model probe, tfidf, majority or --calibrate labels"),
    ("shots", "<n>", "Examples in front of every prompt, the rows that `make finetune SAMPLES=n` trains on"),
    ("calibrate", "<how>", "Set the boundary of a forced choice: context, batch, or labels (with --train_samples)"),
    ("rows", "<which>", "Train rows to draw from: all, or sentences (of at least 10 words)"),
    ("procs", "<n>", "Processes that share the documents, each on its own GPU (default: 1)"),
)
_SWITCHES = (
    ("force", "Run again what is already done"),
    ("allow_pickle", "Also load weights that are not safetensors, which can run code"),
)
# What lm-eval's own flags do here, where that is not what lm-eval's help says.
_HELP = {
    "tasks": "Task names or files, with blanks or commas between (default: sst2_01, the adapter's or the model's own; "
    "sst2_01_mini for `run` alone). `python -m harness_ext ls` lists them",
    "model": "Backend (default: hf-answer, or hf-classifier for a classifier); also hf, vllm, local-chat-completions, "
    "local-completions, probe, tfidf, majority",
    "apply_chat_template": "true or false (default: true where the tokenizer has a template)",
    "batch_size": "Rows a batch, or 'auto' (default: by memory)",
    "device": "cpu, cuda, cuda:1, mps (default: found)",
    "output_path": "Folder of the results (default: results)",
    "log_samples": "Always on here",
    "cache_requests": "Refused here: lm-eval keys that cache by the task's name alone",
    "predict_only": "Refused here, as are --wandb_args and --trackio_args: a run is recorded with its scores",
}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add our flags to a parser with lm-eval's, and let the help say what is the default here."""
    group = parser.add_argument_group("this project's own (what is left out is chosen and printed)")
    for name, shown, said in _FLAGS:
        group.add_argument(f"--{name}", metavar=shown, help=said)
    said = "As --seed, for all four at once; several with commas make several runs"
    group.add_argument("--seeds", metavar="<n>", help=said)
    for name, said in _SWITCHES:
        group.add_argument(f"--{name}", action="store_true", help=said)
    for action in parser._actions:
        action.help = _HELP.get(action.dest, action.help)
    parser.epilog = "examples:\n  python -m harness_ext run --pretrained Qwen/Qwen2.5-0.5B --data_dir ../sst2\n" + (
        "  python -m harness_ext run --adapter results/adapters/<name> --limit 100\n"
    )


def several_from_args(args: argparse.Namespace) -> list[RunSpec]:
    """Read a parsed command line with lists in SAMPLES, SHOTS, SEED or a pattern in ADAPTER: a spec for each of all."""
    seeds, spec = vars(args).pop("seeds", None), from_args(args)
    lists: dict[str, list[Any]] = {}
    for name in ("train_samples", "shots"):
        if (given := getattr(spec, name)) and "," in given:
            lists[name] = [part for part in given.split(",") if part]
    if seeds:
        lists["seed"] = [(subsets.read_seed(seed),) * 4 for seed in seeds.split(",")]
    if spec.adapter and set(spec.adapter) & set("*?[") and not Path(spec.adapter).exists():
        lists["adapter"] = _adapters(spec.adapter)
    return [replace(spec, **dict(zip(lists, values, strict=True))) for values in itertools.product(*lists.values())]


def _adapters(pattern: str) -> list[str]:
    found = sorted(file.rpartition("/")[0] for file in glob.glob(f"{pattern.rstrip('/')}/adapter_config.json"))
    if not found:
        raise UserError(f"ADAPTER {pattern!r} matches no adapter (a folder with an adapter_config.json).")
    return found


def from_args(args: argparse.Namespace) -> RunSpec:
    """Read a parsed command line; a `UserError` names a wrong value."""
    from lm_eval.config.evaluate_config import EvaluatorConfig  # most of a second, which --help need not wait for

    given = vars(args)
    processes = given.pop("launched", 1)
    given.pop("seeds", None)
    ours = {name: given.pop(name) for name, *_ in (*_FLAGS, *_SWITCHES)}
    ours["pretrained"] = file_of(ours["pretrained"], ours.pop("gguf"))
    named = {name for name, value in given.items() if value is not None}
    args.output_path, args.log_samples = args.output_path or "results", True
    try:
        if args.config:
            in_file = set(EvaluatorConfig.load_yaml_config(args.config))
            if other := sorted(map(str, in_file - {each.name for each in fields(EvaluatorConfig)})):
                raise UserError(
                    f"{args.config}: {', '.join(other)}: a config file holds lm-eval's own settings; say others as flags."
                )
            named |= in_file
        config = EvaluatorConfig.from_cli(args)
    except (ValueError, TypeError, OSError) as error:
        raise UserError(str(error)) from error
    _check_refused(config)
    theirs = {each.name: getattr(config, each.name) for each in fields(RunSpec) if hasattr(config, each.name)}
    # lm-eval's defaults are not ours: what was not named is left open.
    open_ = {each.name for each in fields(RunSpec) if each.default is None} - named
    try:
        values = {name: value for name, value in (theirs | ours).items() if name not in open_ or name in ours}
        return RunSpec(
            **values
            | {
                "tasks": _names(config.tasks) if "tasks" in named else None,
                "seed": tuple(config.seed or [None] * 4),
                "batch_size": str(config.batch_size) if "batch_size" in named else None,
                "think_budget": ours["think_budget"] and whole_number("THINK_BUDGET", ours["think_budget"]),
                "procs": _procs(ours["procs"], processes),
            }
        )
    except TypeError as error:  # flags are typed; the values of a config file are not
        raise UserError(f"{args.config}: {error}.") from None


def from_options(**options: Any) -> RunSpec:
    """Read keyword arguments that are called as make's variables are, in small letters, or as a flag of `run`."""
    called = {"model": "pretrained", "task": "tasks", "batch": "batch_size", "quant": "quantise", "backend": "model"}
    called |= {"out": "output_path", "samples": "train_samples"}
    known = {*called, *(each.name for each in fields(RunSpec))} - {"pretrained"}
    for name in options:
        if name not in known:
            raise UserError(f"evaluate() takes no {name!r}.{did_you_mean(name, known)}")
    values = {called.get(name, name): value for name, value in options.items() if value is not None}
    texts = {"batch_size", "train_samples", "shots", "pretrained", "adapter", "data_dir", "output_path", *own_data.NAMES}
    values |= {name: str(values[name]) for name in texts & values.keys()}
    if "tasks" in values:
        values["tasks"] = _names(values["tasks"])
    if isinstance(values.get("seed"), int):
        values["seed"] = (values["seed"],) * 4
    try:
        return RunSpec(**values)
    except TypeError as error:  # a comparison of another type
        raise UserError(f"evaluate(): {error}.") from None


def _are_documents(samples: Any) -> bool:
    lists = samples.values() if isinstance(samples, dict) else [None]
    return all(isinstance(each, list) and all(isinstance(number, int) and number >= 0 for number in each) for each in lists)


def _procs(text: str | None, launched: int) -> int:
    procs = launched if text is None else whole_number("PROCS", text)
    if launched not in (1, procs):
        raise UserError(f"PROCS {procs} disagrees with the launcher, which has started {launched} processes: leave it out.")
    return procs


def _names(tasks: Any) -> tuple[str, ...]:
    names = tasks.split(",") if isinstance(tasks, str) else tasks
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise UserError(f"tasks: {tasks!r} is no list of task names.")
    return tuple(name for name in names if name)  # TASK=a, is one task


def _check_refused(config: Any) -> None:
    if config.cache_requests:
        raise UserError(
            "--cache_requests is refused: lm-eval keys that cache by the task's name, not by its data or prompt, so that an "
            "edited task would be asked as before. Leave it out."
        )
    for flag in _NOT_FOR_RECORDS:
        if getattr(config, flag):
            raise UserError(f"--{flag} is not for recorded runs. Use `lm-eval run --include_path tasks` for it.")
