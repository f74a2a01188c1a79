"""How a model is run: device, dtype, chat template, thinking, batch size, which a person should not have to choose.

Each is chosen from what the machine, the checkpoint and the task say, is printed in one line with its reason, and gives way
to what the user sets.
"""

from dataclasses import dataclass
from typing import Any

from harness_ext.errors import UserError
from harness_ext.model.memory import stored_dtype
from harness_ext.model.quantisation import BITS, stored
from harness_ext.task import prompts
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
        """Say all settings in one line."""
        off = "not asked for" if "thinking" in self.reasons else "off"  # it is a reason only where the template opens it
        said = {
            "device": self.device,
            "dtype": self.dtype,
            "quantisation": self.quantisation,
            "chat template": "on" if self.chat_template else "off",
            "thinking": f"on, ends at {self.thinking_end}" if self.thinking else off,
            "batch": "by memory" if self.batch_size == "auto" else self.batch_size,
            "tokenizer": self.tokenizer,
            "classes": self.classes and f"0 {self.classes['0']}, 1 {self.classes['1']} ({self.classes['why']})",
            "sampling": ", ".join(f"{name} {value}" for name, value in self.sampling.items() if name != "do_sample"),
        }
        whys = {name: f" ({why})" for name, why in self.reasons.items()}
        return " · ".join(f"{name} {value}{whys.get(name, '')}" for name, value in said.items() if value)


def choose(
    tokenizer: Any,
    config: dict[str, Any],  # the model's config.json
    *,
    thinking: bool,  # the task asks for it
    device: str | None = None,  # the user's choice, as for the others; None where there is none
    dtype: str | None = None,  # of `DTYPES`
    dtype_of_adapter: bool = False,  # it is not the user's choice, but what the adapter was trained in
    chat_template: bool | None = None,  # apply it or not
    template_args: dict[str, Any] | None = None,  # lm-eval's chat_template_args
    batch_size: str | None = None,  # a whole number, auto or auto:N
    batches_itself: bool = False,  # the backend chooses its batches by memory, which is auto
    sampling: dict[str, Any] | None = None,  # the model's own settings, which are used while it thinks
    quantise: str | None = None,  # nf4 or int8, to be done while loading
) -> Settings:
    """Choose what the user left open, or say what is wrong with a value or what the model cannot do of the task."""
    device, why_device = _device(device)
    dtype, why_dtype = _dtype(dtype, device, config)
    chat_template, why_template = _chat_template(tokenizer, chat_template)
    quantisation, why_thinking = quantise or stored(config), None
    if not isinstance(template_args, dict | None):
        raise UserError(f"chat_template_args {template_args!r} are not of the form {{'name': value}}.")
    args = dict(template_args or {})
    if chat_template:
        args, thinking = _switch_thinking(tokenizer, args, thinking)
        why_template = ", ".join(filter(None, [why_template, *prompts.template_notes(tokenizer, args)]))
        if not thinking and ends_open(prompts.render_question(tokenizer, args)):
            why_thinking = "yet the chat template opens it, and has no switch"
    sampling = dict(sampling or {}) if thinking else {}  # thinking greedily, such models repeat themselves without end
    reasons = {
        "device": why_device,
        "dtype": "the adapter was trained in it" if dtype_of_adapter else why_dtype,
        "quantisation": "while loading" if quantise else _as_stored(config, dtype) if quantisation else None,
        "chat template": why_template,
        "thinking": why_thinking,
        "sampling": "the model's own" if sampling else None,
    }
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
        reasons={name: why for name, why in reasons.items() if why},
    )


def _switch_thinking(tokenizer: Any, args: dict[str, Any], thinking: bool) -> tuple[dict[str, Any], bool]:
    """Set the template's switches as the task asks, unless the user has; return its arguments, and whether it will think."""
    for name in THINKING_SWITCHES:
        on, off = (prompts.render_question(tokenizer, {**args, name: value}) for value in (True, False))
        if (on and off and on != off) or (name == "enable_thinking" and name in str(tokenizer.chat_template)):
            args = {**args, name: args.get(name, thinking)}
            thinking = bool(args[name])
    return args, thinking


def _device(asked: str | None) -> tuple[str, str | None]:
    """Find the device, and say why it is this one where nobody asked for it."""
    import torch

    available = ["cpu"]
    if torch.cuda.is_available():
        available = ["cuda", *(f"cuda:{index}" for index in range(torch.cuda.device_count())), "cpu"]
    elif torch.backends.mps.is_available():
        available = ["mps", "cpu"]
    if asked is None:
        return available[0], "no GPU found" if available[0] == "cpu" else "found"
    if asked not in available:
        raise UserError(f"Device {asked!r} is not there; this machine has {', '.join(available)}.")
    return asked, None


def _dtype(asked: str | None, device: str, config: dict[str, Any]) -> tuple[str, str | None]:
    """Keep the checkpoint's dtype where the device multiplies it in hardware, else float32; and say why.

    A bfloat16 product without hardware support is up to 100 times slower than a float32 one, and
    float16 on a CPU gains nothing. AWQ's and GPTQ's kernels compute in float16 on a GPU; on a CPU float32
    reads their weights without loss, where float16 took 27 times as long (docs/quantisation.md).
    """
    import torch

    method = stored(config)
    if asked is not None:
        if asked not in DTYPES:
            raise UserError(f"DTYPE {asked!r} is not one of {', '.join(DTYPES)}.")
        if asked == "auto" and "gguf" in config:
            raise UserError("DTYPE=auto: a GGUF file is unpacked to a dtype. Name it, or leave DTYPE out.")
        if asked == "bfloat16" and method == "awq" and device.startswith("cuda"):
            raise UserError("DTYPE=bfloat16: AWQ's kernels compute in float16 on this device. Leave DTYPE out.")
        return asked, None
    if method in BITS:
        return ("float32", f"{method} on a CPU") if device == "cpu" else ("float16", f"{method} on a GPU")
    kept = stored_dtype(config)
    dtype = kept if kept in DTYPES else "auto"
    if device == "cpu":
        has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        dtype = "bfloat16" if kept == "bfloat16" and has_bf16 else "float32"
    elif device.startswith("cuda") and kept == "bfloat16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        dtype = "float16"
    return dtype, "unpacked to it" if method and "gguf" in config else f"stored as {kept}"


def _as_stored(config: dict[str, Any], dtype: str) -> str:
    return f"a GGUF file, unpacked to {dtype}" if "gguf" in config else "as stored"


def _chat_template(tokenizer: Any, asked: bool | None) -> tuple[bool, str | None]:
    """Decide whether prompts go through the tokenizer's chat template."""
    if asked is None:
        return (True, "the tokenizer has one") if tokenizer.chat_template else (False, "the tokenizer has none")
    if asked and not tokenizer.chat_template:
        raise UserError("A chat template is asked for, but the tokenizer has none. Leave --apply_chat_template out.")
    return asked, None


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
