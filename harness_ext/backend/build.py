"""From a subject to the model that answers it: lm-eval's LM, with the arguments that each backend wants."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from harness_ext.backend.subject import HF, VLLM, Subject
from harness_ext.model import adapters, memory
from harness_ext.model.loading import NO_ADAPTER, load_tokenizer, quieten_libraries
from harness_ext.model.settings import Settings


@dataclass(frozen=True)
class Load:
    """What a model is loaded for, beside what it is.

    Attributes:
        batch_size: lm-eval's, where there are no settings.
        device: Likewise.
        max_batch_size: Rows at the most, where lm-eval looks for a batch size by itself.
        train_rows: What a baseline is fitted on.
        tokens: What vLLM is started for: the longest prompt and its answer.
    """

    batch_size: str | int = 1
    device: str | None = None
    max_batch_size: int | None = None
    train_rows: Sequence[dict[str, Any]] = ()
    tokens: int = 0


def create_model(subject: Subject, settings: Settings | None, load: Load) -> Any:
    """Build lm-eval's LM.

    Args:
        subject: What is asked.
        settings: How it is run; None where the backend loads no checkpoint.
        load: What for.

    Raises:
        UserError: Its weights are larger than the memory.
    """
    quieten_libraries()
    import lm_eval.models  # noqa: F401  registers lm-eval's own
    from lm_eval.api.registry import get_model

    import harness_ext.backend  # noqa: F401  registers ours

    if subject.is_served:
        from harness_ext.backend.client import MODELS

        return MODELS[subject.backend](**subject.args)
    args = dict(subject.args)
    more = {"batch_size": load.batch_size, "max_batch_size": load.max_batch_size, "device": load.device}
    if subject.is_baseline:
        args["rows"] = load.train_rows
    elif settings and subject.backend == VLLM:
        return get_model(VLLM)(**_vllm_args(subject, settings, load.tokens))
    elif settings and subject.base:
        args = _checkpoint_args(subject, settings)
        more |= {"batch_size": settings.batch_size, "device": settings.device}
        memory.check_fits(subject.base, args | more)
    return get_model(subject.backend).create_from_arg_obj(args, more)


def adjust(
    lm: Any, settings: Settings, settled: Callable[[str], bool] | None, choices: list[str], answers: Sequence[str] = ()
) -> None:
    """Run a loaded model as the next task wants it.

    Args:
        lm: The model.
        settings: Of the task.
        settled: Tells of the beginning of a response whether all filters have read enough; None: never.
        choices: Continuations that a later forced choice will ask for after this task's prompts.
        answers: What the margin is taken between: the two answers as they follow a prompt.
    """
    lm.chat_template_args = settings.template_args
    if str(settings.batch_size).isdecimal():  # `auto` is the same for all tasks, and each model's own affair
        lm.batch_size_per_gpu = int(settings.batch_size)
    if hasattr(lm, "prepare"):
        lm.prepare(settled, choices, answers)


def _checkpoint_args(subject: Subject, settings: Settings) -> dict[str, Any]:
    base, args = subject.base, dict(subject.args)
    assert base is not None
    args.pop("enable_thinking", None)  # goes by chat_template_args, so that lm-eval leaves the thinking in the log
    args |= {"pretrained": base.path, "revision": base.revision, "dtype": settings.dtype}
    if subject.tokenizer:  # lm-eval would ask for it at the base's commit
        args["tokenizer"] = load_tokenizer(subject.tokenizer, remote_code=subject.remote_code)
    elif adapters.brings_tokenizer(subject.adapter):
        args["tokenizer"] = load_tokenizer(base, remote_code=subject.remote_code, adapter=subject.adapter)
    if subject.is_classifier:
        args.pop("positive", None)
        args["classes"] = settings.classes
        args["head"] = list(adapters.whole_tensors(subject.adapter)) if subject.adapter else None
    else:
        args["chat_template_args"] = settings.template_args
    if base.holds_adapter and subject.backend == HF:  # ours never put it on
        args |= NO_ADAPTER
    if not subject.allow_pickle:
        args["use_safetensors"] = True
    if subject.adapter:
        args["peft"] = subject.adapter.path
    if subject.quantise:
        args["quantise"] = subject.quantise
    return args


def _vllm_args(subject: Subject, settings: Settings, tokens: int) -> dict[str, Any]:
    from harness_ext.backend import vllm

    ours = {"pretrained", "peft", "revision", "dtype", "chat_template_args", "enable_thinking"}
    args = {name: value for name, value in subject.args.items() if name not in ours}
    if subject.tokenizer:
        args |= {"tokenizer": subject.tokenizer.path, "tokenizer_revision": subject.tokenizer.revision}
    elif subject.adapter and adapters.brings_tokenizer(subject.adapter):
        args["tokenizer"] = subject.adapter.path
    assert subject.base is not None
    return vllm.model_args(subject.base, subject.adapter, settings, tokens) | args
