"""How sure a run is, and how right it is when it is sure: from margins, log p(1) - log p(0), and labels.

The confidence of an answer is the probability of the likelier label, 0.5 to 1. A document of unknown margin (nan) counts as
the least sure where documents are ordered, and is left out where a probability is needed.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

SHARES = tuple(share / 20 for share in range(21))  # sent to the large model; every 5%


@dataclass(frozen=True, eq=False)
class Reliability:
    """Confidence against the share that is right, in bins of equal width from 0.5 to 1; empty bins are nan."""

    counts: NDArray[Any]  # (bins,)
    confidence: NDArray[Any]  # mean confidence in each bin
    right: NDArray[Any]  # share of the likelier labels that are right
    error: float  # expected calibration error, 0-1


def reliability(margins: NDArray[Any], gold: NDArray[Any], bins: int = 10) -> Reliability | None:
    """Bin documents by confidence (Guo et al. 2017, On calibration of modern neural networks); None without margins.

    The label is that of the margin, 1 above 0, whatever was written. The expected calibration error is the mean distance
    of confidence and share right, weighted by documents: it depends on the bins.
    """
    margins, gold = _known(margins, gold)
    if not margins.size:
        return None
    confidence, right = expit(np.abs(margins)), (margins > 0) == (gold == 1)
    edges = np.linspace(0.5, 1, bins + 1)
    places = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, bins - 1)
    counts = np.bincount(places, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean, share = (np.bincount(places, each, bins) / counts for each in (confidence, right))
    error = float(np.nansum(counts * np.abs(mean - share)) / margins.size)
    return Reliability(counts, mean, share, error)


def brier(margins: NDArray[Any], gold: NDArray[Any]) -> float | None:
    """Return the mean squared distance of p(1) and the label (Brier 1950); None without margins."""
    margins, gold = _known(margins, gold)
    return float(((expit(margins) - gold) ** 2).mean()) if margins.size else None


def auroc(margins: NDArray[Any], gold: NDArray[Any]) -> float | None:
    """Return the share of pairs of a 1 and a 0 whose margins are in order, equal ones half; None where there is no pair."""
    margins, gold = _known(margins, gold)
    ones, zeros = margins[gold == 1], np.sort(margins[gold == 0])
    if not ones.size or not zeros.size:
        return None
    below = np.searchsorted(zeros, ones, side="left") + np.searchsorted(zeros, ones, side="right")
    return float(below.sum() / (2 * ones.size * zeros.size))


def coverage(margins: NDArray[Any], correct: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return score against coverage: shares of the documents, the surest first, and the score among them.

    Equally sure documents come in together, so that their order does not matter.
    """
    sure, which = np.unique(-_sureness(margins), return_inverse=True)
    counts = np.bincount(which, minlength=len(sure)).cumsum()
    right = np.bincount(which, correct, len(sure)).cumsum()
    return counts / len(margins), right / counts


def two_stage(
    margin_small: NDArray[Any],
    correct_small: NDArray[Any],
    correct_large: NDArray[Any],
    folds: int = 10,
    seed: int = 0,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return shares of the documents that a large model is asked, where a small one is least sure, and the score with each.

    Each document is decided by a threshold of its sureness that comes from the other folds, so that none sets its own.
    Shares are those that came about, so that equally sure documents leave gaps.
    """
    sure, n = _sureness(margin_small), len(margin_small)
    fold = np.random.default_rng(seed).permutation(n) % min(folds, n)
    points = {}
    for share in SHARES:
        sent = np.full(n, share == 1)
        if 0 < share < 1:
            for each in range(fold.max() + 1):
                others = sure[fold != each]
                sent[fold == each] = sure[fold == each] < (np.quantile(others, share) if others.size else 0)
        points[sent.mean()] = np.where(sent, correct_large, correct_small).mean()
    shares = sorted(points)
    return np.array(shares), np.array([points[share] for share in shares])


def _known(margins: NDArray[Any], gold: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    known = ~np.isnan(margins)
    return np.asarray(margins, float)[known], np.asarray(gold)[known]


def _sureness(margins: NDArray[Any]) -> NDArray[Any]:
    return np.nan_to_num(np.abs(np.asarray(margins, float)), nan=-1.0)
