"""All that a user asks of training, as data: what can be said of it without a model, a task or torch is said here."""

import argparse
from dataclasses import dataclass, fields
from typing import Any

from finetune.config import read_recipe
from harness_ext.paths import file_of
from harness_ext.run.provenance import flags
from harness_ext.task import own_data, subsets

_TEXTS = ("model", "recipe", "data_dir", "include_path", "out", *own_data.NAMES)  # which may be given as a Path or number


@dataclass(frozen=True)
class TrainSpec:
    """What is to be trained: one adapter for each seed and size. `dataclasses.asdict` of it is JSON.

    `add_arguments` says what each field means; what is None is chosen by the model, the device or the recipe.
    """

    samples: tuple[str, ...] = ("64",)
    seeds: tuple[int, ...] = (0,)
    model: str | None = None
    recipe: str | None = None
    overrides: tuple[str, ...] = ()
    task: str | None = None
    data_dir: str | None = None
    data: str | None = None
    text: str | None = None
    label: str | None = None
    positive: str | None = None
    test: str | None = None
    question: str | None = None
    rows: str = "all"
    include_path: str | None = None
    device: str | None = None
    dtype: str | None = None
    out: str = "results"
    report_to: tuple[str, ...] = ()
    allow_pickle: bool = False
    force: bool = False

    def words(self) -> list[str]:
        """Write it as the words of a command line that asks for the same."""
        called = {"seeds": "seed", "out": "output_path"}
        given = {each.name: getattr(self, each.name) for each in fields(self) if getattr(self, each.name) != each.default}
        given = {"samples": self.samples} | given
        overrides = [("set", override) for override in given.pop("overrides", ())]
        return flags([*((called.get(name, name), value) for name, value in given.items()), *overrides])


def make_spec(**wanted: Any) -> TrainSpec:
    """Make a spec of its fields as people give them, and check what can be checked without a model or data.

    Samples, seeds and loggers are one value, a text with commas between several, or a sequence: 64, "16,64" or
    (16, 64, "all").
    """
    several = {name: _several(wanted[name]) for name in ("samples", "seeds", "report_to") if name in wanted}
    if "seeds" in several:
        several["seeds"] = tuple(map(subsets.read_seed, several["seeds"]))
    plain = {name: wanted[name] if wanted[name] is None else str(wanted[name]) for name in _TEXTS if name in wanted}
    spec = TrainSpec(**wanted | several | plain | {"overrides": tuple(wanted.get("overrides", ()))})
    for samples in spec.samples:
        subsets.check_samples(samples)
    subsets.check_rows(spec.rows)
    own_data.given(vars(spec))
    if spec.recipe:
        read_recipe(spec.recipe, spec.overrides)
    return spec


def _several(given: Any) -> tuple[Any, ...]:
    values = given.split(",") if isinstance(given, str) else [given] if isinstance(given, int) else given
    return tuple(map(str, values))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe a `TrainSpec` to the command line; what is left out is not set."""
    add = parser.add_argument
    add("--samples", metavar="<n>", help="16, 64, any even number, or all; several with commas (default: 64)")
    add("--seed", dest="seeds", metavar="<n>", help="decides rows, weights and order; several with commas (default: 0)")
    add("--model", metavar="<model>", help="Hub id, folder or shipped name (default: Qwen/Qwen2.5-0.5B)")
    add("--gguf", metavar="<file>", help="which GGUF file of --model, where that holds several")
    add("--recipe", metavar="<recipe>", help="name in finetune/recipes, or a YAML file (default: by the model)")
    often: dict[str, Any] = {"action": "append", "metavar": "<name=value>"}
    add("--set", dest="overrides", help="replace one setting of the recipe; repeatable", **often)
    add("--task", metavar="<task>", help="whose prompt and train split (default: sst2_01; sst2_01_mini for shipped models)")
    add("--data_dir", metavar="<dir>", help="folder with GLUE's train.tsv, instead of the Hub")
    for name, shown, said in own_data.FLAGS:
        add(f"--{name}", metavar=shown, help=f"{said[0].lower()}{said[1:]}")
    add("--rows", metavar="<rows>", help="drawn from all rows, or from sentences: rows of at least ten words (default: all)")
    add("--include_path", metavar="<dir>", help="a further folder of tasks")
    add("--device", metavar="<device>", help="cpu, cuda, cuda:1, mps (default: found)")
    add("--dtype", metavar="<dtype>", help="of the base's weights: float32 or bfloat16 (default: by device and recipe)")
    add("--output_path", "-o", dest="out", metavar="<dir>", help="adapters go to <dir>/adapters (default: results)")
    add("--report_to", metavar="<names>", help="tensorboard, wandb, swanlab, trackio; several with commas")
    add("--allow_pickle", action="store_true", help="also load weights that are not safetensors, which can run code")
    add("--force", action="store_true", help="train again what is already done")


def read_spec(args: argparse.Namespace) -> TrainSpec:
    """Read the command line; what is wrong with it alone is said."""
    known = TrainSpec.__dataclass_fields__
    args.model = file_of(args.model, args.gguf)
    return make_spec(**{name: value for name, value in vars(args).items() if name in known and value is not None})
