"""`hf-classifier`: a sequence-classification model that answers the same 0/1 tasks as a generative one.

Knows transformers and peft; how requests are answered is `sentence`'s.
"""

import sys
import warnings
from typing import Any

import torch
from lm_eval.api.registry import register_model
from tqdm import tqdm
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from harness_ext.errors import UserError
from harness_ext.lm import batches
from harness_ext.lm.sentence import SentenceLM
from harness_ext.loading import ID2LABEL, WholeModel


@register_model("hf-classifier")
class ClassifierLM(SentenceLM):
    """A model with a classification head of two classes, under lm-eval's interface."""

    def __init__(
        self,
        pretrained: str,
        revision: str = "main",
        dtype: str = "float32",
        peft: str | None = None,
        head: list[str] | None = None,
        tokenizer: str | None = None,
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
            head: Modules whose weights the adapter brings.
            tokenizer: Another tokenizer's id or folder.
            batch_size: Rows per batch at the most, or ``auto`` to go by memory alone.
            max_batch_size: Not used; lm-eval passes it to every model.
            device: torch device.
            use_safetensors: True to load nothing else.
            trust_remote_code: Whether the checkpoint may bring code.

        Raises:
            UserError: Weights are missing, or the model has not two classes.
        """
        super().__init__()
        common = {"revision": revision, "trust_remote_code": trust_remote_code}
        self.tokenizer = AutoTokenizer.from_pretrained(tokenizer or pretrained, **common)
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        labels = {"num_labels": 2, "id2label": ID2LABEL} if peft else {}
        model = WholeModel(AutoModelForSequenceClassification, may_lack=head or ()).from_pretrained(
            pretrained, dtype=dtype, use_safetensors=use_safetensors, **common, **labels
        )
        model.config.pad_token_id = self.tokenizer.pad_token_id
        model.config.get_text_config().pad_token_id = self.tokenizer.pad_token_id
        self._classes = _read_classes(model.config)
        if peft:
            from peft import PeftModel

            with warnings.catch_warnings():
                warnings.filterwarnings("error", "Found missing adapter keys")
                model = PeftModel.from_pretrained(model, peft)
            if model.dtype == torch.float32:  # rounding to 16 bits would change the adapter
                model = model.merge_and_unload()
        self.model = model.to(device).eval()
        self.max_length = getattr(model.config, "max_position_embeddings", None)
        self.batch_size_per_gpu = batch_size
        self._device = torch.device(device)

    def encode_rows(self, sentences: list[str]) -> list[list[int]]:
        """Tokenise sentences.

        Raises:
            UserError: A sentence is longer than the model's context.
        """
        rows = self.tokenizer(sentences)["input_ids"]
        longest = max(map(len, rows))
        if self.max_length and longest > self.max_length:
            raise UserError(f"A sentence has {longest} tokens, but the model reads {self.max_length}.")
        return rows

    @torch.inference_mode()
    def classify(self, sentences: list[str], disable_tqdm: bool = False) -> list[tuple[float, float]]:
        """Compute the log-probabilities of 0 and 1; each sentence once, the longest first.

        Raises:
            UserError: The model's logits are NaN.
        """
        unique = list(dict.fromkeys(sentences))
        encoded = dict(zip(unique, self.encode_rows(unique), strict=True))
        found: dict[str, tuple[float, float]] = {}
        hidden = self.model.config.get_text_config().hidden_size
        free = batches.free_bytes(self._device)
        given = str(self.batch_size_per_gpu)

        def rows(width: int) -> int:
            # Attention without a fused kernel, as DeBERTa's, keeps a few scores per pair of tokens and head.
            per_token = self.model.dtype.itemsize * (32 * hidden + 64 * width)
            limit = int(given) if given.isdecimal() else None
            return batches.most_rows(width, self._device, free=free, bytes_per_token=per_token, limit=limit)

        with tqdm(total=len(unique), desc="sentences", disable=disable_tqdm or not sys.stderr.isatty()) as bar:

            def run(batch: list[str]) -> None:
                padded = self.tokenizer.pad({"input_ids": [encoded[sentence] for sentence in batch]}, return_tensors="pt")
                inputs = {name: padded[name].to(self._device) for name in ("input_ids", "attention_mask")}
                logits = self.model(**inputs).logits.float()
                if torch.isnan(logits).any():
                    raise UserError("The model's logits are NaN, so its answers would mean nothing. Try DTYPE=float32.")
                scores = logits[:, self._classes].log_softmax(-1).tolist()
                found.update((sentence, (zero, one)) for sentence, (zero, one) in zip(batch, scores, strict=True))
                bar.update(len(batch))

            batches.run_in_batches(unique, run, length=lambda sentence: len(encoded[sentence]), rows=rows)
        return [found[sentence] for sentence in sentences]


def _read_classes(config: Any) -> list[int]:
    """Find the model's classes for 0 and 1 by their names, where these say positive or negative.

    Raises:
        UserError: There are not two classes.
    """
    if config.num_labels != 2:
        raise UserError(f"It has {config.num_labels} classes; the 0/1 task needs a classifier of two.")
    names = {index: str(name).lower() for index, name in config.id2label.items()}
    return [1, 0] if names[0].startswith("pos") and names[1].startswith("neg") else [0, 1]
