"""Rows of tokens that begin alike, run through a causal model: the common beginning once, the rest in one loop.

Rows wait until there is room, are read together, and write a token at a time beside those that were there before; a row that
is done leaves its place to one that waits. Logits are computed only where they are wanted. Knows torch and transformers;
nothing of lm-eval, tokenizers or labels.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from harness_ext.backend.attention import Pass, Places, attending, columns_for
from harness_ext.backend.batches import Room, is_out_of_memory
from harness_ext.backend.logits import inner_model, logits_at


@dataclass(eq=False)
class Row:
    """A prompt behind the shared prefix, and what has been written after it."""

    number: int  # the caller's own
    ids: list[int]  # of the prompt after the prefix
    written: list[int] = field(default_factory=list)
    near_tie: bool = False  # somewhere a token that decides something else was as good as that written, but for rounding

    def __len__(self) -> int:
        return len(self.ids) + len(self.written)


Choose = Callable[[list[Row], torch.Tensor], list[int]]  # the next token of each row, by its logits (rows, vocabulary)


class PrefixReader:
    """A causal model of transformers, or one under peft, behind a prefix that it has already read."""

    def __init__(self, model: Any, device: torch.device, prefix: Sequence[int] = (), pad: int = 0) -> None:
        self.model, self.device, self.prefix, self._pad = model, device, list(prefix), pad
        first, tokens = Places(1), self.prefix or [pad]
        self._before: Places | None = None
        now = first.read([len(tokens)])
        self._ask([tokens], now, 1)
        self.has_windows = now.has_windows  # whether the model says where attention reaches back only so far
        self._before = first if self.prefix else None
        self.cache_bytes = first.bytes_per_token  # of keys and values

    def places(self, rows: int) -> Places:
        """Make places behind the prefix for so many rows."""
        return Places(rows, self._before)

    def read(self, rows: Sequence[Sequence[int]], places: Places | None = None, keep: int = 1) -> torch.Tensor:
        """Read rows of tokens behind the prefix, into the next places if they are to go on.

        Returns logits at the last `keep` positions of each, ``(rows, keep, vocabulary)``.
        """
        places = self.places(0) if places is None else places
        return self._ask(rows, places.read([*map(len, rows)]), keep)

    def step(self, tokens: Sequence[int], places: Places) -> torch.Tensor:
        """Read one more token of the row in each place; returns logits, ``(rows, 1, vocabulary)``."""
        return self._ask([[token] for token in tokens], places.step(), 1)

    def states(self, rows: Sequence[Sequence[int]], layers: Sequence[int]) -> torch.Tensor:
        """Read rows likewise, and return some layers' states after the last token, ``(rows, layers, hidden)``."""
        ids, at = self._lay_out(rows, 1)
        inner, now = inner_model(self.model), self.places(0).read([*map(len, rows)])
        with attending(self.model.config, now):
            found = inner.base_model(**self._inputs(ids, now), output_hidden_states=True).hidden_states
        return torch.stack([found[layer][torch.arange(len(ids), device=at.device), at[:, 0]] for layer in layers], dim=1)

    def _ask(self, rows: Sequence[Sequence[int]], now: Pass, keep: int) -> torch.Tensor:
        ids, at = self._lay_out(rows, keep)
        with attending(self.model.config, now):
            return logits_at(self.model, at, **self._inputs(ids, now))

    def _lay_out(self, rows: Sequence[Sequence[int]], keep: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the rows' tokens ``(rows, longest)``, filled up on the right, and where the last `keep` of each are."""
        width = max(map(len, rows))
        ids = torch.tensor([[*row, *[self._pad] * (width - len(row))] for row in rows], device=self.device)
        at = torch.tensor([[len(row) - back for back in range(keep, 0, -1)] for row in rows], device=self.device)
        return ids, at

    def _inputs(self, ids: torch.Tensor, now: Pass) -> dict[str, Any]:
        return {"input_ids": ids, "position_ids": now.positions.to(ids.device), "past_key_values": now, "use_cache": True}


def write(
    reader: PrefixReader,
    rows: Sequence[Row],  # they may have begun before
    choose: Choose,
    is_done: Callable[[Row], bool],  # asked after each token of a row
    finished: Callable[[Row], None],  # is told of each row, once it is done
    room: Room,
) -> None:
    """Write after rows until each is done, the longest first; what memory is too short for goes on with fewer at a time."""
    waiting = deque(sorted(rows, key=len, reverse=True))
    opened: list[Row] = []
    while waiting:
        try:
            _write(reader, waiting, opened, choose, is_done, finished, room)
        except RuntimeError as error:
            if not is_out_of_memory(error) or len(opened) < 2:
                raise
        if opened:
            waiting = deque(sorted([*opened, *waiting], key=len, reverse=True))
            opened = []
            room.halve()  # outside the handler, which would keep tensors alive


def _write(
    reader: PrefixReader,
    waiting: deque[Row],
    opened: list[Row],  # those that are being written, by place
    choose: Choose,
    is_done: Callable[[Row], bool],
    finished: Callable[[Row], None],
    room: Room,
) -> None:
    places = reader.places(0)
    while waiting or opened:
        if not opened and places.most < (most := min(len(waiting), room.to_write(columns_for(len(waiting[0]) + 1)))):
            places = reader.places(most)
        if fresh := _next(waiting, places, room):
            opened += fresh
            tokens = choose(fresh, reader.read([row.ids + row.written for row in fresh], places)[:, -1])
            room.count(len(fresh), len(fresh[0]))
        else:
            _shrink(waiting, opened, places, room)
            fresh = opened
            tokens = choose(opened, reader.step([row.written[-1] for row in opened], places)[:, -1])
        for row, token in zip(fresh, tokens, strict=True):
            row.written.append(token)
        done = {id(row) for row in fresh if is_done(row)}
        ended = [row for row in fresh if id(row) in done]
        order = places.keep([place for place, row in enumerate(opened) if id(row) not in done])
        opened[:] = [opened[place] for place in order]
        for row in ended:
            finished(row)


def _next(waiting: deque[Row], places: Places, room: Room) -> list[Row]:
    """Take the rows that are to be read now: as many as make a good batch, or none while there are places for few only."""
    if not waiting:
        return []
    width = len(waiting[0])
    free = min(places.most, room.to_write(columns_for(width + 1, places.columns))) - len(places.lengths)
    rows = min(room.to_read(max(1, width)), len(waiting))
    if places.lengths and free < min(rows, max(1, places.most // 4)):
        return []
    return [waiting.popleft() for _ in range(min(rows, free))]


def _shrink(waiting: deque[Row], opened: list[Row], places: Places, room: Room) -> None:
    """Let rows wait again where all have become too long to be written at once; the shortest go, as they are read again."""
    places.most = min(places.most, room.to_write(columns_for(max(places.lengths) + 1, places.columns)))
    if len(opened) <= places.most:
        return
    by_length = sorted(range(len(opened)), key=lambda place: len(opened[place]), reverse=True)
    waiting.extendleft(opened[place] for place in reversed(by_length[places.most :]))
    order = places.keep(sorted(by_length[: places.most]))
    opened[:] = [opened[place] for place in order]
