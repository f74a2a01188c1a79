"""Logistic regression on a model's states: scikit-learn's, with how strongly it is held back chosen on the labels alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

ENOUGH = 64  # labels from which on a choice is made by cross-validation; below, folds of a few rows say little
STRENGTHS = (0.1, 1.0, 10.0, 100.0)  # scikit-learn's C: the larger, the less the weights are held back
FOLDS = 5
MOST = 1000  # labels by which that is chosen at the most: by 67,000 it takes minutes
# scikit-learn's own 1e-4 stops so early that the last bits of the states, which depend on the batch, show in the weights.
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Fitted:
    """A logistic regression, and on which states it was found to be best."""

    model: Any  # scikit-learn's, standardisation included
    layer: int  # index into the states that were offered
    C: float
    log_loss: float | None  # cross-validated; None where nothing was chosen
    chosen_on: int | None  # by so many of the labels

    def log_odds(self, layers: Any) -> Any:
        """Return log p(1) - log p(0) of rows whose states are offered as they were to `fit`."""
        return self.model.decision_function(_exact(layers[self.layer]))


def record() -> dict[str, Any]:
    """Say by what rules it is fitted, for a key."""
    return {"enough": ENOUGH, "strengths": list(STRENGTHS), "folds": FOLDS, "most": MOST, "tolerance": TOLERANCE}


def fit(layers: Any, labels: Sequence[int], *, default: int = 0, standardise: bool = False, seed: int = 0) -> Fitted:
    """Fit labels, 0 or 1, on states ``(rows, hidden)``, of which several layers may be offered.

    From `ENOUGH` labels on the layer and C are those of the least log-loss in a stratified cross-validation of `FOLDS`
    folds, by `MOST` of the labels at the most; with fewer labels, the `default` layer and scikit-learn's own C. Standardised
    columns have mean 0 and deviation 1.
    """
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score, train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def unfitted(strength: float) -> Any:
        regression = LogisticRegression(C=strength, max_iter=1000, tol=TOLERANCE)
        return make_pipeline(StandardScaler(), regression) if standardise else regression

    classes: Any = np.asarray(labels)
    loss, layer, strength, some = None, default, 1.0, None
    if len(classes) >= ENOUGH:
        some = np.arange(len(classes))
        if len(classes) > MOST:
            some, _ = train_test_split(some, train_size=MOST, random_state=seed, stratify=classes)
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
        tried = []
        for number, states in enumerate(layers):
            offered = _exact(states[some])
            for each in STRENGTHS:
                scores = cross_val_score(unfitted(each), offered, classes[some], cv=folds, scoring="neg_log_loss")
                tried.append((-float(scores.mean()), number, each))
        loss, layer, strength = min(tried)
    model = unfitted(strength).fit(_exact(layers[layer]), classes)
    return Fitted(model, layer, strength, loss, None if some is None else len(some))


def _exact(states: Any) -> Any:
    """Return states as float64: in float32 the solver's own rounding is larger than that of the states."""
    return states.astype("float64")
