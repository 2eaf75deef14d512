"""Rows of one column family in tiers: device over host over a backing that holds them all.

A gather looks in the fastest tier; what is not there is asked of the one below, each distinct row once. Then the tier's
replacement says who enters and who leaves. Residents keep their slots, so a batch moves only what changes. A written
row is changed in the fastest tier that holds it and marked dirty there: that copy is the only valid one until it leaves
(and is written to the tier below) or the store is flushed. So values never depend on policies, budgets or order.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt
import torch

from stepwell.buffer.policy import Replacement
from stepwell.core.batch import Ids
from stepwell.core.errors import InvalidValueError
from stepwell.kernels import gather_rows
from stepwell.kernels.gather import copy_rows
from stepwell.kernels.tiers import apply_moves, probe, unmark
from stepwell.storage.arena import Arena

Array = npt.NDArray[np.generic]
Places = npt.NDArray[np.int32]


class Backing(Protocol):
    """Where all rows of a family are: a file (`storage.row_reads.DiskRows`) or an array in memory (`ArrayRows`)."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows, then the shape of one."""

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Type of the rows' numbers."""

    def read(self, rows: Ids, out: Array, places: Ids) -> Array:
        """Copy rows to `out[places]` and return `out`.

        Args:
            rows: Rows of the family, int64 `[R]`, in any order, repeats allowed.
            out: Filled in place, `[..., *row]`, of `dtype`.
            places: Where in `out` each row goes, int64 `[R]`, distinct.
        """

    def write(self, rows: Ids, values: Array) -> None:
        """Change rows, int64 `[R]`, to `values` `[R, ...]`; of equal rows the last one wins."""

    def flush(self) -> None:
        """Make what was written durable."""


@dataclass(frozen=True, eq=False)
class ArrayRows:
    """A backing in host memory, or memory-mapped; writes go to the array itself.

    Args:
        array: `[N, ...]`.
    """

    array: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of all rows."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Type of one element."""
        return self.array.dtype

    def read(self, rows: Ids, out: Array, places: Ids) -> Array:
        """Copy rows to `out[places]` and return `out`."""
        out[places] = gather_rows(self.array, rows)
        return out

    def write(self, rows: Ids, values: Array) -> None:
        """Change rows; of equal rows the last one wins."""
        ordered, last = np.unique(rows[::-1], return_index=True)
        self.array[ordered] = values[len(rows) - 1 - last]

    def flush(self) -> None:
        """Write a memory map's changes to its file."""
        if isinstance(self.array, np.memmap):
            self.array.flush()


@dataclass(frozen=True, eq=False)
class Tier:
    """Room for rows above the backing.

    Args:
        capacity: Rows it holds at most; 0 lets everything pass.
        replacement: Who is resident, told batch by batch.
        device: Where its rows lie; None for host memory, pinned if there is a CUDA device.
    """

    capacity: int
    replacement: Replacement
    device: torch.device | str | None = None


@dataclass(frozen=True, slots=True)
class TierCounts:
    """What a tier did so far.

    Args:
        rows: Rows held now.
        size_bytes: Bytes reserved for rows.
        hits: Distinct rows found.
        misses: Distinct rows asked of the tier below.
        seconds: Wall seconds in gathers, the tiers below included.
        written_back: Dirty rows written to the tier below.
    """

    rows: int
    size_bytes: int
    hits: int
    misses: int
    seconds: float
    written_back: int

    @property
    def hit_rate(self) -> float:
        """Share of rows found, 0 to 1."""
        return self.hits / max(1, self.hits + self.misses)


class TieredStore:
    """The rows of one family, found in the fastest tier that holds them.

    *Guarantee*: `gather` returns the rows as last written, whatever the tiers, their capacities and replacements. The
    result is never part of a tier. At most `capacity` rows are resident after a call. Calls may come from several
    threads; they take turns, and replacements see them in the order in which they came.

    Args:
        backing: All rows; an array stands for `ArrayRows`.
        tiers: Fastest first; only the first may lie on a device.

    Raises:
        InvalidValueError: If a capacity is negative or a tier below the first lies on a device.

    Cost:
        A gather copies each distinct row once a tier that it passes. 4 bytes a row of the family and tier.
    """

    def __init__(self, backing: Backing | Array, tiers: Sequence[Tier]) -> None:
        rows = ArrayRows(backing) if isinstance(backing, np.ndarray) else backing
        self.shape, self.dtype = rows.shape, rows.dtype
        self._backing, self._lock = rows, threading.RLock()
        self._tiers: list[_Host] = []
        below: Backing = rows
        for place, tier in reversed(list(enumerate(tiers))):
            if place and tier.device is not None:
                raise InvalidValueError("device", tier.device, "None below the first tier")
            held = _Host(below, tier) if tier.device is None else _Device(below, tier, torch.device(tier.device))
            self._tiers.insert(0, held)
            below = held

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def counts(self) -> tuple[TierCounts, ...]:
        """What each tier did, fastest first."""
        return tuple(tier.counts for tier in self._tiers)

    def gather(self, ids: Ids) -> Array | torch.Tensor:
        """Return the rows `[S, ...]`: a tensor if the first tier lies on a device, else an array.

        Args:
            ids: int64 `[S]`, in `[0, N)`; the distinct rows of one batch. Repeats are given, and touched once.

        Raises:
            InvalidValueError: If an id lies outside.
        """
        ids = _checked(ids, len(self))
        with self._lock:
            if self._tiers:
                return self._tiers[0].gather(ids)
            return self._backing.read(ids, np.empty((len(ids), *self.shape[1:]), self.dtype), np.arange(len(ids)))

    def rows(self, ids: Ids) -> Array:
        """Return the rows as an array in host memory, like `gather`."""
        found = self.gather(ids)
        return found if isinstance(found, np.ndarray) else cast("Array", found.cpu().numpy())

    def write(self, ids: Ids, rows: Array | torch.Tensor) -> None:
        """Change rows; of equal ids the last one wins. What is resident stays and becomes dirty.

        Args:
            ids: int64 `[S]`, in `[0, N)`.
            rows: `[S, ...]`, of the family's type.
        """
        ids = _checked(ids, len(self))
        values = rows.detach().cpu().numpy() if isinstance(rows, torch.Tensor) else np.asarray(rows)
        if values.shape != (len(ids), *self.shape[1:]) or values.dtype != self.dtype:
            raise InvalidValueError("rows", (values.shape, values.dtype), f"{self.shape[1:]} rows of {self.dtype}")
        with self._lock:
            top: Backing = self._tiers[0] if self._tiers else self._backing
            top.write(ids, values)

    def flush(self) -> None:
        """Write all dirty rows down to the backing: before an evaluation from it, and before a checkpoint."""
        with self._lock:
            for tier in self._tiers:
                tier.write_back()
            self._backing.flush()

    def begin(self, tiers: Sequence[Tier]) -> None:
        """Start an epoch: write back what is dirty, empty the tiers, and let these replacements decide.

        Args:
            tiers: As many as the store has, on the same devices.
        """
        if len(tiers) != len(self._tiers):
            raise InvalidValueError("tiers", len(tiers), f"{len(self._tiers)}, as many as the store has")
        with self._lock:
            for tier, new in zip(self._tiers, tiers, strict=True):
                tier.begin(new)


class _Host:
    """One tier in host memory; it is the backing of the tier above."""

    def __init__(self, below: Backing, tier: Tier) -> None:
        self.shape, self.dtype, self._below = below.shape, below.dtype, below
        self._arena = Arena()
        self._hits = self._misses = self._written_back = 0
        self._seconds = 0.0
        self._slot: Places = np.full(self.shape[0], -1, np.int32)
        self._reserve(tier)

    def _reserve(self, tier: Tier) -> None:
        if tier.capacity < 0:
            raise InvalidValueError("capacity", tier.capacity, "at least 0")
        self._replacement, self._capacity = tier.replacement, min(tier.capacity, self.shape[0])
        self._free: Places = np.arange(self._capacity, dtype=np.int32)[::-1].copy()
        self._num_free = np.array([self._capacity], np.int64)
        self._owner = np.full(self._capacity, -1, np.int64)
        self._dirty = np.zeros(self._capacity, np.bool_)
        self._seen = np.zeros(self._capacity, np.bool_)
        self._allocate()

    def _allocate(self) -> None:
        shape = (self._capacity, *self.shape[1:])
        if torch.cuda.is_available():
            size = int(np.prod(shape)) * self.dtype.itemsize
            pinned = torch.empty(size, dtype=torch.uint8, pin_memory=True).numpy()
            self._store = cast("Array", pinned.view(self.dtype).reshape(shape))
        else:
            self._store = np.empty(shape, self.dtype)

    @property
    def counts(self) -> TierCounts:
        row_bytes = int(np.prod(self.shape[1:])) * self.dtype.itemsize
        held = self._capacity - int(self._num_free[0])
        size_bytes = self._capacity * row_bytes
        return TierCounts(held, size_bytes, self._hits, self._misses, self._seconds, self._written_back)

    def read(self, rows: Ids, out: Array, places: Ids) -> Array:
        """Serve the tier above."""
        out[places] = self.gather(rows)
        return out

    def gather(self, ids: Ids) -> Array | torch.Tensor:
        begin = time.perf_counter()
        slots, missed, repeats = probe(ids, self._slot, self._seen)
        try:
            if repeats:
                unmark(ids, self._slot, self._seen)
                distinct, place = np.unique(ids, return_inverse=True)
                return self._again(self.gather(distinct), place)
            found = self._fetch(slots, ids[missed], missed)
            self._move(ids, found)
            self._hits += len(ids) - len(missed)
            self._misses += len(missed)
        finally:
            unmark(ids, self._slot, self._seen)
        self._seconds += time.perf_counter() - begin
        return found

    def _move(self, ids: Ids, found: Array | torch.Tensor) -> None:
        moves = self._replacement.step(ids)
        evict = np.ascontiguousarray(moves.evict, np.int64)
        admit = np.ascontiguousarray(moves.admit, np.int64)
        slots = self._slot[evict]
        dirty = self._dirty[slots]
        if dirty.any():
            self._below.write(evict[dirty], self._take(slots[dirty]))
            self._written_back += int(dirty.sum())
        new, places = apply_moves(
            *(evict, admit, self._slot, self._dirty, self._seen, self._owner, self._free, self._num_free)
        )
        self._put(new, found, places)

    def write(self, ids: Ids, values: Array) -> None:
        slots = self._slot[ids]
        here = slots >= 0
        if here.any():
            self._change(slots[here], values[here])
            self._dirty[slots[here]] = True
        if not here.all():
            self._below.write(ids[~here], values[~here])

    def write_back(self) -> None:
        slots = np.flatnonzero(self._dirty)
        if len(slots):
            self._below.write(self._owner[slots], self._take(slots.astype(np.int32)))
            self._dirty[slots] = False
            self._written_back += len(slots)

    def flush(self) -> None:
        """Write what is dirty here to the tier below."""
        self.write_back()

    def begin(self, tier: Tier) -> None:
        self.write_back()
        self._slot.fill(-1)
        if min(tier.capacity, self.shape[0]) == self._capacity:
            self._replacement = tier.replacement
            self._free[:] = np.arange(self._capacity, dtype=np.int32)[::-1]
            self._num_free[0] = self._capacity
            self._owner.fill(-1)
        else:
            self._reserve(tier)

    def _again(self, found: Array | torch.Tensor, place: Ids) -> Array | torch.Tensor:
        return cast("Array", found)[place]

    def _fetch(self, slots: Places, ids: Ids, missed: Ids) -> Array | torch.Tensor:
        out = self._arena.empty((len(slots), *self.shape[1:]), self.dtype)
        if len(missed) < len(slots):
            gather_rows(self._store, slots.astype(np.int64), out)
        return self._below.read(ids, out, missed)

    def _take(self, slots: Places) -> Array:
        return self._store[slots]

    def _put(self, slots: Places, found: Array | torch.Tensor, places: Ids) -> None:
        copy_rows(cast("Array", found), places, self._store, slots)

    def _change(self, slots: Places, values: Array) -> None:
        last = len(slots) - 1 - np.unique(slots[::-1], return_index=True)[1]
        self._store[slots[last]] = values[last]


class _Device(_Host):
    """One tier on a device: the same bookkeeping, tensors as rows."""

    def __init__(self, below: Backing, tier: Tier, device: torch.device) -> None:
        self._at = device
        super().__init__(below, tier)

    def _allocate(self) -> None:
        dtype = torch.from_numpy(np.empty(0, self.dtype)).dtype
        self._rows = torch.empty((self._capacity, *self.shape[1:]), dtype=dtype, device=self._at)

    def _again(self, found: Array | torch.Tensor, place: Ids) -> Array | torch.Tensor:
        return cast("torch.Tensor", found)[self._index(place)]

    def _index(self, places: Ids | Places) -> torch.Tensor:
        return torch.from_numpy(places.astype(np.int64)).to(self._at)

    def _fetch(self, slots: Places, ids: Ids, missed: Ids) -> Array | torch.Tensor:
        shape = (len(missed), *self.shape[1:])
        host = self._below.read(ids, self._arena.empty(shape, self.dtype), np.arange(len(missed)))
        fetched = torch.from_numpy(host).to(self._at)
        if len(missed) == len(slots):
            return fetched.clone() if self._at.type == "cpu" else fetched
        out = self._rows[self._index(np.maximum(slots, 0))]
        out[self._index(missed)] = fetched
        return out

    def _take(self, slots: Places) -> Array:
        return cast("Array", self._rows[self._index(slots)].cpu().numpy())

    def _put(self, slots: Places, found: Array | torch.Tensor, places: Ids) -> None:
        self._rows[self._index(slots)] = cast("torch.Tensor", found)[self._index(places)]

    def _change(self, slots: Places, values: Array) -> None:
        last = len(slots) - 1 - np.unique(slots[::-1], return_index=True)[1]
        self._rows[self._index(slots[last])] = torch.from_numpy(values[last]).to(self._at)


def _checked(ids: Ids, limit: int) -> Ids:
    ids = np.ascontiguousarray(ids, np.int64)
    if len(ids) and (ids.min() < 0 or ids.max() >= limit):
        raise InvalidValueError("ids", (int(ids.min()), int(ids.max())), f"in [0, {limit})")
    return ids
