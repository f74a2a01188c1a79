"""`hf-classifier`: a sequence-classification model that answers the same 0/1 tasks as a generative one.

Before its first answer the model has to say in a batch what transformers and peft alone say of a few sentences, one at a
time, unmerged and without padding; where it does not, the way is changed until it does. Knows transformers and peft; how
requests are answered is `sentence`'s.
"""

import functools
import inspect
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from lm_eval.api.registry import register_model
from tqdm import tqdm
from transformers import AutoModelForSequenceClassification

from harness_ext.backend import batches
from harness_ext.backend.merging import can_merge
from harness_ext.backend.sentence import SentenceLM
from harness_ext.errors import UserError
from harness_ext.model.checkpoints import Checkpoint
from harness_ext.model.classes import decide
from harness_ext.model.lengths import check_sentence, context_length
from harness_ext.model.loading import WholeModel, find_tokenizer, load_tokenizer, put_on

# How far apart logits may be, as a share of the largest of them: rounding that adds up over the layers. Measured on MiniLM
# and SmolLM2, 24 sentences in batches of 8 against one at a time: 2e-6, 0.0014 and 0.021; MiniLM at wrong positions: 0.27.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 1 / 64, torch.bfloat16: 1 / 16}
LEAST_SCALE = 0.25  # small logits are differences of larger numbers, which rounding moves as before


@dataclass(frozen=True)
class Way:
    """How sentences are put to the model.

    Attributes:
        merged: The adapter's weights are added to the base's.
        padding: The side on which shorter sentences are filled up; None where only sentences of one length go together.
        alone: Every sentence goes by itself.
    """

    merged: bool
    padding: str | None
    alone: bool = False


@register_model("hf-classifier")
class ClassifierLM(SentenceLM):
    """A model with a classification head of two classes, under lm-eval's interface.

    Its account says under ``path`` what the classes are and which way was taken, and counts as near ties the documents whose
    two logits are closer than the dtype resolves.
    """

    def __init__(
        self,
        pretrained: str,
        revision: str = "main",
        dtype: str = "float32",
        peft: str | None = None,
        head: list[str] | None = None,
        classes: dict[str, Any] | None = None,
        tokenizer: Any = None,
        batch_size: int | str = 64,
        max_batch_size: int | None = None,
        device: str = "cpu",
        use_safetensors: bool | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        """Load the model.

        Args:
            pretrained: Hub id or folder.
            revision: Hub commit.
            dtype: Of the weights.
            peft: Adapter folder.
            head: Weights or modules that the adapter brings whole.
            classes: Which of its classes is 1 (`classes.Classes.record`); by their names if None.
            tokenizer: Another tokenizer, its id or its folder.
            batch_size: Rows per batch at the most, or ``auto`` to go by memory alone.
            max_batch_size: Not used; lm-eval passes it to every model.
            device: torch device.
            use_safetensors: True to load nothing else.
            trust_remote_code: Whether the checkpoint may bring code.

        Raises:
            UserError: Weights are missing, or the model has not two classes.
        """
        super().__init__()
        if tokenizer is None or isinstance(tokenizer, str):
            named = find_tokenizer(tokenizer) if tokenizer else Checkpoint(pretrained, pretrained, revision, {})
            tokenizer = load_tokenizer(named, remote_code=trust_remote_code)
        self.tokenizer = tokenizer
        self.batch_size_per_gpu = batch_size
        self._device = torch.device(device)
        self._peft = peft
        options = {"dtype": dtype, "use_safetensors": use_safetensors, "trust_remote_code": trust_remote_code}
        self._load = functools.partial(self._load_unmerged, pretrained, head or [], revision=revision, **options)
        self.model = self._load()
        self._plain = self._base().config.get_text_config().pad_token_id  # as transformers alone finds it
        self._accepted = set(inspect.signature(self._base().forward).parameters)
        config = self._base().config
        if config.num_labels != 2 or classes is None:
            classes = decide([str(config.id2label[index]) for index in range(config.num_labels)]).record()
        self._order = [1 - classes["one"], classes["one"]]
        self.account.path = {"classes": classes}
        virtual = sum(getattr(config, "num_virtual_tokens", None) or 0 for config in self._adapters())
        limit = context_length(config, self._base())
        self.max_length = limit and limit - virtual
        self._way = Way(merged=False, padding=None, alone=True)
        self._tied: set[str] = set()

    def encode_rows(self, sentences: list[str]) -> list[dict[str, list[int]]]:
        """Tokenise sentences, to what the model's forward takes.

        Raises:
            UserError: A sentence is longer than the model reads, or the tokenizer is not this model's.
        """
        with self.account.tokenising():
            found = self.tokenizer(sentences, return_attention_mask=True)
        self.account.tokens_in += sum(map(len, found["input_ids"]))
        columns = [name for name in found if name in self._accepted]
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*(found[name] for name in columns), strict=True)]
        longest = max(len(row["input_ids"]) for row in rows)
        check_sentence(longest, self.max_length)
        largest, known = max(max(row["input_ids"], default=0) for row in rows), self._vocabulary()
        if largest >= known:
            raise UserError(f"The tokenizer writes token {largest}, the model knows {known}: they do not belong together.")
        return rows

    @torch.inference_mode()
    def classify(self, sentences: list[str], disable_tqdm: bool = False) -> list[tuple[float, float]]:
        """Compute the log-probabilities of 0 and 1; each sentence once, the longest first.

        Raises:
            UserError: The model's logits are NaN, or no way of asking it agrees with transformers and peft alone.
        """
        unique = list(dict.fromkeys(sentences))
        encoded = dict(zip(unique, self.encode_rows(unique), strict=True))
        if self.account.self_check is None:
            self._check(encoded)
        found: dict[str, tuple[float, float]] = {}
        with tqdm(total=len(unique), desc="sentences", disable=disable_tqdm or not sys.stderr.isatty()) as bar:

            def run(batch: list[str]) -> None:
                logits = self._logits([encoded[sentence] for sentence in batch])[:, self._order]
                eps = torch.finfo(self.model.dtype).eps
                tied = (logits[:, 0] - logits[:, 1]).abs() <= eps * logits.abs().amax(-1)
                self._tied |= {sentence for sentence, is_tied in zip(batch, tied.tolist(), strict=True) if is_tied}
                scores = logits.log_softmax(-1).tolist()
                found.update((sentence, (zero, one)) for sentence, (zero, one) in zip(batch, scores, strict=True))
                bar.update(len(batch))

            def length(sentence: str) -> int:
                return len(encoded[sentence]["input_ids"])

            ran = batches.run_in_batches(
                unique, run, length=length, rows=self._row_limit(), equal_lengths=self._way.padding is None
            )
        self.account.batches += ran.shapes
        return [found[sentence] for sentence in sentences]

    def _answer(self, requests: list, disable_tqdm: bool) -> list[tuple[float, float]]:
        rows = super()._answer(requests, disable_tqdm)
        self.account.near_ties = len({request.doc_id for request in requests if request.doc["sentence"] in self._tied})
        return rows

    def _check(self, encoded: dict[str, dict[str, list[int]]]) -> None:
        """Take the first way that agrees with transformers and peft alone on the shortest, a middle and longest sentence."""
        ordered = sorted(encoded, key=lambda sentence: len(encoded[sentence]["input_ids"]))
        probes = [ordered[0], ordered[len(ordered) // 2], ordered[-1]]
        alone = torch.cat([self._ask(self.tokenizer(sentence, return_tensors="pt")) for sentence in probes])
        allowed = TOLERANCE.get(self.model.dtype, TOLERANCE[torch.float16]) * max(LEAST_SCALE, float(alone.abs().max()))
        for way in self._ways():
            self._take(way)
            try:
                ours = self._logits_as_batched([encoded[sentence] for sentence in probes])
            except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError) as error:
                if isinstance(error, UserError) or batches.is_out_of_memory(error):
                    raise
                continue  # an architecture that cannot be asked so
            apart = float((ours - alone).abs().max())
            if apart <= allowed:
                check = {"prompts": len(probes), "difference": apart, "tolerance": allowed, "passed": True}
                self.account.self_check = check
                self.account.path |= asdict(way)
                return
        raise UserError(
            "The model's answers differ each time it is asked the same, in every way tried: they would mean nothing."
        )

    def _ways(self) -> Iterator[Way]:
        """Name the ways of asking, the fastest first."""
        sides = ["right", "left"]  # on the right it leaves positions as they are
        if self.tokenizer.pad_token is None:
            sides = sides if self.tokenizer.eos_token is not None else []
        if self._peft and can_merge(self.model):
            yield from (Way(merged=True, padding=side) for side in sides)
        yield from (Way(merged=False, padding=side) for side in sides)
        yield Way(merged=False, padding=None)
        yield Way(merged=False, padding=None, alone=True)

    def _take(self, way: Way) -> None:
        if way.merged and not self._way.merged:
            self.model = self.model.merge_and_unload()
        elif self._way.merged and not way.merged:
            self.model = self._load()
        self._way = way
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        # What follows the last token that is no padding is read off by many heads; alone there is none.
        padding = self._plain if way.alone else self.tokenizer.pad_token_id
        config = self._base().config
        config.pad_token_id = config.get_text_config().pad_token_id = padding

    def _logits_as_batched(self, rows: list[dict[str, list[int]]]) -> torch.Tensor:
        """Ask as `classify` does, in batches of more than one where the way has such."""
        if self._way.alone:
            return torch.cat([self._logits([row]) for row in rows])
        if self._way.padding is None:
            return torch.cat([self._logits([row, row])[:1] for row in rows])
        return self._logits(rows)

    def _logits(self, rows: list[dict[str, list[int]]]) -> torch.Tensor:
        """Compute the logits ``(rows, 2)`` of one batch."""
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        if self._way.padding is None:
            padded = {name: torch.tensor(column) for name, column in columns.items()}
        else:
            padded = self.tokenizer.pad(columns, padding_side=self._way.padding, return_tensors="pt")
        return self._ask(padded)

    def _ask(self, inputs: Any) -> torch.Tensor:
        accepted = {name: column.to(self._device) for name, column in inputs.items() if name in self._accepted}
        logits = self.model(**accepted).logits.float()
        if torch.isnan(logits).any():
            raise UserError("The model's logits are NaN, so its answers would mean nothing. Try DTYPE=float32.")
        return logits

    def _row_limit(self) -> Any:
        """Return what tells how many sentences of a length go into one batch."""
        room = batches.room_bytes(self._device, self.model)
        given = str(self.batch_size_per_gpu)
        limit = 1 if self._way.alone else int(given) if given.isdecimal() else None
        hidden = self._base().config.get_text_config().hidden_size

        def rows(width: int) -> int:
            # Attention without a fused kernel, as DeBERTa's, keeps a few scores per pair of tokens and head.
            per_token = self.model.dtype.itemsize * (32 * hidden + 64 * width)
            return batches.most_rows(width, self._device, room=room, bytes_per_token=per_token, limit=limit)

        return rows

    def _load_unmerged(self, pretrained: str, head: list[str], **options: Any) -> Any:
        """Load model and adapter as transformers and peft do."""
        lacking = (
            "Neither the base nor the adapter holds them: they were not saved when it was trained (peft's issue 2171)."
            if self._peft
            else "Download them again."
        )
        labels = {"num_labels": 2} if head else {}
        loader = WholeModel(AutoModelForSequenceClassification, may_lack=head, lacking=lacking)
        model = loader.from_pretrained(pretrained, **options, **labels)
        if self._peft:
            model = put_on(model, self._peft, classifier=True)
        return model.to(self._device).eval()

    def _base(self) -> Any:
        """Return the transformers model, under peft or not."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    def _adapters(self) -> list[Any]:
        return list(getattr(self.model, "peft_config", {}).values())

    def _vocabulary(self) -> int:
        return self._base().get_input_embeddings().weight.shape[0]
