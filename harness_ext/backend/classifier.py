"""`hf-classifier`: a sequence-classification model that answers the same 0/1 tasks as a generative one.

How the model is asked is `classification`'s matter, how requests are answered `sentence`'s.
"""

import functools
from dataclasses import asdict
from typing import Any

import torch
from lm_eval.api.registry import register_model
from tqdm import tqdm

from harness_ext.backend import batches
from harness_ext.backend.classification import Classifier, Encoded, load
from harness_ext.backend.sentence import SentenceLM
from harness_ext.errors import UserError
from harness_ext.model.checkpoints import Checkpoint
from harness_ext.model.classes import decide
from harness_ext.model.lengths import check_sentences, context_length
from harness_ext.model.loading import find_tokenizer, load_tokenizer


@register_model("hf-classifier")
class ClassifierLM(SentenceLM):
    """A model with a classification head of two classes, under lm-eval's interface.

    Its account says under ``path`` what the classes are and which way was taken, and counts as near ties the documents whose
    two logits are closer than the dtype resolves.
    """

    def __init__(
        self,
        pretrained: str,  # Hub id or folder
        revision: str = "main",  # Hub commit
        dtype: str = "float32",
        peft: str | None = None,  # adapter folder
        head: list[str] | None = None,  # weights or modules that the adapter brings whole
        pooling: str | None = None,  # of tokens' states (`Pooling.mode`); None: the model's own head reads them
        classes: dict[str, Any] | None = None,  # which one is 1 (`classes.Classes.record`); by their names if None
        tokenizer: Any = None,  # in place of its own, its id or its folder
        batch_size: int | str = 64,  # rows per batch at the most, or ``auto`` to go by memory alone
        max_batch_size: int | None = None,  # not used; lm-eval passes it to every model
        device: str = "cpu",
        use_safetensors: bool | None = None,  # True to load nothing else
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__()
        if tokenizer is None or isinstance(tokenizer, str):
            named = find_tokenizer(tokenizer) if tokenizer else Checkpoint(pretrained, pretrained, revision, {})
            tokenizer = load_tokenizer(named, remote_code=trust_remote_code)
        self.batch_size_per_gpu = batch_size
        self._device = torch.device(device)
        options = {"dtype": dtype, "use_safetensors": use_safetensors, "trust_remote_code": trust_remote_code}
        loads = functools.partial(load, pretrained, peft, head or [], pooling, revision=revision, **options)
        self._classifier = Classifier(loads, tokenizer, self._device)
        config = self._classifier.base.config
        if config.num_labels != 2 or classes is None:
            classes = decide([str(config.id2label[index]) for index in range(config.num_labels)]).record()
        self._classes, self._order = classes, [1 - classes["one"], classes["one"]]
        adapters = getattr(self.model, "peft_config", {}).values()
        virtual = sum(getattr(adapter, "num_virtual_tokens", None) or 0 for adapter in adapters)
        limit = context_length(config, self._classifier.base)
        self.max_length = limit and limit - virtual
        self._tied: set[str] = set()

    @property
    def model(self) -> Any:
        """The model as it is asked now, its adapter merged or on top."""
        return self._classifier.model

    @torch.inference_mode()
    def classify(self, sentences: list[str]) -> list[tuple[float, float]]:
        """Compute the log-probabilities of 0 and 1; each sentence once, the longest first."""
        unique = list(dict.fromkeys(sentences))
        encoded = dict(zip(unique, self._encode(unique), strict=True))
        classifier, account = self._classifier, self.account
        if account.self_check is None:
            account.self_check = classifier.find_way(encoded)
        account.path = {"classes": self._classes, **asdict(classifier.way)}
        found: dict[str, tuple[float, float]] = {}
        with tqdm(total=len(unique), desc="sentences", disable=None) as bar:  # shown on a terminal only

            def run(batch: list[str]) -> None:
                logits = classifier.logits([encoded[sentence] for sentence in batch])[:, self._order]
                eps = torch.finfo(self.model.dtype).eps
                tied = (logits[:, 0] - logits[:, 1]).abs() <= eps * logits.abs().amax(-1)
                self._tied |= {sentence for sentence, is_tied in zip(batch, tied.tolist(), strict=True) if is_tied}
                scores = logits.log_softmax(-1).tolist()
                found.update((sentence, (zero, one)) for sentence, (zero, one) in zip(batch, scores, strict=True))
                bar.update(len(batch))

            room = self._room()
            batches.run_in_batches(
                unique,
                run,
                length=lambda sentence: len(encoded[sentence]["input_ids"]),
                room=room,
                equal_lengths=classifier.way.padding is None,
            )
        account.batches += room.shapes
        return [found[sentence] for sentence in sentences]

    def _answer(self, requests: list) -> list[tuple[float, float]]:
        rows = super()._answer(requests)
        self.account.near_ties = len({request.doc_id for request in requests if request.doc["sentence"] in self._tied})
        return rows

    def _encode(self, sentences: list[str]) -> list[Encoded]:
        """Tokenise sentences, checked to be such as the model can read."""
        with self.account.tokenising():
            rows = self._classifier.encode(sentences)
        lengths = [len(row["input_ids"]) for row in rows]
        self.account.tokens_in += sum(lengths)
        check_sentences(lengths, self.max_length)
        largest = max(max(row["input_ids"], default=0) for row in rows)
        known = self._classifier.base.get_input_embeddings().weight.shape[0]
        if largest >= known:
            raise UserError(f"The tokenizer writes token {largest}, the model knows {known}: they do not belong together.")
        return rows

    def _room(self) -> batches.Room:
        """Return what tells how many sentences of a length go into one batch."""
        given = str(self.batch_size_per_gpu)
        limit = 1 if self._classifier.way.alone else int(given) if given.isdecimal() else None
        hidden = self._classifier.base.config.get_text_config().hidden_size

        def row_bytes(width: int) -> int:
            # Attention without a fused kernel, as DeBERTa's, keeps a few scores per pair of tokens and head.
            return width * self.model.dtype.itemsize * (32 * hidden + 64 * width)

        return batches.Room(self._device, self.model, row_bytes, limit=limit)
