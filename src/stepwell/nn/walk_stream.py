"""Walk weights and pair histories of a stream, as a query may see them: up to its own prefix of the log, to the event.

Answers carry no parameters, so one pass over a batch's events can answer all its queries, each after exactly the events
it may see, and put everything back. Events of the newest time are kept aside until a query may see them: how the stream
was cut into batches then shows in no answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from stepwell.core.batch import Batch, Ids
from stepwell.kernels.pair_history import History, describe_pairs, note
from stepwell.kernels.walks import Events, Floats, Walks, advance, walk_products
from stepwell.nn.memory import MemoryState
from stepwell.nn.reading import column, ids_of, seconds_of

_STATE = ("row", "row_time", "key", "value", "last", "degree", "waiting")
_SIZED = ("key", "value", "waiting")
"""What grows with the stream."""


class Queries(NamedTuple):
    """The queries of a batch and the events that they may see beyond the state.

    Args:
        events: Events since the state, in order of position.
        visible: How many of them each query sees, ascending, int64 `[B]`.
        now: Time of each query, int64 `[B]`.
        seconds: Length of the time unit.
    """

    events: Events
    visible: Ids
    now: Ids
    seconds: float


class WalkStream(nn.Module):
    """Walks and pair histories after the events observed so far: buffers, always in host memory.

    Guarantee: an answer depends only on the events that its query may see: those before its level's `before`. A
    snapshot is a deep copy.

    Args:
        num_nodes: Nodes, ids `0..num_nodes-1`.
        dim: Columns of the projection.
        levels: Longest walk.
        decay: Decays of a step, one a second.
        seed: Of the projection.

    Cost:
        `4 N R (levels + 1) dim` bytes; a microsecond an event.
    """

    row: torch.Tensor
    row_time: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    last: torch.Tensor
    degree: torch.Tensor
    waiting: torch.Tensor

    def __init__(self, num_nodes: int, dim: int, levels: int, decay: tuple[float, ...], seed: int = 0) -> None:
        super().__init__()
        self.decay = decay
        draw = np.random.default_rng(seed)
        base = (draw.standard_normal((num_nodes, dim)) / np.sqrt(dim)).astype(np.float32)
        walks, history = Walks.empty(base, levels, decay), History.empty(num_nodes)
        arrays = (walks.row, walks.last, *history, np.zeros((0, 4), np.int64))
        for name, array in zip(_STATE, arrays, strict=True):
            self.register_buffer(name, torch.from_numpy(array))

    @torch.no_grad()
    def forget(self) -> None:
        """Return to the state before the first event."""
        self.row[:, :, 1:] = 0
        for name in ("row_time", "value", "last", "degree"):
            getattr(self, name).zero_()
        self.key.fill_(-1)
        self.waiting = self.waiting[:0].clone()

    def queries(self, batch: Batch, before: Ids | None = None) -> Queries:
        """Return what queries during a batch may see: those of its events, as its levels say, or of given prefixes."""
        events = np.concatenate([self.waiting.numpy(), _columns(batch)])
        if before is None:
            before = column(batch.levels_of()[0].before)[batch.tensor("src_row")].numpy(force=True)
        visible = np.searchsorted(events[:, 3], before, side="left")
        return Queries(_events(events), visible, ids_of(batch, "time"), seconds_of(batch))

    def products(self, queries: Queries, left: Ids, right: Ids) -> Floats:
        """Return inner products for pairs of nodes `[B, M]`: float32 `[B, M, R (levels + 1)^2]`."""
        left, right = np.ascontiguousarray(left), np.ascontiguousarray(right)
        found = walk_products(self._walks(queries.seconds), *queries[:3], left, right)
        return found.reshape(*left.shape, -1)

    def histories(self, queries: Queries, src: Ids, candidate: Ids) -> Floats:
        """Return what source and candidate have had to do with each other: float32 `[B, C, NUM_FEATURES]`."""
        history = self._history(len(queries.events.src))
        return describe_pairs(history, *queries[:3], src, candidate, queries.seconds)

    def observe(self, batch: Batch) -> None:
        """Apply what is older than the newest event; let the newest wait."""
        events = np.concatenate([self.waiting.numpy(), _columns(batch)])
        ripe = events[:, 2] < events[-1, 2] if len(events) else np.zeros(0, bool)
        self.waiting = torch.from_numpy(events[~ripe])
        applied = _events(events[ripe])
        advance(self._walks(seconds_of(batch)), applied)
        note(self._history(len(applied.src)), applied)

    def snapshot(self) -> MemoryState:
        """Return a deep copy of the state."""
        return tuple(getattr(self, name).clone() for name in _STATE)

    def restore(self, state: MemoryState) -> None:
        """Return to a snapshot, which stays valid."""
        for name, value in zip(_STATE, state, strict=True):
            setattr(self, name, value.clone())

    def _walks(self, seconds: float) -> Walks:
        return Walks(self.row.numpy(), self.row_time.numpy(), np.array(self.decay) * seconds)

    def _history(self, pairs: int) -> History:
        """Return the history, with room for so many pairs more."""
        history = History(self.key.numpy(), self.value.numpy(), self.last.numpy(), self.degree.numpy())
        roomy = history.with_room(pairs)
        if roomy is not history:
            self.key, self.value = torch.from_numpy(roomy.key), torch.from_numpy(roomy.value)
        return roomy

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> WalkStream:  # noqa: FBT001, FBT002 - torch's signature
        """Stay where and what it is: the kernels run in host memory, in the buffers' own types."""
        return self

    def _load_from_state_dict(self, state_dict: dict[str, torch.Tensor], prefix: str, *rest: object) -> None:
        """Take the saved sizes of what grows, then load."""
        for name in _SIZED:
            if prefix + name in state_dict:
                setattr(self, name, torch.empty_like(state_dict[prefix + name], device="cpu"))
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _columns(batch: Batch) -> Ids:
    return np.stack([ids_of(batch, name) for name in ("src", "dst", "time", "event")], 1)


def _events(rows: Ids) -> Events:
    return Events(*(np.ascontiguousarray(rows[:, i]) for i in range(3)))
