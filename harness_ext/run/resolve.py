"""From what was asked to what answers: preset, adapter, base and backend, found and checked to belong together.

Reads configs and the headers of weights; loads nothing.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness_ext.backend import server, vllm
from harness_ext.backend.subject import ANSWER, BASELINES, CHECKPOINT_BACKENDS, CLASSIFIER, PROBE, SERVED, VLLM, Subject
from harness_ext.errors import UserError, did_you_mean
from harness_ext.model import adapters, presets, quantisation
from harness_ext.model.checkpoints import (
    Checkpoint,
    inspect_model,
    is_classifier,
    is_generative,
    is_version,
    leftover,
    pinned,
)
from harness_ext.model.frozen import frozen
from harness_ext.model.loading import find_tokenizer
from harness_ext.model.memory import in_words
from harness_ext.run.checks import NOTE, PROBLEM, Checks
from harness_ext.run.spec import RunSpec


@dataclass
class Resolved:
    """What was found."""

    spec: RunSpec  # with what a preset knows filled in
    subject: Subject | None = None  # what answers; None where too little is there to say
    has_tokenizer: bool = True  # it can be looked at
    notes: list[str] = field(default_factory=list)  # what a run says before it begins


def resolve(spec: RunSpec, checks: Checks, fetch: bool = True) -> Resolved:
    """Find what answers, tell `checks` what was found, and go on after a problem as far as that makes sense.

    Raises:
        UserError: Nothing can be said about it: a value is wrong in itself, or there is no such model.
    """
    backend = spec.model or ANSWER
    _check_flags(spec, backend)
    spec, note = with_preset(spec)
    found = Resolved(spec, notes=[note] if note else [])
    named = {"pretrained": spec.pretrained, "peft": spec.adapter}
    args = spec.model_args | {name: value for name, value in named.items() if value is not None}
    if backend not in CHECKPOINT_BACKENDS:
        _check_backend(backend)
        found.subject = _without_checkpoint(spec, backend, args)
        return found
    adapter = _find_adapter(args, spec, checks)
    base = _find_base(found, args, adapter, checks, fetch)
    if base is None or not base.config:
        return found
    _check_architecture(base, adapter, args, checks, may_be_encoder=backend == PROBE)
    found.subject = _with_checkpoint(spec, backend, args, base, adapter, checks)
    return found


def _check_flags(spec: RunSpec, backend: str) -> None:
    quantisation.check_asked(spec.quantise)
    fitted = backend in (PROBE, *BASELINES)
    if spec.train_samples is not None and not fitted and spec.calibrate != "labels":
        raise UserError(
            f"SAMPLES is for what is fitted on labels (BACKEND={', '.join((PROBE, *BASELINES))}, or CALIBRATE=labels); "
            "examples in the prompt are SHOTS=, and a model is fine-tuned with `make finetune`."
        )
    if spec.shots and (fitted or backend == CLASSIFIER):
        raise UserError(f"SHOTS puts examples into a prompt, and BACKEND={backend} takes none: leave it out.")
    if (spec.shots or spec.calibrate == "labels") and (spec.adapter or spec.model_args.get("peft")):
        what = f"SHOTS={spec.shots}" if spec.shots else "CALIBRATE=labels"
        raise UserError(f"{what} uses labels, and an adapter has been trained on its own: leave one of them out.")
    if spec.rows and not (spec.train_samples or spec.shots or spec.calibrate or fitted):
        raise UserError("ROWS says which train rows are drawn, and nothing is: add SAMPLES=, SHOTS= or CALIBRATE=.")
    if backend == PROBE:
        _check_probe(spec)
    if spec.procs > 1 and (backend not in CHECKPOINT_BACKENDS or backend == PROBE):
        raise UserError(f"PROCS is for models that are prompted here; BACKEND={backend} runs in one: leave it out.")
    if spec.base_url is not None and backend not in SERVED:
        asks = " or ".join(SERVED)
        raise UserError(f"BASE_URL is for BACKEND={asks}; {backend} asks no server. Leave it out, or set BACKEND=.")


def _check_probe(spec: RunSpec) -> None:
    if spec.adapter or spec.model_args.get("peft"):
        raise UserError(f"ADAPTER is not for BACKEND={PROBE}, which reads a model as it is: leave one of them out.")
    if spec.calibrate:
        raise UserError(f"CALIBRATE moves the boundary of a forced choice; BACKEND={PROBE} fits its own: leave it out.")
    if spec.num_fewshot:
        raise UserError(
            f"--num_fewshot is not for BACKEND={PROBE}, which learns from labels: give their number with SAMPLES=."
        )


def _check_backend(name: str) -> None:
    import lm_eval.models  # noqa: F401  registers lm-eval's backends, without importing any
    from lm_eval.api.registry import model_registry

    known = {*model_registry.keys(), *CHECKPOINT_BACKENDS, *BASELINES}
    if name not in known:
        near = did_you_mean(name, known, most=3) or " Did you mean hf or vllm or local-completions?"
        raise UserError(f"BACKEND {name!r} is unknown.{near}")


def _without_checkpoint(spec: RunSpec, backend: str, args: dict[str, Any]) -> Subject:
    if backend in SERVED:
        local = {"ADAPTER": args.get("peft"), "DTYPE": spec.dtype, "DEVICE": spec.device}
        args = server.arguments(backend, args, base_url=spec.base_url, batch=spec.batch_size, local=local)
        if spec.apply_chat_template is not None:
            server.check_template(backend, str(spec.apply_chat_template).lower() == "true")
    quantise = None if spec.quantise == "none" else spec.quantise
    _check_for_answer(spec, quantise, backend)
    return Subject(backend, args, quantise=quantise, allow_pickle=spec.allow_pickle)


def with_preset(spec: RunSpec) -> tuple[RunSpec, str | None]:
    """Fill in what a preset knows of the model and the user left open.

    On top of an adapter only the name is filled in: an adapter brings its own quantisation and task.

    Returns:
        The request, and what is to be said of it; None where the model has no preset.
    """
    backend, args = spec.model or ANSWER, spec.model_args
    named = spec.pretrained if spec.pretrained is not None else args.get("pretrained", "")
    if backend not in CHECKPOINT_BACKENDS or not (preset := presets.find(str(named))):
        return spec, None
    spec, said = replace(spec, pretrained=preset.model), []
    if preset.revision and "revision" not in args:
        spec = replace(spec, model_args={**args, "revision": preset.revision})
        said.append(f"revision {preset.revision}")
    if not (spec.adapter or args.get("peft")):
        if preset.quantise and spec.quantise is None and backend == ANSWER:
            spec = replace(spec, quantise=preset.quantise)
            said.append(f"quantised to {preset.quantise}")
        if spec.tasks is None and not spec.data:
            spec = replace(spec, tasks=(preset.task,))
            said.append(f"task {preset.task}")
        if preset.batch and spec.tasks == (preset.task,) and spec.batch_size is None:
            spec = replace(spec, batch_size=str(preset.batch))
            said.append(f"batch {preset.batch}")
    return spec, f"Preset {preset.name}: {' · '.join([preset.model, *said])}"


def _find_adapter(args: dict[str, Any], spec: RunSpec, checks: Checks) -> Checkpoint | None:
    if not args.get("peft"):
        return None
    with checks.problem("adapter"):
        adapter = adapters.find_adapter(str(args["peft"]), allow_pickle=spec.allow_pickle)
        checks.say("adapter", f"{adapter.name!r}, {adapters.describe(adapter)}")
        return adapter
    return None


def _find_base(
    found: Resolved, args: dict[str, Any], adapter: Checkpoint | None, checks: Checks, fetch: bool
) -> Checkpoint | None:
    """Find the base that the user names, else the adapter."""
    named_by_adapter = adapter is not None and not args.get("pretrained")
    named = adapter.config.get("base_model_name_or_path") or "" if adapter and named_by_adapter else args.get("pretrained")
    if named is None and args.get("peft"):
        return None  # the adapter would name it, and is broken
    try:
        name, revision = "tiny" if named is None else str(named), str(args.get("revision", "main"))
        seen = inspect_model(name, revision, allow_pickle=found.spec.allow_pickle, fetch=fetch)
    except UserError as error:
        if adapter is None:
            raise
        more = " The adapter's own config names that base: give another place of it with MODEL=." if named_by_adapter else ""
        checks.say("model", f"{error}{more}", PROBLEM)
        return None
    base = seen.checkpoint
    checks.say("model", f"{base.name!r}, {_place(base)}")
    for part, said in seen.problems.items():
        checks.say(part, said, PROBLEM)
    if "weights" not in seen.problems:
        count = len(base.weights)
        checks.say("weights", f"{count} file{'s'[: count > 1]}, {in_words(sum(base.weights.values()))}")
    if note := leftover(base):
        checks.say("leftover", note, NOTE)
        found.notes.append(f"Note: {note}")
    found.has_tokenizer = seen.problems.keys().isdisjoint({"files", "tokenizer"})
    return base


def _place(base: Checkpoint) -> str:
    if base.file:
        return f"GGUF file {base.file}"
    return f"on the Hub at {base.version}" if base.version else f"folder {base.path}"


def _check_architecture(
    base: Checkpoint, adapter: Checkpoint | None, args: dict[str, Any], checks: Checks, may_be_encoder: bool
) -> None:
    """Check that transformers knows the architecture, that base and adapter fit, and that they can answer the task."""
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    kind, remote_code = str(base.config.get("model_type")), bool(args.get("trust_remote_code"))
    with checks.problem("architecture"):
        if kind not in CONFIG_MAPPING_NAMES and not remote_code:
            brought = "accept the code that it brings (ARGS=--trust_remote_code), or " if "auto_map" in base.config else ""
            library = f"transformers {transformers.__version__}"
            raise UserError(f"Model {base.name!r}: {library} does not know {kind!r}: {brought}take a newer transformers.")
        _check_belong(base, adapter)
        if not (is_classifier(base, adapter) or is_generative(base) or remote_code or may_be_encoder):
            called = (base.config.get("architectures") or [kind])[0]
            raise UserError(
                f"Model {base.name!r} is a {called}, which cannot generate text; the 0/1 task needs a generative model such "
                "as Qwen/Qwen2.5-0.5B, a classifier, an adapter that makes it one (make finetune), or BACKEND=probe."
            )
        writes = "writes its answer" if is_generative(base) else "an encoder"
        checks.say("architecture", f"{kind}, {'names a class' if is_classifier(base, adapter) else writes}")


def _check_belong(base: Checkpoint, adapter: Checkpoint | None) -> None:
    """Check that an adapter was trained on this base; only local folders are told apart by a hash."""
    made_for = str(adapter.manifest.get("base_version", "")) if adapter else ""
    if adapter is None or not made_for.startswith("sha256:") or not Path(base.path).is_dir():
        return
    base = pinned(base)
    if not is_version(base, made_for):
        raise UserError(
            f"Adapter {adapter.name!r} was trained on another base ({adapter.manifest.get('base')}, {made_for}) than "
            f"{base.name!r} ({base.version}). Give that one with MODEL=."
        )


def _with_checkpoint(
    spec: RunSpec, backend: str, args: dict[str, Any], base: Checkpoint, adapter: Checkpoint | None, checks: Checks
) -> Subject:
    """Decide the backend and the quantisation, and check that they are for a model of this kind."""
    classifies = is_classifier(base, adapter)
    if backend == VLLM:
        vllm.check(base, adapter)
    if spec.model is None and classifies:
        backend = CLASSIFIER
    if classifies and backend not in (CLASSIFIER, PROBE):
        raise UserError(f"Model {base.name!r} names a class and cannot be prompted: leave BACKEND={backend} out.")
    if not classifies and backend == CLASSIFIER and not args.get("trust_remote_code"):
        raise UserError(f"Model {base.name!r} is no classifier: leave BACKEND={backend} out, or give it an ADAPTER=.")
    if classifies and spec.shots:
        raise UserError(f"SHOTS puts examples into a prompt; the classifier {base.name!r} reads the sentence alone.")
    quantise = _quantise(spec, base, adapter, checks)
    _check_for_answer(spec, quantise, backend)
    if spec.engine is not None:
        args = {**args, "engine": spec.engine}
    other = find_tokenizer(str(args["tokenizer"])) if args.get("tokenizer") else None
    read = None
    if backend == PROBE:
        read = frozen(base)
        checks.say("probe", f"reads {read.line()}")
    return Subject(backend, args, base, adapter, other, quantise, spec.allow_pickle, read)


def _quantise(spec: RunSpec, base: Checkpoint, adapter: Checkpoint | None, checks: Checks) -> str | None:
    """Quantise as asked for, else as the adapter's base was in training; where that cannot be, go on without."""
    trained = (adapter.manifest.get("recipe_settings") or adapter.manifest.get("settings") or {}) if adapter else {}
    asked = spec.quantise or trained.get("quantise")
    asked = None if asked == "none" else asked
    with checks.problem("quantisation"):
        quantisation.check_possible(base.name, base.config, asked)
        if not checks.has("quantisation"):
            stored = quantisation.stored(base.config)
            is_known = base.file or stored in (None, "fp4", *quantisation.ASKED, *quantisation.BITS)
            more = "" if is_known else "; whether transformers can read that here is not examined"
            checks.say("quantisation", f"{asked or stored or 'none'}{more}", "ok" if is_known else NOTE)
        return asked
    return None


def _check_for_answer(spec: RunSpec, quantise: str | None, backend: str) -> None:
    """Check what only our own backend for prompted models can do."""
    if backend == ANSWER:
        return
    if spec.engine is not None:
        raise UserError(f"ENGINE is for the backend {ANSWER}; {backend} has one way only.")
    if quantise:
        raise UserError(
            f"QUANT={quantise} is for a prompted model that BACKEND={ANSWER} loads; {backend} does "
            "not quantise. Leave it out, or say QUANT=none."
        )
