"""Stock lm-eval beside ours: its own HFLM, evaluator and writer on the same task, and what must agree."""

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest

from harness_ext.task.find import build_tasks


def samples_of(out: Path) -> list[dict]:
    """Read the per-document log of the only run under OUT."""
    (log,) = out.glob("runs/*/samples.jsonl")
    return [json.loads(line) for line in log.open(encoding="utf-8")]  # answers may hold what ends a line elsewhere


def stock_samples(
    model: Path, data: Path, task: str, *, chat: bool = False, num_fewshot: int = 0, **model_args: Any
) -> list[dict]:
    """Run lm-eval's own HFLM on the same task through its own evaluator and writer; once for the same folders."""
    log = _stock_log(model, data, task, chat, num_fewshot, tuple(sorted(model_args.items())))
    return [json.loads(line) for line in log.splitlines()]


@functools.cache
def _stock_log(
    model: Path, data: Path, task: str, chat: bool, num_fewshot: int, model_args: tuple[tuple[str, Any], ...]
) -> str:
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    (built,) = build_tasks([task], metadata={"data_dir": str(data)})
    with tempfile.TemporaryDirectory() as folder:
        tracker = EvaluationTracker(output_path=folder)
        results = simple_evaluate(
            model="hf",
            model_args={"pretrained": str(model), "dtype": "float32", **dict(model_args)},
            tasks=[built],
            device="cpu",
            batch_size=3,
            num_fewshot=num_fewshot,
            apply_chat_template=chat,
            fewshot_as_multiturn=chat,
            task_manager=TaskManager(include_defaults=False),
            evaluation_tracker=tracker,
        )
        samples = results.pop("samples")[task]
        tracker.save_results_aggregated(results=results, samples={task: samples})
        tracker.save_results_samples(task_name=task, samples=samples)
        (log,) = Path(folder).glob("*/samples_*.jsonl")
        return log.read_text(encoding="utf-8")


def assert_same_answers(ours: list[dict], stock: list[dict]) -> None:
    """Check that two logs agree in prompts, labels, kinds and scores.

    Of what was written ours may be a beginning; log-probabilities may differ by rounding.
    """
    assert len(ours) == len(stock)
    for mine, theirs in zip(ours, stock, strict=True):
        rest = {name for name in theirs if name not in ("resps", "filtered_resps")}
        assert {name: mine[name] for name in rest} == {name: theirs[name] for name in rest}
        for (said,), (whole,) in zip(mine["resps"], theirs["resps"], strict=True):
            if isinstance(whole, str):
                assert whole.startswith(said)
            else:
                assert float(said[0]) == pytest.approx(float(whole[0]), abs=1e-3)
                assert said[1] == whole[1]
        if isinstance(theirs["filtered_resps"][0], str):
            assert mine["filtered_resps"] == theirs["filtered_resps"]
