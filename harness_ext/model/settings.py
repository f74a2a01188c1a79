"""How a model is run: device, dtype, chat template, thinking, batch size, which a person should not have to choose.

Each is chosen from what the machine, the checkpoint and the task say, is printed in one line with its reason, and gives way
to what the user sets.
"""

from dataclasses import dataclass
from typing import Any

from harness_ext.errors import UserError
from harness_ext.model.memory import stored_dtype
from harness_ext.model.quantisation import BITS, stored
from harness_ext.task.labels import CHANNELS, THINKING_TAGS, ends_open

DTYPES = ("auto", "float32", "float16", "bfloat16")
# Rows per batch where a backend does not choose them by memory and tokens: enough to fill the device's matrix units at
# 80-token prompts. A row that thinks keeps up to 32,768 tokens of cache.
BATCH = {"cpu": 32, "cuda": 64, "mps": 32}
BATCH_THINKING = 8
# What templates call the switch of their thinking: Qwen3 and most others; Granite and DeepSeek; Command A.
THINKING_SWITCHES = ("enable_thinking", "thinking", "reasoning")


@dataclass(frozen=True)
class Settings:
    """How a model is run on a task."""

    device: str  # torch's name: cpu, cuda:0
    dtype: str  # a name of `DTYPES`; auto means as the checkpoint is stored
    quantisation: str | None  # of the weights, on disk or while loading
    chat_template: bool  # whether prompts go through it
    template_args: dict[str, Any]  # its further arguments, the thinking switch among them
    thinking: bool  # whether the model is asked to think first
    thinking_end: str | None  # the tag that ends its thinking, if it thinks
    batch_size: int | str  # rows, or lm-eval's auto
    sampling: dict[str, Any]  # how a model that thinks draws its tokens; empty for the likeliest each time
    reasons: dict[str, str]  # why, by the name of the setting
    classes: dict[str, Any] | None = None  # which of a classifier's classes are 0 and 1 (`classes.Classes.record`)
    tokenizer: str | None = None  # whose it is, where it is not the base's

    def line(self) -> str:
        """Say all choices in one line."""
        thinking = (
            f"on, ends at {self.thinking_end}" if self.thinking else "not asked for" if "thinking" in self.reasons else "off"
        )
        said = {
            "device": self.device,
            "dtype": self.dtype,
            **({"quantisation": self.quantisation} if self.quantisation else {}),
            "chat template": "on" if self.chat_template else "off",
            "thinking": thinking,
            "batch": "by memory" if self.batch_size == "auto" else self.batch_size,
        }
        if self.tokenizer:
            said["tokenizer"] = self.tokenizer
        if self.classes:
            said["classes"] = f"0 {self.classes['0']}, 1 {self.classes['1']} ({self.classes['why']})"
        if self.sampling:
            said["sampling"] = ", ".join(f"{name} {value}" for name, value in self.sampling.items() if name != "do_sample")
        return " · ".join(
            f"{name} {value}" + (f" ({self.reasons[name]})" if name in self.reasons else "") for name, value in said.items()
        )


def choose(
    tokenizer: Any,
    config: dict[str, Any],
    *,
    thinking: bool,
    device: str | None = None,
    dtype: str | None = None,
    dtype_of_adapter: bool = False,
    chat_template: bool | None = None,
    template_args: dict[str, Any] | None = None,
    batch_size: str | None = None,
    batches_itself: bool = False,
    sampling: dict[str, Any] | None = None,
    quantise: str | None = None,
) -> Settings:
    """Choose what the user left open.

    Args:
        tokenizer: The model's tokenizer.
        config: The model's ``config.json``.
        thinking: The task asks for thinking.
        device: The user's choice, as for the others; None where there is none.
        dtype: A name of `DTYPES`.
        dtype_of_adapter: It is not the user's choice, but what the adapter was trained in.
        chat_template: Apply it or not.
        template_args: lm-eval's ``chat_template_args``.
        batch_size: A whole number, ``auto`` or ``auto:N``.
        batches_itself: The backend chooses its batches by memory, which is ``auto``.
        sampling: The model's own settings (`models.own_sampling`), which are used while it thinks.
        quantise: ``nf4`` or ``int8``, to be done while loading.

    Raises:
        UserError: A value is wrong, or the model cannot do what the task asks.
    """
    reasons: dict[str, str] = {}
    device = _device(device, reasons)
    dtype = _dtype(dtype, device, config, reasons)
    if dtype_of_adapter:
        reasons["dtype"] = "the adapter was trained in it"
    quantisation = quantise or stored(config)
    if quantisation:
        reasons["quantisation"] = "while loading" if quantise else "as stored"
    template = tokenizer.chat_template
    if chat_template is None:
        chat_template = bool(template)
        reasons["chat template"] = "the tokenizer has one" if template else "the tokenizer has none"
    elif chat_template and not template:
        raise UserError("A chat template is asked for, but the tokenizer has none. Leave --apply_chat_template out.")
    if not isinstance(template_args, dict | None):
        raise UserError(f"chat_template_args {template_args!r} are not of the form {{'name': value}}.")
    args = dict(template_args or {})
    if chat_template:
        thinking = _switch_thinking(tokenizer, args, thinking, reasons)
    sampling = dict(sampling or {}) if thinking else {}  # thinking greedily, such models repeat themselves without end
    if sampling:
        reasons["sampling"] = "the model's own"
    return Settings(
        device=device,
        dtype=dtype,
        quantisation=quantisation,
        chat_template=chat_template,
        template_args=args,
        thinking=thinking,
        thinking_end=_thinking_end(tokenizer, chat_template) if thinking else None,
        batch_size=_batch_size(batch_size, device, thinking, batches_itself),
        sampling=sampling,
        reasons=reasons,
    )


def _switch_thinking(tokenizer: Any, args: dict[str, Any], thinking: bool, reasons: dict[str, str]) -> bool:
    """Set the template's switches as the task asks, unless the user has, and say what else is particular about it.

    Returns:
        Whether the model will be asked to think.
    """
    from harness_ext.task.prompts import prompt_end, renders_differently, template_notes

    for name in THINKING_SWITCHES:
        works = renders_differently(tokenizer, {**args, name: True}, {**args, name: False})
        if works or (name == "enable_thinking" and name in str(tokenizer.chat_template)):
            args.setdefault(name, thinking)
            thinking = bool(args[name])
    if not thinking and ends_open(prompt_end(tokenizer, args)):
        reasons["thinking"] = "yet the chat template opens it, and has no switch"
    if notes := template_notes(tokenizer, args):
        reasons["chat template"] = ", ".join([*filter(None, [reasons.get("chat template")]), *notes])
    return thinking


def _device(device: str | None, reasons: dict[str, str]) -> str:
    import torch

    available = ["cpu"]
    if torch.cuda.is_available():
        available = ["cuda", *(f"cuda:{index}" for index in range(torch.cuda.device_count())), "cpu"]
    elif torch.backends.mps.is_available():
        available = ["mps", "cpu"]
    if device is None:
        reasons["device"] = "no GPU found" if available[0] == "cpu" else "found"
        return available[0]
    if device not in available:
        raise UserError(f"Device {device!r} is not there; this machine has {', '.join(available)}.")
    return device


def _dtype(dtype: str | None, device: str, config: dict[str, Any], reasons: dict[str, str]) -> str:
    """Keep the checkpoint's dtype where the device multiplies it in hardware; else float32.

    A bfloat16 product without hardware support is up to 100 times slower than a float32 one, and
    float16 on a CPU gains nothing. AWQ's and GPTQ's kernels compute in float16 on a GPU; on a CPU float32
    reads their weights without loss, where float16 took 27 times as long (docs/quantisation.md).
    """
    import torch

    method = stored(config)
    if dtype is not None:
        if dtype not in DTYPES:
            raise UserError(f"DTYPE {dtype!r} is not one of {', '.join(DTYPES)}.")
        if dtype == "bfloat16" and method == "awq" and device.startswith("cuda"):
            raise UserError("DTYPE=bfloat16: AWQ's kernels compute in float16 on this device. Leave DTYPE out.")
        return dtype
    if method in BITS:
        reasons["dtype"] = f"{method} on a {'CPU' if device == 'cpu' else 'GPU'}"
        return "float32" if device == "cpu" else "float16"
    kept = stored_dtype(config)
    reasons["dtype"] = f"stored as {kept}"
    if device == "cpu":
        has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return "bfloat16" if kept == "bfloat16" and has_bf16 else "float32"
    if device.startswith("cuda") and kept == "bfloat16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return "float16"
    return kept if kept in DTYPES else "auto"


def _thinking_end(tokenizer: Any, chat_template: bool) -> str:
    """Find the first pair of tags that the tokenizer's vocabulary or the template's text knows."""
    vocabulary = tokenizer.get_vocab()
    template = str(tokenizer.chat_template) if chat_template else ""
    for pair in (*THINKING_TAGS, CHANNELS):
        if any(tag in vocabulary or tag in template for tag in pair):
            return pair[1]
    raise UserError(
        "The task asks the model to think first, but neither its vocabulary nor its chat template knows a thinking tag. "
        "Choose the task without thinking (TASK=sst2_01)."
    )


def _batch_size(batch_size: str | None, device: str, thinking: bool, batches_itself: bool) -> int | str:
    if batch_size is None:
        if batches_itself:
            return "auto"
        return BATCH_THINKING if thinking else BATCH[device.split(":")[0]]
    if batch_size == "auto" or (batch_size.startswith("auto:") and batch_size[5:].isdecimal()):
        return batch_size
    if not batch_size.isdecimal() or int(batch_size) < 1:
        raise UserError(f"BATCH {batch_size!r} is neither a whole number above 0 nor 'auto'.")
    return int(batch_size)
