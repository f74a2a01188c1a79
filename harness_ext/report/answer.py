"""Prompt a big model, or fine-tune a small one? The answer in a few sentences, made from the leaderboard's entries.

Nothing is said that the runs do not show: what has no interval takes no part, and what cannot be told apart is called so.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from harness_ext.evidence import break_even, extrapolation
from harness_ext.evidence.contrast import Contrast
from harness_ext.evidence.ranks import ALPHA, holm
from harness_ext.evidence.seeds import FEWEST_SEEDS
from harness_ext.results import reported
from harness_ext.results.contest import (
    Contest,
    Curve,
    asked,
    compare,
    contests,
    crossing_of,
    first_crossing,
    model_of,
)
from harness_ext.results.reported import SST2_VALIDATION
from harness_ext.results.standings import Entry
from harness_ext.results.tables import visible
from harness_ext.results.words import in_order, interval, labels, listed, number, p_text, percent, points

SMALL = "No model of billions of parameters was run."
_LARGE = 1e9  # parameters


@dataclass(frozen=True, eq=False)
class Match:
    """The best that is trained on so many labels against the best that is prompted."""

    curve: Curve
    trained: Entry
    found: Contrast  # trained - prompted
    p: float  # Holm's, over all that was trained on so many labels
    compared: int  # how many those are

    @property
    def samples(self) -> int | str | None:
        """The number of labels."""
        return self.trained.samples

    @property
    def winner(self) -> str:
        """Which is surely better: "training", "prompting", or "neither"."""
        if self.p >= ALPHA:
            return "neither"
        return "training" if self.found.difference > 0 else "prompting"


def sentences(entries: Iterable[Entry]) -> list[str]:
    """Answer the question for the data set with the most runs: the answer first, what took no part last."""
    found = contests(entries)
    contest = next(iter(found), None)
    if contest is None or not (contest.label_free or contest.curves):
        return ["No model has been asked or trained on a whole data set yet, so there is no answer."]
    fought = matches(contest)
    said = [
        _headline(contest, fought),
        _prompting(contest),
        _training(contest),
        _break_even(contest),
        _more(contest),
        _limits(contest),
        _left_out(contest, found[1:]),
    ]
    return [visible(each) for each in said if each]


def matches(contest: Contest) -> list[Match]:
    """Set the best trained at each number of labels against the best prompted; fewer than three seeds have no test."""
    if not contest.prompted:
        return []
    best = []
    for same in _by_labels(contest):
        found = [compare(entry, contest.prompted[0]) for _, entry in same]
        adjusted = holm(np.array([each.p for each in found]))
        at = max(range(len(same)), key=lambda n: same[n][1].score.mean)
        best.append(Match(*same[at], found[at], float(adjusted[at]), len(same)))
    return best


def _by_labels(contest: Contest) -> list[list[tuple[Curve, Entry]]]:
    """Sort what was trained with seeds enough by number of labels."""
    points = [(curve, entry) for curve in contest.curves for entry in curve.entries if not entry.too_few]
    points.sort(key=lambda each: in_order(each[1].samples))
    return [list(same) for _, same in groupby(points, lambda each: each[1].samples)]


def _headline(contest: Contest, fought: Sequence[Match]) -> str:
    where = f"On {contest.data} ({contest.n:,} sentences)"
    if not contest.curves:
        return f"{where} nothing was trained: prompts can be compared with each other only."
    if not contest.prompted:
        return f"{where} no model was asked without labels: what is trained cannot be compared with a prompt."
    if not fought:
        return f"{where} nothing was trained with {FEWEST_SEEDS} seeds or more: there is no sure answer yet."
    where += ", among models of less than a billion parameters" if is_small(contest) else ""
    # Whoever has more labels can train on fewer, so the first number that is enough decides; unless more do surely worse.
    lost = [number for number, match in enumerate(fought) if match.winner == "prompting"]
    won = [number for number, match in enumerate(fought) if match.winner == "training" and number > max(lost, default=-1)]
    if won:
        match = fought[won[0]]
        p = p_text(match.p) if match.p < 0.001 else f"= {p_text(match.p)}"
        several = f"; p {p} after Holm's correction for {match.compared} comparisons" * (match.compared > 1)
        answer = (
            f"{_act(match.curve)} if you have {labels(match.samples)} labels or more. With {labels(match.samples)}, "
            f"{match.curve.name} is right on {percent(match.trained.score.mean)}, {points(match.found.difference)} more "
            f"than the best prompt without labels ({interval(match.found.low, match.found.high)}{several})."
        )
    else:
        says = {"prompting": "prompt: the best that was trained is surely worse", "neither": "there is no sure winner"}
        answer = f"{says[fought[-1].winner]}, with up to {labels(fought[-1].samples)} labels ({_shown(fought[-1])})."
    return f"{where}: {answer}{_below(fought[: won[0]] if won else fought[:-1])}"


def _shown(match: Match) -> str:
    side = "above" if match.found.difference > 0 else "below"
    gap = f"{points(match.found.difference)} {side} the best prompt"
    return f"the best that was trained, {match.curve.name}, is {gap}, {interval(match.found.low, match.found.high)}"


def _act(curve: Curve) -> str:
    acts = {"examples": "put examples into the prompt", "calibrated": "calibrate a prompt", "probe": "train a probe"}
    return acts.get(curve.how) or ("fine-tune" if curve.how else "train a small classifier")


def _below(fought: Sequence[Match]) -> str:
    """Say who wins with fewer labels."""
    says = {
        "training": "training is surely better",
        "prompting": "prompting is surely better",
        "neither": "there is no sure winner",
    }
    parts = []
    for winner, verdict in says.items():
        if sizes := [match for match in fought if match.winner == winner]:
            shown = f" ({_shown(sizes[0])})" if len(sizes) == 1 else ""
            parts.append(f"with {listed([labels(match.samples) for match in sizes])} labels {verdict}{shown}")
    return f" {listed(parts)}.".replace(" with", " With", 1) if parts else ""


def _prompting(contest: Contest) -> str:
    if not contest.prompted:
        return ""
    best, *others = contest.ranked
    score = f"{percent(best.score.mean)} ({interval(best.score.low, best.score.high)})"
    name = f"{model_of(best)} ({asked(best)})"
    if not others:
        return f"Without a label one way of asking was tried: {name} is right on {score}."
    tied = best.rank[1] - 1 if best.rank else len(others)  # as on the leaderboard, which looks at all pairs
    models = f"{len(contest.prompted)} models" if len(contest.prompted) > 1 else "one model"
    told = f"{tied} of the others cannot be told from it" if tied else "it is surely better than each of the others"
    return (
        f"Without a label, the best of {len(contest.ranked)} ways of asking {models} is {name}: {score}; {told} "
        "(Holm-corrected), and the best of so many is likely to look a little better than it is. "
        f"Always giving the commoner answer is right on {percent(contest.majority)}."
    )


def _training(contest: Contest) -> str:
    """Name the best at each number of labels among those with seeds enough."""
    parts = []
    for same in _by_labels(contest):
        curve, entry = max(same, key=lambda each: each[1].score.mean)
        only = ", the only one with so many" if len(same) == 1 else ""
        collapsed = f", {entry.collapsed} of {entry.seeds} collapsed" if entry.collapsed else ""
        said = f"{curve.name}, {percent(entry.score.mean)} ({_ends(entry)}{collapsed}{only})"
        parts.append(f"{labels(entry.samples)}: {said}")
    if not parts:
        return ""
    return f"The best that was trained, by number of labels (mean over seeds, 95% interval): {'; '.join(parts)}."


def _ends(entry: Entry) -> str:
    return "no interval" if entry.interval is None else " to ".join(map(number, entry.interval))


def _break_even(contest: Contest) -> str:
    """Say from how many labels on a trained method is above the best prompted one."""
    if not contest.prompted or not contest.curves:
        return ""
    prompted = contest.prompted[0]
    found = first_crossing(contest.curves, prompted)
    if found:
        curve, where = found
        mean = _range(where.mean, where.mean_low, where.mean_high)
        if where.most.side == "above":
            most = f"an unlucky subset, one in 20, does not with {where.most.labels:,}"
        else:
            most = f"an unlucky subset, one in 20, does with {_range(where.most, where.most_low, where.most_high)}"
        several = len(contest.curves) > 1
        first = (
            f"Of {len(contest.curves)} methods with labels {curve.name} is the first to catch"
            if several
            else f"{curve.name} catches"
        )
        return f"{first} the best prompt: on average with {mean}, between sizes that were run; {most}."
    known = [curve for curve in contest.curves if crossing_of(curve, prompted)]
    if not known:
        return f"Where training catches the best prompt takes two numbers of labels with {FEWEST_SEEDS} seeds each to say."
    more = _extrapolated(known[0], prompted)
    return f"Nothing that was trained catches the best prompt for good with the labels that were tried.{more}"


def _range(*crossings: break_even.Crossing) -> str:
    said, low, high = map(break_even.text, crossings)
    return f"{said} labels (90% interval {low.removeprefix('about ')} to {high.removeprefix('about ')})"


def _extrapolated(curve: Curve, prompted: Entry) -> str:
    """Say how many labels more it would take, beside what the same curves would have said of what was measured."""
    sizes, scores = list(curve.measured), [entry.score.mean for entry in curve.measured.values()]
    found, tested = extrapolation.labels_for(sizes, scores, prompted.score.mean), extrapolation.back_test(sizes, scores)
    if isinstance(found, str) or isinstance(tested, str):
        return f" How many more {curve.name} would take cannot be said: {found if isinstance(found, str) else tested}."
    low, high = (each and f"{float(f'{each:.2g}'):,.0f}" for each in (found.low, found.high))
    high = high or f"more than {extrapolation.FARTHEST * sizes[-1]:,}"
    return (
        f" By three learning curves {curve.name} would take {low} to {high}; the same curves, fitted up to "
        f"{tested.known:,} labels, say {percent(tested.low)} to {percent(tested.high)} for {tested.at:,}, where "
        f"{percent(tested.measured)} was measured."
    )


def _more(contest: Contest) -> str:
    """Say whether the best method still gained from more labels."""
    curve = next((curve for curve in contest.curves if len(curve.sure) > 1), None)
    if curve is None:
        return ""
    before, after = curve.sure[-2:]
    found = compare(after, before)
    if found.p is None:
        return ""
    change = f"{number(found.difference)} points, {interval(found.low, found.high)}"
    fewer, more = labels(before.samples), labels(after.samples)
    if found.p >= ALPHA:
        return f"More than {fewer} labels brought {curve.name} nothing that can be seen: {more} against {fewer}, {change}."
    return f"{curve.name} {'gained' if found.difference > 0 else 'lost'} from {fewer} to {more} labels ({change})."


def _limits(contest: Contest) -> str:
    """Say what may not be concluded, and which larger model the original has prompted on the same sentences."""
    limits = ["of other texts or questions"]
    if is_small(contest):
        limits.append("of models of billions of parameters (none was run)")
    chat = {model_of(entry) for entry in contest.label_free if (entry.record.get("settings") or {}).get("chat_template")}
    if contest.label_free and len(chat) < 2:
        limits.append(f"of chat models in general ({f'only {next(iter(chat))}' if chat else 'none'} was asked)")
    said = f"This says nothing {', '.join(limits[:-1])}{' or ' * (len(limits) > 1)}{limits[-1]}."
    if is_small(contest) and contest.entries[0].record.get("data_fingerprint") == SST2_VALIDATION:
        asked_once = [line for line in reported.table() if line["group"] == "zero-shot"]
        best = max(asked_once, key=lambda line: int(line["correct_of_872"]))
        score = percent(int(best["correct_of_872"]) / reported.N)
        said += f" On the same sentences the original reports {score} for {best['model']}, prompted (one run, not repeated)."
    return said


def _left_out(contest: Contest, others: Sequence[Contest]) -> str:
    """Say which runs took no part."""
    few = [f"“{entry.name}”" for entry in (*contest.label_free, *contest.trained) if entry.too_few]
    said = []
    if few:
        named = listed(few) if len(few) <= 3 else f"{', '.join(few[:2])} and {len(few) - 2} more"
        said.append(f"With fewer than {FEWEST_SEEDS} seeds there is no interval, so {named} took no part.")
    if others:
        said.append(
            f"Runs on {listed([each.data for each in others])} are not part of this: most was run on {contest.data}."
        )
    return " ".join(said)


def is_small(contest: Contest) -> bool:
    """Tell whether the models' names say that none has a billion parameters."""
    sizes = [size for entry in contest.entries if (size := _parameters(model_of(entry)))]
    return bool(sizes) and max(sizes) < _LARGE


def _parameters(name: str) -> float | None:
    """Read a model's size from its name, as in ``SmolLM2-135M-Instruct``."""
    found = re.search(r"(?<![\w.])(\d+(?:\.\d+)?)([mb])(?![a-z])", name, re.IGNORECASE)
    return float(found[1]) * (1e6 if found[2].lower() == "m" else 1e9) if found else None
