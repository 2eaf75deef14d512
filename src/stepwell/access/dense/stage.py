"""What stages of dense data share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from stepwell.core.batch import Batch
from stepwell.core.plan import Cost, Machine, Statistics
from stepwell.core.shapes import Accuracy

_NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class RowStage(ABC):
    """A stage that computes each row from that row alone, and touches no state."""

    @property
    @abstractmethod
    def needs(self) -> frozenset[str]:
        """The fields it is computed from."""

    @property
    @abstractmethod
    def gives(self) -> frozenset[str]:
        """The fields it computes."""

    @property
    def by_row(self) -> Literal[True]:
        """Each row is computed from that row alone, so batches may be made in groups."""
        return True

    @property
    def reads(self) -> frozenset[str]:
        """No state."""
        return _NOTHING

    @property
    def writes(self) -> frozenset[str]:
        """No state."""
        return _NOTHING

    @property
    def accuracy(self) -> Accuracy:
        """Values are what they are declared to be, always."""
        return "same"

    @abstractmethod
    def __call__(self, batch: Batch) -> Batch:
        """Return the batch with new fields, usually in the place of those they were made from."""

    def cost(self, stats: Statistics, machine: Machine) -> Cost:
        """Every row once, at the rate of a gather."""
        size = stats.num_rows * max(8, stats.row_bytes)
        return Cost(rows=stats.num_rows, size_bytes=size, seconds=size / machine.gather_bytes_per_s)


def without(batch: Batch, used: frozenset[str], found: Mapping[str, object]) -> Batch:
    """Return the batch with new fields in the place of the columns (and their validity) that made them."""
    gone = used | {f"{name}_valid" for name in used}
    return Batch(batch.slice, **{**{name: batch[name] for name in batch if name not in gone}, **found})
