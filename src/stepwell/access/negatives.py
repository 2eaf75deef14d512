"""Negatives: whom a source did not meet. Each gives `candidate` `[B, C]`, column 0 being the true destination.

Every draw is keyed by (seed, epoch, global position of the event), so the same event meets the same negatives
whatever the batch size, the shard, the number of workers or the place of a resume. "Active now" means a pair that
meets at the very time of the query, for the same reason.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, cast, runtime_checkable

import numpy as np

from stepwell.core import Batch, Cost, Draw, Ids, Machine, Statistics
from stepwell.core.errors import InvalidValueError
from stepwell.core.shapes import Accuracy
from stepwell.kernels.partners import Meetings, Partners, all_others, idle_partners
from stepwell.storage import EventLog

_CELLS_PER_S = 3e8  # measured on two cores, as is:
_CALL_S = 2e-5


@runtime_checkable
class Negatives(Protocol):
    """One way to find negatives of an event log."""

    @property
    def width(self) -> int | None:
        """Negatives an event, or None if the log decides."""

    def draw(self, log: EventLog, batch: Batch, draw: Draw) -> Ids:
        """Return negatives of a batch's events.

        Args:
            log: The log, for what is drawn from.
            batch: `src`, `dst`, `time` and `event` are read.
            draw: The randomness, keyed by each event's global position.

        Returns:
            int64 `[B, C - 1]`, -1 where there is none.
        """


@dataclass(frozen=True, slots=True)
class Candidates:
    """The stage that puts the true destination and its negatives side by side.

    Args:
        log: The log that the batches come from.
        negatives: Who is drawn; None for the true destination alone.
        seed: Keys the draws.
    """

    log: EventLog
    negatives: Negatives | None = None
    seed: int = 0

    @property
    def needs(self) -> frozenset[str]:
        """The events."""
        return frozenset({"src", "dst", "time", "event"})

    @property
    def gives(self) -> frozenset[str]:
        """The candidates."""
        return frozenset({"candidate"})

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

    def __str__(self) -> str:
        return f"Candidates({self.negatives or 'true destinations alone'})"

    def __call__(self, batch: Batch) -> Batch:
        """Return the batch with `candidate`."""
        dst = cast("Ids", batch.array("dst"))
        if self.negatives is None:
            return batch.give(candidate=dst[:, None])
        others = self.negatives.draw(self.log, batch, Draw(self.seed, "negatives", batch.slice.epoch))
        candidate = np.empty((len(dst), 1 + others.shape[1]), np.int64)
        candidate[:, 0] = dst
        candidate[:, 1:] = others
        return batch.give(candidate=candidate)

    @property
    def width(self) -> int:
        """Candidates an event: C."""
        width = 0 if self.negatives is None else self.negatives.width
        return max(1, len(self.log.destinations)) if width is None else 1 + width

    def cost(self, stats: Statistics, machine: Machine) -> Cost:
        """Predict one epoch."""
        cells = stats.num_rows * self.width
        seconds = cells / _CELLS_PER_S + _CALL_S * max(1.0, stats.num_rows / stats.batch_size)
        return Cost(rows=stats.num_rows, size_bytes=8.0 * cells, seconds=seconds)


@dataclass(frozen=True, slots=True)
class UniformNegatives:
    """Destinations drawn uniformly, with replacement, from all destinations of the log.

    Args:
        per_event: Negatives an event.
        exclude_positive: Whether the event's own destination is left out. The field's protocol keeps it in.

    Raises:
        InvalidValueError: If `per_event < 1`.

    Cost:
        O(B C) draws; O(B log D) more with `exclude_positive`.

    References:
        Kumar et al., "Predicting dynamic embedding trajectory in temporal interaction networks", KDD 2019 (split);
        Xu et al., "Inductive representation learning on temporal graphs", ICLR 2020 (negatives).
    """

    per_event: int = 1
    exclude_positive: bool = False

    def __post_init__(self) -> None:
        _check_per_event(self.per_event)

    @property
    def width(self) -> int:
        """Negatives an event."""
        return self.per_event

    def draw(self, log: EventLog, batch: Batch, draw: Draw) -> Ids:
        """Return negatives, int64 `[B, per_event]`."""
        pool = log.destinations
        event = cast("Ids", batch.array("event"))
        if not self.exclude_positive:
            return pool[draw.integers(event, self.per_event, len(pool))]
        if len(pool) < 2:
            raise InvalidValueError("exclude_positive", True, "False for a log with a single destination")  # noqa: FBT003
        own = np.searchsorted(pool, cast("Ids", batch.array("dst")))[:, None]
        picks = draw.integers(event, self.per_event, len(pool) - 1)
        return pool[picks + (picks >= own)]


def _pairs(log: EventLog) -> Ids:
    return np.unique(log.src.astype(np.int64) * log.num_nodes + log.dst)


@dataclass(frozen=True)
class HistoricalNegatives:
    """Destinations that the source met in training and does not meet now.

    Drawn uniformly with replacement; where a source has no such destination, uniformly from all destinations.

    Args:
        train: The events whose pairs count as history.
        per_event: Negatives an event.

    Raises:
        InvalidValueError: If `per_event < 1`.

    Cost:
        O(E log E) once for the pairs; O(B C (log D + A)) a batch, A being the events of a source at one time.

    References:
        Poursafaei et al., "Towards better evaluation for dynamic link prediction", NeurIPS 2022, section 4.1.
        Differs: drawn among the source's own history, "active now" means at the same time, not in the same batch.
    """

    train: EventLog = field(repr=False)
    per_event: int = 1
    _partners: Partners = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_per_event(self.per_event)
        object.__setattr__(self, "_partners", Partners.of(_pairs(self.train), self.train.num_nodes))

    @property
    def width(self) -> int:
        """Negatives an event."""
        return self.per_event

    def draw(self, log: EventLog, batch: Batch, draw: Draw) -> Ids:
        """Return negatives, int64 `[B, per_event]`."""
        return _draw_partners(self._partners, log, batch, draw, self.per_event)


@dataclass(frozen=True)
class InductiveNegatives:
    """Destinations that the source meets in the evaluated events but never met in training, and does not meet now.

    Drawn uniformly with replacement; where a source has no such destination, uniformly from all destinations.

    Args:
        train: The events of training.
        evaluation: The evaluated events.
        per_event: Negatives an event.

    Raises:
        InvalidValueError: If `per_event < 1`.

    Cost:
        As `HistoricalNegatives`.

    References:
        Poursafaei et al., "Towards better evaluation for dynamic link prediction", NeurIPS 2022, section 4.1.
        Differs: as `HistoricalNegatives`.
    """

    train: EventLog = field(repr=False)
    evaluation: EventLog = field(repr=False)
    per_event: int = 1
    _partners: Partners = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_per_event(self.per_event)
        unseen = np.setdiff1d(_pairs(self.evaluation), _pairs(self.train), assume_unique=True)
        object.__setattr__(self, "_partners", Partners.of(unseen, self.train.num_nodes))

    @property
    def width(self) -> int:
        """Negatives an event."""
        return self.per_event

    def draw(self, log: EventLog, batch: Batch, draw: Draw) -> Ids:
        """Return negatives, int64 `[B, per_event]`."""
        return _draw_partners(self._partners, log, batch, draw, self.per_event)


@dataclass(frozen=True, slots=True)
class AllDestinations:
    """Every other destination of the log: one true destination against all, as in the TGB ranking protocol.

    The width is the same for every event: the number of destinations, column 0 being the true one. Places without a
    candidate, because the destination is also true for this source at this time, hold -1 and must be masked.

    Args:
        exclude_true: Whether all destinations that the source meets at this time are left out, not only the event's
            own.

    Cost:
        O(B D) cells for D destinations.

    References:
        Huang et al., "Temporal graph benchmark for machine learning on temporal graphs", NeurIPS 2023, section 4.1.
    """

    exclude_true: bool = True

    @property
    def width(self) -> None:
        """The log decides."""
        return

    def draw(self, log: EventLog, batch: Batch, draw: Draw) -> Ids:
        """Return all other destinations ascending, int64 `[B, D - 1]`, -1 where padded; nothing is drawn."""
        src, dst, event = (cast("Ids", batch.array(name)) for name in ("src", "dst", "event"))
        out: Ids = all_others(src, dst, event, log.destinations, _meetings(log), self.exclude_true)
        return out


def _check_per_event(per_event: int) -> None:
    if per_event < 1:
        raise InvalidValueError("per_event", per_event, "at least 1")


def _meetings(log: EventLog) -> Meetings:
    index, snapshot = log.index, log.snapshot
    found = (index.indptr, index.event, index.time, snapshot.src, snapshot.dst)
    return Meetings(*(np.asarray(array) for array in found))


def _draw_partners(partners: Partners, log: EventLog, batch: Batch, draw: Draw, width: int) -> Ids:
    src, event = cast("Ids", batch.array("src")), cast("Ids", batch.array("event"))
    randomness = np.array([draw.key, draw.lane(0)], np.uint64)
    out: Ids = idle_partners(src, event, partners, log.destinations, _meetings(log), randomness, width)
    return out
