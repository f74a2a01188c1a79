"""What an adapter is, told by its content: its config, its tensors' names and shapes, what `finetune` left beside it.

Everything that can be wrong with it is said here, in one line and before torch is imported. Knows nothing of runs.
"""

import re
from dataclasses import replace
from pathlib import Path

from harness_ext.errors import UserError
from harness_ext.model import files
from harness_ext.model.checkpoints import Checkpoint, near_folders
from harness_ext.paths import as_path, local_path

TASK_TYPES = ("CAUSAL_LM", "SEQ_CLS")  # peft's names for a model that writes its answer and a classifier
_HEADS = {"score", "classifier", "classification_head", "logits_proj"}  # as transformers' classifiers call them
_OF_A_TUNER = re.compile(r"\.(lora_|ia3_|hada_|lokr_|oft_|vera_|boft_|prompt_|base_layer|original_module)|^prompt_")


def find_adapter(text: str, *, allow_pickle: bool = False) -> Checkpoint:
    """Find a PEFT adapter folder, or a checkpoint folder inside one, and check it.

    Its config's ``task_type`` is then what its content says.
    """
    folder = as_path("Adapter", text)
    if not folder.is_dir():
        hub = " One on the Hub is fetched with `hf download NAME --local-dir FOLDER`." if text.count("/") == 1 else ""
        raise UserError(f"Adapter {text!r} is not a folder: pass one saved by PEFT.{near_folders(folder)}{hub}")
    if not (folder / files.ADAPTER_CONFIG).is_file():
        raise UserError(f"Adapter folder {text!r} has no adapter_config.json: pass a folder saved by PEFT.")
    files.check_no_pointers(folder, of_adapter=True)
    config = files.read_json(folder, files.ADAPTER_CONFIG)
    if config.get("task_type") not in (None, *TASK_TYPES):
        raise UserError(f"Adapter {text!r} is for {config['task_type']}, not for one of {', '.join(TASK_TYPES)}.")
    files.check_weights(folder, allow_pickle, of_adapter=True)
    resolved = folder.resolve()
    is_step = resolved.name.startswith("checkpoint-")
    name = f"{resolved.parent.name}/{resolved.name}" if is_step else resolved.name
    manifest = (resolved.parent if is_step else resolved) / "run.json"
    found = files.read_json(manifest.parent, manifest.name) if manifest.is_file() else {}
    version = files.hash_folder(folder, of_adapter=True)
    adapter = Checkpoint(name, local_path(folder), version, config, found, files.sizes(folder), read_shapes(folder))
    if found.get("kind") == "classifier" or any(_HEADS & set(key.split(".")) for key in adapter.tensors):
        config = config | {"task_type": "SEQ_CLS"}  # whatever it is called: no other model has such a layer
    return replace(adapter, config=config)


def whole_tensors(adapter: Checkpoint) -> dict[str, tuple[int, ...]]:
    """Return the weights that an adapter brings whole, such as a classifier's head, by their name in the model."""
    whole = {}
    for key, shape in adapter.tensors.items():
        if not _OF_A_TUNER.search(key):
            name = key.removeprefix("base_model.").removeprefix("model.") if key.startswith("base_model.") else key
            whole[name.replace(".modules_to_save.default.", ".").replace(".modules_to_save.", ".")] = shape
    return whole


def head_classes(adapter: Checkpoint) -> int | None:
    """Return how many classes the head that an adapter brings tells apart; None if it brings none."""
    rows = [
        shape[0]
        for key, shape in whole_tensors(adapter).items()
        if _HEADS & set(key.split(".")) and key.endswith(".weight") and len(shape) == 2
    ]
    return min(rows, default=None)  # a head of several layers ends in out_proj; its first layer is as wide as the model


def virtual_tokens(adapter: Checkpoint | None) -> int:
    """Return how many positions a prompt-learning adapter puts before every text."""
    return int(adapter.config.get("num_virtual_tokens") or 0) if adapter else 0


def brings_tokenizer(adapter: Checkpoint | None) -> bool:
    """Tell whether an adapter was saved with the tokenizer that it was trained with."""
    return adapter is not None and not adapter.files.keys().isdisjoint(files.TOKENIZER_FILES)


def describe(adapter: Checkpoint) -> str:
    """Say in a few words how an adapter changes its base."""
    kind = str(adapter.config.get("peft_type") or "LORA").replace("_", " ").lower()
    if tokens := virtual_tokens(adapter):
        return f"{kind}, {tokens} virtual tokens"
    rank = adapter.config.get("r")
    return f"rank {rank}" if kind == "lora" else f"{kind}{f', rank {rank}' if rank else ''}"


def read_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Read the names and shapes of an adapter's tensors, not the tensors."""
    (name,) = files.weights_in(folder, of_adapter=True)
    if name.endswith(".safetensors"):
        from safetensors import safe_open

        with safe_open(folder / name, framework="numpy") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118  no iterator
    import torch

    try:
        found = torch.load(folder / name, map_location="meta", weights_only=True)
        return {str(key): tuple(tensor.shape) for key, tensor in found.items()}
    except Exception as error:  # a pickle may raise anything
        said = " ".join(str(error).split())[:120]
        raise UserError(f"Weights '{folder / name}' are damaged or no tensors ({said}). Download them again.") from None
