"""Consecutive batches out of the middle of an epoch, as an epoch of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from stepwell.access import Pipeline
from stepwell.core import Slice
from stepwell.core.shapes import Batcher, Source
from stepwell.storage import EventLog

Build = Callable[[EventLog, Batcher], Pipeline]


@dataclass(frozen=True, slots=True)
class Given:
    """Slices that are known already."""

    slices: tuple[Slice, ...]

    def cuts(self, source: Source, epoch: int, shard: tuple[int, int] = (0, 1)) -> Iterator[Slice]:
        """Yield this rank's slices, those of the one epoch there is."""
        return islice(iter(self.slices), shard[0], None, shard[1])


def part_of(
    log: EventLog, cuts: Sequence[Slice], first: int, last: int, around: int = 0
) -> tuple[EventLog, tuple[Slice, ...], int]:
    """Return the events of some batches with those around them, the batches in it, and how many come before the first.

    Args:
        log: The training events.
        cuts: Where they are cut.
        first: The first batch.
        last: One past the last.
        around: Batches before the first and behind the last, where there are so many.
    """
    begin, end = max(0, first - around), min(len(cuts), last + around)
    origin = cuts[begin].begin
    here = tuple(Slice(0, i, cut.begin - origin, cut.end - origin) for i, cut in enumerate(cuts[begin:end]))
    return log[origin : cuts[end - 1].end], here, first - begin
