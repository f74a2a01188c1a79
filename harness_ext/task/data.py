"""Reading a binary text dataset: from the Hub (or its cache), from DATA_DIR, or as shipped.

Whatever the source, the splits that come out have the columns ``sentence`` (stripped) and ``label``
(0 or 1), every row checked. Knows nothing of prompts or models. There is no fallback from one source
to another: a source that cannot be read is an error.
"""

import functools
import hashlib
import json
import statistics
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow
from datasets import Dataset, DatasetDict, DatasetInfo, load_dataset

from harness_ext import hub as hub_client
from harness_ext.errors import DataError, UserError
from harness_ext.paths import TASKS_DIR, as_path
from harness_ext.task import label_values, own_data, tsv
from harness_ext.task.own_data import OwnData
from harness_ext.task.split import bare

UNLABELLED = "texts without labels"
GLUE_FILES = {"train": "train.tsv", "validation": "dev.tsv"}


class Split(Dataset):
    """A Dataset that iterates ten times as fast over its rows as they are: lm-eval makes a list of the train split."""

    def __iter__(self) -> Iterator[dict]:
        """Yield the rows."""
        for start in range(0, len(self), 1000):
            columns = self[start : start + 1000]
            yield from (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))


def load_splits(
    hub: str | None = None,  # dataset id on the Hub
    hub_config: str | None = None,  # its configuration, where it has several
    embedded: str | None = None,  # folder under tasks/ with GLUE's two files, instead of `hub`
    table: str | None = None,  # a file of the user's own, instead of `hub`; see `own_data`
    positive: str | None = None,  # the value in its `label` that is 1
    test: str | None = None,  # which of its rows are the validation split
    text: str = "sentence",  # column of the text
    label: str = "label",  # column of the label
    classes: Sequence = (0, 1),  # values in `label` that stand for 0 and 1; on the Hub also the names of its classes
    splits: dict[str, str] | None = None,  # names on the Hub of train and validation, where they differ
    data_dir: str | None = None,  # the user's folder with train.tsv and dev.tsv, instead of the Hub
    dataset: str | None = None,  # the user's choice of another Hub dataset with the same columns, owner/name[/config]
    unlabelled: str | None = None,  # a file of texts without labels, instead of all that the task reads
    train_only: bool = False,  # leave validation unread; train stands in its place too, so that lm-eval can build the task
    **_metadata: Any,
) -> DatasetDict:
    """Load the splits ``train`` and ``validation``; lm-eval's ``custom_dataset``.

    The first ten arguments come from the task's ``dataset_kwargs``, the others from the caller (lm-eval hands them on as
    metadata, with whatever else it holds there). Each split names its source in ``info.description``.
    """
    pyarrow.set_memory_pool(pyarrow.system_memory_pool())  # its own keeps what was needed to build a table
    if unlabelled:
        return _unlabelled(Path(unlabelled))
    wanted = ["train"] if train_only else list(GLUE_FILES)
    if (own := embedded or table) and (data_dir or dataset):
        raise DataError(
            f"This task reads its own {'embedded sample' if embedded else 'table'} ({own}), so DATA_DIR or another dataset "
            "has no effect. "
            "Leave it out, or choose a task that reads the full data, such as TASK=sst2_01."
        )
    if table:
        parts = own_data.read(OwnData(table, text, label, positive, test))
        sources = {"train": (parts.train, parts.train_source), "validation": (parts.test, parts.test_source)}
        checked = {split: _split(rows, source) for split, (rows, source) in sources.items()}
    elif data_dir or embedded:
        folder = as_path("DATA_DIR", data_dir) if data_dir else TASKS_DIR / str(embedded)
        shown = folder.resolve().name if data_dir else f"embedded {embedded}"
        files = {split: folder / GLUE_FILES[split] for split in wanted}
        checked = {
            split: _read_file(path, text, label, tuple(classes), shown, _stamp(path)) for split, path in files.items()
        }
    else:
        name, config = _hub_name(dataset) if dataset else (str(hub), hub_config)
        names = {split: (splits or {}).get(split, split) for split in wanted}
        tables = _read_hub(name, config, text, label, names, classes)
        checked = {split: _checked(tables[split], classes, f"{name} {split}") for split in tables}
    return DatasetDict({"train": checked["train"], "validation": checked["train" if train_only else "validation"]})


def _unlabelled(path: Path) -> DatasetDict:
    """Read the texts of a file of JSON lines, passing over empty ones; their label, 0, means nothing."""
    with path.open(encoding="utf-8") as lines:
        texts = [text for line in lines if (text := json.loads(line)["text"])]
    asked = _split([(text, 0) for text in texts], UNLABELLED)
    return DatasetDict({"train": asked.select([]), "validation": asked})


def _stamp(path: Path) -> tuple[int, int] | None:
    return (path.stat().st_mtime_ns, path.stat().st_size) if path.is_file() else None


@functools.lru_cache(maxsize=4)
def _read_file(path: Path, text: str, label: str, classes: tuple, shown: str, stamp: Any) -> Dataset:
    """Read and check a file, once for all runs of a command as long as it stays as it is."""
    return _checked(tsv.read_columns(path, text, label), classes, f"{shown}/{path.name}")


def fingerprint(documents: Iterable[dict]) -> str:
    """Identify a split by what is in it: SHA-256 over its rows in order, 16 hex digits."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(json.dumps(document, sort_keys=True, ensure_ascii=False, default=str).encode() + b"\n")
    return digest.hexdigest()[:16]


def median_words(texts: Iterable[str]) -> float:
    """Return the median number of words of texts, at least one; white space parts words."""
    return statistics.median(len(text.split()) for text in texts)


def overlap(task: Any) -> int | None:
    """Count the documents of a task whose text stands in its train split too; capitals and punctuation do not count.

    None for a task that is not read by `load_splits`.
    """
    splits = task.dataset if isinstance(task.dataset, dict) else {}
    if not {"train", "validation"} <= splits.keys() or "sentence" not in splits["train"].column_names:
        return None
    alone = set(map(bare, splits["validation"]["sentence"]))
    alone.difference_update(map(bare, splits["train"]["sentence"]))
    return sum(bare(text) not in alone for text in splits["validation"]["sentence"])


def _hub_name(dataset: str) -> tuple[str, str | None]:
    """Split ``owner/name[/config]``."""
    owner, _, rest = dataset.partition("/")
    name, _, config = rest.partition("/")
    if not (owner and name):
        raise DataError(f"Dataset {dataset!r} is not of the form owner/name or owner/name/config (nyu-mll/glue/sst2).")
    return f"{owner}/{name}", config or None


def _read_hub(
    name: str, config: str | None, text: str, label: str, splits: dict[str, str], classes: Sequence
) -> dict[str, list[tuple[int, Any, Any]]]:
    """Read splits of a Hub dataset, by our names for them; `datasets` honours its cache and the offline switches."""
    try:
        hub_client.look_up("dataset", name)
    except UserError as error:
        raise DataError(str(error)) from None
    try:
        loaded = load_dataset(name, config)
    except ConnectionError:
        raise DataError(
            f"Cannot reach the Hub for dataset {name!r}, and the cache does not hold it. Give a folder with train.tsv and "
            "dev.tsv (DATA_DIR=folder), or take the sentences that ship (TASK=sst2_01_mini)."
        ) from None
    except (OSError, ValueError, RuntimeError) as error:  # a gated dataset, an unknown configuration, a damaged file
        raise DataError(f"Dataset {name!r} does not load: {' '.join(str(error).split())[:300]}") from error
    tables = {}
    for split, source in splits.items():
        if source not in loaded:
            raise DataError(f"Dataset {name!r} has no split {source!r}, only {', '.join(loaded)}.")
        rows = loaded[source]
        if text not in rows.column_names or label not in rows.column_names:
            raise DataError(f"Dataset {name!r} has the columns {rows.column_names}, without {text!r} or {label!r}.")
        meanings = label_values.by_name(name, getattr(rows.features[label], "names", None), classes)
        values = [meanings.get(value, value) for value in rows[label]] if meanings else rows[label]
        tables[split] = list(zip(range(1, len(rows) + 1), rows[text], values, strict=True))
    return tables


def _checked(rows: list[tuple[int, Any, Any]], classes: Sequence, source: str) -> Dataset:
    """Strip and check every row of a split."""
    numbers = label_values.by_value(classes, source)
    if not rows:
        raise DataError(f"{source}: the split is empty.")
    checked = []
    for number, sentence, value in rows:
        if not isinstance(sentence, str) or not sentence.strip():
            raise DataError(f"{source}, row {number}: the sentence is empty.")
        label = numbers.get(label_values.plain(value))
        if label is None:
            raise DataError(f"{source}, row {number}: label {value!r} is not {label_values.wanted(value, classes)}")
        checked.append((sentence.strip(), label))
    return _split(checked, source)


def _split(rows: Sequence[tuple[str, int]], source: str) -> Dataset:
    sentences, labels = zip(*rows, strict=True)
    return Split.from_dict({"sentence": sentences, "label": labels}, info=DatasetInfo(description=source))
