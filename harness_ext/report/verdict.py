"""What a comparison shows, and what it does not, in plain sentences."""

from harness_ext.evidence.contrast import MARGIN, Contrast, Method, no_worse
from harness_ext.evidence.seeds import FEWEST_SEEDS
from harness_ext.results.words import counted, interval, p_text, points

LEVEL = 0.05


def sentences(a: Method, b: Method, found: Contrast) -> list[str]:
    """Say who is better, or that nobody can tell; then, of a tie, who is at least no worse."""
    if found.basis == "few seeds":
        return [_few(found)]
    assert found.low is not None
    assert found.high is not None
    assert found.p is not None
    apart = _documents(found) if found.paired else _seeds(a, b, found)
    if found.p < LEVEL:
        better, low, high = ("A", found.low, found.high) if found.difference > 0 else ("B", -found.high, -found.low)
        return [f"{better} is better by {points(found.difference)} ({interval(low, high)}; {apart})."]
    if found.paired:
        where = "on this test set"
    else:
        apart, where = f"{points(found.difference)} apart over {apart}", "with these seeds and this test set"
    told = f"a difference under {points(found.visible or 0)} cannot be told {where}"
    return [f"tie: {apart}; {told}.", *_no_worse(a, b)]


def _seeds(a: Method, b: Method, found: Contrast) -> str:
    if found.basis == "seeds":
        return f"{found.seeds} seeds"
    return f"{len(a.correct)} and {len(b.correct)} seeds, drawn apart"


def _few(found: Contrast) -> str:
    if found.paired is None:
        seeds = counted(found.seeds, "common seed")
        return (
            f"too few seeds: the means are {points(found.difference)} apart, over {seeds}; "
            f"from {FEWEST_SEEDS} on more can be said (SEED=0,1,2)."
        )
    apart, p = found.paired.only_a - found.paired.only_b, p_text(found.paired.p_mid)
    better = f"{'A' if apart > 0 else 'B'} is right on {abs(apart)} of {found.paired.n} documents more"
    return (
        f"two single runs: {better if apart else 'both have equally many right'} (p {p if '<' in p else f'= {p}'}), "
        f"which says nothing of other seeds; run {FEWEST_SEEDS} or more (SEED=0,1,2)."
    )


def _no_worse(a: Method, b: Method) -> list[str]:
    within = f"within {100 * MARGIN:g} points (90% interval)."
    a_holds, b_holds = no_worse(a, b), no_worse(b, a)
    if a_holds and b_holds:
        return [f"Each is no worse than the other {within}"]
    return [f"{'A is no worse than B' if a_holds else 'B is no worse than A'} {within}"] if a_holds or b_holds else []


def _documents(found: Contrast) -> str:
    assert found.paired is not None
    more, fewer = sorted((found.paired.only_a, found.paired.only_b), reverse=True)
    return f"{more - fewer} of {found.paired.n} documents apart, {more} against {fewer}"
