"""The baselines that any fine-tuned model must beat, fitted on the same rows: majority class, TF-IDF + logistic regression.

Both are scikit-learn's, with its defaults.
"""

import math
from collections.abc import Callable
from typing import Any

from lm_eval.api.registry import register_model
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from harness_ext.backend.sentence import SentenceLM

LEAST = 1e-12  # what a probability of 0 counts as


class _BaselineLM(SentenceLM):
    unfitted: Callable[[], Any]

    def __init__(self, rows: list[dict[str, Any]], **_ignored: Any) -> None:
        """Fit on rows with ``sentence`` and ``label``; lm-eval passes a batch size and a device to every model."""
        super().__init__()
        self._fitted = self.unfitted().fit([row["sentence"] for row in rows], [row["label"] for row in rows])

    def classify(self, sentences: list[str]) -> list[tuple[float, float]]:
        """Return the log-probabilities of 0 and 1."""
        shares = self._fitted.predict_proba(sentences)
        by_class = {int(label): shares[:, column].tolist() for column, label in enumerate(self._fitted.classes_)}
        columns = [by_class.get(label, [0.0] * len(sentences)) for label in (0, 1)]
        return [(math.log(max(zero, LEAST)), math.log(max(one, LEAST))) for zero, one in zip(*columns, strict=True)]


@register_model("majority")
class MajorityLM(_BaselineLM):
    """The more frequent class of the training rows, whatever the sentence; 0 if they are balanced."""

    unfitted = staticmethod(lambda: DummyClassifier(strategy="prior"))


@register_model("tfidf")
class TfidfLM(_BaselineLM):
    """TF-IDF of words, and a logistic regression on it."""

    unfitted = staticmethod(lambda: make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=1000)))
