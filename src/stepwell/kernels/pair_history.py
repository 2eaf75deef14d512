"""What two nodes have had to do with each other: when last, how often, and how much each has done since.

A directed pair is found by an open-addressing hash table that is at most half full. The recency of a pair counted in
events of its ends (instead of in seconds) is the first step of a temporal PageRank.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from stepwell.core.batch import Ids
from stepwell.kernels.pair_table import EMPTY, places_for, slot
from stepwell.kernels.walks import Events, Floats

NUM_FEATURES = 16
"""Of a pair (u, v): seen, age, count, events of u since, events of v since; the same of (v, u); then age and number of
the events of u and of v, each with a flag; numbers as `log(1 + x)`, 0 where nothing was seen."""


class History(NamedTuple):
    """All pairs and nodes seen so far.

    Args:
        key: `src << 32 | dst`, or -1 where the place is free, int64 `[T]`, T a power of two.
        value: Time of the last event, number of events, and the ends' degrees right after it, int64 `[T, 4]`.
        last: Time of each node's last event, int64 `[N]`.
        degree: Events of each node, int64 `[N]`.
    """

    key: Ids
    value: Ids
    last: Ids
    degree: Ids

    @classmethod
    def empty(cls, num_nodes: int, places: int = 1024) -> History:
        """Return the state before the first event."""
        return cls(
            np.full(places, EMPTY, np.int64),
            np.zeros((places, 4), np.int64),
            np.zeros(num_nodes, np.int64),
            np.zeros(num_nodes, np.int64),
        )

    def copy(self) -> History:
        """Return a deep copy."""
        return History(*(array.copy() for array in self))

    def with_room(self, pairs: int) -> History:
        """Return a table that stays half empty with so many pairs more; this one if it is large enough."""
        used = self.key != EMPTY
        need = 2 * (int(used.sum()) + pairs)
        if need <= len(self.key):
            return self
        places = places_for(2 * need)
        key, value = np.full(places, EMPTY, np.int64), np.zeros((places, 4), np.int64)
        _rebuild(key, value, self.key[used], self.value[used])
        return self._replace(key=key, value=value)


@numba.njit(cache=True, nogil=True)
def _rebuild(key: Ids, value: Ids, keys: Ids, values: Ids) -> None:
    for i in range(len(keys)):
        at = slot(key, keys[i])
        key[at] = keys[i]
        value[at] = values[i]


@numba.njit(cache=True, nogil=True)
def _note(history: History, src: int, dst: int, time: int) -> np.int64:
    """Apply one event; return the place of its pair."""
    at = slot(history.key, (src << 32) | dst)
    history.degree[src] += 1
    history.degree[dst] += 1
    history.last[src], history.last[dst] = time, time
    history.key[at] = (src << 32) | dst
    value = history.value[at]
    value[0] = time
    value[1] += 1
    value[2], value[3] = history.degree[src], history.degree[dst]
    return at


@numba.njit(cache=True, nogil=True)
def _describe_pair(history: History, src: int, dst: int, now: int, seconds: float, out: Floats) -> None:
    at = slot(history.key, (src << 32) | dst)
    if history.key[at] == EMPTY:
        return
    value = history.value[at]
    out[0] = 1
    out[1] = np.log1p(max(now - value[0], 0) * seconds)
    out[2] = np.log1p(np.float64(value[1]))
    out[3] = np.log1p(np.float64(history.degree[src] - value[2]))
    out[4] = np.log1p(np.float64(history.degree[dst] - value[3]))


@numba.njit(cache=True, nogil=True)
def _describe_node(history: History, node: int, now: int, seconds: float, out: Floats) -> None:
    if history.degree[node]:
        out[0] = 1
        out[1] = np.log1p(max(now - history.last[node], 0) * seconds)
        out[2] = np.log1p(np.float64(history.degree[node]))


@numba.njit(cache=True, nogil=True)
def note(history: History, events: Events) -> None:
    """Apply events in place; the table must have room."""
    for e in range(len(events.src)):
        _note(history, events.src[e], events.dst[e], events.time[e])


@numba.njit(cache=True, nogil=True)
def _describe(
    history: History, events: Events, visible: Ids, now: Ids, src: Ids, candidate: Ids, seconds: float, out: Floats
) -> None:
    done, last = 0, visible[-1] if len(visible) else 0
    place, before = np.empty(last, np.int64), np.empty((last, 7), np.int64)
    for b in range(len(now)):
        while done < visible[b]:
            u, v = events.src[done], events.dst[done]
            at = slot(history.key, (u << 32) | v)
            place[done], before[done, 0] = at, history.key[at]
            before[done, 1:5] = history.value[at]
            before[done, 5], before[done, 6] = history.last[u], history.last[v]
            _note(history, u, v, events.time[done])
            done += 1
        for c in range(candidate.shape[1]):
            v = candidate[b, c]
            if v >= 0:
                row = out[b, c]
                _describe_pair(history, src[b], v, now[b], seconds, row[0:5])
                _describe_pair(history, v, src[b], now[b], seconds, row[5:10])
                _describe_node(history, src[b], now[b], seconds, row[10:13])
                _describe_node(history, v, now[b], seconds, row[13:16])
    for e in range(done - 1, -1, -1):
        u, v = events.src[e], events.dst[e]
        history.key[place[e]] = before[e, 0]
        history.value[place[e]] = before[e, 1:5]
        history.last[v] = before[e, 6]
        history.last[u] = before[e, 5]
        history.degree[u] -= 1
        history.degree[v] -= 1


def describe_pairs(
    history: History, events: Events, visible: Ids, now: Ids, src: Ids, candidate: Ids, seconds: float
) -> Floats:
    """Return `NUM_FEATURES` numbers of each (source, candidate), each query after its own prefix of new events.

    Guarantee: leaves `history` with the bits it had.

    Args:
        history: The state before the events, with room for them.
        events: What has happened since, int64 `[E]` each.
        visible: How many of them each query sees, ascending, int64 `[B]`.
        now: Time of each query, int64 `[B]`.
        src: Sources, int64 `[B]`.
        candidate: int64 `[B, C]`; negative ids pad and get zeros.
        seconds: Length of the time unit.

    Returns:
        float32 `[B, C, NUM_FEATURES]`.

    Cost:
        O(1) a candidate.
    """
    out = np.zeros((*candidate.shape, NUM_FEATURES), np.float32)
    _describe(history, events, visible, now, src, candidate, seconds, out)
    return out


def describe_pairs_reference(
    events: Events, visible: Ids, now: Ids, src: Ids, candidate: Ids, seconds: float
) -> npt.NDArray[np.float64]:
    """State what `describe_pairs` must compute of a stream from its first event."""
    out = np.zeros((*candidate.shape, NUM_FEATURES))
    for b, (u, t) in enumerate(zip(src, now, strict=True)):
        seen = list(zip(*(column[: visible[b]].tolist() for column in events), strict=True))

        def degree(node: int, since: int = 0, seen: list[tuple[int, int, int]] = seen) -> int:
            return sum(int(s == node) + int(d == node) for s, d, _ in seen[since:])

        for c, v in enumerate(candidate[b]):
            if v < 0:
                continue
            for at, (x, y) in ((0, (u, v)), (5, (v, u))):
                met = [i for i, (s, d, _) in enumerate(seen) if (s, d) == (x, y)]
                if met:
                    age = (t - seen[met[-1]][2]) * seconds
                    since = [degree(x, met[-1] + 1), degree(y, met[-1] + 1)]
                    out[b, c, at : at + 5] = [1, *np.log1p([age, len(met), *since])]
            for at, x in ((10, u), (13, v)):
                if degree(x):
                    age = (t - max(when for s, d, when in seen if x in (s, d))) * seconds
                    out[b, c, at : at + 3] = [1, *np.log1p([age, degree(x)])]
    return out
