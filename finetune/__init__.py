"""Makes LoRA adapters that `harness_ext` evaluates: ``python -m finetune --samples=64``, or `finetune` from Python."""

from pathlib import Path
from typing import Any


def finetune(**wanted: Any) -> list[Path]:
    """Make adapters, as ``python -m finetune`` does: ``finetune(samples=(16, 64), seeds=(0, 1), model="tiny-base")``.

    Args:
        **wanted: As `finetune.spec.make_spec` takes them.

    Returns:
        Their folders, one for each seed and size.

    Raises:
        UserError: Something that was given is wrong; says what to do.
    """
    from finetune.plan import make_plan  # torch only where it is needed
    from finetune.spec import make_spec
    from finetune.train import execute

    plan = make_plan(make_spec(**wanted))
    execute(plan)
    return [job.folder for job in plan.jobs]
