"""The slow twins: one obvious loop for each kernel; they are the specification and the tests' oracle.

Arguments and results are those of the kernel of the same name.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from stepwell.core import Ids


def build_tcsr(src: Ids, dst: Ids, time: Ids, num_nodes: int, *, directed: bool = False) -> tuple[Ids, Ids, Ids, Ids]:
    """State what `stepwell.kernels.build_tcsr` must compute."""
    order = sorted(range(len(time)), key=lambda i: time[i])
    rows: list[list[tuple[int, int, int]]] = [[] for _ in range(num_nodes)]
    for position, i in enumerate(order):
        rows[src[i]].append((dst[i], position, time[i]))
        if src[i] != dst[i] and not directed:
            rows[dst[i]].append((src[i], position, time[i]))
    indptr = np.cumsum([0, *(len(row) for row in rows)]).astype(np.int64)
    flat = np.array([entry for row in rows for entry in row], np.int64).reshape(-1, 3)
    return indptr, flat[:, 0], flat[:, 1], flat[:, 2]


def newest_before(indptr: Ids, event: Ids, nodes: Ids, before: Ids, k: int) -> Ids:
    """State, one query at a time, what `stepwell.kernels.newest_before` must compute."""
    slots = np.full((len(nodes), k), -1, np.int64)
    for row, visible in enumerate(_visible(indptr, event, nodes, before)):
        newest = visible[::-1][:k]
        slots[row, : len(newest)] = newest
    return slots


def recent_neighbors(
    indptr: Ids, neighbor: Ids, event: Ids, time: Ids, nodes: Ids, times: Ids, before: Ids, k: int
) -> tuple[Ids, Ids, Ids, npt.NDArray[np.bool_]]:
    """State what `stepwell.kernels.recent_neighbors` must compute."""
    return read_slots(neighbor, event, time, times, newest_before(indptr, event, nodes, before, k))


def uniform_before(indptr: Ids, event: Ids, nodes: Ids, before: Ids, k: int, key: int, lane: int, rows: Ids) -> Ids:
    """State Floyd's draw of `k` from the visible events, one query at a time, newest first."""
    slots = np.full((len(nodes), k), -1, np.int64)
    for row, visible in enumerate(_visible(indptr, event, nodes, before)):
        chosen: set[int] = set()
        for j, largest in enumerate(range(max(0, len(visible) - k), len(visible))):
            bits = philox(key, int(rows[row]), lane + j)
            pick = (bits >> 32) * (largest + 1) >> 32
            chosen.add(largest if pick in chosen else pick)
        newest = [visible[place] for place in sorted(chosen, reverse=True)]
        slots[row, : len(newest)] = newest
    return slots


def window_before(indptr: Ids, event: Ids, time: Ids, nodes: Ids, times: Ids, before: Ids, k: int, width: int) -> Ids:
    """State, one query at a time, what `stepwell.kernels.window_before` must compute."""
    slots = np.full((len(nodes), k), -1, np.int64)
    for row, visible in enumerate(_visible(indptr, event, nodes, before)):
        recent = [slot for slot in visible[::-1] if time[slot] >= times[row] - width][:k]
        slots[row, : len(recent)] = recent
    return slots


def read_slots(
    neighbor: Ids, event: Ids, time: Ids, times: Ids, slots: Ids
) -> tuple[Ids, Ids, Ids, npt.NDArray[np.bool_]]:
    """State what `stepwell.kernels.read_slots` must compute."""
    node, position, dt = np.full_like(slots, -1), np.full_like(slots, -1), np.zeros_like(slots)
    for row, column in zip(*np.nonzero(slots >= 0), strict=True):
        slot = slots[row, column]
        node[row, column], position[row, column] = neighbor[slot], event[slot]
        dt[row, column] = times[row] - time[slot]
    return node, position, dt, slots >= 0


def unique_inverse(keys: Ids) -> tuple[Ids, Ids]:
    """State what `stepwell.kernels.unique_inverse` must compute."""
    row_of = {int(key): row for row, key in enumerate(dict.fromkeys(keys.tolist()))}
    return np.array(list(row_of), np.int64), np.array([row_of[int(key)] for key in keys], np.int64)


def unique_pairs(a: Ids, b: Ids) -> tuple[Ids, Ids, Ids]:
    """State what `stepwell.kernels.unique_pairs` must compute."""
    pairs = list(zip(a.tolist(), b.tolist(), strict=True))
    row_of = {pair: row for row, pair in enumerate(dict.fromkeys(pairs))}
    distinct = np.array(list(row_of), np.int64).reshape(-1, 2)
    return distinct[:, 0], distinct[:, 1], np.array([row_of[pair] for pair in pairs], np.int64)


def last_wins(ids: Ids, order: npt.NDArray[np.generic] | None = None) -> tuple[Ids, Ids]:
    """State what `stepwell.kernels.last_wins` must compute: write every row in order, keep who wrote last."""
    when = np.arange(len(ids)) if order is None else order
    writer = dict.fromkeys(ids.tolist(), -1)
    for row in sorted(range(len(ids)), key=lambda i: when[i]):
        writer[int(ids[row])] = row
    return np.array(list(writer), np.int64), np.array(list(writer.values()), np.int64)


def gather_rows(table: npt.NDArray[np.generic], rows: Ids) -> npt.NDArray[np.generic]:
    """State what `stepwell.kernels.gather_rows` must compute."""
    out = np.zeros((len(rows), *table.shape[1:]), table.dtype)
    for i, row in enumerate(rows):
        if row >= 0:
            out[i] = table[row]
    return out


def philox(key: int, row: int, lane: int) -> int:
    """State Philox4x32-10 in Python integers: the low 64 bits of one block.

    References:
        Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """
    mask = 0xFFFFFFFF
    c = [row & mask, row >> 32 & mask, lane & mask, lane >> 32 & mask]
    k0, k1 = key & mask, key >> 32 & mask
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [p1 >> 32 ^ c[1] ^ k0, p1 & mask, p0 >> 32 ^ c[3] ^ k1, p0 & mask]
        k0, k1 = k0 + 0x9E3779B9 & mask, k1 + 0xBB67AE85 & mask
    return c[1] << 32 | c[0]


def _visible(indptr: Ids, event: Ids, nodes: Ids, before: Ids) -> list[list[int]]:
    """Return each query's visible places, oldest first."""
    found = []
    for node, border in zip(nodes.tolist(), before.tolist(), strict=True):
        known = 0 <= node < len(indptr) - 1
        row = range(indptr[node], indptr[node + 1]) if known else range(0)
        found.append([slot for slot in row if event[slot] < border])
    return found
