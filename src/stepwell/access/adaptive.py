"""ETC's batches: as long as possible while the updates that a batch loses stay within a bound.

A memory has one state a node, so of several events of a node in one batch only the last one is kept in it. A batch of
events B with distinct ends V(B) loses `2 |B| - |V(B)|` updates. Adding an event never lowers that number, and a part of
a batch never loses more than the whole; hence extending each batch as far as the bound allows gives the fewest batches
of all divisions into consecutive ones.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numba
import numpy as np
import numpy.typing as npt

from stepwell.access.batches import batchers, deal
from stepwell.core import Ids, Slice
from stepwell.core.errors import InvalidValueError, PlanError
from stepwell.core.shapes import Accuracy, Source
from stepwell.storage import EventLog


@batchers.register("adaptive")
@dataclass(frozen=True)
class AdaptiveBatches:
    """Consecutive events, as many to a batch as lose at most so many updates of node state.

    Guarantee: no division into consecutive batches within the bound has fewer of them. A single event is always
    allowed, also if it loses more than the bound (a self-loop loses one). The cuts are the same in every epoch.

    The training is another one than with fixed batches, not a worse one: at an equal number of batches less is lost.
    Evaluation keeps fixed batches, so that its numbers mean the same.

    Args:
        max_loss: The bound. The authors advise at least 1000, and for the upper end to heed `update_distance`.
        like: Take as the bound the most that a batch of `like` events of this source loses; there are then no more
            batches than with that many events each.

    Raises:
        InvalidValueError: Unless exactly one of the two is given, in its range.

    Cost:
        One pass, about 5 ns an event and 8 bytes a node, once a source.

    References:
        Gao et al., "ETC: Efficient Training of Temporal Graph Neural Networks over Large-scale Dynamic Graphs",
        PVLDB 17(5), 2024, equation 12. Differs: the last batch keeps the bound too, and a self-loop does not hang.

    Example:
        >>> log = EventLog.from_arrays(src=[0, 1, 3, 0], dst=[1, 2, 4, 1], time=range(4))
        >>> [(cut.begin, cut.end) for cut in AdaptiveBatches(max_loss=1).cuts(log, epoch=0)]
        [(0, 3), (3, 4)]
    """

    max_loss: int | None = None
    like: int | None = None
    _known: list[_Known] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if (self.max_loss is None) == (self.like is None):
            raise InvalidValueError("max_loss and like", (self.max_loss, self.like), "one of the two")
        if self.max_loss is not None and self.max_loss < 0:
            raise InvalidValueError("max_loss", self.max_loss, "at least 0")
        if self.like is not None and self.like < 1:
            raise InvalidValueError("like", self.like, "at least 1")

    @property
    def accuracy(self) -> Accuracy:
        """Another training."""
        return "changed"

    def __reduce__(self) -> tuple[type[AdaptiveBatches], tuple[int | None, int | None]]:
        return type(self), (self.max_loss, self.like)

    def cuts(self, source: Source, epoch: int, shard: tuple[int, int] = (0, 1)) -> Iterator[Slice]:
        """Yield this rank's slices of one epoch."""
        borders = self._find(source).borders.tolist()
        return deal((Slice(epoch, index, *border) for index, border in enumerate(pairwise(borders))), shard)

    def bound(self, source: Source) -> int:
        """Return the bound for a source, `max_loss` or that of its fixed batches."""
        return self._find(source).bound

    def mean_size(self, source: Source) -> float:
        """Return the mean events a batch."""
        return len(source) / max(1, len(self._find(source).borders) - 1)

    def _find(self, source: Source) -> _Known:
        for known in self._known:
            if known.source() is source:
                return known
        if not isinstance(source, EventLog):
            raise PlanError(f"AdaptiveBatches cuts event logs, got {type(source).__name__}. Use FixedBatches instead.")
        src, dst = np.asarray(source.src), np.asarray(source.dst)
        bound = self.max_loss
        if bound is None:
            assert self.like is not None
            bound = int(batch_losses(src, dst, self.like, source.num_nodes).max(initial=0))
        known = _Known(weakref.ref(source), bound, split(src, dst, bound, source.num_nodes))
        self._known[:] = [*(old for old in self._known if old.source() is not None), known]
        return known


@dataclass(frozen=True, slots=True)
class _Known:
    """The cuts of one source."""

    source: weakref.ref[EventLog]
    bound: int
    borders: Ids


def split(src: Ids | npt.NDArray[np.int32], dst: Ids | npt.NDArray[np.int32], bound: int, num_nodes: int) -> Ids:
    """Return the borders of the fewest consecutive batches that each lose at most `bound` updates.

    Args:
        src: Sources, `[E]`.
        dst: Destinations, `[E]`.
        bound: At least 0.
        num_nodes: Ids are below it.

    Returns:
        int64, from 0 to E, one more than there are batches; `[0]` if there are no events.
    """
    borders = np.empty(len(src) + 1, np.int64)
    count = _split(src, dst, bound, np.full(num_nodes, -1, np.int64), borders)
    return borders[:count].copy()


def split_reference(src: Ids, dst: Ids, bound: int, num_nodes: int) -> Ids:
    """Return what `split` returns, from the definition of the loss."""
    del num_nodes
    borders, begin = [0], 0
    for end in range(1, len(src) + 1):
        if end - begin > 1 and loss(src[begin:end], dst[begin:end]) > bound:
            borders.append(end - 1)
            begin = end - 1
    return np.array([*borders, len(src)] if len(src) else [0], np.int64)


def loss(src: Ids, dst: Ids) -> int:
    """Return how many updates a batch of these events loses: two ends an event, less one for each distinct node."""
    return 2 * len(src) - len(np.unique(np.concatenate([src, dst])))


def batch_losses(src: npt.NDArray[np.integer], dst: npt.NDArray[np.integer], size: int, num_nodes: int) -> Ids:
    """Return the loss of each batch of `size` consecutive events, int64 `[ceil(E / size)]`."""
    losses = np.zeros(-(-len(src) // size), np.int64)
    _losses(src, dst, size, np.full(num_nodes, -1, np.int64), losses)
    return losses


def update_distance(log: EventLog) -> float:
    """Return the mean over nodes of the mean number of events from one event of the node to its next.

    It says how long a batch may grow before most nodes meet twice in it; nodes with one event do not count. 0 if none
    has two.

    Cost:
        One pass, 24 bytes a node.

    References:
        ETC (see `AdaptiveBatches`), technical report, section 3: the average update distance.
    """
    first, last = np.full(log.num_nodes, -1, np.int64), np.zeros(log.num_nodes, np.int64)
    times = np.zeros(log.num_nodes, np.int64)
    _spread(np.asarray(log.src), np.asarray(log.dst), first, last, times)
    often = times > 1
    return float(((last - first)[often] / (times[often] - 1)).mean()) if often.any() else 0.0


@numba.njit(cache=True, nogil=True)
def _split(src: np.ndarray, dst: np.ndarray, bound: int, stamp: np.ndarray, borders: np.ndarray) -> int:
    if len(src) == 0:
        borders[0] = 0
        return 1
    borders[0], batch, lost, begin = 0, 0, 0, 0
    for i in range(len(src)):
        a, b = src[i], dst[i]
        more = (stamp[a] == batch) + (a == b or stamp[b] == batch)
        if lost + more > bound and i > begin:
            batch += 1
            borders[batch] = i
            begin, lost, more = i, 0, np.int64(a == b)
        stamp[a] = batch
        stamp[b] = batch
        lost += more
    borders[batch + 1] = len(src)
    return batch + 2


@numba.njit(cache=True, nogil=True)
def _losses(src: np.ndarray, dst: np.ndarray, size: int, stamp: np.ndarray, losses: np.ndarray) -> None:
    for i in range(len(src)):
        batch, a, b = i // size, src[i], dst[i]
        losses[batch] += (stamp[a] == batch) + (a == b or stamp[b] == batch)
        stamp[a] = batch
        stamp[b] = batch


@numba.njit(cache=True, nogil=True)
def _spread(src: np.ndarray, dst: np.ndarray, first: np.ndarray, last: np.ndarray, times: np.ndarray) -> None:
    for i in range(len(src)):
        for node in (src[i], dst[i]):
            if first[node] < 0:
                first[node] = i
            if times[node] == 0 or last[node] < i:
                last[node] = i
                times[node] += 1
