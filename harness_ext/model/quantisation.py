"""What a quantised checkpoint, or quantising one while it loads, needs; said in one line and before torch is imported.

How it is then loaded stands in `loading`.
"""

import importlib.util
from typing import Any

from harness_ext.errors import UserError

ASKED = {"nf4": "4 bits", "int8": "8 bits", "none": "as stored"}  # what QUANT takes
# What gptqmodel reads, and in how many bits: https://arxiv.org/abs/2306.00978 and https://arxiv.org/abs/2210.17323.
BITS = {"awq": (4,), "gptq": (2, 3, 4, 8)}


def check_asked(name: str | None) -> None:
    """Check the value of QUANT; None where it is not given."""
    if name is not None and name not in ASKED:
        known = ", ".join(f"{kind} ({bits})" for kind, bits in ASKED.items())
        raise UserError(f"QUANT {name!r} is not one of {known}. A checkpoint stored in AWQ or GPTQ needs no QUANT.")


def check_possible(name: str, config: dict[str, Any], asked: str | None) -> None:
    """Check that a model of this name and ``config.json`` can be quantised to ``nf4`` or ``int8`` while it loads."""
    if asked is None:
        return
    if method := stored(config) or ("gguf" in config and "a GGUF file"):
        raise UserError(f"Model {name!r} is quantised already ({method}), so QUANT={asked} cannot apply. Leave it out.")
    check_installed(f"QUANT={asked}", "bitsandbytes")


def stored(config: dict[str, Any]) -> str | None:
    """Name how a checkpoint's weights are quantised on disk: ``awq``, ``gptq``, ``nf4``, ``int8``, or as its maker says."""
    if "gguf" in config:
        return config["gguf"]["quantisation"]
    fields = config.get("quantization_config")
    if not fields or not isinstance(fields, dict):  # `check_stored` says what is wrong with another
        return None
    if fields.get("load_in_4bit"):
        return str(fields.get("bnb_4bit_quant_type", "fp4"))
    return "int8" if fields.get("load_in_8bit") else str(fields.get("quant_method"))


def check_stored(what: str, config: dict[str, Any]) -> None:
    """Check that a checkpoint's quantisation, by its ``config.json``, is whole and known, and what reads it installed."""
    fields = config.get("quantization_config")
    if not fields:
        return
    if not isinstance(fields, dict):
        raise UserError(f"{what} has a quantization_config that is no object: {str(fields)[:60]!r}. Download it again.")
    method = str(stored(config))
    if method == "None":
        raise UserError(f"{what} has a quantization_config that does not say its quant_method. Download it again.")
    if method in BITS:
        # transformers would guess 4 bits and groups of 128, and read noise where that is wrong.
        if lacking := [field for field in ("bits", "group_size") if not isinstance(fields.get(field), int)]:
            told = f"a quantization_config without a whole number for {lacking[0]!r}"
            raise UserError(f"{what} has {told}. Download its config.json again.")
        if fields["bits"] not in BITS[method]:
            raise UserError(
                f"{what} is stored in {method} with {fields['bits']} bits; there are kernels for "
                f"{', '.join(map(str, BITS[method]))}. Choose another checkpoint of the model."
            )
        check_installed(f"{what} is stored in {method}, which", "gptqmodel", "optimum")
    elif fields.get("load_in_4bit") or fields.get("load_in_8bit"):
        check_installed(f"{what} is stored in {method}, which", "bitsandbytes")
    else:  # what transformers does not know it would leave out, and say so in its log alone
        from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

        if method not in AUTO_QUANTIZER_MAPPING:
            known = ", ".join((*BITS, "bitsandbytes"))
            raise UserError(f"{what} is quantised by {method!r}, which transformers does not know. Choose one in {known}.")


def check_installed(what: str, *packages: str) -> None:
    """Check that packages are there, and say with which command they are installed."""
    extra = {
        "gptqmodel": "make setup EXTRAS=awq",
        "optimum": "make setup EXTRAS=awq",
        "gguf": "make setup EXTRAS=gguf",
    }
    for package in packages:
        if importlib.util.find_spec(package) is None:
            command = extra.get(package, f".venv/bin/pip install -c constraints.txt {package}")
            raise UserError(f"{what} needs {package}, which is not installed: `{command}`.")
