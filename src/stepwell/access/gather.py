"""The stage that fetches features: once for each distinct node and event of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from stepwell.access.neighbors import expected_distinct, expected_events
from stepwell.core import Batch, Cost, Ids, Machine, Statistics
from stepwell.core.shapes import Accuracy
from stepwell.kernels import gather_rows
from stepwell.storage import EventLog

_CALL_S = 2e-5  # two kernel calls


@dataclass(frozen=True, slots=True)
class Gather:
    """Give `event_feature` of `events` and `node_feature` of `nodes`, where the log has any.

    The features of the batch's own events (`own_feature`) come with the events from the log itself. The models put
    them in place by `Level.event_row` after they have projected the distinct rows.

    Args:
        log: The log; memory-mapped features are read by row.

    Cost:
        O((E + N) F) bytes for E distinct events and N distinct nodes, parallel, without the interpreter lock.
    """

    log: EventLog

    @property
    def needs(self) -> frozenset[str]:
        """Distinct events and nodes, as far as the log has features of them."""
        return frozenset({"events"} & self._wants("events") | {"nodes"} & self._wants("nodes"))

    @property
    def gives(self) -> frozenset[str]:
        """Their features."""
        names = {"events": "event_feature", "nodes": "node_feature"}
        return frozenset(names[field] for field in self.needs)

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

    def _wants(self, field: str) -> frozenset[str]:
        feature = self.log.event_feature if field == "events" else self.log.node_feature
        return frozenset() if feature is None else frozenset({field})

    def __str__(self) -> str:
        return f"Gather({', '.join(sorted(self.gives)) or 'nothing'})"

    def __call__(self, batch: Batch) -> Batch:
        """Return the batch with the features."""
        events, nodes = self.log.event_feature, self.log.node_feature
        fields: dict[str, object] = {}
        if events is not None:
            fields["event_feature"] = gather_rows(events, cast("Ids", batch.array("events")))
        if nodes is not None:
            fields["node_feature"] = gather_rows(nodes, cast("Ids", batch.array("nodes")))
        return batch.give(**fields)

    def cost(self, stats: Statistics, machine: Machine) -> Cost:
        """Predict one epoch of one hop with ten neighbours, the field's setting."""
        calls = max(1.0, stats.num_rows / stats.batch_size)
        targets = stats.batch_size * (1.0 + max(stats.candidates, 1))
        events = expected_events(targets, 10, stats)
        rows, size_bytes = 0.0, 0.0
        if self.log.event_feature is not None:
            rows, size_bytes = calls * events, calls * events * stats.feature_bytes
        if self.log.node_feature is not None:
            nodes = calls * expected_distinct(targets + events, stats.num_nodes)
            rows = max(rows, nodes)
            size_bytes += nodes * 4 * self.log.node_feature.shape[1]
        return Cost(rows=rows, size_bytes=size_bytes, seconds=size_bytes / machine.gather_bytes_per_s + calls * _CALL_S)
