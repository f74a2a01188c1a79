"""Logistic regression on a model's states: scikit-learn's, with how strongly it is held back chosen on the labels alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# Labels from which on a choice is made by cross-validation. Of standardised states a choice among five layers and C costs 5
# points with 64 labels, among C alone 1 (1,000 train rows of SmolLM2 outside all subsets), and nothing with 256.
ENOUGH, ENOUGH_STANDARDISED = 64, 256
# scikit-learn's C: the larger, the less the weights are held back. Of states of length 1, and of standardised ones, whose
# length is the root of their size (1,000 train rows of SmolLM2 outside all subsets: least log-loss at 0.01 to 0.1).
STRENGTHS, STANDARDISED = (0.1, 1.0, 10.0, 100.0), (0.01, 0.1, 1.0)
DEFAULT, DEFAULT_STANDARDISED = 1.0, 0.1  # with too few labels to choose
FOLDS = 5
MOST = 1000  # labels by which that is chosen at the most: by 67,000 it takes minutes
# Of the last fit; scikit-learn's own 1e-4, by which C is chosen, leaves probabilities 1e-3 from where they would end.
TOLERANCE = 1e-8


@dataclass(frozen=True)
class Fitted:
    """A logistic regression, and on which states it was found to be best."""

    model: Any  # scikit-learn's, standardisation included
    layer: int  # index into the states that were offered
    C: float
    accuracy: float | None  # cross-validated, of what was chosen; None where nothing was
    log_loss: float | None  # likewise
    chosen_on: int | None  # by so many of the labels

    def log_odds(self, layers: Any) -> Any:
        """Return log p(1) - log p(0) of rows whose states are offered as they were to `fit`."""
        return self.model.decision_function(_exact(layers[self.layer]))


def record() -> dict[str, Any]:
    """Say by what rules it is fitted, for a key."""
    return {
        "enough": [ENOUGH, ENOUGH_STANDARDISED],
        "strengths": [*STRENGTHS, *STANDARDISED, DEFAULT, DEFAULT_STANDARDISED],
        "folds": FOLDS,
        "most": MOST,
        "tolerance": TOLERANCE,
    }


def fit(
    layers: Any,
    labels: Sequence[int],
    *,
    default: int = 0,
    standardise: bool = False,
    seed: int = 0,
    choose: bool = True,
) -> Fitted:
    """Fit labels, 0 or 1, on states ``(rows, hidden)``, of which several layers may be offered.

    Where there are labels enough of both, the layer and C are those of the highest accuracy, then the least log-loss, in a
    stratified cross-validation of `FOLDS` folds, by `MOST` of the labels at the most; else, or not to `choose`, the
    `default` layer and C. (By log-loss alone weights win that are held back less, as they are surer of themselves: of 3,000
    train rows of MiniLM 77.1 instead of 78.0% were right with 256 labels, 80.2 instead of 81.2% with 1,024.) Standardised
    columns have mean 0 and deviation 1.
    """
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    scaler = StandardScaler if standardise else FunctionTransformer
    strengths = STANDARDISED if standardise else STRENGTHS
    classes: Any = np.asarray(labels)
    layer, strength = default, DEFAULT_STANDARDISED if standardise else DEFAULT
    accuracy = loss = some = None
    if choose and _are_enough(classes, ENOUGH_STANDARDISED if standardise else ENOUGH):
        some = np.arange(len(classes))
        if len(classes) > MOST:
            some, _ = train_test_split(some, train_size=MOST, random_state=seed, stratify=classes)
        folds = list(StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(some, classes[some]))
        right, tried = classes[some], []
        for number in range(len(layers)):
            offered = _exact(layers[number][some])
            found = np.zeros((len(strengths), 2))  # share of errors, log-loss
            for rows, others in folds:
                scaled = scaler().fit(offered[rows])
                seen, unseen = scaled.transform(offered[rows]), scaled.transform(offered[others])
                for place, each in enumerate(strengths):
                    odds = LogisticRegression(C=each, max_iter=1000).fit(seen, right[rows]).decision_function(unseen)
                    wrong = np.where(right[others], -odds, odds)
                    found[place] += (wrong >= 0).mean() / FOLDS, np.logaddexp(0, wrong).mean() / FOLDS
            tried += [(round(errors, 9), loss, number, each) for (errors, loss), each in zip(found, strengths, strict=True)]
        errors, loss, layer, strength = min(tried)
        accuracy, loss = float(1 - errors), float(loss)
    last = make_pipeline(scaler(), LogisticRegression(C=strength, max_iter=2000, tol=TOLERANCE))
    last.fit(_exact(layers[layer]), classes)
    return Fitted(last, layer, strength, accuracy, loss, None if some is None else len(some))


def _are_enough(labels: Any, enough: int) -> bool:
    """Tell whether a choice can be made by labels; a fold without a row of the rarer class cannot be fitted."""
    rarer = min(int((labels == value).sum()) for value in (0, 1))
    return len(labels) >= enough and rarer * min(len(labels), MOST) >= FOLDS * len(labels)


def _exact(states: Any) -> Any:
    """Return states as float64: in float32 the solver's own rounding is larger than that of the states."""
    return states.astype("float64")
