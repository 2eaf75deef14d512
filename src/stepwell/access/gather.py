"""The stage that fetches features: once for each distinct node and event of a batch.

With a placement, rows that will be needed again stay in memory within its budget, and the others are read from the
log's files with many requests at once; where the epoch is foreseen, for many batches in one pass. The stage then runs
ahead of the model in the order of the batches, so what a batch misses is read while those before it are trained.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from stepwell.access.neighbors import expected_distinct, expected_events
from stepwell.access.placement import Placement, families_of, foresee_placement, plan_placement
from stepwell.buffer.planned import Planned
from stepwell.buffer.policy import Policy
from stepwell.buffer.sweep import Sweep
from stepwell.buffer.tiers import Array, Backing, Tier, TierCounts, TieredStore
from stepwell.core import Batch, Cost, Ids, Machine, Statistics
from stepwell.core.shapes import Accuracy
from stepwell.kernels import gather_rows
from stepwell.storage import EventLog
from stepwell.storage.row_reads import DiskRows
from stepwell.storage.units import to_bytes

_CALL_S = 2e-5  # two kernel calls
_SWEPT = 0.6
"""Share of a planned budget that holds rows of coming batches, read in one pass over the file for many of them."""


@dataclass(frozen=True, slots=True)
class Gather:
    """Give `event_feature` of `events` and `node_feature` of `nodes`, where the log has any.

    The features of the batch's own events (`own_feature`) come with the events from the log itself. The models put
    them in place by `Level.event_row` after they have projected the distinct rows.

    Args:
        log: The log; without a placement, memory-mapped features are read by row.
        placement: Which rows stay in memory, and within how many bytes; None: all are read where the log has them.

    Cost:
        O((E + N) F) bytes for E distinct events and N distinct nodes, parallel, without the interpreter lock.
    """

    log: EventLog
    placement: Policy | None = None
    _tiers: _Tiers = field(default_factory=lambda: _Tiers(), init=False, repr=False, compare=False)

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
        """Who is resident, if there is a placement."""
        return frozenset() if self.placement is None else frozenset({"placement"})

    @property
    def writes(self) -> frozenset[str]:
        """Who is resident, if there is a placement."""
        return frozenset() if self.placement is None else frozenset({"placement"})

    @property
    def accuracy(self) -> Accuracy:
        """Exact."""
        return "same"

    def _wants(self, field: str) -> frozenset[str]:
        feature = self.log.event_feature if field == "events" else self.log.node_feature
        return frozenset() if feature is None else frozenset({field})

    def __str__(self) -> str:
        laid_out = sum(sweep.laid_out_bytes for sweep in self._tiers.sweeps.values())
        note = f"; {laid_out / 1e9:.1f} GB laid out anew on disk" if laid_out else ""
        return f"Gather({', '.join(sorted(self.gives)) or 'nothing'}{note})"

    @property
    def counts(self) -> Mapping[str, TierCounts]:
        """What the tier of each family did so far; empty without a placement or before the first epoch."""
        return {name: store.counts[0] for name, store in self._tiers.stores.items()}

    def foresee(self, epoch: int, upstream: Callable[[], Iterator[Batch]], start: int = 0) -> None:
        """Plan who stays during an epoch and begin it with empty tiers.

        Cost:
            One pass over the epoch's batches without features, if the policy wants to know them.
        """
        if self.placement is not None:
            families = families_of(self.log)
            filed = self._tiers.open(self.log)
            swept = filed if self.placement.foresight else frozenset()
            memory = to_bytes(self.placement.memory, "memory")
            room = int(_SWEPT * memory) if swept else 0
            placed = foresee_placement(self.placement, families, upstream, start, memory - room)
            self._tiers.begin(placed, {name: room // len(swept) // families[name].row_bytes for name in swept})

    def __call__(self, batch: Batch) -> Batch:
        """Return the batch with the features."""
        if self.placement is not None and not self._tiers.stores and not self.placement.foresight:
            self._tiers.open(self.log)
            self._tiers.begin(plan_placement(self.placement, families_of(self.log)), {})
        fields: dict[str, object] = {}
        for name, ids in (("event_feature", "events"), ("node_feature", "nodes")):
            table = self.log.event_feature if name == "event_feature" else self.log.node_feature
            if table is not None:
                rows = cast("Ids", batch.array(ids))
                store = self._tiers.stores.get(name)
                fields[name] = gather_rows(table, rows) if store is None else store.gather(rows)
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
        seconds = size_bytes / machine.gather_bytes_per_s + calls * _CALL_S
        return Cost(rows=rows, size_bytes=size_bytes, seconds=seconds, hit_rate=self._hit_rate())

    def _hit_rate(self) -> float | None:
        """Return the share that the latest epoch found, or before any the share of all rows that fits."""
        if self.placement is None:
            return None
        counts = self.counts.values()
        asked = sum(count.hits + count.misses for count in counts)
        if asked:
            return sum(count.hits for count in counts) / asked
        total = sum(family.num_rows * family.row_bytes for family in families_of(self.log).values())
        return min(1.0, to_bytes(self.placement.memory, "memory") / max(1, total))


@dataclass(slots=True)
class _Tiers:
    """The stores of one stage, by family."""

    stores: dict[str, TieredStore] = field(default_factory=dict)
    backings: dict[str, DiskRows | Array] = field(default_factory=dict)
    sweeps: dict[str, Sweep] = field(default_factory=dict)

    def open(self, log: EventLog) -> frozenset[str]:
        """Open what holds all rows, and return the families that lie in files."""
        for name, table in (("event_feature", log.event_feature), ("node_feature", log.node_feature)):
            if table is not None and name not in self.backings:
                self.backings[name] = _backing(table)
        return frozenset(name for name, backing in self.backings.items() if isinstance(backing, DiskRows))

    def begin(self, placed: Placement, ahead: Mapping[str, int]) -> None:
        """Empty the tiers and let the placement decide who enters; families in `ahead` hold so many rows for later."""
        for name, replacement in placed.tiers.items():
            tier = [Tier(placed.capacity[name], replacement)]
            if name not in self.stores:
                below: Backing | Array = self.backings[name]
                if name in ahead:
                    below = self.sweeps[name] = Sweep(cast("Backing", below), ahead[name])
                self.stores[name] = TieredStore(below, tier)
            else:
                self.stores[name].begin(tier)
            if name in self.sweeps:
                self.sweeps[name].begin(replacement.misses() if isinstance(replacement, Planned) else iter(()))


def _backing(table: Array) -> DiskRows | Array:
    """Return the file behind a table that is a whole memory map, else the table itself."""
    mapped: object = table
    while isinstance(mapped, np.ndarray) and not isinstance(mapped.base, mmap.mmap):
        mapped = mapped.base
    if not isinstance(mapped, np.memmap) or mapped.filename is None:
        return table
    layout = [(a.shape, a.dtype, a.strides, a.ctypes.data) for a in (table, mapped)]
    return DiskRows.of_memmap(mapped, direct=True) if layout[0] == layout[1] and table.flags.c_contiguous else table
