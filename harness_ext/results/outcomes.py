"""What one run said of each document of a 0/1 task: read from lm-eval's per-document log, counted, and kept as a CSV file.

Knows lm-eval's log and the scores that `task.metrics` puts into it; nothing of models. Documents carry lm-eval's own hash,
so that the logs of any two runs can be paired.
"""

import csv
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness_ext.results.records import on_disk

FILE = "outcomes.csv"
LONGEST = 300  # characters of a response that are kept: its label stands in them but where a model thinks at length
FEW = 10  # so few answers may be alike by chance
COLUMNS = ("doc", "hash", "gold", "kind", "margin", "response")  # all others are rules
CHOICE = "none"  # what lm-eval calls the filter of a task without filters, as a forced choice is; its column is "choice"


@dataclass(frozen=True)
class Outcome:
    """What one run said of one document; its rules are called as lm-eval calls their filters."""

    doc: int  # lm-eval's doc_id
    hash: str  # lm-eval's doc_hash, over the whole row
    gold: int  # 0 or 1
    labels: dict[str, int | None]  # by rule; None where the output has no label
    kinds: dict[str, str]  # by rule: "label", or why there is none (task.labels.KINDS)
    margin: float | None = None  # log p(answer 1) - log p(answer 0) after the prompt; None where it is not known
    response: str = ""  # what the model wrote, as `excerpt` leaves it; empty where it wrote nothing, as in a forced choice


def rows(samples: Iterable[dict[str, Any]], margins: Mapping[int, float]) -> list[Outcome]:
    """Read a run's outcomes from lm-eval's ``samples``, in memory or as its file has them; none of a task that is not 0/1.

    The margins, by ``doc_id``, are what the backend knows beyond the log: a forced choice's log holds its own.
    """
    found: dict[int, Outcome] = {}
    for sample in samples:
        if "acc_following" not in sample:
            return []
        doc, rule, label = sample["doc_id"], sys.intern(sample["filter"]), sample["mcc"][1]
        if doc not in found:
            margin = _margin(sample["filtered_resps"]) if margins.get(doc) is None else margins[doc]
            found[doc] = Outcome(doc, sample["doc_hash"], sample["mcc"][0], {}, {}, margin, _response(sample))
        found[doc].labels[rule] = label if label in (0, 1) else None
        found[doc].kinds[rule] = "label" if label in (0, 1) else _kind(sample["filtered_resps"][0])
    return [found[doc] for doc in sorted(found)]


def counts(outcomes: list[Outcome]) -> dict[str, dict[str, Any]]:
    """Count by rule: ``correct``, ``positive`` and ``negative`` labels, and ``not_following`` by kind."""
    return {
        rule: {
            "correct": sum(each.labels[rule] == each.gold for each in outcomes),
            "positive": sum(each.labels[rule] == 1 for each in outcomes),
            "negative": sum(each.labels[rule] == 0 for each in outcomes),
            "not_following": dict(Counter(each.kinds[rule] for each in outcomes if each.labels[rule] is None)),
        }
        for rule in (outcomes[0].labels if outcomes else ())
    }


def main_counts(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record's counts under the rule whose score is shown, the lenient one where there are two."""
    by_rule = record.get("counts") or {}
    return by_rule.get("lenient") or next(iter(by_rule.values()), {})


def one_answer(record: dict[str, Any]) -> int | None:
    """Return the label that all of a run's answers are; None where they differ, or for the majority, which means to."""
    counts = main_counts(record)
    given = {0: counts.get("negative", 0), 1: counts.get("positive", 0)}
    if sum(given.values()) < FEW or 0 not in given.values() or record.get("method") == "majority":
        return None
    return max(given, key=given.__getitem__)


def write(path: Path, outcomes: list[Outcome]) -> None:
    """Write one row a document so that it is on disk when this returns; ``kind`` is that of the first rule."""
    rules = list(outcomes[0].labels) if outcomes else []
    with on_disk(path) as file:
        table = csv.writer(file, lineterminator="\n")
        named = ["choice" if rule == CHOICE else rule for rule in rules]
        table.writerow(["doc", "hash", "gold", *named, "kind", "margin", "response"])
        for each in outcomes:
            labels = [each.labels[rule] for rule in rules]
            table.writerow([each.doc, each.hash, each.gold, *labels, each.kinds[rules[0]], each.margin, each.response])


def excerpt(response: str) -> str:
    """Cut a long response in its middle: what a model says last, behind its thinking, is what its label is read from."""
    half, whole = LONGEST // 2, response.encode("utf-8", "replace").decode()  # a server may send half a surrogate pair
    return whole if len(whole) <= LONGEST else f"{whole[: half - 1]} … {whole[-half + 2 :]}"


def _response(sample: dict[str, Any]) -> str:
    said = sample["resps"][0][0]
    return excerpt(said) if isinstance(said, str) and isinstance(sample["filtered_resps"][0], str) else ""


def _kind(prediction: Any) -> str:
    """Say why there is no label; a task of one's own may have another filter than ours, or none."""
    found = re.fullmatch(r"\[(\w+)\]", str(prediction))
    return found[1] if found else "other"


def _margin(predictions: list[Any]) -> float | None:
    """Take a forced choice's margin from its pairs (log-likelihood, is greedy); in a file they are texts."""
    if isinstance(predictions[0], str):
        return None
    (negative, _), (positive, _) = predictions
    return float(positive) - float(negative)
