"""What needs no learning: remembered pairs, recent partners and popularity, as models of a batch.

They set the bar. Each keeps one small table that only grows with what was observed, so a whole one-against-all
evaluation takes seconds. Two state modes are told apart, because they alone move a score by ten points: *frozen*
(`score`, then `observe` after the batch: no event of a batch sees another one of it) and *streaming* (`stream`:
every event is scored against the state left by the event before it).
"""

from __future__ import annotations

from typing import cast

import numba
import numpy as np
import numpy.typing as npt
import torch

from stepwell.core.batch import Batch
from stepwell.core.errors import InvalidValueError
from stepwell.core.state import StateReader, StateWriter
from stepwell.kernels.pair_table import EMPTY, places_for, slot
from stepwell.nn.reading import ids_of

_NEVER = np.iinfo(np.int64).min

_Int64 = npt.NDArray[np.int64]
_Float64 = npt.NDArray[np.float64]


class EdgeBank:
    """Score 1 for a pair (source, candidate) that was seen before, else 0.

    A pair is directed. Times may tie with the query's: what was observed counts as seen, in both state modes.

    Args:
        window: Forget pairs whose last event lies `window` time units or more before the query; None never forgets.

    Raises:
        InvalidValueError: If `window < 1`.

    Cost:
        Expected O(1) a candidate; 32 bytes a pair seen at most.

    References:
        Poursafaei et al., "Towards Better Evaluation for Dynamic Link Prediction", NeurIPS 2022, arXiv:2207.10128,
        section 4. *Differs:* the window ends at the query's own time instead of at the end of the training set.
    """

    def __init__(self, window: int | None = None) -> None:
        if window is not None and window < 1:
            raise InvalidValueError("window", window, "at least 1 time unit, or None")
        self.window = window
        self._pairs = _Pairs()

    def __repr__(self) -> str:
        return f"EdgeBank(window={self.window})"

    def score(self, batch: Batch) -> torch.Tensor:
        """Return 1.0 where the pair was seen and is not forgotten, else 0.0: float64 `[B, C]`."""
        return torch.from_numpy(self._seen(batch, self._pairs.find(batch)))

    def stream(self, batch: Batch) -> torch.Tensor:
        """Return the same against the state left by the event before each; learns the batch."""
        return torch.from_numpy(self._seen(batch, self._pairs.find_then_put(batch, batch.array("time"))))

    def observe(self, batch: Batch) -> None:
        """Remember the batch's pairs with their times."""
        self._pairs.put(batch, batch.array("time"))

    def forget(self) -> None:
        """Forget every pair."""
        self._pairs = _Pairs()

    def save(self, writer: StateWriter) -> None:
        """Record the pairs and their times."""
        self._pairs.save(writer)

    def load(self, reader: StateReader) -> None:
        """Return to recorded pairs and their times."""
        self._pairs.load(reader)

    def _seen(self, batch: Batch, last: _Int64) -> _Float64:
        if self.window is None:
            return np.asarray(last != _NEVER, dtype=np.float64)
        now = ids_of(batch, "time")[:, None]
        age = now - np.where(last == _NEVER, now, last)
        return np.asarray((last != _NEVER) & (age < self.window), dtype=np.float64)


class MostRecent:
    """Rank a source's past destinations by recency; what was never seen ties at the end.

    The score is the position of the pair's last event, -1 if there is none; float64, so that positions above
    2**24 stay distinct. On repeating streams this is nearly the state of the art.

    Cost:
        As `EdgeBank`.
    """

    def __init__(self) -> None:
        self._pairs = _Pairs()

    def __repr__(self) -> str:
        return "MostRecent()"

    def score(self, batch: Batch) -> torch.Tensor:
        """Return the position of each pair's last event, or -1: float64 `[B, C]`."""
        return torch.from_numpy(_position(self._pairs.find(batch)))

    def stream(self, batch: Batch) -> torch.Tensor:
        """Return the same against the state left by the event before each; learns the batch."""
        return torch.from_numpy(_position(self._pairs.find_then_put(batch, batch.array("event"))))

    def observe(self, batch: Batch) -> None:
        """Remember the batch's pairs with their positions."""
        self._pairs.put(batch, batch.array("event"))

    def forget(self) -> None:
        """Forget every pair."""
        self._pairs = _Pairs()

    def save(self, writer: StateWriter) -> None:
        """Record the pairs and their positions."""
        self._pairs.save(writer)

    def load(self, reader: StateReader) -> None:
        """Return to recorded pairs and their positions."""
        self._pairs.load(reader)


class PopTrack:
    """Rank candidates by how often they were a destination, old events counting less and less.

    After n observed events node v has popularity `sum(decay ** (n - 1 - i) for events i that went to v)`. The score
    is its logarithm, and a little less than any seen node's for nodes never seen. It does not depend on how the events
    were cut into batches, only on how many were observed.

    Args:
        decay: Weight that an event loses with each later event, above 0 and at most 1.

    Raises:
        InvalidValueError: If `decay` is outside (0, 1].

    Cost:
        O(1) a candidate; 16 bytes a node.

    References:
        Daniluk and Dabrowski, "Temporal graph models fail to capture global temporal dynamics", 2023,
        arXiv:2309.15730. *Differs:* decays with every event instead of every batch.
    """

    def __init__(self, decay: float = 0.99) -> None:
        if not 0 < decay <= 1:
            raise InvalidValueError("decay", decay, "above 0 and at most 1")
        self.decay = decay
        self._weight = np.zeros(0)
        self._last = np.zeros(0, np.int64)
        self._count = 0

    def __repr__(self) -> str:
        return f"PopTrack(decay={self.decay})"

    def score(self, batch: Batch) -> torch.Tensor:
        """Return log-popularities, float64 `[B, C]`."""
        candidate = self._known(batch)
        out = np.empty(candidate.shape)
        _popularity(candidate, self._weight, self._last, self._count, np.log(self.decay), out)
        return torch.from_numpy(out)

    def stream(self, batch: Batch) -> torch.Tensor:
        """Return the same against the state left by the event before each; learns the batch."""
        candidate, dst = self._known(batch), ids_of(batch, "dst")
        out = np.empty(candidate.shape)
        self._count = _stream_popularity(candidate, dst, self._weight, self._last, self._count, self.decay, out)
        return torch.from_numpy(out)

    def observe(self, batch: Batch) -> None:
        """Count the batch's destinations."""
        self._known(batch)
        self._count = _count(ids_of(batch, "dst"), self._weight, self._last, self._count, self.decay)

    def forget(self) -> None:
        """Forget every event."""
        self._weight = np.zeros(0)
        self._last = np.zeros(0, np.int64)
        self._count = 0

    def save(self, writer: StateWriter) -> None:
        """Record the popularities."""
        writer.tensor("weight", self._weight)
        writer.tensor("last", self._last)
        writer.value("count", self._count)

    def load(self, reader: StateReader) -> None:
        """Return to recorded popularities."""
        self._weight = reader.tensor("weight").numpy().copy()
        self._last = reader.tensor("last").numpy().copy()
        self._count = cast("int", reader.value("count"))

    def _known(self, batch: Batch) -> _Int64:
        """Return the candidates after growing the tables to hold every id of the batch."""
        dst = ids_of(batch, "dst")
        candidate = ids_of(batch, "candidate") if "candidate" in batch else dst[:, None]
        need = 1 + max(int(candidate.max(initial=-1)), int(dst.max(initial=-1)))
        if need > len(self._weight):
            extra = max(need, 2 * len(self._weight)) - len(self._weight)
            self._weight = np.concatenate([self._weight, np.zeros(extra)])
            self._last = np.concatenate([self._last, np.zeros(extra, np.int64)])
        return candidate


class _Pairs:
    """A hash map from (source, destination) to the last value given: open addressing, at most half full."""

    def __init__(self) -> None:
        self._key = np.full(1024, EMPTY, np.int64)
        self._value = np.zeros(1024, np.int64)
        self._size = 0

    def find(self, batch: Batch) -> _Int64:
        """Return the last value of each (source, candidate), `_NEVER` if there is none: `[B, C]`."""
        candidate = ids_of(batch, "candidate")
        out = np.empty(candidate.shape, np.int64)
        _find_pairs(self._key, self._value, ids_of(batch, "src"), candidate, out)
        return out

    def put(self, batch: Batch, value: npt.NDArray[np.generic]) -> None:
        """Set the value of each event's pair; the last event of a pair wins."""
        self._reserve(len(value))
        values = value.astype(np.int64, copy=False)
        self._size += _put_pairs(self._key, self._value, ids_of(batch, "src"), ids_of(batch, "dst"), values)

    def find_then_put(self, batch: Batch, value: npt.NDArray[np.generic]) -> _Int64:
        """Do both, event by event."""
        self._reserve(len(value))
        src, dst, candidate = ids_of(batch, "src"), ids_of(batch, "dst"), ids_of(batch, "candidate")
        out = np.empty(candidate.shape, np.int64)
        values = value.astype(np.int64, copy=False)
        self._size += _stream_pairs(self._key, self._value, src, dst, candidate, values, out)
        return out

    def save(self, writer: StateWriter) -> None:
        used = self._key != EMPTY
        writer.tensor("pair", self._key[used])
        writer.tensor("value", self._value[used])

    def load(self, reader: StateReader) -> None:
        key, value = reader.tensor("pair").numpy(), reader.tensor("value").numpy()
        self._rebuild(key, value, 2 * len(key))

    def _reserve(self, extra: int) -> None:
        need = 2 * (self._size + extra)
        if need > len(self._key):
            used = self._key != EMPTY
            self._rebuild(self._key[used], self._value[used], 2 * need)

    def _rebuild(self, key: _Int64, value: _Int64, capacity: int) -> None:
        places = places_for(capacity)
        self._key = np.full(places, EMPTY, np.int64)
        self._value = np.zeros(places, np.int64)
        self._size = int(_put_keys(self._key, self._value, key, value))


def _position(last: _Int64) -> _Float64:
    return np.where(last == _NEVER, -1, last).astype(np.float64)


@numba.njit(cache=True, nogil=True, inline="always")
def _find_row(table: _Int64, value: _Int64, src: int, candidate: _Int64, out: _Int64) -> None:
    for c in range(len(candidate)):
        at = slot(table, (src << 32) | candidate[c])
        out[c] = value[at] if candidate[c] >= 0 and table[at] != EMPTY else _NEVER


@numba.njit(cache=True, nogil=True, inline="always")
def _put_one(table: _Int64, value: _Int64, key: int, new: int) -> int:
    """Set one value; return 1 if the key is new."""
    at = slot(table, key)
    fresh = 1 if table[at] == EMPTY else 0
    table[at] = key
    value[at] = new
    return fresh


@numba.njit(cache=True, nogil=True)
def _find_pairs(table: _Int64, value: _Int64, src: _Int64, candidate: _Int64, out: _Int64) -> None:
    for b in range(len(src)):
        _find_row(table, value, src[b], candidate[b], out[b])


@numba.njit(cache=True, nogil=True)
def _put_pairs(table: _Int64, value: _Int64, src: _Int64, dst: _Int64, new: _Int64) -> int:
    fresh = 0
    for b in range(len(src)):
        fresh += _put_one(table, value, (src[b] << 32) | dst[b], new[b])
    return fresh


@numba.njit(cache=True, nogil=True)
def _put_keys(table: _Int64, value: _Int64, key: _Int64, new: _Int64) -> int:
    fresh = 0
    for b in range(len(key)):
        fresh += _put_one(table, value, key[b], new[b])
    return fresh


@numba.njit(cache=True, nogil=True)
def _stream_pairs(
    table: _Int64, value: _Int64, src: _Int64, dst: _Int64, candidate: _Int64, new: _Int64, out: _Int64
) -> int:
    fresh = 0
    for b in range(len(src)):
        _find_row(table, value, src[b], candidate[b], out[b])
        fresh += _put_one(table, value, (src[b] << 32) | dst[b], new[b])
    return fresh


@numba.njit(cache=True, nogil=True, inline="always")
def _popularity_row(
    candidate: _Int64, weight: _Float64, last: _Int64, count: int, log_decay: float, out: _Float64
) -> None:
    for c in range(len(candidate)):
        v = candidate[c]
        if v >= 0 and weight[v] > 0:
            out[c] = np.log(weight[v]) + (count - 1 - last[v]) * log_decay
        else:
            out[c] = count * log_decay - 1


@numba.njit(cache=True, nogil=True)
def _popularity(candidate: _Int64, weight: _Float64, last: _Int64, count: int, log_decay: float, out: _Float64) -> None:
    for b in range(len(candidate)):
        _popularity_row(candidate[b], weight, last, count, log_decay, out[b])


@numba.njit(cache=True, nogil=True)
def _count(dst: _Int64, weight: _Float64, last: _Int64, count: int, decay: float) -> int:
    for b in range(len(dst)):
        v = dst[b]
        weight[v] = weight[v] * decay ** (count - last[v]) + 1.0
        last[v] = count
        count += 1
    return count


@numba.njit(cache=True, nogil=True)
def _stream_popularity(
    candidate: _Int64, dst: _Int64, weight: _Float64, last: _Int64, count: int, decay: float, out: _Float64
) -> int:
    for b in range(len(dst)):
        _popularity_row(candidate[b], weight, last, count, np.log(decay), out[b])
        count = _count(dst[b : b + 1], weight, last, count, decay)
    return count
