"""Time-decayed walk weights between any two nodes, by random projection, kept up event by event (TPNet).

`A_l[u, v]` is the total weight of the walks of l steps from u to v that go back in time: each step follows an event
older than the one before it, and counts `exp(-decay age)`. `H_l = A_l P` with a random `P` of few columns stands for
it: by Johnson and Lindenstrauss, inner products of rows of `H_l` and `H_m` are near those of `A_l` and `A_m`.

An event (u, v, t) gives both ends one more last step: `H_l[u] += H_{l-1}[v]` and the reverse, from the rows before it.
Rows are kept as of their node's last event and decayed when read, so no exponential grows. L levels above the zeroth; R
decays; D columns.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numba
import numpy as np
import numpy.typing as npt

from stepwell.core.batch import Ids

Floats: TypeAlias = npt.NDArray[np.float32]
_LARGEST = np.float32(1e17)
"""Entries saturate here, so that no inner product of less than 30,000 columns overflows."""


class Walks(NamedTuple):
    """Projected walk weights as of each node's last event.

    Args:
        row: float32 `[N, R, L + 1, D]`; level 0 is the projection itself and never changes.
        last: Time of each node's last event, int64 `[N]`.
        decay: Decay of a step, one a time unit, float64 `[R]`.
    """

    row: Floats
    last: Ids
    decay: npt.NDArray[np.float64]

    @classmethod
    def empty(cls, base: Floats, levels: int, decay: tuple[float, ...]) -> Walks:
        """Return the state before the first event, of a projection `[N, D]`."""
        row = np.zeros((len(base), len(decay), levels + 1, base.shape[1]), np.float32)
        row[:, :, 0] = base[:, None]
        return cls(row, np.zeros(len(base), np.int64), np.array(decay, np.float64))

    def copy(self) -> Walks:
        """Return a deep copy."""
        return Walks(self.row.copy(), self.last.copy(), self.decay.copy())


class Events(NamedTuple):
    """Events in their order, int64 `[E]` each."""

    src: Ids
    dst: Ids
    time: Ids


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _decay_to(walks: Walks, node: int, time: int) -> None:
    age = max(time - walks.last[node], 0)
    walks.last[node] = max(walks.last[node], time)
    row = walks.row[node]
    for r in range(row.shape[0]):
        factor = np.float32(np.exp(-walks.decay[r] * age))
        power = np.float32(1)
        for level in range(1, row.shape[1]):
            power *= factor
            for d in range(row.shape[2]):
                row[r, level, d] *= power


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _add(walks: Walks, src: int, dst: int, time: int) -> None:
    """Apply one event: top level first, so that every sum reads the rows from before it."""
    _decay_to(walks, src, time)
    _decay_to(walks, dst, time)
    a, b = walks.row[src], walks.row[dst]
    for r in range(a.shape[0]):
        for level in range(a.shape[1] - 1, 0, -1):
            for d in range(a.shape[2]):
                to_a = a[r, level, d] + b[r, level - 1, d]
                to_b = b[r, level, d] + a[r, level - 1, d]
                if src == dst:
                    to_a += b[r, level - 1, d]
                    to_b = to_a
                a[r, level, d] = min(max(to_a, -_LARGEST), _LARGEST)
                b[r, level, d] = min(max(to_b, -_LARGEST), _LARGEST)


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _products(walks: Walks, left: int, right: int, now: int, out: Floats) -> None:
    a, b = walks.row[left], walks.row[right]
    age_a, age_b = max(now - walks.last[left], 0), max(now - walks.last[right], 0)
    for r in range(a.shape[0]):
        for i in range(a.shape[1]):
            for j in range(b.shape[1]):
                total = np.float32(0)
                for d in range(a.shape[2]):
                    total += a[r, i, d] * b[r, j, d]
                out[r, i, j] = total * np.float32(np.exp(-walks.decay[r] * (i * age_a + j * age_b)))


@numba.njit(cache=True, nogil=True)
def advance(walks: Walks, events: Events) -> None:
    """Apply events in place, one after the other; O(R L D) each."""
    for e in range(len(events.src)):
        _add(walks, events.src[e], events.dst[e], events.time[e])


@numba.njit(cache=True, nogil=True)
def _answer(walks: Walks, events: Events, visible: Ids, now: Ids, left: Ids, right: Ids, out: Floats) -> None:
    done = 0
    for b in range(len(now)):
        while done < visible[b]:
            _add(walks, events.src[done], events.dst[done], events.time[done])
            done += 1
        for m in range(left.shape[1]):
            if left[b, m] >= 0 and right[b, m] >= 0:
                _products(walks, left[b, m], right[b, m], now[b], out[b, m])


def walk_products(walks: Walks, events: Events, visible: Ids, now: Ids, left: Ids, right: Ids) -> Floats:
    """Return inner products of rows for pairs of nodes, each query after its own prefix of new events.

    Guarantee: leaves `walks` with the bits it had; only the rows of the events' ends are copied. What it writes
    meanwhile nobody else may read.

    Args:
        walks: The state before the events.
        events: What has happened since, int64 `[E]` each.
        visible: How many of them each query sees, ascending, int64 `[B]`.
        now: Time of each query, int64 `[B]`.
        left: Nodes, int64 `[B, M]`; negative ids pad.
        right: Nodes, int64 `[B, M]`.

    Returns:
        `<H_i[left], H_j[right]>` as of the query, float32 `[B, M, R, L + 1, L + 1]`, 0 where padded.

    Cost:
        `O(R L^2 D)` a pair, about 0.3 us for L = 3, D = 128, R = 1; `O(R L D)` an event.

    References:
        Lu et al., "Improving Temporal Link Prediction via Temporal Walk Matrix Projection", NeurIPS 2024,
        arXiv:2410.04013, section 4.
    """
    _, num_decays, num_levels, _ = walks.row.shape
    out = np.zeros((*left.shape, num_decays, num_levels, num_levels), np.float32)
    last = visible[-1] if len(visible) else 0
    touched = np.unique(np.concatenate([events.src[:last], events.dst[:last]]))
    row, time = walks.row[touched], walks.last[touched]
    _answer(walks, events, visible, now, left, right, out)
    walks.row[touched], walks.last[touched] = row, time
    return out


def walk_weights_reference(
    events: Events, num_nodes: int, levels: int, decay: float, now: int
) -> npt.NDArray[np.float64]:
    """State what the rows stand for: `A_l[u, v]` by listing every walk back in time, float64 `[L + 1, N, N]`.

    An event is two steps, one from each end to the other.
    """
    total = np.zeros((levels + 1, num_nodes, num_nodes))
    total[0] = np.eye(num_nodes)

    def go(start: int, at: int, before: int, length: int, weight: float) -> None:
        if length == levels:
            return
        for e in range(before):
            for here, there in ((events.src[e], events.dst[e]), (events.dst[e], events.src[e])):
                if here == at:
                    longer = weight * np.exp(-decay * (now - events.time[e]))
                    total[length + 1, start, there] += longer
                    go(start, there, e, length + 1, longer)

    for node in range(num_nodes):
        go(node, node, len(events.src), 0, 1.0)
    return total
