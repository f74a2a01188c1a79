"""From a subject to the model that answers it: lm-eval's LM, with the arguments that each backend wants."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from harness_ext.backend.subject import HF, VLLM, Subject
from harness_ext.model import adapters, gguf, memory, pooling
from harness_ext.model.checkpoints import pinned
from harness_ext.model.loading import NO_ADAPTER, load_tokenizer, quieten_libraries
from harness_ext.model.settings import Settings


@dataclass(frozen=True)
class Load:
    """What a model is loaded for, beside what it is."""

    batch_size: str | int = 1  # lm-eval's, where there are no settings
    device: str | None = None  # likewise
    max_batch_size: int | None = None  # rows at the most, where lm-eval looks for a batch size by itself
    train_rows: Sequence[dict[str, Any]] = ()  # what a baseline is fitted on
    tokens: int = 0  # what vLLM is started for: the longest prompt and its answer


def create_model(subject: Subject, settings: Settings | None, load: Load) -> Any:
    """Build lm-eval's LM; there are no settings where the backend loads no checkpoint.

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
        from harness_ext.backend import vllm

        return get_model(VLLM)(**vllm.model_args(subject, settings, load.tokens))
    elif settings and subject.base:
        args = _checkpoint_args(subject, settings)
        more |= {"batch_size": settings.batch_size, "device": settings.device}
        memory.check_fits(subject.base, args | more)
    return get_model(subject.backend).create_from_arg_obj(args, more)


def adjust(
    lm: Any,
    settings: Settings | None,
    settled: Callable[[str], bool] | None,
    choices: list[str],
    answers: Sequence[str],
    seed: int,
) -> None:
    """Run a loaded model as the next task wants it; what it is told of the answers is said at `answer.AnswerLM.prepare`."""
    if settings:
        lm.chat_template_args = settings.template_args
        if str(settings.batch_size).isdecimal():  # `auto` is the same for all tasks, and each model's own affair
            lm.batch_size_per_gpu = int(settings.batch_size)
    if hasattr(lm, "prepare"):
        lm.prepare(settled, choices, answers, seed)


def _checkpoint_args(subject: Subject, settings: Settings) -> dict[str, Any]:
    base, args = subject.base, dict(subject.args)
    assert base is not None
    args.pop("enable_thinking", None)  # goes by chat_template_args, so that lm-eval leaves the thinking in the log
    args |= {"pretrained": base.path, "revision": base.revision, "dtype": settings.dtype}
    if subject.tokenizer:  # lm-eval would ask for it at the base's commit
        args["tokenizer"] = load_tokenizer(subject.tokenizer, remote_code=subject.remote_code)
    elif adapters.brings_tokenizer(subject.adapter):
        args["tokenizer"] = load_tokenizer(base, remote_code=subject.remote_code, adapter=subject.adapter)
    if subject.frozen:
        tokenizer = args.get("tokenizer") or load_tokenizer(base, remote_code=subject.remote_code)
        version = f"{pinned(base).version} {subject.tokenizer.version if subject.tokenizer else ''}"
        args |= {"frozen": subject.frozen, "name": base.name, "version": version, "tokenizer": tokenizer}
        args.pop("chat_template_args", None)  # the prompts that it is given have been rendered
    elif subject.is_classifier:
        args.pop("positive", None)
        args["classes"] = settings.classes
        args["head"] = list(adapters.whole_tensors(subject.adapter)) if subject.adapter else None
        pooled = pooling.of_adapter(subject.adapter)
        args["pooling"] = pooled.mode if pooled else None
    else:
        args["chat_template_args"] = settings.template_args
    if base.file and subject.backend == HF:  # ours see the link by themselves
        args["gguf_file"] = gguf.LINK
        args.setdefault("tokenizer", load_tokenizer(base))
    if base.holds_adapter and subject.backend == HF:  # ours never put it on
        args |= NO_ADAPTER
    if not subject.allow_pickle:
        args["use_safetensors"] = True
    if subject.adapter:
        args["peft"] = subject.adapter.path
    if subject.quantise:
        args["quantise"] = subject.quantise
    return args
