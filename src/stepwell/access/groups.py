"""Several batches in one call: where each row is computed from that row alone, the fixed cost of a call is shared.

A batch of a table is small work: gathering 256 rows takes microseconds, and the calls around it take more. A source and
stages that say `by_row` give the same values for a row whichever rows stand beside it, so consecutive batches may be
read, prepared and moved together and cut apart afterwards. Groups grow from one batch up, so that the first batch of
an epoch does not wait for the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, pairwise
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch

from stepwell.access.ahead import Workers, map_ahead
from stepwell.access.meter import measure
from stepwell.core import Batch, Slice
from stepwell.core.shapes import Batcher, Source
from stepwell.kernels.threads import serial
from stepwell.storage import Codes, Ragged

Run: TypeAlias = "Callable[[], list[Slice]]"

GROUP_ROWS = 1 << 15
GROUP_BYTES = 8 << 20


@runtime_checkable
class ByRow(Protocol):
    """A source or stage that computes each row from that row alone."""

    @property
    def by_row(self) -> Literal[True]:
        """True: no row depends on another."""


def is_resident(source: object) -> bool:
    """Say whether all rows are at hand, prepared: making a batch then costs less than passing it between threads."""
    return bool(getattr(source, "resident", False))


@dataclass(frozen=True, slots=True)
class Made:
    """Batches of one group, and the error that stood in the way of the next one."""

    batches: Sequence[Batch]
    error: Exception | None = None


@runtime_checkable
class Divisible(Protocol):
    """A batcher that can make any run of a shard's slices by itself, so that a worker does it and not the loop."""

    @property
    def size(self) -> int:
        """Rows of a batch."""

    def count(self, num_rows: int, shard: tuple[int, int] = (0, 1)) -> int:
        """Return how many slices this shard has in an epoch."""

    def cuts_between(
        self, num_rows: int, epoch: int, begin: int, end: int, shard: tuple[int, int] = (0, 1)
    ) -> list[Slice]:
        """Return this shard's slices `[begin, end)`."""


@dataclass(slots=True)
class _Limit:
    """How many rows a group may have: learned from the first batch, since decoded rows may be large."""

    rows: int

    def learn(self, batch: Batch) -> None:
        size = sum(measure(batch[name])[1] for name in batch) // max(1, len(batch))
        self.rows = max(1, min(self.rows, GROUP_BYTES // max(1, size)))


def runs(
    batcher: Batcher, source: Source, epoch: int, shard: tuple[int, int], start: int, limit: _Limit
) -> Iterator[Run]:
    """Yield runs of one epoch's slices: of one, four, sixteen, ... slices, within the limit."""
    size = 1
    if isinstance(batcher, Divisible):
        begin, total = start, batcher.count(len(source), shard)
        while begin < total:
            end = min(total, begin + size)
            yield partial(batcher.cuts_between, len(source), epoch, begin, end, shard)
            begin, size = end, max(1, min(4 * size, limit.rows // max(1, batcher.size)))
        return
    cuts = islice(batcher.cuts(source, epoch, shard), start, None)
    while group := list(islice(cuts, size)):
        yield partial(list, group)
        size = max(1, min(4 * size, limit.rows // max(1, len(group[0]))))


def make_in_groups(
    make: Callable[[Slice, int], Batch],
    batcher: Batcher,
    source: Source,
    place: tuple[int, tuple[int, int], int],
    depth: int,
    workers: Workers | None = None,
) -> Iterator[Batch]:
    """Yield the batches of one epoch in order, made in groups on background threads, `depth` groups ahead.

    Args:
        make: Makes the batch of a slice that stands for so many batches.
        batcher: Where the source is cut.
        source: The rows.
        place: The epoch, the shard, and how many of its batches to leave out.
        depth: Groups ahead on background threads; 0 makes each group when it is asked for.
        workers: The threads; None starts some for this call alone.
    """
    limit = _Limit(max(1, min(GROUP_ROWS, GROUP_BYTES // max(1, source.statistics().row_bytes))))

    def work(run: Run) -> Made:
        with nullcontext() if depth == 1 else serial():
            return _make(make, run())

    made = map_ahead(work, runs(batcher, source, *place, limit), depth, workers)
    try:
        for number, group in enumerate(made):
            if number == 0 and group.batches:
                limit.learn(group.batches[0])
            yield from group.batches
            if group.error is not None:
                raise group.error
    finally:
        made.close()  # type: ignore[attr-defined]


def _make(make: Callable[[Slice, int], Batch], group: list[Slice]) -> Made:
    if len(group) == 1:
        return Made([make(group[0], 1)])
    try:
        parts = split_batch(make(_joined(group), len(group)), group)
    except Exception:
        parts = None
    return Made(parts) if parts is not None else _one_by_one(make, group)


def _one_by_one(make: Callable[[Slice, int], Batch], group: list[Slice]) -> Made:
    """Make each batch alone: some field cannot be cut, or some row is bad and its batch must be found."""
    batches: list[Batch] = []
    for cut in group:
        try:
            batches.append(make(cut, 1))
        except Exception as error:
            return Made(batches, error)
    return Made(batches)


def _joined(group: list[Slice]) -> Slice:
    rows = [np.arange(cut.begin, cut.end, dtype=np.int64) if cut.rows is None else cut.rows for cut in group]
    return replace(group[0], end=group[0].begin + sum(map(len, rows)), rows=np.concatenate(rows))


def split_batch(batch: Batch, cuts: Sequence[Slice]) -> list[Batch] | None:
    """Cut a batch of several slices apart, or return None if a field has not one entry for each row."""
    sizes = [len(cut) for cut in cuts]
    fields: dict[str, Sequence[object]] = {}
    for name in batch:
        parts = _split(batch[name], sizes)
        if parts is None:
            return None
        fields[name] = parts
    return [Batch(cut, **{name: parts[i] for name, parts in fields.items()}) for i, cut in enumerate(cuts)]


def _split(value: object, sizes: list[int]) -> Sequence[object] | None:
    total = sum(sizes)
    if isinstance(value, torch.Tensor):
        return torch.split(value, sizes) if value.ndim and len(value) == total else None
    if isinstance(value, Codes) and len(value) == total:
        codes: Sequence[torch.Tensor] = torch.split(torch.as_tensor(value.code), sizes)
        return [Codes(part, value.dictionary) for part in codes]  # type: ignore[arg-type]
    if isinstance(value, Ragged) and len(value) == total:
        place = np.cumsum([0, *sizes]).tolist()
        offset, data = torch.as_tensor(value.offset), torch.as_tensor(value.data)
        edge = offset[place].tolist()
        return [
            Ragged(offset[a : b + 1] - p, data[p:q], value.text)  # type: ignore[arg-type]
            for (a, b), (p, q) in zip(pairwise(place), pairwise(edge), strict=True)
        ]
    return None
