"""The baselines that any fine-tuned model must beat, fitted on the same rows: majority class, TF-IDF + logistic regression.

Both are scikit-learn's, with its defaults.
"""

import math
from typing import Any

from lm_eval.api.registry import register_model
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from harness_ext.backend.sentence import SentenceLM


class _BaselineLM(SentenceLM):
    """A scikit-learn classifier, fitted when it is made."""

    def __init__(self, rows: list[dict[str, Any]], **_ignored: Any) -> None:
        """Fit.

        Args:
            rows: What to fit on, with ``sentence`` and ``label``.
            **_ignored: lm-eval passes a batch size and a device to every model.
        """
        super().__init__()
        self._fitted = self.build().fit([row["sentence"] for row in rows], [row["label"] for row in rows])

    @staticmethod
    def build() -> Any:
        """Return the unfitted classifier."""
        raise NotImplementedError

    def classify(self, sentences: list[str], disable_tqdm: bool = False) -> list[tuple[float, float]]:
        """Return the log-probabilities of 0 and 1; a probability of 0 counts as 1e-12."""
        shares = self._fitted.predict_proba(sentences)
        by_class = {int(label): shares[:, column].tolist() for column, label in enumerate(self._fitted.classes_)}
        columns = [by_class.get(label, [0.0] * len(sentences)) for label in (0, 1)]
        return [(math.log(max(zero, 1e-12)), math.log(max(one, 1e-12))) for zero, one in zip(*columns, strict=True)]


@register_model("majority")
class MajorityLM(_BaselineLM):
    """The more frequent class of the training rows, whatever the sentence; 0 if they are balanced."""

    @staticmethod
    def build() -> Any:
        """Return the unfitted classifier."""
        return DummyClassifier(strategy="prior")


@register_model("tfidf")
class TfidfLM(_BaselineLM):
    """TF-IDF of words, and a logistic regression on it."""

    @staticmethod
    def build() -> Any:
        """Return the unfitted classifier."""
        return make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=1000))
