"""From what the user typed after MODEL= to a checkpoint that is known to load; adapters are `adapters`' matter.

Everything that can be wrong with a model is said here, in one line and before torch is imported:
a folder without weights, a Git LFS pointer, a cut-off download, pickled weights, an encoder. Knows
nothing of tasks or runs.
"""

import difflib
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness_ext import hub
from harness_ext.errors import UserError
from harness_ext.model import files, generation_config, presets, quantisation
from harness_ext.paths import SHIPPED, as_path, local_path

SAMPLING = ("do_sample", "temperature", "top_p", "top_k", "min_p")  # transformers' names

_HUB_ID = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?")
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
        tensors: Shapes by name, of an adapter.
    """

    name: str
    path: str
    version: str
    config: dict[str, Any]
    manifest: dict[str, Any] = field(default_factory=dict)
    files: dict[str, int] = field(default_factory=dict)
    tensors: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def revision(self) -> str:
        """The Hub commit to load; lm-eval's default for a folder."""
        return "main" if self.version.startswith("sha256:") else self.version or "main"

    @property
    def weights(self) -> dict[str, int]:
        """The weights that would be loaded, by file with their bytes: safetensors, or pickles where there are none."""
        return {name: self.files[name] for name in files.weights_among(self.files)}

    @property
    def holds_adapter(self) -> bool:
        """Whether an adapter's files lie beside a model's weights, left over from merging them or meant to go on top."""
        return files.adapter_among(self.files) and "config.json" in self.files


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
    return model if model.version else replace(model, version=files.hash_folder(Path(model.path)))


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
    raise UserError(f"Model {text!r} is {kind}.{near_folders(folder)}")


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


def own_sampling(model: Checkpoint) -> dict[str, Any]:
    """Return how a model is meant to draw its tokens, by its own ``generation_config.json``.

    Returns:
        ``do_sample`` and the settings that shape the distribution; empty where the model asks for none, or says nothing.
    """
    settings = generation_config.read_own(model.path, model.revision)
    if settings is None:
        return {}
    named = {name: getattr(settings, name, None) for name in SAMPLING}
    return {name: value for name, value in named.items() if value is not None} if settings.do_sample else {}


def _classes(checkpoint: Checkpoint) -> list[str]:
    listed = checkpoint.config.get("architectures")
    return [str(name) for name in listed] if isinstance(listed, list) else []


def _inspect_folder(folder: Path, name: str, allow_pickle: bool) -> tuple[Checkpoint, dict[str, UserError]]:
    problems: dict[str, UserError] = {}
    config: dict[str, Any] = {}
    for what, check in (
        ("files", lambda: files.check_no_pointers(folder)),
        ("config", lambda: config.update(files.read_json(folder, "config.json"))),
        ("quantisation", lambda: quantisation.check_stored(f"Model {name!r}", config)),
        ("weights", lambda: files.check_weights(folder, allow_pickle)),
        ("tokenizer", lambda: files.check_tokenizer(folder)),
    ):
        try:
            check()
        except UserError as error:
            problems[what] = error
    if "config" in problems and (folder / files.ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file():
        raise UserError(f"Model {name!r} is an adapter: give it with ADAPTER=, and its base, if need be, with MODEL=.")
    sizes = {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}
    return Checkpoint(name, local_path(folder), "", config, files=sizes), problems


def _find_on_hub(name: str, revision: str, allow_pickle: bool) -> tuple[Checkpoint, dict[str, UserError]]:
    """Pin a Hub model's commit and read its config, from the cache if the Hub cannot be reached."""
    found = None
    try:
        found = hub.look_up("model", name, revision)
        # By the name of the revision, not its commit: the cache is to know the name too when there is no connection.
        config = hub.fetch_config(name, revision)
    except UserError as error:
        if found and files.adapter_among(found[1]):
            raise UserError(
                f"Model {name!r} is an adapter: fetch it (`hf download {name} --local-dir FOLDER`) and give it with "
                "ADAPTER=FOLDER; its base, if need be, with MODEL=."
            ) from None
        near = near_folders(Path(name))
        if "/" not in name:  # hardly any model on the Hub is called so: most likely a preset or a folder is meant
            what = f"Model {name!r} is no preset (`make models` lists them) and no folder."
            raise UserError(f"{what}{near} As a Hub id: {error}") from None
        raise UserError(f"{error} There is no folder {name!r} here either.{near}") from None
    there = found[1] if found else {path.name: path.stat().st_size for path in config.parent.iterdir() if path.is_file()}
    problems = {}
    weights = files.weights_among(there)
    if not weights or (weights[0].endswith(".bin") and not allow_pickle):
        pickle = files.first_pickle(there)
        where = "on the Hub" if found else "in the local cache (an incomplete download?)"
        if not pickle:
            problems["weights"] = UserError(f"Model {name!r} has no weights {where}: no *.safetensors file to load.")
        elif not allow_pickle:
            problems["weights"] = files.pickles_only(f"Model {name!r}", pickle)
    fields = files.read_json(config.parent, "config.json")
    try:
        quantisation.check_stored(f"Model {name!r}", fields)
    except UserError as error:
        problems["quantisation"] = error
    return Checkpoint(name, name, config.parent.name, fields, files=there), problems


def is_version(model: Checkpoint, version: str) -> bool:
    """Tell whether a model is the one that an adapter's record names, by today's hash or by that of earlier records."""
    folder = Path(model.path)
    return version == model.version or (folder.is_dir() and version == files.hash_as_before(folder))


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
        there = sorted(each.name for each in parent.iterdir() if each.is_dir()) if parent.is_dir() else []
        inside = [each for each in there if len(name) > 2 and name in each.casefold()][:3]
        near += [str(parent / each) for each in (*difflib.get_close_matches(path.name, there, n=2, cutoff=0.7), *inside)]
    near += [each for each in named if len(text) > 2 and text in each][:6]
    near += difflib.get_close_matches(text, named, n=1, cutoff=0.7)
    return f" Did you mean {' or '.join(dict.fromkeys(near))}?" if near else ""
