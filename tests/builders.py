"""Small models and data sets, written at test time in the Hub's layout; nothing is downloaded, nothing is shipped.

The weights are random, the files are real: ``save_pretrained`` writes them, so a test that loads one of these
folders goes through the loading code of a real checkpoint. Hidden size 32, two layers, some 340 tokens: a model
is written in 70 ms, once a process, and copied wherever the same is asked for again.
"""

import functools
import io
import itertools
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

LINES = (
    "Does this sentence from a movie review express a positive or a negative opinion?",
    "Answer with 1 for positive or 0 for negative, and nothing else.",
    "Sentence: the film is a good one, and the plot is bad.\nAnswer: 0",
    "Sentence: not since i was a boy has a film given me such pleasure .\nAnswer: 1",
    "2 3 4 5 6 7 8 9 0 1",
)
SENTENCES = (
    ("a gripping film from start to end", 1),
    ("the plot is a mess", 0),
    ("funny and warm", 1),
    ("i wanted to leave after ten minutes", 0),
    ("the best acting of the year", 1),
    ("dull , loud and far too long", 0),
    ("a small wonder", 1),
    ("nothing in it works", 0),
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKING_TEMPLATE = CHAT_TEMPLATE.replace(
    "assistant\n{% endif %}", "assistant\n{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
PROBE = "Answer: 0 1 12 the naïve café 😀\n\n x  y"  # digits, non-ASCII, runs of white space

# By architecture: the class to build and its config's own names for the common sizes.
_SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
_GROUPED = {**_SIZES, "num_key_value_heads": 1, "head_dim": 16}
_MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", {**_SIZES, "num_key_value_heads": 1}),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", _GROUPED),
    "llama": ("LlamaConfig", "LlamaForCausalLM", _GROUPED),
    "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM", {**_GROUPED, "query_pre_attn_scalar": 16, "sliding_window": 64}),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", {"n_embd": 32, "n_layer": 2, "n_head": 2}),
    "bert": ("BertConfig", "BertFor", _SIZES),
    "deberta-v2": ("DebertaV2Config", "DebertaV2For", _SIZES),
}
ENCODERS = ("bert", "deberta-v2")


def build_tokenizer(
    architecture: str = "qwen2", *, chat_template: str | None = None, bos: bool = False, lines: Iterable[str] = LINES
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE of some 340 tokens.

    Args:
        architecture: With ``"qwen2"`` transformers 5.23 builds a `Qwen2Tokenizer` whatever the saved files say, so text
            is split as that one does (each digit alone, the blank before it apart); elsewhere as GPT-2 does.
        chat_template: Jinja text.
        bos: Put ``<s>`` before every text.
        lines: What to train on.

    Returns:
        A tokenizer with end and padding tokens, ``<|im_start|>`` and ``<|im_end|>`` for templates, and the answers
        ``" 0"`` and ``" 1"`` as single tokens, which a model can write even where text is not split that way.
    """
    split: Any = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if architecture == "qwen2":
        words = pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated", invert=False)
        split = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    special = ["<|endoftext|>", "<s>", "<pad>", "<|im_start|>", "<|im_end|>"]
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = split
    trained.train_from_iterator(
        lines,
        trainers.BpeTrainer(
            vocab_size=330,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = _with_answers(trained)
    tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder = normalizers.NFC(), split, decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    names = {"unk_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, chat_template=chat_template, **names, **({"bos_token": "<s>"} if bos else {})
    )


def _written_once(write: Callable[..., Path]) -> Callable[..., Path]:
    """Let the first call with some arguments write, and each later one copy what that wrote."""
    kept = tempfile.TemporaryDirectory(prefix="models-")
    written: dict[str, Path] = {}

    @functools.wraps(write)
    def write_or_copy(folder: str | Path, *args: Any, **options: Any) -> Path:
        key = repr((args, sorted(options.items())))
        if key not in written:
            written[key] = write(Path(kept.name) / str(len(written)), *args, **options)
        return Path(shutil.copytree(written[key], folder, copy_function=shutil.copyfile, dirs_exist_ok=True))

    return write_or_copy


@_written_once
def build_model(
    folder: str | Path,
    architecture: str = "qwen2",
    dtype: str = "float32",
    chat_template: str | None = None,
    seed: int = 0,
    context: int = 512,
    *,
    bos: bool = False,
    tie: bool = False,
    spread: float = 0.2,
    head: str = "MaskedLM",
    **config: Any,
) -> Path:
    """Write a random model with its tokenizer.

    Args:
        folder: Where to; created.
        architecture: ``qwen2``, ``qwen3``, ``llama``, ``gemma3`` (text only) or ``gpt2``; ``bert`` or ``deberta-v2``,
            which are encoders.
        dtype: As stored.
        chat_template: Jinja text.
        seed: Decides the weights.
        context: Tokens the model can read.
        bos: Its tokenizer puts ``<s>`` before every text.
        tie: The output layer shares the embedding's weights.
        spread: Standard deviation of the weights; large enough here that different texts get different answers.
        head: An encoder's, such as ``MaskedLM`` or ``SequenceClassification``.
        **config: Further fields of its config.

    Returns:
        The folder.
    """
    folder = Path(folder)
    tokenizer = build_tokenizer(architecture, chat_template=chat_template, bos=bos)
    config_class, model_class, sizes = _MODELS[architecture]
    length = "n_positions" if architecture == "gpt2" else "max_position_embeddings"
    common = {"vocab_size": len(tokenizer), length: context, "initializer_range": spread, "tie_word_embeddings": tie}
    common |= {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    if architecture in ENCODERS:
        model_class += head
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = getattr(transformers, model_class)(getattr(transformers, config_class)(**{**sizes, **common, **config}))
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if architecture not in ENCODERS:  # what is loaded must read text as what was trained
        loaded = AutoTokenizer.from_pretrained(folder)
        assert loaded(PROBE).input_ids == tokenizer(PROBE).input_ids, type(loaded).__name__
        assert len(loaded) == len(tokenizer)
    return folder


@_written_once
def deberta_as_on_the_hub(folder: str | Path) -> Path:
    """Write a random DeBERTa-v3 as its authors publish it: pickled float16 weights, spm.model, no class in its config."""
    import sentencepiece

    folder = Path(folder)
    folder.mkdir(parents=True)
    trained = io.BytesIO()
    pieces = {"pad": "[PAD]", "bos": "[CLS]", "eos": "[SEP]", "unk": "[UNK]"}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*LINES, *(sentence for sentence, _ in SENTENCES)] * 3),
        model_writer=trained,
        vocab_size=80,
        hard_vocab_limit=False,
        minloglevel=2,
        **{f"{name}_id": number for number, name in enumerate(pieces)},
        **{f"{name}_piece": piece for name, piece in pieces.items()},
    )
    (folder / "spm.model").write_bytes(trained.getvalue())
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false, "vocab_type": "spm"}')
    published: dict[str, Any] = {  # as in its config.json, but for the sizes
        **_SIZES,
        "vocab_size": 128,
        "relative_attention": True,
        "position_buckets": 16,
        "pos_att_type": "p2c|c2p",
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "type_vocab_size": 0,
        "position_biased_input": False,
    }
    config = transformers.DebertaV2Config(**published)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(transformers.DebertaV2ForMaskedLM(config).half().state_dict(), folder / "pytorch_model.bin")
    fields = {name: value for name, value in config.to_dict().items() if name not in ("architectures", "dtype")}
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


@_written_once
def answering_model(folder: str | Path, architecture: str = "qwen2", *, seed: int = 0, **options: Any) -> Path:
    """Write a model whose greedy output always begins with ``" 0"`` or ``" 1"``, depending on the input.

    The body is random; of the output layer only the answers' rows are not zero, +v for 0 and -v for 1, so that one of
    them is the largest logit whatever the hidden state. v is at right angles to the mean hidden state after `SENTENCES`
    in the task's prompt, so that both answers occur. The bare digits get half of v: they are what is scored where a
    tokenizer reads ``" 0"`` as two tokens.

    Args:
        folder: Where to; created.
        architecture: A generative one of `build_model`.
        seed: Decides the body and v.
        **options: As for `build_model`.

    Returns:
        The folder.
    """
    dtype = options.pop("dtype", "float32")
    build_model(folder, architecture, seed=seed, **options)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    direction = torch.randn(model.lm_head.weight.shape[1], generator=torch.Generator().manual_seed(seed))
    prompts = [f"{LINES[0]}\n{LINES[1]}\n\nSentence: {sentence}\nAnswer:" for sentence, _ in SENTENCES]
    with torch.no_grad():
        states = [
            model(torch.tensor([tokenizer(prompt).input_ids]), output_hidden_states=True).hidden_states[-1][0, -1]
            for prompt in prompts
        ]
        mean = torch.stack(states).mean(0)
        direction -= direction @ mean / (mean @ mean) * mean
        model.lm_head.weight.zero_()
        for sign, digit in ((1.0, "0"), (-1.0, "1")):
            model.lm_head.weight[tokenizer.convert_tokens_to_ids(f"Ġ{digit}")] = sign * direction
            model.lm_head.weight[tokenizer.convert_tokens_to_ids(digit)] = sign * direction / 2
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    return Path(folder)


HARMONY = ("<|channel|>", "analysis", "<|message|>", "maybe", "0", "<|end|>", "<|start|>", "assistant")
HARMONY_ANSWER = ("<|channel|>final<|message|>", "1")  # one token here: a token of a chain cannot come twice


@_written_once
def chain_model(folder: str | Path, chain: Sequence[str], *, chat_template: str | None = None) -> Path:
    """Write a model in which each token is followed by one other: after ``Answer:`` it writes a chain of tokens, and ends.

    Args:
        folder: Where to; created.
        chain: The tokens, each once. A marker such as ``<|end|>`` is a special one, as on the Hub.
        chat_template: Jinja text; where it ends within the chain, the model goes on from there.

    Returns:
        The folder.
    """
    tokenizer = build_tokenizer("llama", chat_template=chat_template)
    special = [token for token in chain if re.fullmatch(r"<\|\w+\|>", token)]
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    tokenizer.add_tokens([token for token in chain if token not in special and len(token) > 1])
    first = tokenizer("\nAnswer:", add_special_tokens=False).input_ids[-1]
    numbers = [first, *(tokenizer.convert_tokens_to_ids(token) for token in chain), tokenizer.eos_token_id]
    size = len(tokenizer)
    config = transformers.LlamaConfig(
        vocab_size=size,
        hidden_size=512,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():  # no layer adds anything to the token's own place
        for name, weight in model.named_parameters():
            if any(part in name for part in ("o_proj", "down_proj", "embed", "lm_head")):
                weight.zero_()
        model.model.embed_tokens.weight[:, :size] = torch.eye(size)
        for now, then in itertools.pairwise(numbers):
            model.lm_head.weight[then, now] = 5
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Path(folder)


def tsv_folder(
    folder: str | Path,
    dev: Iterable[tuple[str, Any]] = SENTENCES,
    train: Iterable[tuple[str, Any]] = SENTENCES,
    header: str = "sentence\tlabel",
) -> Path:
    """Write ``train.tsv`` and ``dev.tsv`` of (sentence, label) rows as GLUE does: a blank before the tab, no quoting."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train.tsv", train), ("dev.tsv", dev)):
        text = "".join(f"{sentence} \t{label}\n" for sentence, label in rows)
        (folder / name).write_text(f"{header}\n{text}", encoding="utf-8", newline="")
    return folder


def _with_answers(trained: Tokenizer) -> Tokenizer:
    """Return a tokenizer with the trained vocabulary and merges, and the answers as tokens."""
    model = json.loads(trained.to_str())["model"]
    vocab, merges = dict(model["vocab"]), [tuple(pair) for pair in model["merges"]]
    for digit in "01":
        if f"Ġ{digit}" not in vocab:
            vocab[f"Ġ{digit}"] = len(vocab)
            merges.append(("Ġ", digit))
    return Tokenizer(models.BPE(vocab=vocab, merges=merges))
