"""From what the user typed after MODEL= to a checkpoint that is known to load; adapters are `adapters`' matter.

Everything that can be wrong with a model is said here, in one line and before torch is imported:
a folder without weights, a Git LFS pointer, a cut-off download, pickled weights, an encoder. Knows
nothing of tasks or runs.
"""

import contextlib
import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from harness_ext import hub
from harness_ext.errors import UserError, did_you_mean
from harness_ext.model import files, generation_config, gguf, presets, quantisation
from harness_ext.paths import SHIPPED, as_path, local_path

SAMPLING = ("do_sample", "temperature", "top_p", "top_k", "min_p")  # transformers' names

_HUB_ID = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?")
_HUB_FILE = re.compile(r"([\w.-]{1,96}/[\w.-]{1,96})/(.+\.gguf)")
_NOT_GENERATIVE = re.compile(
    r"(For(MaskedLM|PreTraining|SequenceClassification|TokenClassification|QuestionAnswering|MultipleChoice)|(?<!LMHead)Model)$"
)


@dataclass(frozen=True)
class Checkpoint:
    """A model or adapter that can be loaded."""

    name: str  # in tables: a Hub id, a shipped name or a folder's name
    path: str  # what from_pretrained takes: the Hub id or the folder; of a GGUF file the folder made of it (`gguf`)
    version: str  # a Hub commit, or sha256: and 16 digits over a folder's files; empty if these have not been read
    config: dict[str, Any]  # config.json or adapter_config.json
    manifest: dict[str, Any] = field(default_factory=dict)  # the run.json that `finetune` left beside an adapter
    files: dict[str, int] = field(default_factory=dict)  # bytes by file name
    tensors: dict[str, tuple[int, ...]] = field(default_factory=dict)  # shapes by name, of an adapter
    file: str = ""  # the GGUF file, as a user types it

    @property
    def revision(self) -> str:
        """The Hub commit to load; lm-eval's default for a folder."""
        return "main" if self.version.startswith("sha256:") else self.version or "main"

    @property
    def typed(self) -> str:
        """What a user types to get it: a Hub id, a folder or a file."""
        return self.file or self.path

    @property
    def weights(self) -> dict[str, int]:
        """The weights that would be loaded, by file with their bytes: safetensors, or pickles where there are none."""
        return self.files if self.file else {name: self.files[name] for name in files.weights_among(self.files)}

    @property
    def holds_adapter(self) -> bool:
        """Whether an adapter's files lie beside a model's weights, left over from merging them or meant to go on top."""
        return self.files.keys() >= {files.ADAPTER_CONFIG, "config.json"}


@dataclass(frozen=True)
class Inspection:
    """A checkpoint as it was found, of a folder without its version; its config is empty where that cannot be read."""

    checkpoint: Checkpoint
    problems: dict[str, str]  # what would keep it from loading, by part: its files, config, quantisation, weights, tokenizer


def find_model(text: str, revision: str = "main", *, allow_pickle: bool = False) -> Checkpoint:
    """Find a model by a shipped name, a folder, a preset's short name or a Hub id, check it, and pin its content.

    Weights that are not safetensors need `allow_pickle`: loading them can run code.
    """
    found = inspect_model(text, revision, allow_pickle=allow_pickle)
    if found.problems:
        raise UserError(next(iter(found.problems.values())))
    return pinned(found.checkpoint)


def inspect_model(text: str, revision: str = "main", *, allow_pickle: bool = False, fetch: bool = True) -> Inspection:
    """Find a model as `find_model` does, but go on after a problem where it is found at all, and read no weights.

    A GGUF file on the Hub is downloaded, as its config and tokenizer are inside it, unless `fetch` forbids it.
    """
    folder = SHIPPED.get(text) or as_path("Model", text)
    if text and folder.is_dir():
        names = files.sizes(folder)
        if files.weights_among(names) or files.ADAPTER_CONFIG in names or not gguf.models_among(names):
            return _inspect_folder(folder, text if text in SHIPPED else folder.resolve().name, allow_pickle)
        folder = folder / gguf.the_model(f"Folder '{folder}'", names)
    if folder.is_file() and gguf.is_gguf(folder.name):
        return _inspect_gguf(folder, folder.name, local_path(folder))
    if preset := presets.find(text):
        text, folder = preset.model, as_path("Model", preset.model)
    if _HUB_ID.fullmatch(text) and not folder.exists():
        return _inspect_on_hub(text, revision, allow_pickle, fetch)
    if found := _HUB_FILE.fullmatch(text):
        return _inspect_hub_file(found[1], found[2], hub.look_up("model", found[1], revision), revision, fetch)
    kind = "a file: pass its folder" if folder.is_file() else "neither a folder nor a Hub id (owner/name)"
    raise UserError(f"Model {text!r} is {kind}.{near_folders(folder)}")


def pinned(model: Checkpoint) -> Checkpoint:
    """Return a checkpoint with its version: of a folder, the hash of all that is read when it is loaded."""
    return model if model.version else replace(model, version=files.hash_folder(Path(model.path)))


def is_generative(checkpoint: Checkpoint) -> bool:
    """Tell whether a model can write text, as far as its config says what it is."""
    if classes := _classes(checkpoint):
        return not all(map(_NOT_GENERATIVE.search, classes))
    # DeBERTa-v3's own config names no class: then what transformers could make of it decides.
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_MAPPING_NAMES

    kind = str(checkpoint.config.get("model_type"))
    return kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or kind not in MODEL_MAPPING_NAMES


def is_classifier(base: Checkpoint, adapter: Checkpoint | None = None) -> bool:
    """Tell whether a model, or an adapter on it, answers with one of its classes.

    An adapter whose config and content do not say what it is for is its base's kind.
    """
    if adapter and adapter.config.get("task_type"):
        return adapter.config["task_type"] == "SEQ_CLS"
    return any(name.endswith("ForSequenceClassification") for name in _classes(base))


def is_version(model: Checkpoint, version: str) -> bool:
    """Tell whether a model is the one that an adapter's record names, by today's hash or by that of earlier records."""
    folder = Path(model.path)
    return version == model.version or (folder.is_dir() and version == files.hash_as_before(folder))


def own_sampling(model: Checkpoint) -> dict[str, Any]:
    """Return the `SAMPLING` settings of a model's own ``generation_config.json``; empty where it does not ask to sample."""
    settings = generation_config.read_own(model.path, model.revision)
    if settings is None or not settings.do_sample:
        return {}
    return {name: value for name in SAMPLING if (value := getattr(settings, name, None)) is not None}


def leftover(model: Checkpoint) -> str | None:
    """Say that an adapter's files beside a model's weights are not used, and what to do where they should be."""
    if not model.holds_adapter:
        return None
    how = f"ADAPTER={model.path}" if Path(model.path).is_dir() else "download it and give the folder with ADAPTER="
    return f"{model.name!r} holds an adapter's files beside its weights: they are left out. Should they be on top: {how}."


def near_folders(path: Path) -> str:
    """Suggest the shipped names, presets and folders that the user may have meant."""
    text, name = str(path).casefold(), path.name.casefold()
    named = [*SHIPPED, *presets.load()]
    near = []
    for parent in (path.parent, path.parent / "models"):
        # None where it is not there or may not be listed.
        there = sorted(each.name for each in (*parent.glob("*/"), *parent.glob("*.gguf")))
        inside = [each for each in there if len(name) > 2 and name in each.casefold()][:3]
        near += [str(parent / each) for each in (*difflib.get_close_matches(path.name, there, n=2, cutoff=0.7), *inside)]
    near += [each for each in named if len(text) > 2 and text in each][:6]
    near += difflib.get_close_matches(text, named, n=1, cutoff=0.7)
    return f" Did you mean {' or '.join(dict.fromkeys(near))}?" if near else ""


def _classes(checkpoint: Checkpoint) -> list[str]:
    listed = checkpoint.config.get("architectures")
    return [str(name) for name in listed] if isinstance(listed, list) else []


def _inspect_folder(folder: Path, name: str, allow_pickle: bool) -> Inspection:
    sizes = files.sizes(folder)
    if files.ADAPTER_CONFIG in sizes and "config.json" not in sizes:
        raise UserError(f"Model {name!r} is an adapter: give it with ADAPTER=, and its base, if need be, with MODEL=.")
    config: dict[str, Any] = {}
    with contextlib.suppress(UserError):  # it is among the problems
        config = files.read_json(folder, "config.json")
    problems = _problems(
        files=partial(files.check_no_pointers, folder),
        config=partial(files.read_json, folder, "config.json"),
        quantisation=partial(quantisation.check_stored, f"Model {name!r}", config),
        weights=partial(files.check_weights, folder, allow_pickle),
        tokenizer=partial(files.check_tokenizer, folder),
    )
    return Inspection(Checkpoint(name, local_path(folder), "", config, files=sizes), problems)


def _inspect_gguf(file: Path, name: str, typed: str) -> Inspection:
    parts = [file.with_name(part) for part in gguf.parts_of(file.name)]
    folder, version = gguf.as_folder(parts)
    config, sizes = files.read_json(folder, "config.json"), {part.name: part.stat().st_size for part in parts}
    return Inspection(Checkpoint(name, str(folder), version, config, files=sizes, file=typed), {})


def _inspect_hub_file(name: str, file: str, listed: dict[str, int] | None, revision: str, fetch: bool) -> Inspection:
    """Fetch a GGUF file from the Hub, or find it in the cache."""
    typed = f"{name}/{file}"
    if listed is not None and file not in listed:
        near = did_you_mean(file, gguf.models_among(listed), most=3, cutoff=0.3)
        raise UserError(f"Model {name!r} has no file {file!r} on the Hub.{near}")
    if not fetch and not hub.is_cached(name, file, revision):
        size = f" ({listed[file] / 1e9:.1f} GB)" if listed else ""
        raise UserError(
            f"Model {typed!r} keeps its config and tokenizer inside a file that is not here yet{size}: "
            f"`hf download {name} {file}` first."
        )
    fetched = [hub.fetch_file(name, revision, part) for part in gguf.parts_of(file)]
    return _inspect_gguf(fetched[0], typed, typed)


def _inspect_on_hub(name: str, revision: str, allow_pickle: bool, fetch: bool) -> Inspection:
    """Pin a Hub model's commit and read its config, from the cache if the Hub cannot be reached."""
    listed = None
    try:
        listed = hub.look_up("model", name, revision)
        if listed and gguf.models_among(listed) and not files.weights_among(listed):
            return _inspect_hub_file(name, gguf.the_model(f"Model {name!r}", listed), listed, revision, fetch)
        # By the name of the revision, not its commit: the cache is to know the name too when there is no connection.
        file = hub.fetch_file(name, revision)
    except UserError as error:
        raise _not_found(name, error, is_adapter=files.ADAPTER_CONFIG in (listed or ())) from None
    config, what = files.read_json(file.parent, "config.json"), f"Model {name!r}"
    where, sizes = "on the Hub", listed
    if sizes is None:
        where, sizes = "in the local cache (an incomplete download?)", files.sizes(file.parent)
    problems = _problems(
        weights=partial(files.check_listed, what, where, sizes, allow_pickle),
        quantisation=partial(quantisation.check_stored, what, config),
    )
    return Inspection(Checkpoint(name, name, file.parent.name, config, files=sizes), problems)


def _not_found(name: str, error: UserError, is_adapter: bool) -> UserError:
    if is_adapter:
        return UserError(
            f"Model {name!r} is an adapter: fetch it (`hf download {name} --local-dir FOLDER`) and give it with "
            "ADAPTER=FOLDER; its base, if need be, with MODEL=."
        )
    near = near_folders(Path(name))
    if "/" not in name:  # hardly any model on the Hub is called so: most likely a preset or a folder is meant
        what = f"Model {name!r} is no preset (`make models` lists them) and no folder."
        return UserError(f"{what}{near} As a Hub id: {error}")
    return UserError(f"{error} There is no folder {name!r} here either.{near}")


def _problems(**checks: Callable[[], object]) -> dict[str, str]:
    found = {}
    for part, check in checks.items():
        try:
            check()
        except UserError as error:
            found[part] = str(error)
    return found
