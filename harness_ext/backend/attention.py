"""Keys and values of a common beginning, kept once, and of rows behind it, each in a place of its own; attention to both.

transformers asks whatever attention function a model's config names (its `AttentionInterface`). Ours multiplies the queries
of all rows with the beginning's keys at once, and each row's with its own, which are written in place: nothing is repeated,
concatenated or padded on the left, grouped queries share their keys, and a row that comes or goes moves no other. What the
model makes of it is compared with the model asked plainly before it is used (`selfcheck`).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from transformers import AttentionInterface

NAME = "behind_a_beginning"
COLUMNS = 64  # a row's tokens that room is made for at a time
# Scores (rows x heads x tokens x keys) computed at a time: on a CPU what its caches hold, elsewhere what memory bears.
MOST_SCORES = {"cpu": 2**21}
MOST_SCORES_ELSEWHERE = 2**28

Pair = tuple[torch.Tensor, torch.Tensor]  # keys and values, each (rows, heads, tokens, size)


class Places:
    """Keys and values of rows, a place each, whose tokens stand in columns from 0 on."""

    def __init__(self, rows: int, behind: "Places | None" = None) -> None:
        """Make so many places, which continue the one row that is `behind`; 0 keeps nothing."""
        self.most, self.behind = rows, behind
        self.lengths: list[int] = []  # tokens of each row, by place
        self.held: dict[int, Pair] = {}  # by layer

    @property
    def before(self) -> int:
        """How many tokens stand before each row."""
        return self.behind.lengths[0] if self.behind else 0

    @property
    def columns(self) -> int:
        """How many tokens of a row there is room for."""
        return min((each.shape[2] for pair in self.held.values() for each in pair), default=0)

    @property
    def bytes_per_token(self) -> int:
        """What a token of a row takes."""
        return sum(each[0, :, 0].nbytes for pair in self.held.values() for each in pair)

    def read(self, lengths: Sequence[int]) -> "Pass":
        """Let rows of so many tokens, filled up on the right, be read into the next places."""
        first = len(self.lengths)
        self.lengths = [*self.lengths, *lengths] if self.most else []
        return Pass(self, (self.before + torch.arange(max(lengths))).expand(len(lengths), -1), first)

    def step(self) -> "Pass":
        """Let one more token of each row be read."""
        at = torch.tensor(self.lengths)
        self.lengths = [length + 1 for length in self.lengths]
        return Pass(self, self.before + at[:, None], 0, at)

    def keep(self, rows: Sequence[int]) -> list[int]:
        """Keep these rows, without gaps between them; returns for each place which one it was filled from."""
        order, kept = [*range(len(rows))], {*rows}
        gone = [place for place in order if place not in kept]
        moved = [place for place in rows if place >= len(rows)]
        for place, source in zip(gone, moved, strict=True):
            order[place] = source
        longest = max((self.lengths[place] for place in moved), default=0)
        for each in (each for pair in self.held.values() for each in pair if gone):
            each[gone, :, :longest] = each[moved, :, :longest]
        self.lengths = [self.lengths[place] for place in order]
        return order

    def room(self, layer: int, pair: Pair) -> Pair:
        """Return where keys and values like these are kept, with room for all tokens of all rows."""
        old = self.held.get(layer, (None, None))
        self.held[layer] = found = self._large_enough(old[0], pair[0]), self._large_enough(old[1], pair[1])
        return found

    def _large_enough(self, held: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
        tokens, before = max(self.lengths), held.shape[2] if held is not None else 0
        if held is not None and tokens <= before:
            return held
        columns = columns_for(tokens, before)
        # Zeros, as what no row has written yet is multiplied too, with shares of 0.
        made = like.new_zeros(self.most, like.shape[1], columns, like.shape[3])
        if held is not None:
            made[: len(self.lengths), :, :before] = held[: len(self.lengths)]
        return made


def columns_for(tokens: int, before: int = 0) -> int:
    """Return the tokens that room is made for where so many need it and there is room for those `before`."""
    return before if tokens <= before else -(-max(tokens, before * 3 // 2) // COLUMNS) * COLUMNS


class Pass:
    """Stands where a model wants its cache while it reads new tokens: rows from place `first` on, or a token of each."""

    def __init__(self, places: Places, positions: torch.Tensor, first: int, at: torch.Tensor | None = None) -> None:
        self.positions = positions  # of the new tokens, (rows, new)
        self._places, self._first, self._at = places, first, at
        self.has_windows = False  # whether some layer has asked to look back only so far
        self._layer = 0
        self._made: dict[tuple, Any] = {}  # what the layers have in common

    def update(self, key: torch.Tensor, value: torch.Tensor, layer: int, *args: Any, **kwargs: Any) -> Pair:
        """Write the new tokens' keys and values down; returns those of the rows' own that these tokens may look at."""
        self._layer = layer
        if not self._places.most:
            return key, value
        keys, values = self._places.room(layer, (key, value))
        first, last = self._first, self._first + len(key)
        if self._at is None:
            keys[first:last, :, : key.shape[2]], values[first:last, :, : key.shape[2]] = key, value
            return key, value
        rows, at = self._once("at", key.device, lambda: (torch.arange(last), self._at))
        keys[rows, :, at], values[rows, :, at] = key[:, :, 0], value[:, :, 0]
        return keys[:last], values[:last]  # whole: of a part, products would make a copy first

    def get_seq_length(self, layer: int = 0) -> int:
        """Return the tokens before the new ones, for models that ask though they are told positions."""
        return int(self.positions[0, 0])

    def beginning(self) -> Pair | None:
        """Return keys and values ``(1, heads, tokens, size)`` of what stands before all rows, in this layer."""
        if (behind := self._places.behind) is None:
            return None
        keys, values = behind.held[self._layer]
        return keys[:, :, : self._places.before], values[:, :, : self._places.before]

    def hidden(self, keys: int, window: int | None, device: torch.device) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Say which keys of the beginning, and which of a row's own, no query may look at; None: it may look at all.

        Both are of shape ``(rows or 1, 1, 1, new or 1, keys)``.
        """
        made = self._once(("hidden", keys, window), device, lambda: self._hidden(keys, window))
        return made[0], made[1]

    def _hidden(self, keys: int, window: int | None) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        before = self._places.before
        query = (self.positions if self._at is not None else self.positions[:1])[:, None, None, :, None]
        own = before + torch.arange(keys)
        late = own > query
        if window is None or int(self.positions.max()) < window:
            return None, late if late.any() else None
        return torch.arange(before) <= query - window, late | (own <= query - window)

    def _once(self, name: Any, device: torch.device, make: Callable[[], Sequence[torch.Tensor | None]]) -> Any:
        if (name, device) not in self._made:
            self._made[name, device] = tuple(each if each is None else each.to(device) for each in make())
        return self._made[name, device]


_NOW: ContextVar[Pass] = ContextVar("pass")


@contextmanager
def attending(config: Any, now: Pass) -> Iterator[None]:
    """Let a model of a transformers config attend as a pass says."""
    configs = {id(each): each for each in (config, config.get_text_config())}.values()
    before = [each._attn_implementation for each in configs]
    token = _NOW.set(now)
    try:
        for each in configs:
            each._attn_implementation_internal = NAME
        yield
    finally:
        _NOW.reset(token)
        for each, name in zip(configs, before, strict=True):
            each._attn_implementation_internal = name


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,  # (rows, heads, new, size)
    key: torch.Tensor,  # the rows' own, (rows, heads or fewer, keys, size)
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,  # there is none under a name that transformers does not know
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,  # a score for each head that nothing is looked at with
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend from new tokens to the beginning and to the rows' own, as transformers' eager attention would.

    The parameters are those of its attention functions; returns ``(rows, new, heads, size of values)``.
    """
    now = _NOW.get()
    now.has_windows |= sliding_window is not None
    front, hidden = now.beginning(), now.hidden(key.shape[2], sliding_window, query.device)
    query = query * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    keys = key.shape[2] + (front[0].shape[2] if front else 0)
    rows = max(1, MOST_SCORES.get(query.device.type, MOST_SCORES_ELSEWHERE) // (query[0, ..., 0].numel() * keys))
    parts = []
    for start in range(0, len(query), rows):
        part = slice(start, start + rows)
        mask = [each if each is None or len(each) == 1 else each[part] for each in hidden]
        parts.append(_attend_few(query[part], key[part], value[part], front, mask, softcap, s_aux))
    return torch.cat(parts).transpose(1, 2).contiguous(), None


def _attend_few(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    front: Pair | None,
    hidden: Sequence[torch.Tensor | None],
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    rows, heads, new, size = query.shape
    shared = key.shape[1]
    grouped = query.reshape(rows, shared, -1, size)

    def scored(scores: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        scores = scores.view(rows, shared, heads // shared, new, -1)
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        return scores if mask is None else scores.masked_fill_(mask, -torch.inf)

    scores = [scored(grouped @ key.transpose(2, 3), hidden[1])]
    if front:  # all rows' queries in one product
        flat = grouped.transpose(0, 1).reshape(shared, -1, size) @ front[0][0].transpose(1, 2)
        scores.insert(0, scored(flat.view(shared, rows, -1, flat.shape[-1]).transpose(0, 1), hidden[0]))
    if sinks is not None:
        scores.append(sinks.view(1, shared, -1, 1, 1).expand(rows, -1, -1, new, 1).to(query.dtype))
    shares = torch.softmax(torch.cat(scores, dim=-1), dim=-1).to(value.dtype).flatten(2, 3)
    before = scores[0].shape[-1] if front else 0
    out = shares[..., before : before + key.shape[2]] @ value
    if front:
        flat = shares[..., :before].transpose(0, 1).reshape(shared, -1, before) @ front[1][0]
        out = out + flat.view(shared, rows, -1, flat.shape[-1]).transpose(0, 1)
    return out.view(rows, heads, new, -1)


AttentionInterface.register(NAME, _attend)
