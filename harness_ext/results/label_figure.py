"""How many labels until training beats prompting? Score by number of labels, in one picture and in words.

A line of means for each trained method, with a band; a band for each prompted model; and where the one catches the other.
"""

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness_ext.evidence import break_even
from harness_ext.results import pictures
from harness_ext.results.contest import Contest, Curve, asked, contests, first_crossing, in_order, model_of
from harness_ext.results.standings import Entry
from harness_ext.results.tables import visible

QUESTION = "Prompt a big model, or fine-tune a small one?"
_MOST_LINES, _MOST_BANDS = 8, 3
_STEP = 2.0  # of the axis, in doublings: how far apart stand no labels, the fewest; the most, and all of them


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
    curves: dict[tuple[str, str], Curve] = {}
    for curve in contest.curves:
        curves.setdefault((curve.model, curve.how.split(" ")[0]), curve)
    above = [entry for entry in contest.prompted if entry.score.mean > contest.majority]
    drawn, prompted = tuple(curves.values())[:_MOST_LINES], tuple(above[:_MOST_BANDS])
    crossing = first_crossing(drawn, prompted[0]) if prompted else None
    return Picture(contest, drawn, prompted, crossing) if drawn else None


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
    ends = []
    for curve, style in zip(picture.curves, pictures.lines(), strict=False):
        ends.append(_draw_curve(axis, curve, places, style))
    left, right = _draw_axes(axis, picture, places)
    bands = _draw_prompted(axis, picture, left, right)
    figure.supxlabel(_note(picture), x=0.01, ha="left", fontsize=7.5)
    pictures.place([*bands, *ends], axis, fontsize=8)
    return figure


def _places(picture: Picture) -> dict[int | str, float]:
    """Where on the axis each number of labels stands: true distances, in doublings; "all" and none set apart."""
    sizes = in_order({samples for curve in picture.curves for samples in curve.by_labels})
    places: dict[int | str, float] = {size: float(np.log2(size)) for size in sizes if isinstance(size, int)}
    if "all" in sizes:
        places["all"] = max(places.values(), default=0) + 1.3 * _STEP
    return places


def _draw_curve(
    axis: Any, curve: Curve, places: dict[int | str, float], style: pictures.Line
) -> tuple[float, float, str, str]:
    """Draw means, and a band where there are seeds enough; return the label of its end."""
    known = [(places[samples], entry.score) for samples, entry in curve.measured.items()]
    last = [(places["all"], curve.by_labels["all"].score)] if "all" in curve.by_labels else []
    points = known + last
    colour = style.color
    axis.plot(
        [x for x, _ in known], [score.mean for _, score in known], color=colour, linestyle=style.linestyle, linewidth=1.6
    )
    for is_sure in (True, False):
        some = [(x, score.mean) for x, score in points if (score.df is not None) == is_sure]
        face = colour if is_sure else "none"
        axis.plot(
            *(zip(*some, strict=True) if some else ((), ())),
            linestyle="",
            marker=style.marker,
            color=colour,
            markerfacecolor=face,
            markersize=5,
        )
    banded = [(x, score.low, score.high) for x, score in known if score.df is not None]
    if banded:
        axis.fill_between(*zip(*banded, strict=True), color=colour, alpha=0.13, linewidth=0)
    for x, score in last:
        if score.df is not None:
            axis.plot([x, x], [score.low, score.high], color=colour, linewidth=4, alpha=0.3)
    x, score = points[-1]
    return x, score.mean, f"{pictures.label(curve.name, 48)} {100 * score.mean:.1f}", colour


def _draw_axes(axis: Any, picture: Picture, places: dict[int | str, float]) -> tuple[float, float]:
    """Draw axes and the majority; return both ends of the axis."""
    contest, first = picture.contest, min(places.values())
    left, right = first - 1.8 * _STEP, max(places.values()) + 1.7 * _STEP
    marks = {place: f"{size:,}" if isinstance(size, int) else _all(contest) for size, place in places.items()}
    axis.set_xticks(list(marks), list(marks.values()))
    axis.set_xlim(left, right)
    axis.set_xlabel("number of labels (log scale)")
    axis.set_ylabel("score (share of all sentences answered correctly)")
    pictures.percent(axis)
    axis.grid(axis="y", color=pictures.INK, alpha=0.12, linewidth=0.6)
    axis.axhline(contest.majority, color=pictures.INK, linewidth=1, linestyle=":")
    axis.annotate(
        f"always one answer {100 * contest.majority:.1f}",
        (left, contest.majority),
        (3, -3),
        textcoords="offset points",
        va="top",
        fontsize=8,
    )
    axis.set_title(f"{QUESTION}\n{pictures.label(contest.data)}, {contest.n:,} sentences", fontsize=11)
    return left, right


def _all(contest: Contest) -> str:
    return f"all\n({contest.all_rows:,})" if contest.all_rows else "all"


def _draw_prompted(axis: Any, picture: Picture, left: float, right: float) -> list[tuple[float, float, str, str]]:
    """Draw bands of prompted models, and where the best is caught; return their labels."""
    labels = []
    for entry, dashes in zip(picture.prompted, pictures.DASHES, strict=False):
        score = entry.score
        axis.fill_between((left, right), score.low, score.high, color=pictures.INK, alpha=0.08, linewidth=0)
        axis.plot((left, right), [score.mean] * 2, color=pictures.INK, linewidth=1, alpha=0.6, linestyle=dashes)
        lines = (f"{pictures.label(model_of(entry), 30)} {100 * score.mean:.1f}", *textwrap.wrap(visible(asked(entry)), 28))
        labels.append((left, score.mean, "\n".join(lines), "none"))
    if picture.crossing:
        _, where = picture.crossing
        y = picture.prompted[0].score.mean
        spots = [where.mean_low, where.mean, where.mean_high]
        low, middle, high = (np.log2(_inside(each, where)) for each in spots)
        ink = {"color": pictures.INK, "clip_on": False, "zorder": 5}
        axis.plot((low, high), (y, y), linewidth=3, solid_capstyle="butt", **ink)
        ends = [
            ("|", low) if where.mean_low.side == "within" else ("<", low),
            ("|", high) if where.mean_high.side == "within" else (">", high),
        ]
        for marker, x in (*ends, ("D", middle)):
            axis.plot([x], [y], marker=marker, markersize=7, **ink)
        labels.append((middle, y, f"{_range(where)} labels", pictures.INK))
    return labels


def _inside(crossing: break_even.Crossing, where: break_even.BreakEven) -> float:
    return crossing.labels or (where.largest if crossing.side == "above" else where.smallest)


def _range(where: break_even.BreakEven) -> str:
    """Say at how many labels, as in ``about 36 (27 to 52)``."""
    said = [break_even.text(each, where.smallest, where.largest) for each in (where.mean, where.mean_low, where.mean_high)]
    mean, low, high = (each.removeprefix("about ") for each in said)
    return f"{mean} ({low} to {high})"


def _note(picture: Picture) -> str:
    """What the signs mean, and what is not drawn."""
    seeds = sorted({entry.score.seeds for curve in picture.curves for entry in curve.entries})
    span = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else str(seeds[0])
    said = [
        f"Lines: trained on so many labels, mean of {span} seeds; bands: 95% interval over seeds and sentences; "
        "hollow: fewer than 3 seeds, no interval.",
        "Grey bands: asked without any label, 95% interval. Diamond: where training catches the best one, 90% interval.",
    ]
    if picture.left_out:
        said.append(f"Not drawn: {pictures.label(', '.join(picture.left_out), 120)}.")
    return "\n".join(said)


def caption(picture: Picture) -> str:
    """Say what it shows in one sentence."""
    if not picture.crossing:
        best = picture.curves[0]
        return visible(f"With the most labels that were tried {best.name} is right on {100 * best.last.score.mean:.1f}%.")
    curve, where = picture.crossing
    return visible(f"{curve.name} catches the best label-free prompt at {_range(where)} labels (90% interval).")


def alternative(picture: Picture) -> str:
    """Say in words what is drawn, name by name."""
    contest = picture.contest
    said = [f"Score by number of labels on {contest.data}, {contest.n:,} sentences."]
    for curve in picture.curves:
        points = [f"{100 * entry.score.mean:.1f}% with {_amount(samples)}" for samples, entry in curve.by_labels.items()]
        said.append(f"{curve.name}: {', '.join(points)}.")
    for entry in picture.prompted:
        score = entry.score
        assert score.low is not None
        assert score.high is not None
        said.append(
            f"{model_of(entry)} without labels ({asked(entry)}): {100 * score.mean:.1f}%, "
            f"95% interval {100 * score.low:.1f} to {100 * score.high:.1f}."
        )
    said.append(f"Always giving the commoner answer: {100 * contest.majority:.1f}%.")
    if picture.crossing:
        curve, where = picture.crossing
        said.append(f"{curve.name} catches {model_of(picture.prompted[0])} at {_range(where)} labels, 90% interval.")
    if picture.left_out:
        said.append(f"Not drawn: {', '.join(picture.left_out)}.")
    return visible(" ".join(said))


def _amount(samples: int | str) -> str:
    return f"{samples:,}" if isinstance(samples, int) else "all"
