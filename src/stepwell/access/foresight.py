"""Tell stages an epoch before it begins: what its batches will touch is known, because everything random is keyed.

A stage that plans (placement, reuse) sees all batches of the epoch as they come to it. They are made anew by the stages
that it depends on, which cost no features if it asks for none, and their time is counted apart: as the plan's.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Protocol

from stepwell.access.ahead import Workers, map_ahead, serially
from stepwell.access.meter import Meter
from stepwell.access.order import is_pure, needed_by
from stepwell.core import Batch, Cost, PlanNode, Slice
from stepwell.core.errors import PlanError
from stepwell.core.shapes import Batcher, Foresighted, Source, Stage


class Epochs(Protocol):
    """What of a pipeline decides its batches."""

    source: Source
    batches: Batcher
    shard: tuple[int, int]
    prefetch: int
    workers: Workers


class Foresight:
    """Who of a pipeline's stages plans, and from which batches.

    Args:
        stages: The stages in their order.
        names: Their names in the plan.
        ordered: How many of them run ahead of the model.

    Raises:
        PlanError: If a stage plans from what the model decides, or from a stage whose state cannot begin anew.
    """

    def __init__(self, stages: Sequence[Stage], names: Sequence[str], ordered: int) -> None:
        planning = [i for i, stage in enumerate(stages) if isinstance(stage, Foresighted) and not is_pure(stage)]
        self._stages, self._names, self._ordered = stages, names, ordered
        self._needed = {i: needed_by(stages, i) for i in planning}
        for i, needed in self._needed.items():
            for j in needed:
                if j >= ordered or not (is_pure(stages[j]) or j in self._needed):
                    raise PlanError(
                        f"{names[i]} plans an epoch before it begins, but {names[j]}, which feeds it, has state that "
                        "is not known then. Let it need fields of stages without state, or of stages that plan too."
                    )

    def tell(self, epochs: Epochs, epoch: int, start: int, early: int, meter: Meter) -> None:
        """Let every stage that plans know the epoch.

        Args:
            epochs: The pipeline.
            epoch: The epoch.
            start: Its first batch.
            early: How many batches, from `start` on, the stages that wait for the model have seen already.
            meter: Notes what it took.
        """
        for place in sorted(self._needed, reverse=True):
            begin = time.perf_counter()
            self._tell(epochs, place, epoch, start + (early if place >= self._ordered else 0))
            meter.note(f"Plan {self._names[place]}", Cost(seconds=time.perf_counter() - begin, calls=1))

    def _tell(self, epochs: Epochs, place: int, epoch: int, start: int) -> None:
        stage = self._stages[place]
        assert isinstance(stage, Foresighted)
        stage.foresee(epoch, lambda: self._upstream(epochs, place, epoch), start)

    def _upstream(self, epochs: Epochs, place: int, epoch: int) -> Iterator[Batch]:
        """Make the epoch's batches as they come to a stage; the planning stages before it begin anew, last first."""
        needed = self._needed[place]
        for earlier in reversed([i for i in needed if i in self._needed]):
            self._tell(epochs, earlier, epoch, 0)
        stages = [self._stages[i] for i in needed]
        first = next((n for n, stage in enumerate(stages) if not is_pure(stage)), len(stages))

        def make(cut: Slice) -> Batch:
            return _through(stages[:first], epochs.source.read(cut))

        def then(batch: Batch) -> Batch:
            return _through(stages[first:], batch)

        lane = serially(then) if first < len(stages) else None
        cuts = epochs.batches.cuts(epochs.source, epoch, epochs.shard)
        yield from map_ahead(serially(make), cuts, epochs.prefetch, epochs.workers, lane)

    def rows(self, place: int, costs: Sequence[Cost]) -> tuple[PlanNode, ...]:
        """Return the plan's row for the planning of a stage, if it plans.

        Args:
            place: The stage.
            costs: Predicted for reading and for each stage.
        """
        if place not in self._needed:
            return ()
        parts = [costs[0], *(costs[i + 1] for i in self._needed[place])]
        seconds = sum(cost.seconds or 0.0 for cost in parts)
        why = "the epoch's batches made once beforehand, without what the plan does not need"
        return (PlanNode(f"Plan {self._names[place]}", why, Cost(seconds=seconds, calls=1)),)


def _through(stages: Sequence[Stage], batch: Batch) -> Batch:
    return reduce(lambda made, stage: stage(made), stages, batch)
