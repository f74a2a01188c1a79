"""From a request to the model that answers it: lm-eval's LM, with the arguments that each backend wants."""

from collections.abc import Callable, Sequence
from typing import Any

from harness_ext.backend import vllm
from harness_ext.model import adapters, memory
from harness_ext.model.loading import NO_ADAPTER, find_tokenizer, load_tokenizer, quieten_libraries
from harness_ext.model.settings import Settings
from harness_ext.run.spec import Request


def create_model(
    request: Request, settings: Settings | None, train_rows: Sequence[dict[str, Any]] = (), tokens: int = 0
) -> Any:
    """Build lm-eval's LM.

    Args:
        request: Names it.
        settings: How it is run; None where the backend loads no checkpoint.
        train_rows: What a baseline is fitted on.
        tokens: What vLLM is started for: a prompt and its answer.

    Raises:
        UserError: Its weights are larger than the memory.
    """
    quieten_libraries()
    import lm_eval.models  # noqa: F401  registers lm-eval's own
    from lm_eval.api.registry import get_model

    import harness_ext.backend  # noqa: F401  registers ours

    config = request.config
    args = dict(config.model_args)
    if request.is_served:
        from harness_ext.backend.client import MODELS

        return MODELS[config.model](**args)
    if request.is_baseline:
        args["rows"] = train_rows
    more = {"batch_size": config.batch_size, "max_batch_size": config.max_batch_size, "device": config.device}
    if request.base and settings and config.model == vllm.VLLM:
        ours = {"pretrained", "peft", "revision", "dtype", "chat_template_args", "enable_thinking"}
        theirs = {name: value for name, value in args.items() if name not in ours}
        if args.get("tokenizer"):
            other = find_tokenizer(str(args["tokenizer"]))
            theirs |= {"tokenizer": other.path, "tokenizer_revision": other.revision}
        elif request.adapter and adapters.brings_tokenizer(request.adapter):
            theirs["tokenizer"] = request.adapter.path
        return get_model(config.model)(**(vllm.model_args(request.base, request.adapter, settings, tokens) | theirs))
    if request.base and settings:
        args.pop("enable_thinking", None)  # goes by chat_template_args, so that lm-eval leaves the thinking in the log
        args |= {"pretrained": request.base.path, "revision": request.base.revision, "dtype": settings.dtype}
        if tokenizer := _other_tokenizer(request):  # lm-eval would ask for it at the base's commit
            args["tokenizer"] = tokenizer
        if request.is_classifier:
            args.pop("positive", None)
            args["classes"] = settings.classes
            args["head"] = list(adapters.whole_tensors(request.adapter)) if request.adapter else None
        else:
            args["chat_template_args"] = settings.template_args
        if request.base.holds_adapter and config.model == "hf":  # ours never put it on
            args |= NO_ADAPTER
        if not request.own["allow_pickle"]:
            args["use_safetensors"] = True
        if request.adapter:
            args["peft"] = request.adapter.path
        if request.quantise:
            args["quantise"] = request.quantise
        more |= {"batch_size": settings.batch_size, "device": settings.device}
        memory.check_fits(request.base, args | more)
    return get_model(config.model).create_from_arg_obj(args, more)


def _other_tokenizer(request: Request) -> Any:
    """Load the tokenizer that is used in place of the base's own; None if there is none."""
    named, remote_code = request.config.model_args.get("tokenizer"), bool(request.config.model_args.get("trust_remote_code"))
    if named:
        return load_tokenizer(find_tokenizer(str(named)), remote_code=remote_code)
    if request.base and adapters.brings_tokenizer(request.adapter):
        return load_tokenizer(request.base, remote_code=remote_code, adapter=request.adapter)
    return None


def adjust(lm: Any, settings: Settings, settled: Callable[[str], bool] | None, continuations: list[str]) -> None:
    """Run a loaded model as the next task wants it; see `run.Session`."""
    lm.chat_template_args = settings.template_args
    if str(settings.batch_size).isdecimal():  # `auto` is the same for all tasks, and each model's own affair
        lm.batch_size_per_gpu = int(settings.batch_size)
    if hasattr(lm, "prepare"):
        lm.prepare(settled, continuations)
