"""The rules of a pipeline: the same batches for any prefetch depth, from any resume point, and over all shards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from stepwell.core import Batch
from stepwell.testing.compare import assert_same_bits


class Epochs(Protocol):
    """What the suite needs of a pipeline."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of one epoch from the `start`-th on."""


class MakePipeline(Protocol):
    """Builds the pipeline under test; everything but these two arguments is the same each time."""

    def __call__(self, *, prefetch: int, shard: tuple[int, int]) -> Epochs:
        """Return a new pipeline of that prefetch depth and that `(rank, world)` share."""


def check_batches(
    make_pipeline: MakePipeline, *, epochs: tuple[int, ...] = (0, 1), worlds: tuple[int, ...] = (2, 3)
) -> None:
    """Fail unless a pipeline's batches depend on its settings and the epoch alone.

    Args:
        make_pipeline: `make_pipeline(prefetch=..., shard=...)` returns a new pipeline of a few batches.
        epochs: Epochs to check; each is also run out of order.
        worlds: Numbers of shards whose union must be the whole epoch.

    Raises:
        AssertionError: If an epoch is empty, or batches differ by prefetch depth, resume point, the epochs run
            before, or shards.

    Cost:
        About (batches / 2 + 4 + shards) passes over each epoch.
    """
    whole = {epoch: list(make_pipeline(prefetch=0, shard=(0, 1)).epoch(epoch)) for epoch in epochs}
    ahead = make_pipeline(prefetch=2, shard=(0, 1))
    for epoch in reversed(epochs):
        assert whole[epoch], f"epoch {epoch} has no batches to check"
        assert_same_bits(list(ahead.epoch(epoch)), whole[epoch], f"epoch {epoch} with prefetch 2")
    for epoch in epochs:
        for start in range(len(whole[epoch]) + 1):
            resumed = make_pipeline(prefetch=2 * (start % 2), shard=(0, 1))
            assert_same_bits(
                list(resumed.epoch(epoch, start=start)), whole[epoch][start:], f"epoch {epoch} from {start}"
            )
        for world in worlds:
            shards = [make_pipeline(prefetch=0, shard=(rank, world)).epoch(epoch) for rank in range(world)]
            union = sorted((batch for shard in shards for batch in shard), key=lambda batch: batch.slice.index)
            assert_same_bits(union, whole[epoch], f"epoch {epoch} of {world} shards")
