"""The files of a checkpoint's folder: which of them are loaded, whether these are whole, and a hash over them.

Whatever else lies there (notes, what an operating system or a trainer leaves behind, the same weights in another form)
is neither read nor hashed. Knows nothing of models.
"""

import fnmatch
import hashlib
import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from harness_ext.errors import UserError
from harness_ext.model.hashes import hash_file

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "tekken.json", "vocab.json", "vocab.txt", "spiece.model", "spm.model",
    "sentencepiece.bpe.model",
)  # fmt: skip
ADAPTER_CONFIG = "adapter_config.json"
_ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")  # in peft's order
# Ends of the names that `from_pretrained` takes, with a variant (fp16) or the number of a shard in between.
_SAFE, _PICKLED = (re.compile(rf"{stem}[^/]*\.{end}") for stem, end in (("model", "safetensors"), ("pytorch_model", "bin")))
_PICKLES = re.compile(r"(?!training_args|optimizer|scheduler|rng_state)[^/.][^/]*\.(bin|pt|pth|ckpt)")
# Beside weights, what can change an answer: configs, code, templates, and the tokenizers' many files.
_READ = re.compile(
    r"config\.json|generation_config\.json|[^/]*\.(py|jinja|model|spm|tiktoken|codes)|chat_template\.json|tekken\.json"
    r"|(tokeniz|special_tokens_map|added_tokens)[^/]*\.json|[^/]*vocab[^/]*\.(json|txt)|merges\.txt|dict\.txt"
)
_BEFORE = (".json", ".safetensors", ".bin", ".pt", ".pth", ".model", ".txt", ".jinja", ".py")
_NOT_BEFORE = ("run.json", "trainer_state.json", "training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth")


def weights_among(names: Collection[str]) -> list[str]:
    """Return those of a repository's files that hold the weights transformers loads: safetensors before pickles.

    Which shards belong together only their index says (`weights_in`); here every shard counts.
    """
    for single, pattern in (("model.safetensors", _SAFE), ("pytorch_model.bin", _PICKLED)):
        if found := sorted(name for name in names if pattern.fullmatch(name)):
            return [single] if single in found else found
    return []


def weights_in(folder: Path, *, of_adapter: bool = False) -> list[str]:
    """Return the files in a folder of a model or an adapter that hold the weights to be loaded, the index of shards too."""
    names = sizes(folder)
    if of_adapter:
        return [name for name in _ADAPTER_WEIGHTS if name in names][:1]
    found = weights_among(names)
    index = f"{'pytorch_model.bin' if found and found[0].endswith('.bin') else 'model.safetensors'}.index.json"
    if index not in names or index.removesuffix(".index.json") in found:
        return found
    try:
        shards = sorted({str(shard) for shard in read_json(folder, index)["weight_map"].values()})
    except (UserError, KeyError, AttributeError):  # said by `check_weights`
        shards = found
    return [*shards, index]


def read_json(folder: Path, file: str) -> dict[str, Any]:
    """Read a JSON object, and say what to do about a file that is not there or holds something else."""
    path = folder / file
    if not path.is_file():
        raise UserError(f"Folder '{folder}' has no {file}: it is not a checkpoint that transformers can load.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"'{path}' is not valid JSON ({error}). Download it again.") from None
    if not isinstance(content, dict):
        raise UserError(f"'{path}' holds a {type(content).__name__}, expected a JSON object. Download it again.")
    return content


def check_tokenizer(folder: Path) -> None:
    """Check that a model's folder holds a tokenizer."""
    if not any((folder / file).is_file() for file in TOKENIZER_FILES):
        raise UserError(
            f"Model folder '{folder}' has no tokenizer (none of {', '.join(TOKENIZER_FILES)}): copy its files there."
        )


def check_weights(folder: Path, allow_pickle: bool, *, of_adapter: bool = False) -> None:
    """Check that the weights are there, whole and safe to load."""
    names, files = sizes(folder), weights_in(folder, of_adapter=of_adapter)
    for index in fnmatch.filter(files, "*.index.json"):
        shards = read_json(folder, index).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise UserError(f"'{folder / index}' has no weight_map. Download it again.")
    if missing := [file for file in files if file not in names]:
        raise UserError(f"Folder '{folder}' lacks {len(missing)} of {len(files) - 1} weight files, first {missing[0]}.")
    for file in fnmatch.filter(files, "*.safetensors"):
        _check_safetensors(folder / file)
    others = _pickles(names) or sorted(fnmatch.filter(names, "*.safetensors"))
    expected = _ADAPTER_WEIGHTS[0] if of_adapter else "model.safetensors"
    more = f"; {others[0]} is not what is loaded" if others else ""
    lacking = f"(no {expected}, as *.safetensors files are named{more})."
    _check_loadable(f"Folder '{folder}'", files, names, allow_pickle, lacking)


def check_listed(what: str, where: str, names: Collection[str], allow_pickle: bool) -> None:
    """Check that there are weights to load among the files of `what`, which the Hub lists or the cache holds."""
    _check_loadable(what, weights_among(names), names, allow_pickle, f"{where}: no *.safetensors file to load.")


def check_no_pointers(folder: Path, *, of_adapter: bool = False) -> None:
    """Check that no file that would be loaded is Git LFS's stand-in for it."""
    for path in _read(folder, of_adapter):
        with path.open("rb") as file:
            if file.read(40).startswith(b"version https://git-lfs"):
                raise UserError(f"'{path}' is a Git LFS pointer, not the file itself. Run `git lfs pull` in its folder.")


def hash_folder(folder: Path, *, of_adapter: bool = False) -> str:
    """Hash every file of a folder that can change what the model answers."""
    return _hash(_read(folder, of_adapter))


def hash_tokenizer(folder: Path) -> str:
    """Hash the files of a folder that a tokenizer can be made of; there need be no weights."""
    return _hash([folder / name for name in sorted(sizes(folder)) if _READ.fullmatch(name)])


def hash_as_before(folder: Path) -> str:
    """Hash a folder as was done until November 2026, notes and leftovers included; adapters made then name such hashes."""
    names = sorted(folder.iterdir())
    return _hash([path for path in names if path.suffix in _BEFORE and path.name not in _NOT_BEFORE and path.is_file()])


def sizes(folder: Path) -> dict[str, int]:
    """Return the bytes of a folder's files by name, but not of the hidden ones, such as macOS's ``._model.safetensors``."""
    return {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file() and path.name[0] != "."}


def _check_loadable(what: str, weights: list[str], names: Collection[str], allow_pickle: bool, lacking: str) -> None:
    """Check that there are weights, and no pickles that the user has not allowed; `lacking` says which are not there."""
    if weights and weights[0].endswith(".safetensors"):
        return
    if (pickles := weights or _pickles(names)) and not allow_pickle:
        raise UserError(
            f"{what} has only pickled weights ({pickles[0]}), and loading a pickle can run code. "
            "Convert it to safetensors, or accept the risk with ARGS=--allow_pickle."
        )
    if not weights:
        raise UserError(f"{what} has no weights {lacking}")


def _pickles(names: Collection[str]) -> list[str]:
    return sorted(filter(_PICKLES.fullmatch, names))


def _read(folder: Path, of_adapter: bool) -> list[Path]:
    """Return the files that are read when a model or an adapter is loaded, in the order of their names."""
    read = {name for name in sizes(folder) if _READ.fullmatch(name)}
    if of_adapter:
        read = {name for name in read if name not in ("config.json", "generation_config.json")} | {ADAPTER_CONFIG}
    read |= set(weights_in(folder, of_adapter=of_adapter))
    return [folder / name for name in sorted(read) if (folder / name).is_file()]


def _hash(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name}\0{hash_file(path)}\n".encode())
    return f"sha256:{digest.hexdigest()[:16]}"


def _check_safetensors(path: Path) -> None:
    """Let safetensors itself check the header against the file's length (no tensor is read)."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise UserError(f"Weights '{path}' are damaged or cut off ({error}). Download them again.") from None
