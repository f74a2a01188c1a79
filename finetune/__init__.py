"""Makes LoRA adapters that `harness_ext` evaluates: ``python -m finetune --samples=64``, or `finetune` from Python."""

from pathlib import Path
from typing import Any


def finetune(**wanted: Any) -> list[Path]:
    """Make adapters, as ``python -m finetune`` does: ``finetune(samples=(16, 64), seeds=(0, 1), model="tiny-base")``.

    Takes what `finetune.spec.make_spec` takes, and returns their folders, one for each seed and size; a `UserError` says
    what was wrong.
    """
    from finetune.plan import make_plan  # torch only where it is needed
    from finetune.spec import make_spec
    from finetune.train import execute

    plan = make_plan(make_spec(**wanted))
    execute(plan)
    return [job.folder for job in plan.jobs]
