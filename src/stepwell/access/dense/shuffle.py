"""An exact shuffle without memory: a keyed permutation of the row numbers, computed place by place.

Place `i` of an epoch's order is `permute(i)`, a pure function of (seed, epoch, number of rows), so no list of rows
exists anywhere and the order cannot depend on workers, prefetch, shards or where a run was resumed. The permutation is
a Feistel network over the smallest power of two that holds all rows, with cycle walking: a value beyond the last row is
encrypted again until it falls inside (on average less than twice), which keeps it a bijection of exactly the rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stepwell.core.batch import Ids, Slice
from stepwell.core.draws import Draw
from stepwell.core.errors import InvalidValueError
from stepwell.core.shapes import Source
from stepwell.kernels.dense import permute
from stepwell.kernels.threads import serial

ROUNDS = 8
_AHEAD_ROWS = 1 << 14


@dataclass(frozen=True, slots=True)
class Permutation:
    """A pseudo-random permutation of `0..n-1`, keyed by (seed, epoch), without O(n) memory.

    *Guarantee*: a bijection for every `n`, seed and epoch; the same on every machine and thread count.

    Args:
        n: How many rows, below 2**62.
        seed: The run's seed.
        epoch: The epoch.

    Cost:
        About 10 ns a row on one thread, no allocation but the result.

    References:
        Black and Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002. Round keys come from Philox.

    Example:
        >>> sorted(Permutation(5, seed=1)[0:5].tolist())
        [0, 1, 2, 3, 4]
    """

    n: int
    seed: int = 0
    epoch: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.n < 1 << 62:
            raise InvalidValueError("n", self.n, "in [0, 2**62)")

    def __len__(self) -> int:
        return self.n

    @property
    def keys(self) -> npt.NDArray[np.uint64]:
        """The round keys, uint64 `[ROUNDS]`."""
        bits: npt.NDArray[np.uint64] = Draw(self.seed, "shuffle", self.epoch).bits(np.zeros(1, np.int64), ROUNDS)[0]
        return bits

    def __getitem__(self, places: slice) -> Ids:
        """Return the rows at the places `[begin, end)` of the order, int64."""
        begin, end, step = places.indices(self.n)
        if step != 1:
            raise InvalidValueError("step", step, "1")
        return permute(self.n, self.keys, begin, max(begin, end))


@dataclass(frozen=True, slots=True)
class Shuffled:
    """Batches of rows in an exact pseudo-random order over the whole source; a new order each epoch.

    *Guarantee*: every row comes exactly once an epoch (but for a dropped last batch). Batch `i` holds the same rows in
    the same order for any shard count, prefetch depth and resume point; shard `(rank, world)` gets the batches `i` with
    `i % world == rank`.

    Args:
        size: Rows a batch.
        drop_last: Whether a last batch with fewer rows is left out.
        seed: Keys the order, together with the epoch.

    Raises:
        InvalidValueError: If `size < 1`.

    Cost:
        About 10 ns a row; the order of 16 Ki rows is computed at a time.

    Example:
        >>> [len(cut) for cut in Shuffled(4).cuts(range(10), epoch=0)]
        [4, 4, 2]
    """

    size: int
    drop_last: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InvalidValueError("size", self.size, "at least 1")

    def count(self, num_rows: int, shard: tuple[int, int] = (0, 1)) -> int:
        """Return the number of batches of one epoch that a shard has."""
        rank, world = shard
        if not 0 <= rank < world:
            raise InvalidValueError("shard", shard, "(rank, world) with 0 <= rank < world")
        whole = num_rows // self.size if self.drop_last else -(-num_rows // self.size)
        return len(range(rank, whole, world))

    def cuts(self, source: Source, epoch: int, shard: tuple[int, int] = (0, 1)) -> Iterator[Slice]:
        """Yield the slices of one epoch in order; with `shard=(rank, world)` this rank's share of them."""
        ahead, total = max(1, _AHEAD_ROWS // self.size), self.count(len(source), shard)
        for begin in range(0, total, ahead):
            yield from self.cuts_between(len(source), epoch, begin, min(total, begin + ahead), shard)

    def cuts_between(
        self, num_rows: int, epoch: int, begin: int, end: int, shard: tuple[int, int] = (0, 1)
    ) -> list[Slice]:
        """Return this shard's slices `[begin, end)` of one epoch, without visiting those before them."""
        rank, world = shard
        end = min(end, self.count(num_rows, shard))
        order = Permutation(num_rows, self.seed, epoch)
        places = [index * self.size for index in range(rank + begin * world, rank + end * world, world)]
        if not places:
            return []
        with serial():
            if world == 1:
                whole = order[places[0] : min(num_rows, places[-1] + self.size)]
                parts = [whole[at : at + self.size] for at in range(0, len(whole), self.size)]
            else:
                parts = [order[at : min(num_rows, at + self.size)] for at in places]
        return [Slice(epoch, at // self.size, at, at + len(rows), rows) for at, rows in zip(places, parts, strict=True)]


@dataclass(frozen=True, slots=True)
class ShuffledBlocks:
    """Blocks of consecutive rows in an exact pseudo-random order; a new order each epoch, the blocks stay.

    For sources that keep whole mini-batches together (tuple codes), and for reading a disk in long runs.

    *Guarantee*: every row comes exactly once an epoch; a batch is a block whatever the shards.

    Args:
        size: Rows a block; the source's last one may be smaller.
        seed: Keys the order, together with the epoch.

    Raises:
        InvalidValueError: If `size < 1`.

    Example:
        >>> [(cut.begin, cut.end) for cut in ShuffledBlocks(2).cuts(range(5), epoch=0)]
        [(0, 2), (4, 5), (2, 4)]
    """

    size: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InvalidValueError("size", self.size, "at least 1")

    def cuts(self, source: Source, epoch: int, shard: tuple[int, int] = (0, 1)) -> Iterator[Slice]:
        """Yield the slices of one epoch in order; with `shard=(rank, world)` this rank's share of them."""
        rank, world = shard
        if not 0 <= rank < world:
            raise InvalidValueError("shard", shard, "(rank, world) with 0 <= rank < world")
        blocks = -(-len(source) // self.size)
        order = Permutation(blocks, self.seed, epoch)[0:blocks]
        for index in range(rank, blocks, world):
            begin = int(order[index]) * self.size
            yield Slice(epoch, index, begin, min(len(source), begin + self.size))
