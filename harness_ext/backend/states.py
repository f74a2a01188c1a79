"""Reading the states of a frozen model: an encoder's, pooled over a sentence, or a decoder's after a prompt's last token.

Before anything is read in batches, or behind a common beginning, a few texts have to come out as they do one at a time.
Knows torch and transformers; nothing of lm-eval, labels or files.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from tqdm import tqdm
from transformers import AutoModel, AutoModelForCausalLM

from harness_ext.backend import batches
from harness_ext.backend.account import Account
from harness_ext.backend.engine import PrefixReader
from harness_ext.backend.logits import inner_model
from harness_ext.backend.selfcheck import distance
from harness_ext.backend.verified import CANNOT
from harness_ext.errors import UserError, one_line_errors
from harness_ext.model.frozen import Frozen
from harness_ext.model.lengths import check_sentences
from harness_ext.model.loading import WholeModel
from harness_ext.task.prompts import common_prefix, encode_prompts

# How far apart states may be, as `selfcheck.distance` counts. Measured on MiniLM and SmolLM2 in float32: below 2e-6.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 1 / 64, torch.bfloat16: 1 / 16}
PADDED, EQUAL, ALONE = "padded", "equal lengths", "one by one"  # how texts go together

Take = Callable[[list[str], torch.Tensor], None]  # is given texts and their states (texts, layers, hidden) in float32


class FrozenModel(ABC):
    """A model that is loaded when the first text is read."""

    auto_class: Any
    may_lack: tuple[str, ...] = ()  # modules that are not used

    def __init__(
        self,
        name: str,  # for people
        options: dict[str, Any],  # of transformers' `from_pretrained`
        tokenizer: Any,
        device: torch.device,
        *,
        context: int | None,  # tokens that it reads
        limit: int | None = None,  # rows a batch at the most
    ) -> None:
        self._name, self._options, self.tokenizer, self.device = name, options, tokenizer, device
        self._context, self._limit = context, limit
        self.model: Any = None

    @abstractmethod
    def encode(self, texts: list[str]) -> list[list[int]]:
        """Tokenise texts."""

    @abstractmethod
    def _ways(self, rows: list[list[int]]) -> list[tuple[str, Callable[[list[list[int]]], torch.Tensor]]]:
        """Return the ways of reading rows, the fastest first: how they go together, and what reads those that do."""

    @abstractmethod
    def _plain(self, row: list[int]) -> torch.Tensor:
        """Read one row as transformers alone does, ``(1, layers, hidden)``."""

    def check_room(self, texts: list[str]) -> None:
        """Check that texts can be read whole; loads no weights."""
        check_sentences(list(map(len, self.encode(texts))), self._context)

    @torch.inference_mode()
    def read(self, texts: list[str], take: Take, account: Account) -> None:
        """Read texts, each different from the others, and hand on their states as they come, the longest text first."""
        with account.tokenising():
            rows = dict(zip(texts, self.encode(texts), strict=True))
        check_sentences(list(map(len, rows.values())), self._context)
        self._load()
        self._check_tokens(max(max(row, default=0) for row in rows.values()))
        together, states_of = self._find_way(list(rows.values()), account)
        account.tokens_in += sum(map(len, rows.values()))
        with tqdm(total=len(texts), desc="states", disable=None) as bar:  # shown on a terminal only

            def run(batch: list[str]) -> None:
                take(batch, _finite(states_of([rows[text] for text in batch])))
                bar.update(len(batch))

            room = self._room(together)
            batches.run_in_batches(
                texts, run, length=lambda text: len(rows[text]), room=room, equal_lengths=together != PADDED
            )
        account.batches += room.shapes
        halved = account.path.get("halved_for_memory", 0) + room.shortages
        account.path |= {"batches": together, "halved_for_memory": halved}

    def _load(self) -> None:
        if self.model is None:
            loader = WholeModel(self.auto_class, may_lack=self.may_lack)
            with one_line_errors(loading=f"Model {self._name!r} does not load: "):
                self.model = loader.from_pretrained(**self._options).to(self.device).eval()

    def _find_way(self, rows: list[list[int]], account: Account) -> tuple[str, Callable[[list[list[int]]], torch.Tensor]]:
        """Take the first way that agrees with one row at a time on the shortest, a middle and the longest row."""
        ordered = sorted(rows, key=len)
        few = [ordered[0], ordered[len(ordered) // 2], ordered[-1]]
        alone = [self._plain(row)[0] for row in few]
        allowed = TOLERANCE.get(self.model.dtype, TOLERANCE[torch.float16])
        for together, states_of in self._ways(rows):
            try:
                # In batches of more than one, where the way has such.
                ours = states_of(few) if together == PADDED else torch.stack([states_of([row, row])[0] for row in few])
            except (*CANNOT, RuntimeError) as error:
                if isinstance(error, UserError) or batches.is_out_of_memory(error):
                    raise
                continue  # an architecture that cannot be read so
            apart = distance(list(ours), alone)
            if apart <= allowed:
                account.self_check = {"prompts": len(few), "difference": apart, "tolerance": allowed, "passed": True}
                return together, states_of
        return ALONE, lambda batch: torch.cat([self._plain(row) for row in batch])

    def _check_tokens(self, largest: int) -> None:
        known = self.model.get_input_embeddings().weight.shape[0]
        if largest >= known:
            raise UserError(f"The tokenizer writes token {largest}, the model knows {known}: they do not belong together.")

    def _room(self, together: str) -> batches.Room:
        """Return what tells how many texts of a length go into one batch."""
        config = self.model.config.get_text_config()
        hidden, layers = getattr(config, "hidden_size", 1024), getattr(config, "num_hidden_layers", 1)
        limit = 1 if together == ALONE else self._limit

        def row_bytes(width: int) -> int:
            # Activations, attention without a fused kernel, and the states and keys and values of every layer.
            return width * self.model.dtype.itemsize * ((32 + 3 * layers) * hidden + 64 * width)

        return batches.Room(self.device, self.model, row_bytes, limit=limit)

    def _ask(self, rows: list[list[int]], width: int) -> dict[str, torch.Tensor]:
        """Lay rows out for the model, filled up on the right, which leaves positions as they are."""
        pad = self.tokenizer.pad_token_id or 0
        ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows], device=self.device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=self.device)
        return {"input_ids": ids, "attention_mask": mask}


class Encoder(FrozenModel):
    """The states of the last layer, pooled over a sentence's tokens."""

    auto_class = AutoModel
    may_lack = ("pooler",)  # of BERT's relatives; many are saved without

    def __init__(self, frozen: Frozen, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._pool = frozen.pooling

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Tokenise sentences as the tokenizer by itself does."""
        return self.tokenizer(texts)["input_ids"] if texts else []

    def _ways(self, rows: list[list[int]]) -> list[tuple[str, Callable]]:
        return [(PADDED, self._pooled), (EQUAL, self._pooled)]

    def _plain(self, row: list[int]) -> torch.Tensor:
        return self._pooled([row])

    def _pooled(self, rows: list[list[int]]) -> torch.Tensor:
        inputs = self._ask(rows, max(map(len, rows)))
        states = self.model(**inputs).last_hidden_state
        assert self._pool is not None
        return self._pool(states, inputs["attention_mask"])[:, None].float()


class Decoder(FrozenModel):
    """The states of a few layers after the last token of a prompt, which is read behind what all prompts begin with."""

    auto_class = AutoModelForCausalLM

    def __init__(self, frozen: Frozen, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._layers = frozen.layers

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Tokenise prompts as those that are answered are."""
        return encode_prompts(self.tokenizer, texts) if texts else []

    def _ways(self, rows: list[list[int]]) -> list[tuple[str, Callable]]:
        def behind(batch: list[list[int]]) -> torch.Tensor:
            if not readers:  # here, as an architecture may have no such cache
                readers.append(PrefixReader(self.model, self.device, prefix, self.tokenizer.pad_token_id or 0))
            return readers[0].states([row[len(prefix) :] for row in batch], self._layers).float()

        def whole(batch: list[list[int]]) -> torch.Tensor:
            return self._whole(batch)

        readers: list[PrefixReader] = []
        prefix = common_prefix(rows)
        return [(PADDED, behind), (EQUAL, whole)]

    def _plain(self, row: list[int]) -> torch.Tensor:
        return self._whole([row])

    def _whole(self, rows: list[list[int]]) -> torch.Tensor:
        """Read rows of equal lengths without a cache."""
        inputs = self._ask(rows, len(rows[0]))
        states = inner_model(self.model).base_model(**inputs, use_cache=False, output_hidden_states=True).hidden_states
        return torch.stack([states[layer][:, -1] for layer in self._layers], dim=1).float()


def _finite(states: torch.Tensor) -> torch.Tensor:
    if not states.isfinite().all():
        raise UserError(
            "The model's states are not finite. Try DTYPE=float32; else its weights are damaged: download them again."
        )
    return states
