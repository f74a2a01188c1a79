"""From what the user typed after MODEL= or ADAPTER= to files that are known to load.

Everything that can be wrong with a checkpoint is said here, in one line and before torch is imported:
a folder without weights, a Git LFS pointer, a cut-off download, pickled weights, an encoder. Knows
nothing of tasks or runs.
"""

import difflib
import hashlib
import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness_ext import hub, presets, quantised
from harness_ext.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = {"tiny": ROOT / "models" / "tiny", "tiny-base": ROOT / "models" / "tiny-base"}

SAMPLING = ("do_sample", "temperature", "top_p", "top_k", "min_p")  # transformers' names
TASK_TYPES = ("CAUSAL_LM", "SEQ_CLS")  # peft's names for a model that writes its answer and a classifier

_HUB_ID = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?")
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tekken.json",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "spm.model",
)
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
# Files that can change what a model answers; notes and a trainer's own state cannot.
_HASHED = (".json", ".safetensors", ".bin", ".pt", ".pth", ".model", ".txt", ".jinja", ".py")
_NOT_HASHED = ("run.json", "trainer_state.json", "training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth")
_NOT_GENERATIVE = re.compile(
    r"(For(MaskedLM|PreTraining|SequenceClassification|TokenClassification|QuestionAnswering|MultipleChoice)|(?<!LMHead)Model)$"
)


@dataclass(frozen=True)
class Checkpoint:
    """A model or adapter that can be loaded.

    Attributes:
        name: How it is called in tables: a Hub id, a shipped name or a folder's name.
        path: What ``from_pretrained`` takes: the Hub id or the folder.
        version: What pins its content: a Hub commit, or ``sha256:`` and 16 digits over a folder's files; empty if these
            have not been read.
        config: Its ``config.json`` or ``adapter_config.json``.
        manifest: The ``run.json`` that `finetune` left beside an adapter, else empty.
        files: Bytes by file name.
    """

    name: str
    path: str
    version: str
    config: dict[str, Any]
    manifest: dict[str, Any] = field(default_factory=dict)
    files: dict[str, int] = field(default_factory=dict)

    @property
    def revision(self) -> str:
        """The Hub commit to load; lm-eval's default for a folder."""
        return "main" if self.version.startswith("sha256:") else self.version or "main"

    @property
    def weights(self) -> dict[str, int]:
        """The files that would be loaded, by name with their bytes: safetensors, or pickles where there are none."""
        # Some repositories hold the same weights once more in their maker's own format.
        safe = {name: size for name, size in self.files.items() if re.fullmatch(r"(?!consolidated)[^/]*\.safetensors", name)}
        return safe or {name: size for name, size in self.files.items() if re.fullmatch(r"[^/]*model[^/]*\.bin", name)}


def find_model(text: str, revision: str = "main", *, allow_pickle: bool = False) -> Checkpoint:
    """Find a model by shipped name, folder, preset's short name or Hub id, and check it.

    Args:
        text: What the user typed.
        revision: Branch, tag or commit on the Hub.
        allow_pickle: Accept weights that are not safetensors; loading them can run code.

    Returns:
        The checkpoint, its content pinned.

    Raises:
        UserError: It cannot be found or would not load; says why and what to do.
    """
    model, problems = inspect_model(text, revision, allow_pickle=allow_pickle)
    for problem in problems.values():
        raise problem
    return model if model.version else replace(model, version=_hash_folder(Path(model.path)))


def inspect_model(
    text: str, revision: str = "main", *, allow_pickle: bool = False
) -> tuple[Checkpoint, dict[str, UserError]]:
    """Find a model as `find_model` does, but go on after a problem, and read no weights.

    Returns:
        The checkpoint, of a folder without its version, and what would keep it from loading: by ``files``, ``config``,
        ``quantisation``, ``weights`` and ``tokenizer``. Without a config it is empty.

    Raises:
        UserError: It cannot be found, so that nothing can be said about it.
    """
    folder = SHIPPED.get(text) or as_path("Model", text)
    if text and folder.is_dir():
        return _inspect_folder(folder, text if text in SHIPPED else folder.resolve().name, allow_pickle)
    if preset := presets.find(text):
        text, folder = preset.model, as_path("Model", preset.model)
    if _HUB_ID.fullmatch(text) and not folder.exists():
        return _find_on_hub(text, revision, allow_pickle)
    kind = "a file: pass its folder" if folder.is_file() else "neither a folder nor a Hub id (owner/name)"
    raise UserError(f"Model {text!r} is {kind}.{_near_folders(folder)}")


def is_generative(checkpoint: Checkpoint) -> bool:
    """Tell whether a model can write text, as far as its config says what it is."""
    if classes := _classes(checkpoint):
        return not all(map(_NOT_GENERATIVE.search, classes))
    # DeBERTa-v3's own config names no class: then what transformers could make of it decides.
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_MAPPING_NAMES

    kind = str(checkpoint.config.get("model_type"))
    return kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or kind not in MODEL_MAPPING_NAMES


def is_classifier(checkpoint: Checkpoint) -> bool:
    """Tell whether a model or an adapter answers with one of its classes."""
    names = [*_classes(checkpoint), str(checkpoint.config.get("task_type"))]
    return any(name.endswith("ForSequenceClassification") or name == "SEQ_CLS" for name in names)


def own_sampling(model: Checkpoint) -> dict[str, Any]:
    """Return how a model is meant to draw its tokens, by its own ``generation_config.json``.

    Returns:
        ``do_sample`` and the settings that shape the distribution; empty where the model asks for none, or says nothing.
    """
    from transformers import GenerationConfig

    try:
        settings = GenerationConfig.from_pretrained(model.path, revision=model.revision)
    except OSError:  # it has no such file
        return {}
    named = {name: getattr(settings, name, None) for name in SAMPLING}
    return {name: value for name, value in named.items() if value is not None} if settings.do_sample else {}


def find_adapter(text: str) -> Checkpoint:
    """Find a PEFT adapter folder, or a checkpoint folder inside one, and check it.

    Raises:
        UserError: It is no PEFT adapter or its weights are not whole.
    """
    folder = as_path("Adapter", text)
    if not folder.is_dir():
        raise UserError(f"Adapter {text!r} is not a folder: pass one saved by PEFT.{_near_folders(folder)}")
    if not (folder / "adapter_config.json").is_file():
        raise UserError(f"Adapter folder {text!r} has no adapter_config.json: pass a folder saved by PEFT.")
    _check_no_pointers(folder)
    config = _read_json(folder, "adapter_config.json")
    if config.get("task_type") not in (None, *TASK_TYPES):
        raise UserError(f"Adapter {text!r} is for {config['task_type']}, not for one of {', '.join(TASK_TYPES)}.")
    _check_weights(folder, allow_pickle=False)
    resolved = folder.resolve()
    is_step = resolved.name.startswith("checkpoint-")
    name = f"{resolved.parent.name}/{resolved.name}" if is_step else resolved.name
    manifest = (resolved.parent if is_step else resolved) / "run.json"
    found = _read_json(manifest.parent, manifest.name) if manifest.is_file() else {}
    return Checkpoint(name, _as_path(folder), _hash_folder(folder), config, found)


def as_path(what: str, text: str) -> Path:
    """Read a path as the user typed it.

    Raises:
        UserError: No file system could hold it, or its ``~user`` does not exist.
    """
    try:
        path = Path(text).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{what} {text[:80]!r} is no path: {getattr(error, 'strerror', None) or error}.") from None
    return path


def _classes(checkpoint: Checkpoint) -> list[str]:
    listed = checkpoint.config.get("architectures")
    return [str(name) for name in listed] if isinstance(listed, list) else []


def _read_json(folder: Path, file: str) -> dict[str, Any]:
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


def _inspect_folder(folder: Path, name: str, allow_pickle: bool) -> tuple[Checkpoint, dict[str, UserError]]:
    problems: dict[str, UserError] = {}
    config: dict[str, Any] = {}
    for what, check in (
        ("files", lambda: _check_no_pointers(folder)),
        ("config", lambda: config.update(_read_json(folder, "config.json"))),
        ("quantisation", lambda: quantised.check_stored(f"Model {name!r}", config)),
        ("weights", lambda: _check_weights(folder, allow_pickle)),
        ("tokenizer", lambda: _check_tokenizer(folder)),
    ):
        try:
            check()
        except UserError as error:
            problems[what] = error
    sizes = {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}
    return Checkpoint(name, _as_path(folder), "", config, files=sizes), problems


def _check_tokenizer(folder: Path) -> None:
    if not any((folder / file).is_file() for file in _TOKENIZER_FILES):
        raise UserError(
            f"Model folder '{folder}' has no tokenizer (none of {', '.join(_TOKENIZER_FILES)}): copy its files there."
        )


def _check_weights(folder: Path, allow_pickle: bool) -> None:
    """Check that the weights are there, whole and safe to load."""
    files = sorted(folder.glob("*.safetensors"))
    for index in folder.glob("*.safetensors.index.json"):
        shards = _read_json(folder, index.name).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise UserError(f"'{index}' has no weight_map. Download it again.")
        missing = sorted({str(shard) for shard in shards.values()} - {file.name for file in files})
        if missing:
            raise UserError(f"Folder '{folder}' lacks {len(missing)} of {len(shards)} weight files, first {missing[0]}.")
    for file in files:
        _check_safetensors(file)
    pickles = [path.name for pattern in _PICKLES for path in folder.glob(pattern) if path.name not in _NOT_HASHED]
    if not files and not pickles:
        raise UserError(f"Folder '{folder}' has no weights (no *.safetensors file).")
    if not files and not allow_pickle:
        raise _pickles_only(f"Folder '{folder}'", pickles[0])


def _pickles_only(what: str, example: str) -> UserError:
    return UserError(
        f"{what} has only pickled weights ({example}), and loading a pickle can run code. "
        "Convert it to safetensors, or accept the risk with ARGS=--allow_pickle."
    )


def _check_safetensors(path: Path) -> None:
    """Let safetensors itself check the header against the file's length (no tensor is read)."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise UserError(f"Weights '{path}' are damaged or cut off ({error}). Download them again.") from None


def _check_no_pointers(folder: Path) -> None:
    for path in _hashed_files(folder):
        with path.open("rb") as file:
            if file.read(40).startswith(b"version https://git-lfs"):
                raise UserError(f"'{path}' is a Git LFS pointer, not the file itself. Run `git lfs pull` in its folder.")


def _hash_folder(folder: Path) -> str:
    """Hash every file of a folder that can change what the model answers."""
    digest = hashlib.sha256()
    for path in _hashed_files(folder):
        with path.open("rb") as file:
            digest.update(f"{path.name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return f"sha256:{digest.hexdigest()[:16]}"


def _hashed_files(folder: Path) -> list[Path]:
    files = (path for path in sorted(folder.iterdir()) if path.suffix in _HASHED and path.name not in _NOT_HASHED)
    return [path for path in files if path.is_file()]


def _find_on_hub(name: str, revision: str, allow_pickle: bool) -> tuple[Checkpoint, dict[str, UserError]]:
    """Pin a Hub model's commit and read its config, from the cache if the Hub cannot be reached."""
    try:
        found = hub.look_up("model", name, revision)
        # By the name of the revision, not its commit: the cache is to know the name too when there is no connection.
        config = hub.fetch_config(name, revision)
    except UserError as error:
        raise UserError(f"{error} There is no folder {name!r} here either.{_near_folders(Path(name))}") from None
    files = found[1] if found else {path.name: path.stat().st_size for path in config.parent.iterdir() if path.is_file()}
    problems = {}
    if not any(file.endswith(".safetensors") for file in files) and not allow_pickle:
        pickles = [file for file in files if any(Path(file).match(pattern) for pattern in _PICKLES)]
        where = "on the Hub" if found else "in the local cache (an incomplete download?)"
        problems["weights"] = (
            _pickles_only(f"Model {name!r}", pickles[0])
            if pickles
            else UserError(f"Model {name!r} has no weights {where}: no *.safetensors file.")
        )
    fields = _read_json(config.parent, "config.json")
    try:
        quantised.check_stored(f"Model {name!r}", fields)
    except UserError as error:
        problems["quantisation"] = error
    return Checkpoint(name, name, config.parent.name, fields, files=files), problems


def _as_path(folder: Path) -> str:
    """Write a folder so that no library takes it for a Hub id and looks it up there."""
    return str(folder) if folder.is_absolute() else f"./{folder}"


def _near_folders(path: Path) -> str:
    """Suggest the shipped names and sibling folders that the user may have meant."""
    siblings = [p.name for p in path.parent.iterdir() if p.is_dir()] if path.parent.is_dir() else []
    near = [str(path.parent / name) for name in difflib.get_close_matches(path.name, siblings, n=2, cutoff=0.7)]
    near += difflib.get_close_matches(str(path), [*SHIPPED, *presets.load()], n=1, cutoff=0.7)
    return f" Did you mean {' or '.join(near)}?" if near else ""
