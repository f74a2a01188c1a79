"""Logistic regression on a model's states: scikit-learn's, with how strongly it is held back chosen on the labels alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

ENOUGH = 64  # labels from which on a choice is made by cross-validation; below, folds of a few rows say little
STRENGTHS = (0.1, 1.0, 10.0, 100.0)  # scikit-learn's C: the larger, the less the weights are held back
FOLDS = 5


@dataclass(frozen=True)
class Fitted:
    """A logistic regression, and on which states it was found to be best."""

    model: Any  # scikit-learn's, standardisation included
    layer: int  # index into the states that were offered
    C: float
    log_loss: float | None  # cross-validated; None where nothing was chosen


def fit(
    layers: Sequence[Any],
    labels: Sequence[int],
    *,
    default: int = 0,
    standardise: bool = False,
    seed: int = 0,
    choose: bool = True,
) -> Fitted:
    """Fit labels, 0 or 1, on states ``(rows, hidden)``, of which several layers may be offered.

    From `ENOUGH` labels on the layer and C are those of the least log-loss in a stratified cross-validation of `FOLDS`
    folds; with fewer labels, or where nothing is to be chosen, the `default` layer and scikit-learn's own C. Standardised
    columns have mean 0 and deviation 1.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def unfitted(strength: float) -> Any:
        regression = LogisticRegression(C=strength, max_iter=1000)
        return make_pipeline(StandardScaler(), regression) if standardise else regression

    chosen: tuple[float | None, int, float] = (None, default, 1.0)
    if choose and len(labels) >= ENOUGH:
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
        tried = []
        for layer, states in enumerate(layers):
            for strength in STRENGTHS:
                scores = cross_val_score(unfitted(strength), states, labels, cv=folds, scoring="neg_log_loss")
                tried.append((-float(scores.mean()), layer, strength))
        chosen = min(tried)
    loss, layer, strength = chosen
    return Fitted(unfitted(strength).fit(layers[layer], labels), layer, strength, loss)
