"""The pictures of the page, as parts of it, each with what it shows in one sentence and in words alone."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness_ext.evidence import calibration
from harness_ext.evidence.contrast import common_seeds
from harness_ext.results import board, label_figure, names, pictures
from harness_ext.results.contest import Contest, asked, contests, method_of, model_of
from harness_ext.results.experiments import draw_of
from harness_ext.results.prices import Prices
from harness_ext.results.standings import Entry
from harness_ext.results.tables import visible
from harness_ext.results.words import labels, percent, points

_CLOSE = 0.01  # how near the two-stage policy comes before it is as good as the large model alone
_FIRST = 0.05  # share of the documents from which on score against coverage is drawn: of fewer it jumps


@dataclass(frozen=True)
class Drawn:
    """A picture of the page: its title, what it shows in one sentence, the same in words alone, and an ``<svg>``."""

    title: str
    caption: str
    alternative: str
    svg: str


@dataclass(frozen=True, eq=False)
class _Sure:
    """How sure an entry is of each answer, all seeds in one."""

    model: str
    how: str
    margins: NDArray[np.float64]  # (seeds x documents,), above 0 for label 1
    gold: NDArray[np.int8]

    @property
    def name(self) -> str:
        """Both in one."""
        return f"{self.model} ({self.how})"

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether the answer that the margin gives is right."""
        return np.equal(self.margins > 0, self.gold == 1)


def label_efficiency(entries: Iterable[Entry]) -> Drawn | None:
    """Draw score by number of labels for the data set with the most runs; None where nothing was trained."""
    contest = next(iter(contests(entries)), None)
    picture = contest and label_figure.choose(contest)
    if not picture:
        return None
    caption, words = label_figure.caption(picture), label_figure.alternative(picture)
    return _drawn("labels", "Score by number of labels", caption, lambda: label_figure.draw(picture), words)


def others(entries: Iterable[Entry], priced: Prices | None = None) -> list[Drawn]:
    """Draw how sure the best are of their answers, for the same data set."""
    contest = next(iter(contests(entries)), None)
    found = [reliability(contest), coverage(contest), two_stage(contest, priced)] if contest else []
    return [each for each in found if each]


def reliability(contest: Contest) -> Drawn | None:
    """Draw confidence against what is right, of the best trained and the best prompted model."""
    pair = _pair(contest)
    bins = [found for each in pair if (found := calibration.reliability(each.margins, each.gold))]
    if not bins:
        return None

    def draw() -> Any:
        figure, axes = _panels(len(pair), sharey=True)
        for axis, each, found, style in zip(axes, pair, bins, pictures.lines(), strict=False):
            axis.plot((0.5, 1), (0.5, 1), color=pictures.INK, linewidth=1, linestyle=":")
            area = 12 + 250 * found.counts / found.counts.sum()
            axis.scatter(
                found.confidence, found.right, area, color=style.color, marker=style.marker, alpha=0.7, clip_on=False
            )
            axis.set(xlabel="confidence: probability of the answer given", xticks=(0.5, 0.75, 1))
            axis.set_title(f"{each.model}\n{each.how}", fontsize=8)
            axis.text(0.98, 0.04, f"mean distance {points(found.error)}", transform=axis.transAxes, ha="right", fontsize=8)
            pictures.percent(axis.xaxis, axis.yaxis)
        axes[0].set_ylabel("share that is right")
        return figure

    gaps = [f"{each.name}: {points(found.error)}" for each, found in zip(pair, bins, strict=True)]
    caption = (
        "On the dotted line a model is right as often as it is sure; the larger a mark, the more answers. "
        f"Mean distance from the line (ECE, {len(bins[0].counts)} bins): {'; '.join(gaps)}."
    )
    return _drawn("reliability", "Is a model as often right as it is sure?", caption, draw)


def coverage(contest: Contest) -> Drawn | None:
    """Draw the score among the surest answers against how many those are."""
    pair = _pair(contest)
    if not pair:
        return None
    curves = [calibration.coverage(each.margins, each.correct) for each in pair]

    def draw() -> Any:
        figure, (axis,) = _panels(1)
        ends = []
        for each, (share, score), style in zip(pair, curves, pictures.lines(), strict=False):
            some = share >= _FIRST
            axis.plot(share[some], score[some], color=style.color, linestyle=style.linestyle, linewidth=1.6)
            ends.append((1.0, float(score[-1]), f"{each.model} {100 * score[-1]:.1f}\n{each.how}", style.color))
        axis.set(xlim=(0, 1.75), xlabel="share of sentences answered, the surest first", ylabel="score among them")
        axis.set_xticks(np.linspace(0, 1, 6))
        pictures.percent(axis.xaxis, axis.yaxis)
        pictures.place(ends, axis, fontsize=8)
        return figure

    said = [
        f"{each.name}: {percent(score[np.searchsorted(share, 0.5)])} of the surest half, {percent(score[-1])} of all"
        for each, (share, score) in zip(pair, curves, strict=True)
    ]
    caption = f"The score among the answers that a model is surest of. {'; '.join(said)}."
    return _drawn("coverage", "Score, if the least sure answers are left to someone else", caption, draw)


def two_stage(contest: Contest, priced: Prices | None = None) -> Drawn | None:
    """Draw the score when a small model answers first and a large one where it is least sure, and the price if known.

    The pair: with the most labels that two models were trained on, the best of each; the better of the two is the large one.
    """
    pair = _stages(contest)
    if pair is None:
        return None
    small, large = pair
    score, seeds = _policy(small, large)
    paid = _paid(small, large, priced)
    enough = int(np.argmax(score >= score[-1] - _CLOSE))

    def draw() -> Any:
        figure, (axis,) = _panels(1)
        style, share = next(pictures.lines()), calibration.SHARES
        axis.plot(share, score, color=style.color, marker=style.marker, markersize=3.5, linewidth=1.6)
        axis.plot((0, 1), (score[0], score[-1]), color=pictures.INK, linestyle=":", linewidth=1)
        axis.plot([share[enough]], [score[enough]], marker="D", color=pictures.INK)
        axis.set(xlim=(-0.02, 1.6), xlabel="share of sentences that the second model is asked", ylabel="score")
        axis.set_xticks(np.linspace(0, 1, 6))
        pictures.percent(axis.xaxis, axis.yaxis)
        if paid:
            _over_shares(axis, *paid)
        says = {-1: f"{pictures.label(model_of(large), 34)} alone", 0: f"{pictures.label(model_of(small), 34)} alone"}
        says |= {enough: f"{share[enough]:.0%} asked:"}
        ends = [(share[at], score[at], f"{said} {100 * score[at]:.1f}", pictures.INK) for at, said in says.items()]
        pictures.place(ends, axis, fontsize=8)
        return figure

    caption = (
        f"“{small.name}” answers first, “{large.name}” where it is least sure (mean of {seeds} seeds, cross-fitted). "
        f"Asked for {calibration.SHARES[enough]:.0%} of the sentences the two score {percent(score[enough])}; "
        f"the second alone {percent(score[-1])}, the first alone {percent(score[0])}. Dotted: the second is asked at random."
    )
    if paid:
        first, second, currency = paid
        caption += f" 1,000 decisions cost {_money(first + calibration.SHARES[enough] * second)} {currency}, "
        caption += f"by the second alone {_money(second)}, by the first alone {_money(first)}."
    return _drawn("stages", "One model first, a better one where it is not sure", caption, draw)


def _paid(first: Entry, second: Entry, priced: Prices | None) -> tuple[float, float, str] | None:
    """Return what 1,000 decisions of each cost, and in which currency; None where either is not known."""
    one, other = board.price(first, priced), board.price(second, priced)
    return None if priced is None or one is None or other is None else (one, other, priced.currency)


def _over_shares(axis: Any, first: float, second: float, currency: str) -> None:
    """Write prices over the shares: the first model is paid for every sentence, the second for its share."""
    above = axis.secondary_xaxis("top")
    shares = np.linspace(0, 1, 6)
    above.set_xticks(shares, [_money(first + share * second) for share in shares])
    above.set_xlabel(f"{currency} per 1,000 decisions")


def _money(price: float) -> str:
    return f"{price:.2g}" if price < 10 else f"{price:,.0f}"


def _drawn(name: str, title: str, caption: str, draw: Callable[[], Any], alternative: str | None = None) -> Drawn:
    caption, alternative = visible(caption), visible(alternative or caption)
    with pictures.style():
        return Drawn(title, caption, alternative, pictures.part_of_page(draw(), f"figure-{name}", title, alternative))


def _panels(count: int, **more: Any) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    return figure, figure.subplots(1, count, squeeze=False, **more)[0]


def _pair(contest: Contest) -> list[_Sure]:
    """Find the best trained and the best prompted whose margins are known."""
    trained = sorted(contest.trained, key=lambda each: -each.score.mean)
    return [found for side in (trained, contest.prompted) if (found := next(filter(None, map(_sure, side)), None))]


def _sure(entry: Entry) -> _Sure | None:
    """Gather its margins, moved as the run's calibration moved them; None where there are none."""
    margins = np.concatenate([run.margins for run in entry.runs])
    if np.isnan(margins).all():
        return None
    gold = np.concatenate([run.answers.gold for run in entry.runs if run.answers])
    how = f"{names.method_text(entry.record)}, {labels(entry.samples)} labels" if entry.samples else asked(entry)
    return _Sure(pictures.label(model_of(entry), 32), pictures.label(how, 36), margins, gold)


def _stages(contest: Contest) -> tuple[Entry, Entry] | None:
    sizes = sorted({size for curve in contest.curves for size in curve.measured}, reverse=True)
    for size in sizes:
        best: dict[str, Entry] = {}
        entries = [curve.by_labels[size] for curve in contest.curves if size in curve.by_labels]
        for entry in sorted(entries, key=lambda each: -each.score.mean):
            if _sure(entry):
                best.setdefault(model_of(entry), entry)
        ranked = list(best.values())
        for small in ranked[1:]:
            if common_seeds(method_of(small), method_of(ranked[0])):
                return small, ranked[0]
    return None


def _policy(small: Entry, large: Entry) -> tuple[NDArray[np.float64], int]:
    """Return the score at each of `calibration.SHARES`, the mean over the seeds that both have, and how many those are."""
    answers = [{draw_of(run.record): run.answers for run in entry.runs} for entry in (small, large)]
    scores = []
    for seed in common_seeds(method_of(small), method_of(large)) or ():
        first, second = (each.get(seed) or each[None] for each in answers)  # without a seed it goes with every seed
        assert first
        assert second
        scores.append(np.interp(calibration.SHARES, *calibration.two_stage(first.margins, first.correct, second.correct)))
    return np.mean(scores, axis=0), len(scores)
