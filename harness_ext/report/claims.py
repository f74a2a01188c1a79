"""What the original experiment concluded, restated with what its own numbers show, and what our runs show of the same.

The original has one run of each, and how many of 872 it had right, not which: its runs are compared unpaired, and nothing is
known of other seeds. Which rows are compared stands here as data; every verdict is computed.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness_ext.evidence.proportion import newcombe, unpaired_p, wilson
from harness_ext.evidence.ranks import ALPHA
from harness_ext.report import answer
from harness_ext.results import names, reported
from harness_ext.results.contest import SST2_ROWS, Contest, Curve, asked, compare, contests, model_of
from harness_ext.results.reported import N
from harness_ext.results.standings import Entry
from harness_ext.results.tables import visible
from harness_ext.results.words import in_order, interval, labels, listed, number, p_text, percent

NOTE = (
    "The original made one run of each and published how many of 872 sentences were right, not which: its runs are compared "
    "unpaired (Newcombe's interval, pooled score test), and other seeds may do otherwise."
)
MAJORITY = 444
_Row = tuple[str, str, str]  # model, training samples, batch size
# What was said, and pairs of rows.
_COMPARED: tuple[tuple[str, list[tuple[_Row, _Row]]], ...] = (
    (
        "The fine-tuned generative model gets worse with more samples (16: 0.5608, 64: 0.5528, 256: 0.5275).",
        [(("Qwen2.5-0.5B", n, ""), ("Qwen2.5-0.5B", "16", "")) for n in ("64", "256", "all")],
    ),
    (
        "Prompting a 7B model beats the fine-tuned encoder (0.9507 against 0.9472).",
        [(("Qwen2.5-7B-Instruct-INT4", "0", ""), ("DeBERTa-v3-base", "all", "128"))],
    ),
    (
        "Qwen2.5-7B is ahead of the newer Qwen3-8B (0.9507 against 0.9334).",
        [(("Qwen2.5-7B-Instruct-INT4", "0", ""), ("Qwen3-8B-INT4", "0", ""))],
    ),
    (
        "Qwen3-0.6B, which thinks, is ahead of Gemma-3-1B (0.8452 against 0.8360).",
        [(("Qwen3-0.6B", "0", ""), ("Gemma-3-1B", "0", ""))],
    ),
)


@dataclass(frozen=True)
class Claim:
    """A claim: what was said, what its own numbers show, and what our runs show of it, if anything."""

    said: str
    shown: str
    ours: str


def restated(entries: Iterable[Entry]) -> list[Claim]:
    """Restate every claim; `entries` are ours."""
    contest = next((each for each in contests(entries) if not names.is_own(each.entries[0].record)), None)
    generative, versus, *others = ((said, _compared(pairs)) for said, pairs in _COMPARED)
    found = [
        Claim(
            "With few samples the encoder DeBERTa-v3-base stays at the majority class (0.5091).",
            _collapse(),
            _encoder(contest),
        ),
        Claim(*generative, _rising(contest)),
        Claim(*versus, _versus(contest)),
        *(Claim(*other, "") for other in others),
        Claim("Of Qwen2.5-0.5B's outputs 216 do not follow the instruction (score 0.4014).", _following(), _format(contest)),
    ]
    return [Claim(visible(each.said), visible(each.shown), visible(each.ours)) for each in found]


def _correct(model: str, samples: str, batch: str) -> int:
    (row,) = (
        each
        for each in reported.table()
        if (each["model"], each["train_samples"], each["batch_size"]) == (model, samples, batch)
    )
    return int(row["correct_of_872"])


def _compared(pairs: Sequence[tuple[_Row, _Row]]) -> str:
    """Compare each pair of rows."""
    said = []
    for first, second in pairs:
        a, b = _correct(*first), _correct(*second)
        who = [f"{row[1]} samples" if first[0] == second[0] else row[0] for row in (first, second)]
        p = unpaired_p(a, N, b, N)
        verdict = "a tie" if p >= ALPHA else f"surely {'better' if a > b else 'worse'}"
        shown = f"{number((a - b) / N)} points ({interval(*newcombe(a, N, b, N))}, p {p_text(p)})"
        said.append(f"{who[0]} {a}, {who[1]} {b} of {N}: {shown}, {verdict}")
    return f"{'; '.join(said)}."


def _collapse() -> str:
    """Set optimiser steps beside who stays at the majority, and what the same samples do with more of them."""
    runs = [
        (row["train_samples"], _steps(row), int(row["correct_of_872"]))
        for row in reported.table()
        if row["model"] == "DeBERTa-v3-base"
    ]
    stayed = [run for run in runs if run[2] == MAJORITY]
    most = max(steps for _, steps, _ in stayed)
    moved = [
        f"{samples} samples: {right} right after {steps} steps in place of {fewer}"
        for samples, steps, right in runs
        for same, fewer, _ in stayed
        if samples == same and steps > fewer and right > MAJORITY and unpaired_p(right, N, MAJORITY, N) < ALPHA
    ]
    return (
        f"{len(stayed)} of {len(runs)} runs have exactly {MAJORITY} of {N}, as always answering 1 has: nothing was learned. "
        f"They made {most} optimiser steps at most. The same samples with more steps leave it "
        f"({'; '.join(moved)}): there it was the recipe, not the labels. Of fewer samples these runs cannot say."
    )


def _steps(row: dict[str, str]) -> int:
    samples = SST2_ROWS if row["train_samples"] == "all" else int(row["train_samples"])
    return int(row["epochs"]) * math.ceil(samples / int(row["batch_size"]))


def _following() -> str:
    (row,) = (each for each in reported.table() if each["model"] == "Qwen2.5-0.5B" and each["train_samples"] == "0")
    missing, right = int(row["not_following"]), int(row["correct_of_872"])
    following = N - missing
    low, high = wilson(right, following)
    above = "better than" if low > MAJORITY / N else "not told apart from" if high > MAJORITY / N else "worse than"
    share = f"{percent(missing / N)}, {interval(*wilson(missing, N))}"
    return (
        f"{missing} of {N} outputs ({share}) have no label and count as wrong. Of the "
        f"{following} that have one {right} are right: {percent(right / following)} ({interval(low, high)}), {above} always "
        f"giving the commoner answer ({percent(MAJORITY / N)})."
    )


def _fewest(curves: Iterable[Curve]) -> tuple[Curve, Entry] | None:
    """Find the curve that is best with the fewest labels among entries with seeds enough."""
    found = [(curve, entry) for curve in curves for entry in curve.sure]
    return min(found, key=lambda each: (in_order(each[1].samples), -each[1].score.mean), default=None)


def _made(contest: Contest | None, kind: str) -> list[Curve]:
    """Return the curves of adapters of a kind, "classifier" or "generative"."""
    curves = contest.curves if contest else ()
    return [curve for curve in curves if (curve.last.record.get("training") or {}).get("kind") == kind]


def _encoder(contest: Contest | None) -> str:
    found = _fewest(_made(contest, "classifier"))
    if contest is None or found is None:
        return ""
    curve, entry = found
    score = f"{percent(entry.score.mean)} ({interval(entry.score.low, entry.score.high)})"
    above = "above" if (entry.score.low or 0) > contest.majority else "not surely above"
    return (
        f"{curve.name} with {labels(entry.samples)} labels: {score}, {above} the majority's {percent(contest.majority)}; "
        f"{entry.collapsed} of {len(entry.runs)} runs gave one answer to everything."
    )


def _rising(contest: Contest | None) -> str:
    curve = next((curve for curve in _made(contest, "generative") if len(curve.sure) > 1), None)
    if curve is None:
        return ""
    known = curve.sure
    found = compare(known[-1], known[0])
    scores = listed([f"{percent(entry.score.mean)} with {labels(entry.samples)}" for entry in known])
    verdict = (
        "no difference can be told"
        if found.p is None or found.p >= ALPHA
        else "it rises"
        if found.difference > 0
        else "it falls"
    )
    ends = f"{labels(known[0].samples)} to {labels(known[-1].samples)} labels"
    change = f"{number(found.difference)} points, {interval(found.low, found.high)}"
    return f"{curve.name}: {scores}; from {ends} {verdict} ({change}, {found.seeds} seeds)."


def _versus(contest: Contest | None) -> str:
    """Say how the best prompted and the best trained of ours compare."""
    fought = answer.matches(contest) if contest else []
    if contest is None or not fought:
        return ""
    best = max(fought, key=lambda match: match.trained.score.mean)
    verdict = {"training": "training is better", "prompting": "prompting is better", "neither": "a tie"}[best.winner]
    prompted = contest.prompted[0]
    small = f" {answer.SMALL}" if answer.is_small(contest) else ""
    return (
        f"{best.curve.name} with {labels(best.samples)} labels: {percent(best.trained.score.mean)}, {model_of(prompted)} "
        f"without ({asked(prompted)}): {percent(prompted.score.mean)}; {number(best.found.difference)} points "
        f"({interval(best.found.low, best.found.high)}), {verdict}.{small}"
    )


def _format(contest: Contest | None) -> str:
    """Set a model that writes digits beside the same asked to choose between words."""
    free = {}
    for entry in contest.label_free if contest else ():
        if entry.record["method"] == "prompted":
            free[model_of(entry), names.settings_text(names.settings_of(entry.record)), entry.record["task"]] = entry
    said = []
    for (model, settings, task), entry in sorted(free.items()):
        chosen = free.get((model, settings, "sst2_01_words_choice"))
        if task == "sst2_01" and chosen:
            said.append(
                f"{model} writing digits: {sum(entry.not_following.values()):.0f} of {entry.score.n} not following, "
                f"{percent(entry.score.mean)} right; choosing between two words, which always follows, "
                f"{percent(chosen.score.mean)}"
            )
    return f"{'. '.join(said)}." if said else ""
