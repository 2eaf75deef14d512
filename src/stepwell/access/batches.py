"""Batchers: where an ordered source is cut.

Slices count from the source's first row. They are numbered over the whole epoch before they are dealt out to the
shards, slice `i` to rank `i % world`, so a rank sees exactly the batches that one process would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, pairwise

import numpy as np

from stepwell.core import Draw, Slice
from stepwell.core.errors import InvalidValueError, PlanError
from stepwell.core.registry import Registry
from stepwell.core.shapes import Batcher, Source
from stepwell.storage import EventLog

batchers: Registry[type[Batcher]] = Registry("batcher")
"""Batchers of ordered sources by name; third parties join by the entry point `stepwell.batcher`."""


@batchers.register("fixed")
@dataclass(frozen=True, slots=True)
class FixedBatches:
    """Consecutive rows, `size` to a batch, in the source's order.

    With `chunks > 1` the first cut of each epoch is moved by a random number of chunks of `size / chunks` rows, so
    that the borders, which decide what a memory can know, differ from epoch to epoch. Every row is still seen once.

    Args:
        size: Rows a batch; the first (with `chunks`) and the last may be smaller.
        chunks: How many offsets there are; must divide `size`.
        seed: Keys the offsets.

    Raises:
        InvalidValueError: If `size < 1` or `chunks` does not divide it.

    References:
        Zhou et al., "TGL", PVLDB 15(8), 2022, section 3.3 (random chunk scheduling).

    Example:
        >>> log = EventLog.from_arrays(src=[0] * 5, dst=[1] * 5, time=range(5))
        >>> [(cut.begin, cut.end) for cut in FixedBatches(2).cuts(log, epoch=0)]
        [(0, 2), (2, 4), (4, 5)]
    """

    size: int = 200
    chunks: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InvalidValueError("size", self.size, "at least 1")
        if self.chunks < 1 or self.size % self.chunks:
            raise InvalidValueError("chunks", self.chunks, f"a divisor of size={self.size}")

    def cuts(self, source: Source, epoch: int, shard: tuple[int, int] = (0, 1)) -> Iterator[Slice]:
        """Yield this rank's slices of one epoch."""
        first = 0
        if self.chunks > 1:
            draw = Draw(self.seed, "chunk offset", epoch)
            first = int(draw.integers(np.zeros(1, np.int64), 1, self.chunks)[0, 0]) * (self.size // self.chunks)
        borders = [0, *range(first or self.size, len(source), self.size), len(source)]
        every = (Slice(epoch, index, begin, end) for index, (begin, end) in enumerate(pairwise(borders)) if end > begin)
        return deal(every, shard)


@batchers.register("time")
@dataclass(frozen=True, slots=True)
class TimeBatches:
    """All events of one window of time to a batch; windows without events give none.

    Windows are half open and counted from the view's first event; ties never straddle a border.

    Args:
        width: Length of a window in the log's unit.

    Raises:
        InvalidValueError: If `width < 1`.
    """

    width: int

    def __post_init__(self) -> None:
        if self.width < 1:
            raise InvalidValueError("width", self.width, "at least 1 unit of the log's time")

    def cuts(self, source: Source, epoch: int, shard: tuple[int, int] = (0, 1)) -> Iterator[Slice]:
        """Yield this rank's slices of one epoch. O(log E) a slice."""
        if not isinstance(source, EventLog):
            raise PlanError(f"TimeBatches cuts event logs, got {type(source).__name__}. Use FixedBatches instead.")
        return deal(self._windows(source, epoch), shard)

    def _windows(self, log: EventLog, epoch: int) -> Iterator[Slice]:
        times = log.time
        begin, index = 0, 0
        while begin < len(times):
            origin, now = int(times[0]), int(times[begin])
            border = now + self.width - (now - origin) % self.width
            end = int(np.searchsorted(times, border, side="left"))
            yield Slice(epoch, index, begin, end)
            begin, index = end, index + 1


def deal(slices: Iterator[Slice], shard: tuple[int, int]) -> Iterator[Slice]:
    """Return rank's share of the slices: every `world`-th one, starting at `rank`."""
    rank, world = shard
    if not 0 <= rank < world:
        raise InvalidValueError("shard", shard, "(rank, world) with 0 <= rank < world")
    return islice(slices, rank, None, world)
