"""How many labels until training beats prompting? Score by number of labels, in one picture and in words.

A line of means for each trained method, with a band; a band for each prompted model; and where the one catches the other.
"""

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness_ext.evidence import break_even
from harness_ext.results import pictures
from harness_ext.results.contest import Contest, Curve, asked, contests, first_crossing, model_of
from harness_ext.results.standings import Entry
from harness_ext.results.tables import visible
from harness_ext.results.words import counted, in_order, interval, labels, percent

QUESTION = "Prompt a big model, or fine-tune a small one?"
_MOST_LINES, _MOST_BANDS = 8, 3
_APART = 2.6  # doublings between the most labels and all of them
_LETTERS, _LETTER = 8, 0.62  # size of a label's letters in points, and how wide one is, as a share of that
_WIDTH, _LEFT, _GAP = 590, 140, 16  # points: the axis, what is left of the first number, what is left free at a label's ends
_Label = tuple[float, float, str, str]  # as `pictures.place` takes them


@dataclass(frozen=True, eq=False)
class Picture:
    """What is drawn of a contest."""

    contest: Contest
    curves: tuple[Curve, ...]
    prompted: tuple[Entry, ...]
    crossing: tuple[Curve, break_even.BreakEven] | None  # the first that catches the best prompted model

    @property
    def left_out(self) -> list[str]:
        """Name what is not drawn."""
        lines = [curve.name for curve in self.contest.curves if curve not in self.curves]
        models = {model_of(entry) for entry in self.prompted}
        return [*lines, *sorted({model_of(entry) for entry in self.contest.label_free} - models)]


def choose(contest: Contest) -> Picture | None:
    """Choose the best line of each model and method, and the best way to ask each model; None where nothing was trained."""
    prompted = tuple(entry for entry in contest.prompted if entry.score.mean > contest.majority)[:_MOST_BANDS]
    crossing = first_crossing(contest.curves, prompted[0]) if prompted else None
    best: dict[tuple[str, str], Curve] = {}
    for curve in (*([crossing[0]] if crossing else []), *contest.curves):  # what is marked is drawn
        best.setdefault((curve.model, curve.how.split(" ")[0]), curve)
    drawn = sorted(list(best.values())[:_MOST_LINES], key=contest.curves.index)
    return Picture(contest, tuple(drawn), prompted, crossing) if drawn else None


def write(entries: Iterable[Entry], path: Path) -> list[Path]:
    """Draw the largest contest as PNG and SVG, or nothing where there is no number of labels; the path has no suffix."""
    chosen = next((choose(each) for each in contests(entries)), None)
    if chosen is None:
        return []
    with pictures.style():
        return pictures.save(draw(chosen), path)


def draw(picture: Picture) -> Any:
    """Draw it; to be called, and saved, within `pictures.style`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.4), layout="constrained")
    axis = figure.subplots()
    places = _places(picture)
    ends = [_draw_curve(axis, *each, places) for each in zip(picture.curves, pictures.lines(), strict=False)]
    left, right = _limits(min(places.values()), ends)
    bands = _draw_prompted(axis, picture, left, right)
    _draw_axes(axis, picture, places, left, right)
    figure.supxlabel(_note(picture), x=0.01, ha="left", fontsize=7.5)
    pictures.place([*bands, *ends], axis, fontsize=_LETTERS)
    return figure


def _places(picture: Picture) -> dict[int | str, float]:
    """Where on the axis each number of labels stands: in doublings, so at true distances; "all" is set apart."""
    sizes = sorted({samples for curve in picture.curves for samples in curve.by_labels}, key=in_order)
    places: dict[int | str, float] = {size: float(np.log2(size)) for size in sizes if isinstance(size, int)}
    if "all" in sizes:
        places["all"] = max(places.values(), default=0) + _APART
    return places


def _limits(first: float, ends: Sequence[_Label]) -> tuple[float, float]:
    """Choose both ends of the axis so that the labels of bands and of lines have room."""
    widths = [(x - first, len(words) * _LETTERS * _LETTER + _GAP) for x, _, words, _ in ends]
    room = _WIDTH - _LEFT
    points = min((room - width) / max(doublings, 1) for doublings, width in widths)  # that a doubling takes
    return first - _LEFT / points, first + room / points


def _draw_curve(axis: Any, curve: Curve, style: pictures.Line, places: dict[int | str, float]) -> _Label:
    """Draw means, and a band where there are seeds enough; return the label of its end."""
    points = [(places[samples], entry.score.mean, entry.interval) for samples, entry in curve.by_labels.items()]
    known, colour = points[: len(curve.measured)], style.color
    axis.plot([x for x, *_ in known], [y for _, y, _ in known], color=colour, linestyle=style.linestyle, linewidth=1.6)
    for face in (colour, "none"):
        some = [(x, y) for x, y, ends in points if (ends is None) == (face == "none")]
        look = {"marker": style.marker, "color": colour, "markerfacecolor": face, "markersize": 5}
        axis.plot([x for x, _ in some], [y for _, y in some], linestyle="", **look)
    banded = [(x, *ends) for x, _, ends in known if ends]
    if banded:
        axis.fill_between(*zip(*banded, strict=True), color=colour, alpha=0.13, linewidth=0)
    for x, _, ends in points[len(known) :]:
        if ends:
            axis.plot([x, x], ends, color=colour, linewidth=4, alpha=0.3)
    x, y, _ = points[-1]
    return x, y, f"{pictures.label(curve.name, 44)} {100 * y:.1f}", colour


def _draw_axes(axis: Any, picture: Picture, places: dict[int | str, float], left: float, right: float) -> None:
    """Draw axes and the majority."""
    contest = picture.contest
    marks = {place: _all(contest) if size == "all" else labels(size) for size, place in places.items()}
    axis.set_xticks(list(marks), list(marks.values()))
    axis.set_xlabel("number of labels (log scale)")
    axis.set_ylabel("score (share of all sentences answered correctly)")
    bottom, top = axis.get_ylim()
    axis.set(xlim=(left, right), ylim=(min(bottom, contest.majority - 0.03), min(top, 1.01)))
    pictures.percent(axis.yaxis)
    axis.grid(axis="y", color=pictures.INK, alpha=0.12, linewidth=0.6)
    axis.axhline(contest.majority, color=pictures.INK, linewidth=1, linestyle=":")
    where = {"xytext": (3, -3), "textcoords": "offset points", "va": "top"}
    axis.annotate(f"always one answer {100 * contest.majority:.1f}", (left, contest.majority), fontsize=_LETTERS, **where)
    axis.set_title(f"{QUESTION}\n{pictures.label(contest.data)}, {contest.n:,} sentences", fontsize=11)


def _all(contest: Contest) -> str:
    return f"all\n({contest.all_rows:,})" if contest.all_rows else "all"


def _draw_prompted(axis: Any, picture: Picture, left: float, right: float) -> list[_Label]:
    """Draw bands of prompted models, and where the best is caught; return their labels."""
    texts = []
    for entry, dashes in zip(picture.prompted, pictures.DASHES, strict=False):
        score = entry.score
        axis.fill_between((left, right), score.low, score.high, color=pictures.INK, alpha=0.08, linewidth=0)
        axis.plot((left, right), [score.mean] * 2, color=pictures.INK, linewidth=1, alpha=0.6, linestyle=dashes)
        lines = (f"{pictures.label(model_of(entry), 30)} {100 * score.mean:.1f}", *textwrap.wrap(visible(asked(entry)), 28))
        texts.append((left, score.mean, "\n".join(lines), pictures.INK))
    if picture.crossing:
        _, where = picture.crossing
        y = picture.prompted[0].score.mean
        spots = [where.mean_low, where.mean, where.mean_high]
        low, middle, high = (np.log2(each.labels) for each in spots)
        ink = {"color": pictures.INK, "clip_on": False, "zorder": 5}
        axis.plot((low, high), (y, y), linewidth=3, solid_capstyle="butt", **ink)
        ends = [
            ("|", low) if where.mean_low.side == "within" else ("<", low),
            ("|", high) if where.mean_high.side == "within" else (">", high),
        ]
        for marker, x in (*ends, ("D", middle)):
            axis.plot([x], [y], marker=marker, markersize=7, **ink)
        texts.append((middle, y, f"{_range(where)} labels", pictures.INK))
    return texts


def _range(where: break_even.BreakEven) -> str:
    """Say at how many labels, as in ``36 (27 to 52)``."""
    spots = (where.mean, where.mean_low, where.mean_high)
    mean, low, high = (break_even.text(each).removeprefix("about ") for each in spots)
    return mean if low == mean == high else f"{mean} ({low} to {high})"


def _note(picture: Picture) -> str:
    """What the signs mean, and what is not drawn."""
    seeds = sorted({entry.score.seeds for curve in picture.curves for entry in curve.entries})
    span = f"{seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else counted(seeds[0], "seed")
    said = [
        f"Lines: trained on so many labels, mean of {span}; bands: 95% interval over seeds and sentences; "
        "hollow: fewer than 3 seeds, no interval."
    ]
    if picture.prompted:
        diamond = " Diamond: where training catches the best one, 90% interval." * bool(picture.crossing)
        said.append(f"Grey bands: asked without any label, 95% interval.{diamond}")
    if picture.left_out:
        said.append(f"Not drawn: {pictures.label(', '.join(picture.left_out), 120)}.")
    return "\n".join(said)


def caption(picture: Picture) -> str:
    """Say what it shows in one sentence."""
    if not picture.crossing:
        best = picture.curves[0]
        return visible(f"With the most labels that were tried {best.name} is right on {percent(best.last.score.mean)}.")
    curve, where = picture.crossing
    return visible(f"{curve.name} catches the best label-free prompt at {_range(where)} labels (90% interval).")


def alternative(picture: Picture) -> str:
    """Say in words what is drawn, name by name."""
    contest = picture.contest
    said = [f"Score by number of labels on {contest.data}, {contest.n:,} sentences."]
    for curve in picture.curves:
        points = [f"{percent(entry.score.mean)} with {labels(samples)}" for samples, entry in curve.by_labels.items()]
        said.append(f"{curve.name}: {', '.join(points)}.")
    for entry in picture.prompted:
        score = entry.score
        how = f"{model_of(entry)} without labels ({asked(entry)})"
        said.append(f"{how}: {percent(score.mean)}, {interval(score.low, score.high)}.")
    said.append(f"Always giving the commoner answer: {percent(contest.majority)}.")
    if picture.crossing:
        curve, where = picture.crossing
        said.append(f"{curve.name} catches {model_of(picture.prompted[0])} at {_range(where)} labels, 90% interval.")
    if picture.left_out:
        said.append(f"Not drawn: {', '.join(picture.left_out)}.")
    return visible(" ".join(said))
