"""Per-document scores of the 0/1 tasks, and the aggregations that lm-eval lacks.

One function scores both output types, so that the forced-choice variant reports the same metrics.
Without a prediction a document counts as wrong.
"""

import functools
import math
from collections import Counter
from collections.abc import Iterable, Sequence

import lm_eval.api.metrics  # noqa: F401  registers the aggregations ("mean") that the task YAML names
from lm_eval.api.registry import register_aggregation

INVALID = -1  # the prediction of a response without a label


def score_document(doc: dict, results: Sequence) -> dict:
    """Score one document under one filter, a value per metric; lm-eval's ``process_results``.

    The results are one prediction of `filters.LabelFilter`, or the pairs (log-likelihood, is greedy) of "0" and "1".
    """
    return _scores(int(doc["label"]), _prediction(results))


@functools.cache
def _scores(reference: int, prediction: int) -> dict:
    """Score a prediction; there are six, so that those of many documents take no room."""
    correct = int(prediction == reference)
    return {
        "acc": correct,
        "not_following": int(prediction == INVALID),
        "acc_following": (correct, prediction),
        "positive_share": prediction,
        "mcc": (reference, prediction),
    }


def _prediction(results: Sequence) -> int:
    if isinstance(results[0], str):
        return int(results[0]) if results[0] in ("0", "1") else INVALID
    (negative, _), (positive, _) = results
    return int(positive > negative)


@register_aggregation("acc_following")
def acc_following(items: Iterable[tuple[int, int]]) -> float:
    """Accuracy among the documents whose response has a label; 0 where none has, since NaN is no JSON."""
    scores = [correct for correct, prediction in items if prediction != INVALID]
    return sum(scores) / len(scores) if scores else 0.0


@register_aggregation("positive_share")
def positive_share(items: Iterable[int]) -> float:
    """Share of "1" among the predictions that are labels: 0 or 1 here means a single-class model."""
    predictions = [prediction for prediction in items if prediction != INVALID]
    return sum(predictions) / len(predictions) if predictions else 0.0


@register_aggregation("mcc")
def mcc(items: Iterable[tuple[int, int]]) -> float:
    """Matthews correlation of reference and prediction, an invalid prediction being a third class.

    lm-eval's own aggregation of that name cannot be used: its standard error draws 100,000 bootstrap
    samples, minutes for 872 documents. Written out because scikit-learn, which the tests compare it with,
    takes half a second to import.
    """
    pairs = list(items)
    n, right = len(pairs), sum(reference == prediction for reference, prediction in pairs)
    references, predictions = map(Counter, zip(*pairs, strict=True))
    covariance = n * right - sum(count * predictions[label] for label, count in references.items())
    variances = [n**2 - sum(count**2 for count in each.values()) for each in (references, predictions)]
    return covariance / math.sqrt(math.prod(variances)) if all(variances) else 0.0
