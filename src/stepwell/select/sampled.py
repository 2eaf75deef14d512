"""How batches of an event log are made for temporal models; configurations that agree on it take each batch once.

Sampling depends on the log, the settings, the epoch and the position alone, never on a model. So configurations of
equal settings train side by side over one run of the sampler, with one index and, for Zebra, one set of T-PPR lists,
and each ends in the bits that it has alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from stepwell.access import FixedBatches, Pipeline, Recent, UniformNegatives
from stepwell.access.negatives import Negatives
from stepwell.access.neighbors import AsOf, HopTime, KeyedBy
from stepwell.core.errors import InvalidValueError
from stepwell.core.shapes import Sampler
from stepwell.select.data import Source
from stepwell.select.lake_data import LogData, Window


@dataclass(frozen=True)
class Sampling:
    """What stands beside each event of a log: negatives, and the past of every target.

    Args:
        sampler: Which past events are looked at; None: no neighbours.
        negatives: Who stands beside the true destination; None: nobody.
        hops: Levels of neighbours.
        as_of: What a query sees, see `Pipeline`.
        hop_time: When a neighbour is asked in turn.
        keyed_by: What is a distinct target.
        seed: Keys negatives and random samplers.
        prefetch: Batches made ahead on background threads.
    """

    sampler: Sampler | None = field(default_factory=Recent)
    negatives: Negatives | None = field(default_factory=UniformNegatives)
    hops: int = 1
    as_of: AsOf = "event"
    hop_time: HopTime = "edge"
    keyed_by: KeyedBy = "node_time"
    seed: int = 0
    prefetch: int = 1


@dataclass(frozen=True)
class Sampled:
    """Batches of an event log with negatives and neighbours.

    Args:
        source: The log, cut.
        sampling: What stands beside each event.

    Raises:
        InvalidValueError: If the source is no event log.
    """

    source: Source
    sampling: Sampling

    def __post_init__(self) -> None:
        if not isinstance(self.source, LogData):
            raise InvalidValueError("data", type(self.source).__name__, "an event log, if a trainee has a sampling")

    def train(self, partition: int, epoch: int, batch_size: int) -> Iterator[object]:
        """Yield the batches of a partition, in time order."""
        return self._batches(self._windows("parts")[partition], epoch, batch_size)

    def slice(self, number: int, batch_size: int) -> Iterator[object]:
        """Yield the batches of a validation slice, in time order."""
        return self._batches(self._windows("slices")[number], 0, batch_size)

    def _windows(self, name: str) -> Sequence[Window]:
        found: Sequence[Window] = getattr(self.source, name)
        return found

    def _batches(self, window: Window, epoch: int, batch_size: int) -> Iterator[object]:
        assert isinstance(self.source, LogData)
        one = self.sampling
        made = Pipeline(
            self.source.events[window[0] : window[1]],
            FixedBatches(batch_size),
            negatives=one.negatives,
            sampler=one.sampler,
            hops=one.hops,
            as_of=one.as_of,
            hop_time=one.hop_time,
            keyed_by=one.keyed_by,
            prefetch=one.prefetch,
            seed=one.seed,
        )
        return made.epoch(epoch)
