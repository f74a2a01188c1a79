"""The same from Python: `evaluate` does what `make eval` does, and `outcomes` gives what a run said of each document.

from harness_ext import evaluate, outcomes

run = evaluate(model="tiny", task="sst2_01_mini")
print(run.score, outcomes(run).groupby("kind").size())
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness_ext.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from harness_ext.run.execute import Run
    from harness_ext.run.worker import Worker


def evaluate(model: str | Path | None = None, *, worker: "Worker | None" = None, **options: Any) -> "Run":
    """Score a model on one task, or find the finished run of the same request.

    Args:
        model: Hub id, folder or short name, as MODEL= of `make eval`; None for the shipped one, or an adapter's base.
        worker: A `run.worker.LocalWorker` that several calls share: what it has loaded is not loaded again.
        **options: `make eval`'s variables in small letters, one value each (``adapter``, ``task``, ``data_dir``, ``data``,
            ``text``, ``label``, ``positive``, ``test``, ``question``, ``limit``, ``batch``, ``device``, ``dtype``,
            ``quant``, ``backend``, ``base_url``, ``engine``, ``think_budget``, ``procs``, ``samples``, ``shots``,
            ``calibrate``, ``rows``, ``seed``, ``out``, ``force``), and what lm-eval's `run` takes as a flag
            (``num_fewshot=4``, ``system_instruction="…"``, ``gen_kwargs={…}``, ``model_args={…}``).

    Returns:
        The run: its folder, its record and its score.

    Raises:
        UserError: Something is wrong with what was asked; a `ValueError` whose text says what to do.
    """
    from harness_ext.model.loading import quieten_libraries
    from harness_ext.run.execute import execute
    from harness_ext.run.plan import plan
    from harness_ext.run.shards import worker_for
    from harness_ext.run.spec import from_options

    quieten_libraries()
    planned = plan(from_options(model=model, **options))
    if len(planned.runs) > 1:
        names = ", ".join(run.asked.task.task_name for run in planned.runs)
        raise UserError(f"evaluate() does one task at a time, not {names}.")
    mine = worker or worker_for(planned)
    try:
        (run,) = execute(planned, mine)
    finally:
        if worker is None:
            mine.close()
    return run


def outcomes(run: "Run | str | Path") -> "pd.DataFrame":
    """Read what a run said of each document.

    Args:
        run: From `evaluate`, or a run's folder.

    Returns:
        A row a document: its number, its hash, the gold label, the label under each rule (empty where there is none), the
        kind of the output, the margin where it is known, and what the model wrote (`results.outcomes.excerpt`).

    Raises:
        UserError: The folder holds none, as of a task without 0/1 labels or of a run made before outcomes were kept.
    """
    import pandas as pd

    from harness_ext.results.outcomes import COLUMNS, FILE

    path = Path(run if isinstance(run, str | Path) else run.folder) / FILE
    if not path.is_file():
        raise UserError(f"There is no {path}: run it again (force=True), or choose a task of 0/1 labels.")
    rows = pd.read_csv(path, dtype={"hash": str, "response": str}, keep_default_na=False, na_values={"margin": [""]})
    labels = [name for name in rows.columns if name not in COLUMNS]
    return rows.assign(**{name: pd.to_numeric(rows[name]).astype("Int64") for name in labels})  # a label may be missing
