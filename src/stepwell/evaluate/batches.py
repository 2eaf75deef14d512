"""The batches that a protocol asks for: where they are cut, and who stands beside the true destination."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from typing import Literal

import torch

from stepwell.access import (
    AllDestinations,
    FixedBatches,
    HistoricalNegatives,
    InductiveNegatives,
    Pipeline,
    UniformNegatives,
)
from stepwell.access.negatives import Negatives
from stepwell.buffer.reuse import EmbeddingReuse
from stepwell.core.batch import Slice
from stepwell.core.errors import InvalidValueError
from stepwell.core.shapes import Batcher, Sampler, Source
from stepwell.evaluate.protocols import Protocol
from stepwell.evaluate.report import Evaluation
from stepwell.evaluate.split import InductiveSplit
from stepwell.storage import EventLog

_STREAMED = 1000
"""Events a batch for models that stream: a matter of memory only."""


@dataclass(frozen=True, slots=True)
class GridBatches:
    """Consecutive events, cut where the log's positions are multiples of `size`, whatever view is read.

    A frozen state is then as old at each event as in one pass over the whole log.

    Args:
        size: Events a batch; the first and the last may be smaller.

    Raises:
        InvalidValueError: If `size < 1`.
    """

    size: int = 200

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InvalidValueError("size", self.size, "at least 1")

    def cuts(self, source: Source, epoch: int, shard: tuple[int, int] = (0, 1)) -> Iterator[Slice]:
        """Yield this rank's slices of one epoch."""
        origin = source.begin if isinstance(source, EventLog) else 0
        borders = [0, *range(self.size - origin % self.size, len(source), self.size), len(source)]
        every = (Slice(epoch, i, a, b) for i, (a, b) in enumerate(pairwise(borders)) if b > a)
        return islice(every, shard[0], None, shard[1])


def evaluation_for(
    protocol: Protocol,
    split: InductiveSplit,
    *,
    sampler: Sampler | None = None,
    hops: int = 1,
    hop_time: Literal["edge", "root"] = "edge",
    keyed_by: Literal["node_time", "node"] = "node_time",
    negatives: Negatives | None = None,
    streams: bool = False,
    reuse: EmbeddingReuse | None = None,
    prefetch: int = 2,
    device: torch.device | str | None = None,
) -> Evaluation:
    """Build what a protocol asks for over a split, so that no number is printed beside settings it did not have.

    Args:
        protocol: Its part, batches, negatives, seed and `as_of` count.
        split: From `split_for` with the same protocol family.
        sampler: The model's; None for models that look at no neighbours.
        hops: Levels of neighbours.
        hop_time: When a neighbour is asked in turn.
        keyed_by: What is a distinct target.
        negatives: Those of a file, where the protocol says so.
        streams: Whether the model has `stream`; then streaming state needs no batches of one event.
        reuse: Embeddings below the last layer serve again while answers are scored, from an empty store on; the scores'
            protocol says so. None: all are computed for their own query. With one level there is nothing to reuse.
        prefetch: Batches made ahead.
        device: Where the tensors go.

    Raises:
        InvalidValueError: If the protocol takes its negatives from a file and none are given.
    """
    view = {"train": split.train, "validation": split.validation, "test": split.test}[protocol.part]
    pipeline = Pipeline(
        view,
        _cuts(protocol, streams=streams),
        negatives=negatives or _negatives(protocol, split, view),
        sampler=sampler,
        hops=hops,
        as_of=protocol.as_of,
        hop_time=hop_time,
        keyed_by=keyed_by,
        reuse=reuse if hops > 1 else None,
        prefetch=prefetch,
        seed=protocol.seed,
        device=device,
    )
    named = protocol if protocol.data else replace(protocol, data=view.name)
    if reuse is not None and hops > 1:
        named = replace(named, reuse=str(reuse))
    return Evaluation(pipeline, named, split.unseen if protocol.events == "inductive" else None)


def _cuts(protocol: Protocol, *, streams: bool) -> Batcher:
    if protocol.state == "stream":
        return FixedBatches(_STREAMED if streams else 1)
    return GridBatches(protocol.batch_size) if protocol.grid == "log" else FixedBatches(protocol.batch_size)


def _negatives(protocol: Protocol, split: InductiveSplit, view: EventLog) -> Negatives:
    if protocol.negatives == "file":
        raise InvalidValueError(
            "negatives", None, "FileNegatives, because the protocol takes its negatives from a file"
        )
    if protocol.negatives == "all":
        return AllDestinations(exclude_true=protocol.filtered)
    num = protocol.per_positive or 1
    if protocol.negatives == "historical":
        return HistoricalNegatives(split.train, num)
    if protocol.negatives == "inductive":
        return InductiveNegatives(split.train, view, num)
    return UniformNegatives(num)
