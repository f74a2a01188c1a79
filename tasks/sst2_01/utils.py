"""Hands the task YAML on to harness_ext; importing it registers the filter and the aggregations."""

from harness_ext.task import filters  # noqa: F401
from harness_ext.task.data import load_splits  # noqa: F401
from harness_ext.task.metrics import score_document  # noqa: F401
