"""`make compare`: two runs, experiments or logs on the same documents: a table, the verdict, and where they differ."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness_ext.errors import UserError
from harness_ext.evidence.contrast import Contrast, Method, common_seeds, contrast, rows
from harness_ext.evidence.seeds import FEWEST_SEEDS
from harness_ext.report import pairs, verdict
from harness_ext.report.cells import Rows, answer, show_documents, signed
from harness_ext.report.find import Results
from harness_ext.report.logs import Side
from harness_ext.report.texts import HINT, with_texts
from harness_ext.results.tables import Column, show_table
from harness_ext.results.words import hundredths, p_text, span


def run(a: str | None, b: str | None, out: Path, data_dir: str | None, show: Rows) -> None:
    """Compare what the user named, or the two best of the leaderboard, and print it."""
    if (a is None) != (b is None):
        raise UserError(
            f"{'A' if a is None else 'B'} is missing. Give both, or neither for the two best: make compare A=... B=..."
        )
    results = Results(out)
    found = results.two_best() if a is None or b is None else (results.find("A", a), results.find("B", b))
    _refuse_the_same(*found)
    if a is None:
        print("The two best of the leaderboard:")
    first, second = (with_texts(side, data_dir) for side in found)
    first, second = _same_seeds(first, pairs.aligned(first, second))
    _show_scores(first, second)
    difference = contrast(first.method, second.method)
    _show_difference(first.method, second.method, difference)
    print("\n" + "\n".join([*verdict.sentences(first.method, second.method, difference), *_notes(first, second)]))
    if show != 0:
        _show_documents(first, second, show)


def counts(a: Method, b: Method) -> list[float]:
    """Count documents: both are right, only A, only B, neither; means over common seeds, and empty where there are none."""
    seeds = common_seeds(a, b)
    if seeds == ():
        return []
    in_a, in_b = (rows(each, seeds or (0,)).astype(bool) for each in (a, b))
    return [float(each.sum(1).mean()) for each in (in_a & in_b, in_a & ~in_b, ~in_a & in_b, ~in_a & ~in_b)]


def differing(a: Side, b: Side) -> tuple[list[int], list[int]]:
    """Return the documents that A is right on and B is not, in shares of seeds that differ by half or more; and the reverse.

    The clearest come first; of the same share those whose margins lie furthest apart.
    """
    more = a.method.correct.mean(0) - b.method.correct.mean(0)
    apart = np.abs(_margins(a) - _margins(b))
    order = np.lexsort((-apart, -np.abs(more)))
    return [int(n) for n in order if more[n] >= 0.5], [int(n) for n in order if more[n] <= -0.5]


def _margins(side: Side) -> NDArray[np.float64]:
    known = [np.nan_to_num(log.margins) for log in side.logs if log.margins is not None]
    return np.mean(known, axis=0) if known else np.zeros(len(side.logs[0].ids))


def _refuse_the_same(a: Side, b: Side) -> None:
    keys = [{run.record["key"] for run in side.runs} for side in (a, b)]
    if keys[0] & keys[1] or (not a.runs and not b.runs and Path(a.name).resolve() == Path(b.name).resolve()):
        raise UserError(f"A and B are the same run, or share one ({a.name!r} and {b.name!r}). Name two different ones.")


def _same_seeds(a: Side, b: Side) -> tuple[Side, Side]:
    """Leave out seeds that only one of two experiments has, so that all numbers are of the same; too few are left alone."""
    if a.seeds is None or b.seeds is None or a.seeds == b.seeds:
        return a, b
    both = common_seeds(a.method, b.method) or ()
    if len(both) < FEWEST_SEEDS:
        return a, b
    print(f"Both have the seeds {', '.join(map(str, both))}; others are left out.")
    return a.of_seeds(both), b.of_seeds(both)


def _show_scores(a: Side, b: Side) -> None:
    columns = (Column(""), Column("name", is_name=True), "score %", "95% interval", "seeds", "not following", "n")
    show_table(list(columns), [_scores("A", a), _scores("B", b)])


def _scores(letter: str, side: Side) -> list[str]:
    score, missing = side.method.score, [log.not_following for log in side.logs]
    is_known = side.seeds is None or score.seeds >= FEWEST_SEEDS
    known = [each for each in missing if each is not None]
    return [
        letter,
        side.name,
        hundredths(score.mean),
        span((score.low, score.high)) if is_known else "",
        str(len(side.seeds)) if side.seeds else "",
        f"{round(float(np.mean(known)), 1):g}" if len(known) == len(missing) else "?",
        str(score.n),
    ]


def _show_difference(a: Method, b: Method, found: Contrast) -> None:
    columns = ("both right", "only A", "only B", "neither", "A-B", "95% interval", "p")
    counted = [f"{round(count, 1):g}" for count in counts(a, b)] or [""] * 4
    p = "" if found.p is None else p_text(found.p)
    show_table(columns, [[*counted, signed(found.difference), span((found.low, found.high)), p]])


def _notes(a: Side, b: Side) -> list[str]:
    """Say which runs collapsed, and what the two have not in common."""
    said = []
    for letter, side in (("A", a), ("B", b)):
        if collapsed := sum(log.one_answer for log in side.logs):
            many = f"{letter}: {collapsed} of {len(side.logs)} runs" if len(side.logs) > 1 else letter
            said.append(f"{many} gave one answer to everything.")
    asked = [side.runs[0].record["task"] for side in (a, b) if side.runs]
    if len(set(asked)) > 1:
        said.append(f"They were asked in different ways: A {asked[0]}, B {asked[1]}.")
    if not set(a.logs[0].hashes) & set(b.logs[0].hashes):
        said.append("Documents are paired by id: the two have no hash in common.")
    return said


def _show_documents(a: Side, b: Side, show: Rows) -> None:
    found, texts, n = differing(a, b), a.logs[0].texts or b.logs[0].texts, len(a.logs[0].ids)
    said = {Column("A", is_name=True): answer(a), Column("B", is_name=True): answer(b)}
    for (one, other), documents in zip((("A", "B"), ("B", "A")), found, strict=True):
        is_pair = len(a.logs) == len(b.logs) == 1
        how = f"{one} alone is right" if is_pair else f"{one} is right far more often than {other}"
        if documents:
            show_documents(a.logs[0], texts, documents, said, show, f"{how} on {len(documents)} of {n} documents")
    if any(found) and not any(texts) and (a.logs[0].hashes or b.logs[0].hashes):
        print(HINT)
