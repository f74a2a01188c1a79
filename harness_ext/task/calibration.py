"""Where a forced choice draws the line between 0 and 1: from margins, log p("1") - log p("0"), to a boundary.

A calibration moves the boundary and leaves the order of the documents as it is. Pure functions on numbers; knows no model.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness_ext.evidence.calibration import auroc
from harness_ext.task.metrics import score_document

CONTENT_FREE = ("N/A", "", "[MASK]")  # texts that say nothing (Zhao et al. 2021, https://arxiv.org/abs/2102.09690)
UNLABELLED = 128  # train rows whose margins `batch` averages; Zhou et al. 2023 take the evaluation's own


@dataclass(frozen=True)
class Boundary:
    """A document is 1 where ``slope x margin + intercept`` is above 0."""

    slope: float = 1.0
    intercept: float = 0.0

    def __call__(self, doc: dict, results: Sequence) -> dict:
        """Score a document of a forced choice; lm-eval's ``process_results``, in place of `metrics.score_document`."""
        (negative, _), (positive, _) = results
        moved = self.slope * (positive - negative) + self.intercept
        return score_document(doc, [(0.0, moved <= 0), (moved, moved > 0)])


def record(method: str) -> dict[str, Any]:
    """Say what a boundary follows from, for a key."""
    chosen: dict[str, Any] = {"context": {"texts": list(CONTENT_FREE)}, "batch": {"rows": UNLABELLED}}
    return {"method": method, **chosen.get(method, {})}


def by_context(margins: Sequence[float]) -> Boundary:
    """Put the boundary where texts that say nothing lie: their mean probabilities become even (Zhao et al. 2021)."""
    ones = [1 / (1 + math.exp(-max(margin, -500.0))) for margin in margins]
    share = min(max(math.fsum(ones) / len(ones), 1e-12), 1 - 1e-12)
    return Boundary(intercept=-math.log(share / (1 - share)))


def by_batch(margins: Sequence[float]) -> Boundary:
    """Put the boundary at the mean margin of unlabelled rows (Zhou et al. 2023, https://arxiv.org/abs/2309.17249)."""
    return Boundary(intercept=-math.fsum(margins) / len(margins))


def by_labels(margins: Sequence[float], labels: Sequence[int]) -> Boundary:
    """Fit a logistic regression of labels, 0 or 1, on margins; where it would turn the model's answers round the slope is 0.

    scikit-learn's defaults, on margins of deviation 1.
    """
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    values = np.array(margins, dtype=float)
    centre, spread = float(values.mean()), float(values.std()) or 1.0
    fitted = LogisticRegression().fit(((values - centre) / spread)[:, None], labels)
    slope, intercept = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    if slope <= 0:
        ones = sum(labels)
        return Boundary(0.0, math.log(ones / (len(labels) - ones)))
    return Boundary(slope / spread, intercept - slope * centre / spread)


def worth(margins: Sequence[float], golds: Sequence[int]) -> dict[str, Any]:
    """Say what the order of margins is worth, wherever the boundary is; None where all are of one class.

    Returns:
        ``auroc``; and ``best_score``, a bound that no calibration exceeds, as its ``best_threshold`` is chosen on the
        evaluated documents themselves: 1 is said above it.
    """
    import numpy as np

    golds_, values = np.array(golds), np.array(margins, dtype=float)
    levels = np.unique(values)
    ones, zeros = np.sort(values[golds_ == 1]), np.sort(values[golds_ == 0])
    thresholds = np.concatenate([[-np.inf], levels])
    right = len(ones) - np.searchsorted(ones, thresholds, "right") + np.searchsorted(zeros, thresholds, "right")
    at = int(right.argmax())
    # Between two documents, so that a last digit written otherwise moves none across.
    above = levels[at] if at < len(levels) else levels[-1] + 1
    threshold = float((thresholds[at] + above) / 2) if at else float(levels[0] - 1)
    return {"auroc": auroc(values, golds_), "best_score": float(right[at] / len(golds_)), "best_threshold": threshold}
