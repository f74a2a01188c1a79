"""Finished runs as files, made of which documents they have right: what `compare` and `show` read."""

import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from test_leaderboard import manifest

from harness_ext.report.texts import doc_hash
from harness_ext.results import outcomes, records


def sentence(doc: int) -> str:
    return f"the film number {doc}"


def gold(doc: int) -> int:
    return doc % 2


class FakeResults:
    """Writes runs under a folder; their documents are `sentence` and `gold` of 0, 1, ..."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def __call__(
        self,
        model: str,
        right: ArrayLike,
        *,
        margins: Sequence[float | None] = (),
        responses: Sequence[str] = (),
        **record: Any,
    ) -> Path:
        """Write a run that has these documents right, the others wrong; one that is -1 has no label."""
        found = np.asarray(right, int)
        labels = [None if each < 0 else gold(doc) if each else 1 - gold(doc) for doc, each in enumerate(found)]
        rows = [
            outcomes.Outcome(
                doc,
                doc_hash(sentence(doc), gold(doc)),
                gold(doc),
                {"lenient": label},
                {"lenient": "word" if label is None else "label"},
                margins[doc] if margins else None,
                responses[doc] if responses else "",
            )
            for doc, label in enumerate(labels)
        ]
        record = {"n_available": len(rows), **record}
        content = manifest(model, n=len(rows), counts=outcomes.counts(rows), train_samples=64, **record)
        content |= {"task": record.get("task", "sst2_01"), "experiment": f"{model} {record.get('task')}"}
        content["key"] = hashlib.sha256(repr((model, record, found.tolist())).encode()).hexdigest()
        folder = self.out / "runs" / f"{model}--{content['key'][:8]}"
        folder.mkdir(parents=True)
        records.write_json(folder / records.MANIFEST, content)
        outcomes.write(folder / outcomes.FILE, rows)
        return folder


def read_outcomes(path: Path) -> list[outcomes.Outcome]:
    """Read what `outcomes.write` wrote; the kind of a stricter rule is ``other`` where only the first has a label."""
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    names = [name for name in (lines[0] if lines else ()) if name not in outcomes.COLUMNS]
    rules = {name: outcomes.CHOICE if name == "choice" else name for name in names}
    found = []
    for line in lines:
        labels = {rule: int(line[name]) if line[name] else None for name, rule in rules.items()}
        missing = "other" if line["kind"] == "label" else line["kind"]
        kinds = {rule: missing if label is None else "label" for rule, label in labels.items()}
        margin, response = float(line["margin"]) if line["margin"] else None, line.get("response") or ""
        found.append(outcomes.Outcome(int(line["doc"]), line["hash"], int(line["gold"]), labels, kinds, margin, response))
    return found
