"""Loading weights, for training and for evaluation alike: whole, and quantised the same way in both."""

import importlib.util
import logging
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness_ext import hub
from harness_ext.errors import UserError, one_line_errors
from harness_ext.model import files, gguf, quantisation
from harness_ext.model.adapters import brings_tokenizer, read_shapes
from harness_ext.model.checkpoints import Checkpoint
from harness_ext.paths import SHIPPED, as_path, local_path

ID2LABEL = {0: "negative", 1: "positive"}  # of the classifiers made here; 0 and 1 are the task's labels
# transformers has no argument against putting an adapter on that it finds beside weights, but one for where it may lie.
NO_ADAPTER: dict[str, Any] = {"adapter_kwargs": {"subfolder": "no adapter is asked for"}}


def quieten_libraries() -> None:
    """Keep libraries from advising their own developers and on kernels; errors still come through."""
    from transformers.utils import logging as transformers_logging

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    if importlib.util.find_spec("logbar"):  # gptqmodel's logger, which writes to stdout
        from logbar import LogBar

        LogBar.shared().setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message="You passed `quantization_config`")  # as HFLM does with a checkpoint's own


class WholeModel:
    """Stands in for a transformers auto class, and loads only checkpoints that hold every weight, and nothing else.

    transformers fills what is missing with random numbers and only logs it; and it puts an adapter whose files lie beside
    the weights on top of them, also where they are left over from merging it.
    """

    def __init__(
        self,
        auto_class: Any,
        may_lack: Iterable[str] = (),  # modules or weights that come from elsewhere; they may be there in other sizes too
        lacking: str = "Download them again.",  # what to do about others
        **kwargs: Any,  # of every call, such as a quantisation config
    ) -> None:
        self.auto_class, self.may_lack, self.lacking, self.kwargs = auto_class, frozenset(may_lack), lacking, kwargs
        self.missing: list[str] = []  # of the last model loaded, the weights that it may lack

    def from_pretrained(self, *args: Any, **kwargs: Any) -> Any:
        """Load a model as the auto class does, or say what is wrong with its weights."""
        kwargs = {**kwargs, **self.kwargs}
        tolerant = {"ignore_mismatched_sizes": True} if self.may_lack else {}
        unpacked = gguf.options(args[0] if args else kwargs["pretrained_model_name_or_path"], kwargs)
        other_sizes = UserError("Its weights have other sizes than its config.json says: they do not belong together.")
        try:
            model, found = self.auto_class.from_pretrained(
                *args, output_loading_info=True, **NO_ADAPTER, **tolerant, **{**kwargs, **unpacked}
            )
        except RuntimeError as error:
            if "mismatch" not in str(error):
                raise
            raise other_sizes from error
        resized = [key for key, *_ in found["mismatched_keys"]]
        if not all(map(self._may_lack, resized)):
            raise other_sizes
        self.missing = sorted({*found["missing_keys"], *resized})
        if missing := [key for key in self.missing if not self._may_lack(key)]:
            raise UserError(f"Its files lack {len(missing)} of the model's weights, first {missing[0]}. {self.lacking}")
        if unpacked:
            gguf.forget(model)
        for module in model.modules():
            if hasattr(module, "support_avx512bf16_for_cpu"):
                # bitsandbytes repacks 4-bit weights for bfloat16 products at the first evaluation on such a CPU, whatever
                # the dtype; its kernel has no gradient, so training after that would be silently wrong.
                module.support_avx512bf16_for_cpu = False
        return model

    def _may_lack(self, key: str) -> bool:
        return key in self.may_lack or not self.may_lack.isdisjoint(key.split("."))


def put_on(model: Any, adapter: str, *, classifier: bool = False) -> Any:
    """Put a PEFT adapter, a folder, on a model as peft alone does, and return the PEFT model.

    The transformers model is changed in place, and given the vocabulary that the adapter was made for. For a `classifier`,
    which the adapter's config may not say, peft takes the head that it brings. An adapter that lacks weights is a
    `UserWarning`.
    """
    from peft import PeftConfig, PeftModel

    fit_embeddings(model, vocabulary_of(adapter, model))
    config = PeftConfig.from_pretrained(adapter)
    if classifier:
        config.task_type = "SEQ_CLS"
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Found missing adapter keys")
        adapted = PeftModel.from_pretrained(model, adapter, config=config)
        left = adapted.load_adapter(adapter, "default").unexpected_keys  # from_pretrained keeps that to itself
    # What peft writes besides: learned prompts, which it loads another way, and copies of tables under other names.
    written_besides = ("prompt_embeddings", "original_module", "modules_to_save", "base_layer")
    if left := [key for key in left if not any(part in key for part in written_besides)]:
        raise UserError(f"{len(left)} of its weights have no place in the model, first {left[0]}: it is for another base.")
    return adapted


def vocabulary_of(adapter: str, base: Any) -> int | None:
    """Return the rows of its base's embedding or output layer that an adapter (a folder) brings; None if it leaves both."""
    names = {module: name for name, module in base.named_modules()}
    tables = [names[layer] for layer in (base.get_input_embeddings(), base.get_output_embeddings()) if layer in names]
    for key, shape in read_shapes(Path(adapter)).items():
        layer, _, parameter = key.removeprefix("base_model.model.").partition(".lora_")
        if any(layer.removesuffix(".weight").removesuffix(".base_layer").endswith(table) for table in tables):
            rows = {"": 0, "embedding_A": 1, "B.weight": 0}  # of LoRA's matrices the other two have no side of this size
            if parameter in rows:
                return shape[rows[parameter]]
    return None


def fit_embeddings(model: Any, rows: int | None) -> None:
    """Resize a model's embedding and output layer to what an adapter was made for; never to a tokenizer's length.

    A tokenizer often has fewer tokens than the model has rows (lm-eval's issue 2748).
    """
    if rows and model.get_input_embeddings().weight.shape[0] != rows:
        model.resize_token_embeddings(rows, mean_resizing=False)


def quantiser(name: str | None, dtype: Any, device: str | None = None) -> dict[str, Any]:
    """Return the arguments with which ``from_pretrained`` quantises a model while it loads, to a device if one is given.

    There are ``nf4`` (https://arxiv.org/abs/2305.14314, both quantisations; its products are computed in `dtype`) and
    ``int8`` (https://arxiv.org/abs/2208.07339). By itself bitsandbytes takes the current GPU, also where the CPU was asked
    for.
    """
    if name is None:
        return {}
    quantisation.check_installed(name, "bitsandbytes")
    from transformers import BitsAndBytesConfig

    nf4 = {"bnb_4bit_quant_type": name, "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": dtype}
    config = BitsAndBytesConfig(load_in_8bit=True) if name == "int8" else BitsAndBytesConfig(load_in_4bit=True, **nf4)
    return {"quantization_config": config, **({"device_map": {"": device}} if device else {})}


def load_tokenizer(base: Checkpoint, remote_code: bool = False, adapter: Checkpoint | None = None) -> Any:
    """Load the tokenizer that an adapter brings, else a model's own, or one of `find_tokenizer`."""
    from transformers import AutoTokenizer

    source = adapter if adapter and brings_tokenizer(adapter) else base
    with one_line_errors(loading=f"The tokenizer of {source.name!r} does not load: "):
        return AutoTokenizer.from_pretrained(source.path, revision=source.revision, trust_remote_code=remote_code)


def find_tokenizer(text: str) -> Checkpoint:
    """Find a tokenizer that is used in place of a model's own, and pin its content.

    The user types a shipped model's name, a folder, or ``owner/name[@revision]``; the model's revision is not for it.
    """
    folder = SHIPPED.get(text) or as_path("Tokenizer", text)
    if folder.is_dir():
        return Checkpoint(folder.name, local_path(folder), files.hash_tokenizer(folder), {})
    name, _, revision = text.partition("@")
    try:
        hub.look_up("model", name, revision or "main")
        file = hub.fetch_file(name, revision or "main", "tokenizer_config.json")
    except UserError as error:
        raise UserError(f"The tokenizer {text!r} is no folder and does not come from the Hub: {error}") from None
    return Checkpoint(name, name, file.parent.name, {})
