"""A batch as it would be without distinct rows: the other side of every comparison that says what these save."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import numpy.typing as npt

from stepwell.core import Batch, Cost, Ids, Level, Machine, Neighborhood, Statistics
from stepwell.core.shapes import Accuracy

_CHANGED = frozenset({"levels", "src_row", "candidate_row", "nodes", "events"})


@dataclass(frozen=True, slots=True)
class Repeat:
    """Give every query, every neighbour of every query and every sampled event a row of its own.

    What follows then fetches, digests, projects and attends as often as it is asked, as loaders without distinct rows
    do. Scores are the same up to rounding.

    Cost:
        `B (1 + C) (1 + K)^hops` rows below the last level.
    """

    @property
    def needs(self) -> frozenset[str]:
        """What `Neighbors` gives."""
        return _CHANGED

    @property
    def gives(self) -> frozenset[str]:
        """The same fields, with repeats."""
        return _CHANGED

    @property
    def reads(self) -> frozenset[str]:
        """No state."""
        return frozenset()

    @property
    def writes(self) -> frozenset[str]:
        """No state."""
        return frozenset()

    @property
    def accuracy(self) -> Accuracy:
        """Exact."""
        return "same"

    def __call__(self, batch: Batch) -> Batch:
        """Return the batch with repeats."""
        src, candidate = cast("Ids", batch.array("src_row")), cast("Ids", batch.array("candidate_row"))
        row = np.concatenate([src, candidate.ravel()])
        levels: list[Level] = []
        events: list[Ids] = []
        for level in batch.levels_of():
            levels.append(_repeated(level, row, sum(map(len, events))))
            mask = np.asarray(level.hood.mask)[row]
            events.append(cast("Ids", np.asarray(level.event_row)[row][mask]))
            row = np.concatenate([np.asarray(level.self_row)[row], np.asarray(level.neighbor_row)[row][mask]])
        return batch.give(
            levels=tuple(levels),
            src_row=np.arange(len(src)),
            candidate_row=len(src) + np.arange(candidate.size).reshape(candidate.shape),
            nodes=batch.array("nodes")[row],
            events=batch.array("events")[np.concatenate(events)],
        )

    def cost(self, stats: Statistics, machine: Machine) -> Cost:
        """Predict one epoch of one hop with ten neighbours."""
        rows = stats.num_rows * (1.0 + max(stats.candidates, 1)) * 11
        return Cost(rows=rows, size_bytes=rows * 60, seconds=rows * 60 / machine.gather_bytes_per_s)


def _repeated(level: Level, row: Ids, first_event: int) -> Level:
    hood = level.hood
    mask = np.asarray(hood.mask)[row]
    place = np.cumsum(mask.ravel()).reshape(mask.shape) - 1
    return Level(
        node=_take(level.node, row),
        time=_take(level.time, row),
        before=_take(level.before, row),
        hood=replace(
            Neighborhood(*(_take(part, row) for part in (hood.node, hood.event, hood.dt, hood.mask))),
            weight=None if hood.weight is None else _take(hood.weight, row),
        ),
        self_row=np.arange(len(row)),
        neighbor_row=np.where(mask, len(row) + place, 0),
        event_row=np.where(mask, first_event + place, 0),
    )


def _take(array: object, row: Ids) -> npt.NDArray[np.generic]:
    found: npt.NDArray[np.generic] = np.asarray(array)[row]
    return found
