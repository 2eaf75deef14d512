"""Walk weights and pair histories of a stream, as a query may see them: up to its own prefix of the log, to the event.

Answers carry no parameters, so one pass over a batch's events can answer all its queries, each after exactly the events
it may see, and put everything back. Events of the newest time are kept aside until a query may see them: how the stream
was cut into batches then shows in no answer.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from stepwell.core.batch import Batch, Ids
from stepwell.core.state import StateReader, StateWriter
from stepwell.kernels.pair_history import History, describe_pairs, note
from stepwell.kernels.walks import Events, Floats, Walks, advance, walk_products
from stepwell.nn.reading import column, seconds_of


class WalkState(NamedTuple):
    """A deep copy of a stream's state: what is applied, and what waits, int64 `[W, 4]`."""

    walks: Walks
    history: History
    waiting: Ids


class Queries(NamedTuple):
    """The queries of a batch and the events that they may see beyond the state.

    Args:
        events: Events since the state, in order of position.
        visible: How many of them each query sees, int64 `[B]`.
        now: Time of each query, int64 `[B]`.
        seconds: Length of the time unit.
    """

    events: Events
    visible: Ids
    now: Ids
    seconds: float


class WalkStream:
    """Walks and pair histories after the events observed so far.

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

    def __init__(self, num_nodes: int, dim: int, levels: int, decay: tuple[float, ...], seed: int = 0) -> None:
        self.num_nodes, self.levels, self.decay = num_nodes, levels, decay
        draw = np.random.default_rng(seed)
        self.base = (draw.standard_normal((num_nodes, dim)) / np.sqrt(dim)).astype(np.float32)
        self.forget()

    def forget(self) -> None:
        """Return to the state before the first event."""
        self._walks = Walks.empty(self.base, self.levels, self.decay)
        self._history = History.empty(self.num_nodes)
        self._waiting = np.zeros((0, 4), np.int64)

    def queries(self, batch: Batch, before: Ids | None = None) -> Queries:
        """Return what queries during a batch may see: those of its events, as its levels say, or of given prefixes."""
        events = np.concatenate([self._waiting, _columns(batch)])
        if before is None:
            before = column(batch.levels_of()[0].before)[batch.tensor("src_row")].numpy(force=True)
        visible = np.searchsorted(events[:, 3], before, side="left")
        return Queries(_events(events), visible, _ids(batch, "time"), seconds_of(batch))

    def products(self, queries: Queries, left: Ids, right: Ids) -> Floats:
        """Return inner products for pairs of nodes `[B, M]`: float32 `[B, M, R (levels + 1)^2]`."""
        decay = np.array(self.decay) * queries.seconds
        walks = self._walks._replace(decay=decay)
        left, right = np.ascontiguousarray(left), np.ascontiguousarray(right)
        found = walk_products(walks, queries.events, queries.visible, queries.now, left, right)
        return found.reshape(*left.shape, -1)

    def histories(self, queries: Queries, src: Ids, candidate: Ids) -> Floats:
        """Return what source and candidate have had to do with each other: float32 `[B, C, NUM_FEATURES]`."""
        self._history = self._history.with_room(len(queries.events.src))
        return describe_pairs(self._history, *queries[:3], src, candidate, queries.seconds)

    def observe(self, batch: Batch) -> None:
        """Apply what is older than the newest event; let the newest wait."""
        events = np.concatenate([self._waiting, _columns(batch)])
        ripe = events[:, 2] < events[-1, 2] if len(events) else np.zeros(0, bool)
        self._waiting = events[~ripe]
        applied = _events(events[ripe])
        advance(self._walks._replace(decay=np.array(self.decay) * seconds_of(batch)), applied)
        self._history = self._history.with_room(len(applied.src))
        note(self._history, applied)

    def snapshot(self) -> WalkState:
        """Return a deep copy of the state."""
        return WalkState(self._walks.copy(), self._history.copy(), self._waiting.copy())

    def restore(self, state: WalkState) -> None:
        """Return to a snapshot, which stays valid."""
        self._walks, self._history = state.walks.copy(), state.history.copy()
        self._waiting = state.waiting.copy()

    def save(self, writer: StateWriter) -> None:
        for name in Walks._fields:
            writer.tensor(f"walks/{name}", getattr(self._walks, name))
        for name in History._fields:
            writer.tensor(f"history/{name}", getattr(self._history, name))
        writer.tensor("waiting", self._waiting)

    def load(self, reader: StateReader) -> None:
        walks = Walks(*(reader.tensor(f"walks/{name}").numpy().copy() for name in Walks._fields))
        history = History(*(reader.tensor(f"history/{name}").numpy().copy() for name in History._fields))
        self._walks, self._history = walks, history
        self._waiting = reader.tensor("waiting").numpy().copy()


def _columns(batch: Batch) -> Ids:
    return np.stack([_ids(batch, name) for name in ("src", "dst", "time", "event")], 1)


def _events(rows: Ids) -> Events:
    return Events(*(np.ascontiguousarray(rows[:, i]) for i in range(3)))


def _ids(batch: Batch, name: str) -> Ids:
    return np.ascontiguousarray(batch.array(name), dtype=np.int64)
