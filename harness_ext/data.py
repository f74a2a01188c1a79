"""Reading a binary text dataset: from the Hub (or its cache), from DATA_DIR, or as shipped.

Whatever the source, the splits that come out have the columns ``sentence`` (stripped) and ``label``
(0 or 1), every row checked. Knows nothing of prompts or models. There is no fallback from one source
to another: a source that cannot be read is an error.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, DatasetInfo, load_dataset

from harness_ext import hub as hub_client
from harness_ext.errors import UserError
from harness_ext.models import as_path

TASKS_DIR = Path(__file__).resolve().parent.parent / "tasks"
GLUE_FILES = {"train": "train.tsv", "validation": "dev.tsv"}


def load_splits(
    hub: str | None = None,
    hub_config: str | None = None,
    embedded: str | None = None,
    text: str = "sentence",
    label: str = "label",
    classes: Sequence = (0, 1),
    splits: dict[str, str] | None = None,
    data_dir: str | None = None,
    dataset: str | None = None,
    train_only: bool = False,
    **_metadata: Any,
) -> DatasetDict:
    """Load the splits ``train`` and ``validation``; lm-eval's ``custom_dataset``.

    The first seven arguments come from the task's ``dataset_kwargs``, the others from the caller (lm-eval hands
    them on as metadata, with whatever else it holds there).

    Args:
        hub: Dataset id on the Hub.
        hub_config: Its configuration, where it has several.
        embedded: Folder under ``tasks/`` with GLUE's two files, instead of `hub`.
        text: Column of the text.
        label: Column of the label.
        classes: The values in `label` that stand for 0 and 1.
        splits: Names on the Hub of ``train`` and ``validation``, where they differ.
        data_dir: The user's folder with ``train.tsv`` and ``dev.tsv``, instead of the Hub.
        dataset: The user's choice of another Hub dataset with the same columns, ``owner/name[/config]``.
        train_only: Leave the validation split unread; ``train`` then stands in its place too, so that lm-eval can
            build the task. For training.

    Returns:
        Both splits; each names its source in ``info.description``.

    Raises:
        UserError: The data cannot be had or a row is wrong; names the file and row.
    """
    wanted = ["train"] if train_only else list(GLUE_FILES)
    if embedded is not None and (data_dir or dataset):
        raise UserError(
            f"This task reads its own embedded sample ({embedded}), so DATA_DIR or another dataset has no effect. "
            "Leave it out, or choose a task that reads the full data, such as TASK=sst2_01."
        )
    if data_dir or embedded:
        folder = as_path("DATA_DIR", data_dir) if data_dir else TASKS_DIR / str(embedded)
        shown = folder.resolve().name if data_dir else f"embedded {embedded}"
        tables = {split: _read_tsv(folder / GLUE_FILES[split], text, label) for split in wanted}
        sources = {split: f"{shown}/{file}" for split, file in GLUE_FILES.items()}
    else:
        name, config = _hub_name(dataset) if dataset else (str(hub), hub_config)
        tables = _read_hub(name, config, text, label, {split: (splits or {}).get(split, split) for split in wanted})
        sources = {split: f"{name} {split}" for split in tables}
    checked = {split: _checked(tables[split], classes, sources[split]) for split in tables}
    return DatasetDict({"train": checked["train"], "validation": checked["train" if train_only else "validation"]})


def fingerprint(documents: Iterable[dict]) -> str:
    """Identify a split by what is in it: SHA-256 over its rows in order, 16 hex digits."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(json.dumps(document, sort_keys=True, ensure_ascii=False, default=str).encode() + b"\n")
    return digest.hexdigest()[:16]


def _read_tsv(path: Path, text: str, label: str) -> list[tuple[int, str, str]]:
    """Read (line number, text, label) from a tab-separated file without quoting, as GLUE writes it."""
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise UserError(
            f"Cannot read {path} ({error.strerror}). DATA_DIR must be a folder with GLUE's train.tsv and dev.tsv."
        ) from None
    if lines[-1] == b"":
        lines.pop()  # what follows the last line end is no row
    header, *rows = [_fields(line, f"{path}, row {number}") for number, line in enumerate(lines, start=1)] or [[]]
    if text not in header or label not in header:
        found = "\t".join(header)[:80]
        raise UserError(f"{path}, row 1: the header is {found!r}; it must name the columns {text!r} and {label!r}.")
    columns = header.index(text), header.index(label)
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise UserError(f"{path}, row {number}: {len(row)} tab-separated fields where the header has {len(header)}.")
    return [(number, row[columns[0]], row[columns[1]]) for number, row in enumerate(rows, start=2)]


def _fields(line: bytes, place: str) -> list[str]:
    try:
        return line.decode("utf-8").rstrip("\r").split("\t")
    except UnicodeDecodeError as error:
        raise UserError(f"{place}: byte {error.start + 1} is not valid UTF-8. Save the file as UTF-8.") from None


def _hub_name(dataset: str) -> tuple[str, str | None]:
    """Split ``owner/name[/config]``."""
    owner, _, rest = dataset.partition("/")
    name, _, config = rest.partition("/")
    if not (owner and name):
        raise UserError(f"Dataset {dataset!r} is not of the form owner/name or owner/name/config (nyu-mll/glue/sst2).")
    return f"{owner}/{name}", config or None


def _read_hub(
    name: str, config: str | None, text: str, label: str, splits: dict[str, str]
) -> dict[str, list[tuple[int, str, str]]]:
    """Read splits of a Hub dataset, by our names for them; `datasets` honours its cache and the offline switches."""
    hub_client.look_up("dataset", name)
    try:
        loaded = load_dataset(name, config)
    except ConnectionError:
        raise UserError(
            f"Cannot reach the Hub for dataset {name!r}, and the cache does not hold it. {hub_client.OFFLINE_HINT}"
        ) from None
    except (OSError, ValueError, RuntimeError) as error:  # a gated dataset, an unknown configuration, a damaged file
        raise UserError(f"Dataset {name!r} does not load: {' '.join(str(error).split())[:300]}") from error
    tables = {}
    for split, source in splits.items():
        if source not in loaded:
            raise UserError(f"Dataset {name!r} has no split {source!r}, only {', '.join(loaded)}.")
        rows = loaded[source]
        if text not in rows.column_names or label not in rows.column_names:
            raise UserError(f"Dataset {name!r} has the columns {rows.column_names}, without {text!r} or {label!r}.")
        tables[split] = list(zip(range(1, len(rows) + 1), rows[text], rows[label], strict=True))
    return tables


def _checked(rows: list[tuple[int, str, str]], classes: Sequence, source: str) -> Dataset:
    """Strip and check every row of a split."""
    labels = {str(value): index for index, value in enumerate(classes)}
    if len(labels) != 2:
        raise UserError(f"{source}: 'classes' must name two different values, not {list(classes)}.")
    if not rows:
        raise UserError(f"{source}: the split is empty.")
    for number, sentence, value in rows:
        if not isinstance(sentence, str) or not sentence.strip():
            raise UserError(f"{source}, row {number}: the sentence is empty.")
        if str(value).strip() not in labels:
            raise UserError(f"{source}, row {number}: label {value!r} is not {' or '.join(labels)}.")
    return Dataset.from_dict(
        {
            "sentence": [sentence.strip() for _, sentence, _ in rows],
            "label": [labels[str(value).strip()] for _, _, value in rows],
        },
        info=DatasetInfo(description=source),
    )
