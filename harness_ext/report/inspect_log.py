"""inspect's logs: ``.eval``, a zip of JSON files, and its JSON log.

Of several scorers the first counts. Source: inspect_ai 0.3.285, log/_log.py and log/_recorders.
"""

import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from harness_ext.errors import UserError
from harness_ext.report.logs import UNTOLD, Log
from harness_ext.report.text_files import parse_json, read_text
from harness_ext.task.label_values import plain

_SUMMARIES = "summaries.json"  # all samples with their scores, without what else was logged of them
_MOST = 2**28  # bytes of it: a small file can be made to hold more than any machine does
_ZSTD = 93  # the zip format's number of it; Python's zipfile knows it from 3.14 on
_RIGHT, _WRONG = ("c", "yes", "true", "1"), ("i", "n", "no", "false", "0")  # n: no answer


def read(path: Path) -> Log:
    """Read a log; an answer is a label where it is one of the targets."""
    try:
        content = _unzipped(path) if path.suffix.lower() == ".eval" else read_text(path)
    except OSError as error:
        raise UserError(f"it cannot be read ({error.strerror}).") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, struct.error) as error:
        raise UserError(f"it is no zip file as inspect writes it ({error}); perhaps it was only half written.") from None
    parsed = parse_json(content, "what it holds")
    samples = parsed.get("samples") if isinstance(parsed, dict) else parsed
    if not isinstance(samples, list):
        raise UserError("it has no samples: it is not inspect's log, or one of its header alone.")
    rows = [_row(sample, number) for number, sample in enumerate(samples, start=1)]
    if not rows:
        raise UserError("it holds no documents.")
    ids, texts, gold, answers, right = zip(*rows, strict=True)
    labels = set(gold)
    said = [_label(*row, labels) for row in zip(gold, answers, right, strict=True)]
    tells = all(not answer or plain(answer) in labels for answer in answers)
    return Log(ids, gold, tuple(said), np.array(right), answers, texts=texts, tells_following=tells)


def _unzipped(path: Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        if _SUMMARIES not in archive.namelist():
            raise UserError(f"it holds no {_SUMMARIES}: it is not inspect's log, or of an evaluation that has not finished.")
        if (member := archive.getinfo(_SUMMARIES)).file_size > _MOST:
            raise UserError(f"its {_SUMMARIES} is larger than {_MOST >> 20} MiB, which is more than is read.")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, _ZSTD):
            raise zipfile.BadZipFile(f"compression {member.compress_type} is not known")
        try:
            with archive.open(member) as file:
                return file.read(member.file_size)  # no more is decompressed, even where that is not true
        except NotImplementedError:
            return _decompressed(path, member)


def _decompressed(path: Path, member: zipfile.ZipInfo) -> bytes:
    """Read a member that zipfile does not know how to decompress, by pyarrow, which `datasets` needs anyway."""
    import pyarrow

    with path.open("rb") as file:
        file.seek(member.header_offset)
        name, extra = struct.unpack("<26xHH", file.read(30))
        file.seek(name + extra, 1)
        compressed = file.read(member.compress_size)
    try:
        content = pyarrow.CompressedInputStream(pyarrow.BufferReader(compressed), "zstd").read(member.file_size + 1)
    except OSError as error:  # pyarrow's own, without a reason of the system
        raise zipfile.BadZipFile(str(error)) from None
    if zlib.crc32(content) != member.CRC:
        raise zipfile.BadZipFile("the checksum is wrong")
    return content


def _row(sample: Any, number: int) -> tuple[str, str, str, str, bool]:
    """Return id, text, target, answer, and whether it is right."""
    if not isinstance(sample, dict) or not {"id", "target"} <= sample.keys():
        raise UserError(f"sample {number} has no id and target: it is not inspect's log.")
    named = f"sample {str(sample['id'])[:40]!r}"
    scores = sample.get("scores")
    score = next(iter(scores.values()), None) if isinstance(scores, dict) else None
    if not isinstance(score, dict) or "value" not in score:
        said = str(sample.get("error") or "it was not scored")
        raise UserError(f"{named} has no score ({said[:80]!r}). Finish the evaluation with `inspect eval-retry`.")
    value = plain(score["value"])
    if value not in (*_RIGHT, *_WRONG):
        raise UserError(f"{named} is scored {value[:40]!r}, which is neither right (C, 1, true) nor wrong (I, N, 0, false).")
    target, answer = sample["target"], score.get("answer")
    gold = " | ".join(map(str, target)) if isinstance(target, list) else str(target)
    answer = "" if answer is None or value == "n" else str(answer).strip()
    return str(sample["id"]), _text(sample.get("input")), plain(gold), answer, value in _RIGHT


def _label(gold: str, answer: str, is_right: bool, labels: set[str]) -> str:
    if (plain(answer) == gold) == is_right and plain(answer) in labels:
        return plain(answer)
    if is_right:
        return gold
    return UNTOLD if answer else ""


def _text(asked: Any) -> str:
    """Take the question's text: as it stands, or from the last message of a conversation."""
    content = asked[-1].get("content") if isinstance(asked, list) and asked and isinstance(asked[-1], dict) else asked
    parts = content if isinstance(content, list) else [{"text": content}]
    return " ".join(str(part["text"]) for part in parts if isinstance(part, dict) and part.get("text"))
