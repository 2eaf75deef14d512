"""A query's visible past in a T-CSR on the device: the newest, those of a window, or a uniform draw.

Twins of `kernels.neighbors`, equal to the bit. What a query sees does not depend on the model, so the queries of many
coming batches are answered by one launch (`LookAhead`): a launch costs as much as some thousand queries.

A program takes some queries: it bisects their rows in lockstep, then copies each one's newest places, which stand
beside each other, as one tile. The uniform draw is Floyd's algorithm over a tile of Philox words; the twin keeps
its picks sorted while it inserts, here each pick's place is the number of larger ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from stepwell.core.draws import Draw
from stepwell.core.errors import InvalidValueError
from stepwell.core.shapes import Adjacency
from stepwell.kernels.gpu.grid import power_of_two, start

_TILE = 512  # places a program copies
_CUBE = 4096  # comparisons by which a program sorts uniform picks
_MOST = 128  # picks whose comparisons still fit a program's registers


class DeviceIndex(NamedTuple):
    """A T-CSR on the device, the arrays of `core.shapes.Adjacency`: int64, int32, int32, int64."""

    indptr: torch.Tensor
    neighbor: torch.Tensor
    event: torch.Tensor
    time: torch.Tensor

    @classmethod
    def of(cls, index: Adjacency, device: torch.device | str) -> DeviceIndex:
        """Copy an index to a device.

        Cost:
            8 bytes a node and 16 bytes an entry, of host bandwidth once and of device memory while it lives.
        """
        arrays = (index.indptr, index.neighbor, index.event, index.time)
        return cls(*(torch.tensor(array, device=device) for array in arrays))


class Queries(NamedTuple):
    """Some queries, int64 `[S]` each, on the device of the index.

    Args:
        nodes: Whom they ask about; a node outside `[0, N)` has no past.
        times: When.
        before: Their visible prefixes.
        rows: What keys their draws; None where nothing is drawn.
    """

    nodes: torch.Tensor
    times: torch.Tensor
    before: torch.Tensor
    rows: torch.Tensor | None = None


class Found(NamedTuple):
    """The sampled past, `[S, k]` each, newest first.

    Args:
        node: Neighbours, int64, -1 where padded.
        event: Positions, int64, -1 where padded.
        dt: Query times minus event times, int64, 0 where padded.
        mask: True where an event stands.
    """

    node: torch.Tensor
    event: torch.Tensor
    dt: torch.Tensor
    mask: torch.Tensor


def recent_neighbors(index: DeviceIndex, queries: Queries, k: int, width: int | None = None) -> Found:
    """Return the `k` newest visible events of each query, or of those not older than `width`.

    Args:
        index: The adjacency, on a device.
        queries: Who asks, when, and how far the past is visible, on the same device.
        k: Events a query.
        width: Largest age of an event in the log's unit; None for any.

    Guarantee: equal to `kernels.recent_neighbors`, and with `width` to `kernels.window_before`.

    Raises:
        InvalidValueError: If `k < 1`, `width < 0`, or the queries' lengths differ.

    Cost:
        One launch; O(S (log D + k)) for largest degree D; allocates only the result, 25 S k bytes.
    """
    if width is not None and width < 0:
        raise InvalidValueError("width", width, "at least 0")
    found = _empty(queries, k)
    tile = power_of_two(k)
    rows = max(1, _TILE // tile)
    arrays = (*index, queries.nodes, queries.times, queries.before, *found)
    numbers = (len(queries.nodes), len(index.indptr) - 1, 0 if width is None else width)
    constants = {"WINDOW": width is not None, "K": k, "ROWS": rows, "TILE": tile}
    start(_recent, triton.cdiv(len(queries.nodes), rows), found.node, *arrays, *numbers, **constants)
    return found


def uniform_neighbors(index: DeviceIndex, queries: Queries, k: int, draw: Draw) -> Found:
    """Return `k` distinct visible events of each query, every subset being equally likely, newest first.

    Args:
        index: The adjacency, on a device.
        queries: As for `recent_neighbors`, with `rows`.
        k: Events a query, at most 128.
        draw: The randomness, keyed by `queries.rows`.

    Guarantee: equal to `kernels.uniform_before` with `draw.key`, `draw.lane(0)` and `queries.rows`.

    Raises:
        InvalidValueError: If `k` is outside `[1, 128]`, the queries have no `rows`, or their lengths differ.

    Cost:
        One launch; O(S (log D + k^2)) for largest degree D; allocates only the result, 25 S k bytes.

    References:
        Bentley and Floyd, "A sample of brilliance", CACM 1987; Salmon et al., "Parallel random numbers: as easy as 1,
        2, 3", SC 2011.
    """
    if k > _MOST:
        raise InvalidValueError("k", k, f"at most {_MOST} for uniform draws on a device")
    if queries.rows is None:
        raise InvalidValueError("rows", None, "what keys the queries' draws, int64 [S]")
    found = _empty(queries, k)
    tile = power_of_two(k)
    rows = max(1, _CUBE // tile**2)
    arrays = (*index, queries.nodes, queries.times, queries.before, queries.rows, *found)
    numbers = (len(queries.nodes), len(index.indptr) - 1, _signed(draw.key), _signed(draw.lane(0)))
    constants = {"K": k, "ROWS": rows, "TILE": tile}
    start(_uniform, triton.cdiv(len(queries.nodes), rows), found.node, *arrays, *numbers, **constants)
    return found


@dataclass(frozen=True, slots=True)
class LookAhead:
    """Answers the queries of many coming batches in one launch, and hands them out batch by batch.

    Guarantee: the same as one launch a batch, for any `batches`.

    Args:
        index: The index, on the device.
        k: Events a query.
        batches: How many are answered at once.
        draw: Keys a uniform draw; None takes the newest.

    Raises:
        InvalidValueError: If `batches < 1`; on use, what the sampling raises.

    Cost:
        One launch and `batches` times 25 S k bytes of device memory for `batches` batches of S queries.
    """

    index: DeviceIndex
    k: int
    batches: int = 32
    draw: Draw | None = None

    def __post_init__(self) -> None:
        if self.batches < 1:
            raise InvalidValueError("batches", self.batches, "at least 1")

    def __call__(self, batches: Iterable[Queries]) -> Iterator[Found]:
        """Yield the past of each batch's queries, in order; the tensors are views of one result."""
        coming = iter(batches)
        while group := list(islice(coming, self.batches)):
            found = self._sample(_joined(group))
            sizes = [len(one.nodes) for one in group]
            yield from map(Found, *(torch.split(part, sizes) for part in found))

    def _sample(self, queries: Queries) -> Found:
        if self.draw is None:
            return recent_neighbors(self.index, queries, self.k)
        return uniform_neighbors(self.index, queries, self.k, self.draw)


def _joined(group: list[Queries]) -> Queries:
    rows = [one.rows for one in group if one.rows is not None]
    if rows and len(rows) < len(group):
        raise InvalidValueError("rows", f"{len(rows)} of {len(group)} batches with them", "in all batches or in none")
    nodes, times, before = (torch.cat([getattr(one, name) for one in group]) for name in Queries._fields[:3])
    return Queries(nodes, times, before, torch.cat(rows) if rows else None)


def _empty(queries: Queries, k: int) -> Found:
    if k < 1:
        raise InvalidValueError("k", k, "at least 1")
    columns = [column for column in queries if column is not None]
    shape = queries.nodes.shape
    for column in columns:
        if column.dtype != torch.int64 or column.shape != shape or column.ndim != 1 or not column.is_contiguous():
            raise InvalidValueError("queries", [tuple(c.shape) for c in columns], "int64, contiguous, of one length")
    node, event, dt = (queries.nodes.new_empty(len(queries.nodes), k) for _ in range(3))
    return Found(node, event, dt, torch.empty(node.shape, dtype=torch.bool, device=node.device))


def _signed(word: int) -> int:
    """Return the signed number with the same 64 bits."""
    return word - (1 << 64) if word >> 63 else word


# Below this line stands Triton code, typed by Triton; its arguments are those of the functions above.
# ruff: noqa: ANN001, ANN202


@triton.jit
def _prefix(indptr, event, nodes, before, row, live, num_nodes):  # type: ignore[no-untyped-def]
    """Return the places `[begin, stop)` that each query sees."""
    node = tl.load(nodes + row, mask=live, other=-1)
    known = live & (node >= 0) & (node < num_nodes)
    begin = tl.load(indptr + node, mask=known, other=0)
    low = begin
    high = tl.load(indptr + node + 1, mask=known, other=0)
    border = tl.load(before + row, mask=live, other=0)
    while tl.max(high - low, axis=0) > 0:
        searching = low < high
        middle = (low + high) >> 1
        past = tl.load(event + middle, mask=searching, other=0) < border
        low = tl.where(searching & past, middle + 1, low)
        high = tl.where(searching, tl.where(past, high, middle), high)
    return begin, low


@triton.jit
def _copy(neighbor, event, time, times, row, live, slot, place, real, node, position, dt, mask, K: tl.constexpr):  # type: ignore[no-untyped-def]
    """Write what stands at `slot` to column `place` of each row, padding where it is not `real`."""
    now = tl.load(times + row, mask=live, other=0)[:, None]
    cell = row[:, None] * K + place
    inside = live[:, None] & (place < K)
    tl.store(node + cell, tl.load(neighbor + slot, mask=real, other=-1), mask=inside)
    tl.store(position + cell, tl.load(event + slot, mask=real, other=-1), mask=inside)
    age = now - tl.load(time + slot, mask=real, other=0)
    tl.store(dt + cell, tl.where(real, age, 0), mask=inside)
    tl.store(mask + cell, real, mask=inside)


@triton.jit
def _recent(  # type: ignore[no-untyped-def]
    indptr, neighbor, event, time, nodes, times, before, node, position, dt, mask, num_queries, num_nodes, width,
    WINDOW: tl.constexpr, K: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    live = row < num_queries
    begin, stop = _prefix(indptr, event, nodes, before, row, live, num_nodes)
    place = tl.arange(0, TILE)[None, :]
    slot = stop[:, None] - 1 - place
    real = (slot >= begin[:, None]) & (place < K)
    if WINDOW:
        age = tl.load(times + row, mask=live, other=0)[:, None] - tl.load(time + slot, mask=real, other=0)
        real = real & (age <= width)
    _copy(neighbor, event, time, times, row, live, slot, place, real, node, position, dt, mask, K)


@triton.jit
def _uniform(  # type: ignore[no-untyped-def]
    indptr, neighbor, event, time, nodes, times, before, rows, node, position, dt, mask, num_queries, num_nodes, key,
    lane, K: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    live = row < num_queries
    begin, stop = _prefix(indptr, event, nodes, before, row, live, num_nodes)
    visible = (stop - begin)[:, None]
    number = tl.arange(0, TILE)[None, :]
    counter = tl.load(rows + row, mask=live, other=0)[:, None]
    word = _philox_high(key, counter, lane, number).to(tl.uint64)
    largest = visible - K + number
    pick = ((word * (largest + 1).to(tl.uint64)) >> 32).to(tl.int64)
    for j in range(K):
        chosen = tl.sum(tl.where(number == j, pick, 0), axis=1)[:, None]
        taken = tl.max(tl.where((number < j) & (pick == chosen), 1, 0), axis=1)[:, None] > 0
        pick = tl.where(number == j, tl.where(taken, largest, chosen), pick)
    pick = tl.where(visible <= K, visible - 1 - number, pick)
    pick = tl.where(number < K, pick, -1 - K - number)
    place = tl.sum(tl.where(pick[:, None, :] > pick[:, :, None], 1, 0), axis=2)
    real = (pick >= 0) & (number < K)
    slot = begin[:, None] + pick
    _copy(neighbor, event, time, times, row, live, slot, place, real, node, position, dt, mask, K)


@triton.jit
def _philox_high(key, row, lane, number):  # type: ignore[no-untyped-def]
    """Return the upper 32 of the 64 bits that `core.draws.philox` gives for `row` and `lane + number`."""
    draw = tl.full([1, 1], lane, tl.int64) + number
    c0 = (row + draw * 0).to(tl.uint32)
    c1 = ((row + draw * 0) >> 32).to(tl.uint32)
    c2 = (draw + row * 0).to(tl.uint32)
    c3 = ((draw + row * 0) >> 32).to(tl.uint32)
    k0 = tl.full([1, 1], key, tl.int64).to(tl.uint32)
    k1 = (tl.full([1, 1], key, tl.int64) >> 32).to(tl.uint32)
    m0 = tl.full([1, 1], 0xD2511F53, tl.uint32)
    m1 = tl.full([1, 1], 0xCD9E8D57, tl.uint32)
    w0 = tl.full([1, 1], 0x9E3779B9, tl.uint32)
    w1 = tl.full([1, 1], 0xBB67AE85, tl.uint32)
    for _ in tl.static_range(10):
        a = tl.umulhi(c2, m1 + c2 * 0) ^ c1 ^ k0
        b = tl.umulhi(c0, m0 + c0 * 0) ^ c3 ^ k1
        c1, c3 = c2 * m1, c0 * m0
        c0, c2 = a, b
        k0, k1 = k0 + w0, k1 + w1
    return c1
