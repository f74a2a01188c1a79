"""The trainer: `python -m finetune --samples=64`; `python -m finetune curves FOLDER ...` draws several runs in one figure.

Exit codes: 0 done; 2 the user's input is wrong (one line); 1 anything else.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune import summary
from finetune.config import read_recipe
from harness_ext.cli import Parser, run_command
from harness_ext.errors import UserError, writing_to
from harness_ext.task import subsets


class IntermixedParser(Parser):
    """A parser that takes positional words before and after options."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as ``parse_intermixed_args`` does."""
        return self.parse_intermixed_args(args, namespace)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    return run_command(curves_parser if words[:1] == ["curves"] else train_parser, words)


def train_parser() -> argparse.ArgumentParser:
    """Describe the command line of training."""
    parser = Parser(prog="python -m finetune", description="Make LoRA adapters that `make eval ADAPTER=folder` takes.")
    add = parser.add_argument
    add("--samples", default="64", metavar="<n>", help="16, 64, any even number, or all; several with commas (default: 64)")
    add("--seed", default="0", metavar="<n>", help="decides rows, weights and order; several with commas (default: 0)")
    add("--model", metavar="<model>", help="Hub id, folder or shipped name (default: Qwen/Qwen2.5-0.5B)")
    add("--recipe", metavar="<recipe>", help="name in finetune/recipes, or a YAML file (default: by the model)")
    add("--set", action="append", default=[], metavar="<name=value>", help="replace one setting of the recipe; repeatable")
    add("--task", metavar="<task>", help="whose prompt and train split (default: sst2_01; sst2_01_mini for shipped models)")
    add("--data_dir", metavar="<dir>", help="folder with GLUE's train.tsv, instead of the Hub")
    add("--include_path", metavar="<dir>", help="a further folder of tasks")
    add("--device", metavar="<device>", help="cpu, cuda, cuda:1, mps (default: found)")
    add("--dtype", metavar="<dtype>", help="of the base's weights: float32 or bfloat16 (default: by device and recipe)")
    add("--output_path", "-o", default="results", metavar="<dir>", help="adapters go to <dir>/adapters (default: results)")
    add("--report_to", metavar="<names>", help="tensorboard, wandb, swanlab, trackio; several with commas")
    add("--allow_pickle", action="store_true", help="load a base's weights that are no safetensors: they can run code")
    add("--force", action="store_true", help="train again what is already done")
    parser.set_defaults(func=_train)
    return parser


def curves_parser() -> argparse.ArgumentParser:
    """Describe the command line of curves."""
    about = "Draw the loss curves of several adapters in one figure."
    parser = IntermixedParser(prog="python -m finetune curves", description=about)
    parser.add_argument("command", choices=["curves"], help=argparse.SUPPRESS)
    parser.add_argument("folders", nargs="*", metavar="FOLDER", help="adapters (default: all under <dir>/adapters)")
    parser.add_argument("--output_path", "-o", default="results", metavar="<dir>", help="curves.png and .svg go here")
    parser.set_defaults(func=_curves)
    return parser


def _train(args: argparse.Namespace) -> None:
    seeds = args.seed.split(",")
    for seed in seeds:
        if not (seed.isascii() and seed.isdecimal() and int(seed) < 2**32):
            raise UserError(f"SEED {seed!r} is no whole number from 0 to {2**32 - 1}; several are given as 0,1,2.")
    for samples in args.samples.split(","):
        subsets.check_samples(samples)
    if args.recipe:
        read_recipe(args.recipe, args.set)
    from finetune.job import plan_job, read_setting  # after the checks that need no libraries
    from finetune.reports import check_runs

    setting = read_setting(args)
    check_runs(setting.report_to, len(seeds) * len(args.samples.split(",")))
    jobs = [plan_job(setting, samples, int(seed)) for seed in seeds for samples in args.samples.split(",")]
    print(setting.line(), file=sys.stderr, flush=True)
    from finetune.train import Bench

    bench = Bench(setting)
    rows = [(job.setting.base.name, bench.run(job, args.force)) for job in jobs]
    summary.show(rows)
    for line in summary.next_steps([str(job.folder) for job in jobs], args):
        print(line, file=sys.stderr)


def _curves(args: argparse.Namespace) -> None:
    from finetune import curves

    out = Path(args.output_path)
    folders = [Path(folder) for folder in args.folders] or sorted(
        path.parent for path in out.glob(f"adapters/*/{curves.HISTORY}")
    )
    if not folders:
        raise UserError(f"No adapter under {out / 'adapters'}. Run `make finetune` first, or name another folder with OUT=.")
    with writing_to(out):
        files = curves.draw([curves.read_history(folder) for folder in folders], out / "curves")
    print(f"Written: {' and '.join(map(str, files))}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
