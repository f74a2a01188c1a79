"""What a GGUF file says of itself, read off its first bytes, and whether it is a whole model that can be unpacked here.

The gguf package reads the same with a memory map for each of a vocabulary's words, 12 seconds for Gemma's. The format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Loads no torch.
"""

import mmap
import re
import struct
from collections import Counter
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from harness_ext.errors import UserError
from harness_ext.model.quantisation import check_installed

_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}  # of single values
_STRING, _ARRAY = 8, 9
_MOST_DIMENSIONS = 4  # ggml's
_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
_AGAIN = "Download it again."


@dataclass(frozen=True)
class Tensor:
    """One tensor as the file holds it."""

    shape: tuple[int, ...]  # the fastest dimension first
    kind: int  # ggml's number of how it is stored
    offset: int  # in bytes, from where tensors begin

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return prod(self.shape)


@dataclass(frozen=True)
class Header:
    """What stands before the weights."""

    metadata: dict[str, Any]  # of an array only its length
    tensors: dict[str, Tensor]
    start: int  # byte at which tensors begin

    @property
    def architecture(self) -> str:
        """What llama.cpp calls the model's kind."""
        return str(self.metadata["general.architecture"])

    @property
    def parameters(self) -> int:
        """The number of weights."""
        return sum(tensor.size for tensor in self.tensors.values())

    @property
    def quantisation(self) -> str:
        """What the file's maker calls it, as ``Q4_K_M`` or ``F16``; else how most of its weights are stored."""
        from gguf import GGMLQuantizationType, LlamaFileType

        called = self.metadata.get("general.file_type")
        if called in set(LlamaFileType) - {LlamaFileType.GUESSED}:
            return re.sub("^(MOSTLY|ALL)_", "", LlamaFileType(called).name)
        sizes: Counter[int] = Counter()
        for tensor in self.tensors.values():
            sizes[tensor.kind] += tensor.size
        return GGMLQuantizationType(sizes.most_common(1)[0][0]).name


def read_header(path: Path, *, is_first: bool = True) -> Header:
    """Read the header of a file, or of a part of one, and check all that can be checked without its weights.

    Raises:
        UserError: It is no GGUF file, or cut off, or no language model, or stored in a way that cannot be unpacked.
    """
    check_installed(f"'{path}' is a GGUF file, which", "gguf")
    with path.open("rb") as file:
        begin = file.read(40)
        if begin.startswith(b"version https://git-lfs"):
            raise UserError(f"'{path}' is a Git LFS pointer, not the file itself. Run `git lfs pull` in its folder.")
        if not begin.startswith(b"GGUF"):
            raise UserError(f"'{path}' does not begin as a GGUF file does. {_AGAIN}")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            try:
                header = _Reader(f"GGUF file '{path}'", content).header()
            except (struct.error, UnicodeDecodeError, OverflowError, RecursionError):
                raise UserError(f"GGUF file '{path}' is damaged or cut off within its header. {_AGAIN}") from None
    if is_first:  # of several parts it alone says what the model is
        _check_model(path, header)
    _check_tensors(path, header)
    return header


def parts_of(name: str) -> list[str]:
    """Return the names of all files that a file's name, or path, says it was split into; of a whole one its own."""
    if not (found := _PART.fullmatch(name)):
        return [name]
    return [f"{found[1]}-{number:05}-of-{found[3]}.gguf" for number in range(1, int(found[3]) + 1)]


class _Reader:
    """Goes through a header byte by byte."""

    def __init__(self, what: str, content: mmap.mmap) -> None:
        self._what, self._content, self._at = what, content, 4  # behind the magic

    def header(self) -> Header:
        version = self._take("I")
        if version not in (2, 3):
            raise UserError(f"{self._what} is of version {version}, and versions 2 and 3 are read. Take a newer one.")
        count, entries = self._take("Q"), self._take("Q")
        metadata = {self._text(): self._value(self._take("I")) for _ in range(entries)}
        tensors = {self._text(): self._tensor() for _ in range(count)}
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1:
            raise struct.error("no alignment")
        return Header(metadata, tensors, -(-self._at // alignment) * alignment)

    def _take(self, form: str) -> Any:
        (value,) = struct.unpack_from(f"<{form}", self._content, self._at)
        self._at += struct.calcsize(f"<{form}")
        return value

    def _text(self) -> str:
        length = self._take("Q")
        text = self._content[self._at : self._at + length]
        if len(text) < length:
            raise struct.error("cut off")
        self._at += length
        return text.decode("utf-8")

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._text()
        if kind != _ARRAY:
            return self._take(_format(kind))
        kind, count = self._take("I"), self._take("Q")
        if kind in (_STRING, _ARRAY):
            for _ in range(count):
                self._value(kind)
        else:
            self._at += count * struct.calcsize(f"<{_format(kind)}")
        return count

    def _tensor(self) -> Tensor:
        if (dimensions := self._take("I")) > _MOST_DIMENSIONS:
            raise struct.error("no tensor")
        shape = tuple(self._take("Q") for _ in range(dimensions))
        return Tensor(shape, self._take("I"), self._take("Q"))


def _format(kind: int) -> str:
    if kind not in _FORMATS:
        raise struct.error("an unknown kind of value")
    return _FORMATS[kind]


def _check_model(path: Path, header: Header) -> None:
    what = f"GGUF file '{path}'"
    if not isinstance(header.metadata.get("general.architecture"), str):
        raise UserError(f"{what} does not say its architecture. {_AGAIN}")
    kind = header.metadata.get("general.type")
    if kind in ("mmproj", "adapter") or header.architecture == "clip":
        holds = "an adapter" if kind == "adapter" else "what a model reads images with (mmproj)"
        raise UserError(f"{what} holds {holds}, not a language model: take the model's own file.")
    if "token_embd.weight" not in header.tensors and "split.count" not in header.metadata:
        raise UserError(f"{what} holds a vocabulary without weights: take the model's own file.")
    if "tokenizer.ggml.model" not in header.metadata:
        raise UserError(f"{what} holds no tokenizer: take another file of the model.")
    scaled = header.metadata.get(f"{header.architecture}.rope.scaling.type", "none")
    if scaled != "none" or any(name.startswith("rope_f") for name in header.tensors):
        raise UserError(
            f"{what} scales its positions for long contexts, which transformers would leave out of a GGUF file, and answer "
            "otherwise: ask it through a llama.cpp server (docs/serving.md), or take the model's own folder."
        )


def _check_tensors(path: Path, header: Header) -> None:
    import numpy as np
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize

    what, end, known = f"GGUF file '{path}'", 0, {kind.value: kind for kind in GGML_QUANT_SIZES}
    for kind in {tensor.kind for tensor in header.tensors.values()}:
        try:
            dequantize(np.zeros(GGML_QUANT_SIZES[known[kind]][1], np.uint8), known[kind])
        except (KeyError, NotImplementedError):
            name = GGMLQuantizationType(kind).name if kind in known else f"number {kind}"
            raise UserError(
                f"{what} is quantised as {name}, which the gguf package cannot unpack: take one in Q4_K_M or Q8_0."
            ) from None
    for tensor in header.tensors.values():
        block, size = GGML_QUANT_SIZES[known[tensor.kind]]
        end = max(end, tensor.offset + tensor.size // block * size)
    if (missing := header.start + end - path.stat().st_size) > 0:
        raise UserError(f"GGUF file '{path}' is cut off: {missing} bytes are missing. {_AGAIN}")
