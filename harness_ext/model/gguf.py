"""A GGUF file as the folder that everything else takes, with the config and tokenizer that transformers makes of its header.

Making them takes as long as reading the weights, so they are kept in the user's cache by the file's hash. Beside them lies
a link to the file: `options` sees it, and has transformers unpack the weights to the dtype that is asked for.
"""

import atexit
import contextlib
import importlib.metadata
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

from filelock import FileLock

from harness_ext.errors import UserError, one_line_errors
from harness_ext.keys import hash_of
from harness_ext.model.gguf_header import Header, parts_of, read_header
from harness_ext.model.hashes import cache_folder, hash_file

LINK = "prompt-or-finetune.gguf"  # in a folder made here, the file itself
_STORED = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def models_among(names: Collection[str]) -> list[str]:
    """Return those of a repository's files that are GGUF models; of one in parts the first."""
    return sorted(name for name in names if is_gguf(name) and "mmproj" not in name and parts_of(name)[0] == name)


def is_gguf(name: str) -> bool:
    """Tell whether a file is called as GGUF files are."""
    return name.lower().endswith(".gguf")


def the_model(what: str, names: Collection[str]) -> str:
    """Return the one GGUF model among a repository's files."""
    found = models_among(names)
    if len(found) > 1:
        raise UserError(f"{what} holds several GGUF files: choose one with GGUF=, such as {', '.join(found[:12])}.")
    return found[0]


def as_folder(parts: list[Path]) -> tuple[Path, str]:
    """Make a folder of a GGUF file, or of the parts of one, or find the folder made before.

    Returns:
        The folder, and a version: ``sha256:`` and 16 digits over the file.

    Raises:
        UserError: It is no whole model that transformers can unpack.
    """
    if missing := [part.name for part in parts if not part.is_file()]:
        raise UserError(
            f"GGUF file '{parts[0].parent / missing[0]}', one of the model's {len(parts)} parts, is not there. Download it."
        )
    header = read_header(parts[0])
    for part in parts[1:]:
        read_header(part, is_first=False)
    digests = [hash_file(part) for part in parts]
    digest = digests[0] if len(parts) == 1 else hash_of(digests)
    makers = [importlib.metadata.version(name) for name in ("transformers", "gguf")]
    folder = _kept_in() / hash_of([digest, makers, 1])
    try:
        with FileLock(f"{folder}.lock"):
            if not folder.is_dir():
                _make(parts, header, folder)
        if len(parts) == 1 and (folder / LINK).resolve() != parts[0].resolve():
            _link(parts[0], folder / LINK)
    except OSError as error:
        raise UserError(
            f"What is read of '{parts[0]}' cannot be kept in {folder.parent} ({error.strerror or error}): make room, or set "
            "XDG_CACHE_HOME."
        ) from error
    return folder, f"sha256:{digest[:16]}"


def options(pretrained: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Return what ``from_pretrained`` needs beside a folder that was made here; nothing for another.

    What is `given` for the model's config is taken out: the config is made here, as reading it off the file takes seconds.
    """
    if not Path(str(pretrained), LINK).exists():
        return {}
    from transformers import AutoConfig, GgufConfig

    of_config = {name: given.pop(name) for name in ("num_labels", "id2label", "label2id") if name in given}
    config = AutoConfig.from_pretrained(pretrained, **of_config)
    return {"gguf_file": LINK, "config": config, "quantization_config": GgufConfig(dequantize=True)}


def forget(model: Any) -> None:
    """Let a model that was unpacked be what it is: one of plain weights, which can be trained and merged."""
    if quantiser := getattr(model, "hf_quantizer", None):
        quantiser.remove_quantization_config(model)


def _kept_in() -> Path:
    folder = cache_folder()
    with contextlib.suppress(OSError):
        if folder:
            (folder / "gguf").mkdir(parents=True, exist_ok=True)
            if os.access(folder / "gguf", os.W_OK):
                return folder / "gguf"
    folder = Path(tempfile.mkdtemp(prefix="gguf-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _link(file: Path, link: Path) -> None:
    new = link.with_name(f".{os.getpid()}")
    new.symlink_to(file.resolve())
    new.replace(link)


def _make(parts: list[Path], header: Header, folder: Path) -> None:
    """Have transformers make config and tokenizer, and move them into place when they are complete."""
    from transformers import AutoConfig, AutoTokenizer

    file = parts[0]
    _check_architecture(file, header)
    print(f"Reading the header of {file.name}, once ...", file=sys.stderr, flush=True)
    made = folder.with_name(f"{folder.name}.part")
    try:
        shutil.rmtree(made, ignore_errors=True)  # left by a process that was killed
        made.mkdir()
        if len(parts) > 1:
            file = _join(parts, header, made / LINK)
        with one_line_errors(loading=f"GGUF file '{file}': "):
            config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name).to_dict()
            AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(made)
        (made / "config.json").write_text(json.dumps(_config(config, header), indent=2), encoding="utf-8")
        made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _check_architecture(file: Path, header: Header) -> None:
    from transformers.integrations.gguf import GGUF_CONFIG_ARCHS
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    known = {*GGUF_CONFIG_ARCHS, *GGUF_SUPPORTED_ARCHITECTURES} - {"general", "tokenizer"}
    if header.architecture.replace("-", "_") not in known | {name.replace("_", "") for name in known}:
        raise UserError(
            f"GGUF file '{file}' is a {header.architecture}, and transformers unpacks {', '.join(sorted(known))}: ask it "
            "through a llama.cpp server (docs/serving.md)."
        )


def _join(parts: list[Path], header: Header, whole: Path) -> Path:
    """Write the parts of a file as one, which is what transformers reads."""
    from gguf import GGUFReader, GGUFValueType, GGUFWriter

    print(f"Joining its {len(parts)} parts in {whole.parent.parent}, once ...", file=sys.stderr, flush=True)
    readers = [GGUFReader(part) for part in parts]
    writer = GGUFWriter(whole, header.architecture)
    for field in readers[0].fields.values():
        if not field.name.startswith(("GGUF.", "split.", "general.architecture")):
            is_array = field.types[0] == GGUFValueType.ARRAY
            writer.add_key_value(field.name, field.contents(), field.types[0], field.types[-1] if is_array else None)
    for tensor in (tensor for reader in readers for tensor in reader.tensors):
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return whole


def _config(config: dict[str, Any], header: Header) -> dict[str, Any]:
    stored = _STORED.get(header.quantisation)
    for name in ("_model_name_or_path", "_name_or_path"):
        config.pop(name, None)
    # A chat model's turn ends with a token of its own, which transformers leaves out.
    named = [header.metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot")]
    ends = {end for end in named if end is not None}
    return config | {
        "eos_token_id": sorted(ends) if len(ends) > 1 else config.get("eos_token_id"),
        "dtype": stored or "bfloat16",  # in which most models that were quantised have been made
        "gguf": {"quantisation": None if stored else header.quantisation, "parameters": header.parameters},
    }
