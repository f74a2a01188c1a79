"""The trainer: `python -m finetune --samples=64`; `python -m finetune curves FOLDER ...` draws several runs in one figure.

Exit codes: 0 done; 2 the user's input is wrong (one line); 1 anything else.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from finetune.spec import add_arguments, read_spec
from harness_ext.cli import Parser, run_command
from harness_ext.errors import UserError, writing_to


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    return run_command(curves_parser if words[:1] == ["curves"] else train_parser, words)


def train_parser() -> argparse.ArgumentParser:
    """Describe the command line of training."""
    parser = Parser(prog="python -m finetune", description="Make LoRA adapters that `make eval ADAPTER=folder` takes.")
    add_arguments(parser)
    parser.set_defaults(func=_train)
    return parser


def curves_parser() -> argparse.ArgumentParser:
    """Describe the command line of curves."""
    about = "Draw the loss curves of several adapters in one figure."
    parser = Parser(prog="python -m finetune curves", description=about)
    parser.parse_args = parser.parse_intermixed_args  # type: ignore[method-assign] # folders before and after options
    parser.add_argument("command", choices=["curves"], help=argparse.SUPPRESS)
    parser.add_argument("folders", nargs="*", metavar="FOLDER", help="adapters (default: all under <dir>/adapters)")
    parser.add_argument("--output_path", "-o", default="results", metavar="<dir>", help="curves.png and .svg go here")
    parser.set_defaults(func=_curves)
    return parser


def _train(args: argparse.Namespace) -> None:
    spec = read_spec(args)
    from finetune.plan import make_plan  # after the checks that need no libraries

    plan = make_plan(spec)
    print(*plan.notes, sep="\n", file=sys.stderr, flush=True)
    from finetune import summary
    from finetune.progress import hide_other_bars
    from finetune.train import execute

    hide_other_bars()
    summary.show(plan.base.name, execute(plan))
    print(*summary.next_steps([str(job.folder) for job in plan.jobs], spec), sep="\n", file=sys.stderr)


def _curves(args: argparse.Namespace) -> None:
    from finetune import curves

    out = Path(args.output_path)
    made = sorted(path.parent for path in out.glob(f"adapters/*/{curves.HISTORY}"))
    folders = list(map(Path, args.folders)) or made
    if not folders:
        raise UserError(f"No adapter under {out / 'adapters'}. Run `make finetune` first, or name another folder with OUT=.")
    with writing_to(out):
        files = curves.draw([curves.read_history(folder) for folder in folders], out / "curves")
    print(f"Written: {' and '.join(map(str, files))}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
