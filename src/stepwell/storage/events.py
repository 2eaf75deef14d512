"""The event log: events sorted by time, seen through an immutable half-open window of positions.

An `EventLog` is a view `[begin, end)` of a `Snapshot`. Slicing, splitting and cutting by time give views of the same
columns and copy nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import floor
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from stepwell.core.batch import Batch, Ids, Slice
from stepwell.core.errors import InvalidValueError
from stepwell.core.plan import Statistics
from stepwell.storage.export import frame_of, temporal_data_of
from stepwell.storage.index import TemporalCSR, check_ids, check_num_nodes
from stepwell.storage.snapshot import Snapshot
from stepwell.storage.units import seconds_of, to_ticks

if TYPE_CHECKING:
    import pandas as pd
    from torch_geometric.data import TemporalData


class Split(NamedTuple):
    """A cut in time: three views of one log, in this order."""

    train: EventLog
    validation: EventLog
    test: EventLog


@dataclass(frozen=True, eq=False, repr=False)
class EventLog:
    """An immutable view `[begin, end)` of a snapshot; the source of every temporal pipeline.

    `src`, `dst`, `time`, `event_id`, `label` and `event_type` show this view only. `event_feature` and `index` belong
    to the whole snapshot and are read by global position.

    Args:
        snapshot: The columns.
        begin: First position of the view.
        end: One past its last.

    Example:
        >>> log = EventLog.from_arrays(src=[0, 1, 0], dst=[2, 2, 3], time=[10, 20, 30])
        >>> log.between(20, 31).src
        array([1, 0], dtype=int32)
    """

    snapshot: Snapshot
    begin: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.begin <= self.end <= len(self.snapshot):
            raise InvalidValueError(
                "begin, end", (self.begin, self.end), f"ordered and within 0 and {len(self.snapshot)}"
            )

    @classmethod
    def from_arrays(
        cls,
        src: npt.ArrayLike,
        dst: npt.ArrayLike,
        time: npt.ArrayLike,
        *,
        features: npt.ArrayLike | None = None,
        label: npt.ArrayLike | None = None,
        event_type: npt.ArrayLike | None = None,
        node_features: npt.ArrayLike | None = None,
        num_nodes: int | None = None,
        unit: str | tuple[str, str] = "s",
        directed: bool = False,
    ) -> EventLog:
        """Build a log in memory; no lake is needed.

        Unsorted events are sorted by time; ties keep their order. `event_id` is the row they came in.

        Args:
            src: Source nodes `[E]`, integers of at least 0. One numbering serves both ends.
            dst: Destination nodes `[E]`.
            time: Times `[E]`, whole numbers of `unit`; may be negative.
            features: `[E, F]` numbers, finite, or None.
            label: `[E]`, or None.
            event_type: Small integers `[E]`, or None.
            node_features: `[N, F]` numbers, or None.
            num_nodes: N; by default one more than the largest id.
            unit: What the times count: "ns", "us", "ms", "s", "min", "h", "d" or "w"; a pair (source, stored)
                scales them, as in ("s", "ms").
            directed: Whether an event is seen from its source only.

        Raises:
            InvalidValueError: If lengths differ, an id or a feature is out of range, or a time is lost by `unit`.

        Cost:
            O(E), O(E log E) if unsorted; int32 ids and float32 features are not copied when sorted.
        """
        sources, destinations = check_ids("src", src), check_ids("dst", dst)
        ticks = to_ticks(np.asarray(time), unit)
        count = check_num_nodes(sources, destinations, num_nodes)
        num_events = len(sources)
        columns = {
            "dst": destinations,
            "time": ticks,
            "features": None if features is None else _matrix("features", features),
            "label": None if label is None else np.asarray(label),
            "event_type": None if event_type is None else np.asarray(event_type, dtype=np.int16),
        }
        for name, column in columns.items():
            if column is not None and len(column) != num_events:
                raise InvalidValueError(name, len(column), f"as long as `src` ({num_events} events)")
        order = None if bool((ticks[1:] >= ticks[:-1]).all()) else np.argsort(ticks, kind="stable")
        nodes = None if node_features is None else _matrix("node_features", node_features)
        if nodes is not None and len(nodes) != count:
            raise InvalidValueError("node_features", len(nodes), f"one row a node ({count} nodes)")

        def sort(column: npt.NDArray[np.generic] | None) -> npt.NDArray[np.generic] | None:
            return column if order is None or column is None else column[order]

        return cls.of(
            Snapshot(
                src=_int32(sort(sources)),
                dst=_int32(sort(destinations)),
                time=ticks if order is None else ticks[order],
                num_nodes=count,
                seconds=seconds_of(unit),
                directed=directed,
                event_id=order,
                label=sort(columns["label"]),
                event_type=sort(columns["event_type"]),  # type: ignore[arg-type]
                event_feature=sort(columns["features"]),  # type: ignore[arg-type]
                node_feature=nodes,
                notes=()
                if order is None
                else (f"{num_events} events were not in order of time and have been sorted.",),
            )
        )

    @classmethod
    def of(cls, snapshot: Snapshot) -> EventLog:
        """Return the view over everything."""
        return cls(snapshot, 0, len(snapshot))

    @property
    def src(self) -> npt.NDArray[np.int32]:
        """Source nodes, int32 `[E]`."""
        return self.snapshot.src[self.begin : self.end]

    @property
    def dst(self) -> npt.NDArray[np.int32]:
        """Destination nodes, int32 `[E]`."""
        return self.snapshot.dst[self.begin : self.end]

    @property
    def time(self) -> npt.NDArray[np.int64]:
        """Times in the log's unit, int64 `[E]`, ascending."""
        return self.snapshot.time[self.begin : self.end]

    @property
    def event_id(self) -> Ids:
        """Permanent ids of the events, int64 `[E]`."""
        ids = self.snapshot.event_id
        return np.arange(self.begin, self.end) if ids is None else ids[self.begin : self.end]

    @property
    def label(self) -> npt.NDArray[np.generic] | None:
        """Labels `[E]`, or None."""
        return None if self.snapshot.label is None else self.snapshot.label[self.begin : self.end]

    @property
    def event_type(self) -> npt.NDArray[np.int16] | None:
        """Types of the events, int16 `[E]`, or None."""
        return None if self.snapshot.event_type is None else self.snapshot.event_type[self.begin : self.end]

    @property
    def event_feature(self) -> npt.NDArray[np.float32] | None:
        """Features of all events of the snapshot, float32 `[E, F]`, by global position, or None."""
        return self.snapshot.event_feature

    @property
    def node_feature(self) -> npt.NDArray[np.float32] | None:
        """Features of all nodes, float32 `[N, F]`, or None."""
        return self.snapshot.node_feature

    @property
    def node_type(self) -> npt.NDArray[np.int16] | None:
        """Key space of each node, int16 `[N]`, or None."""
        return self.snapshot.node_type

    @property
    def num_nodes(self) -> int:
        """How many nodes the snapshot has."""
        return self.snapshot.num_nodes

    @property
    def seconds(self) -> float:
        """Length of the time unit in seconds."""
        return self.snapshot.seconds

    @property
    def notes(self) -> tuple[str, ...]:
        """What happened on the way in that the user should know."""
        return self.snapshot.notes

    @property
    def name(self) -> str:
        """`name@version` in the lake, or "events" for a log in memory."""
        return f"{self.snapshot.name}@{self.snapshot.version}" if self.snapshot.name else "events"

    @property
    def base(self) -> EventLog:
        """The view over the whole snapshot."""
        return EventLog.of(self.snapshot)

    @property
    def index(self) -> TemporalCSR:
        """The temporal adjacency over the whole snapshot, opened or built at first use."""
        return self.snapshot.index

    @property
    def destinations(self) -> Ids:
        """Sorted distinct destination nodes of the whole snapshot, int64."""
        return self.snapshot.destinations

    def __len__(self) -> int:
        return self.end - self.begin

    def __repr__(self) -> str:
        width = 0 if self.event_feature is None else self.event_feature.shape[1]
        return f"EventLog({self.name}[{self.begin}:{self.end}], {self.num_nodes} nodes, {width} features)"

    def __getitem__(self, window: slice) -> EventLog:
        if not isinstance(window, slice) or window.step not in (None, 1):
            raise InvalidValueError("log[...]", window, "a slice of consecutive positions, such as log[100:200]")
        begin, end, _ = window.indices(len(self))
        return replace(self, begin=self.begin + begin, end=self.begin + max(begin, end))

    def between(self, begin: int, end: int) -> EventLog:
        """Return the events with `begin <= time < end`, in the log's unit. O(log E)."""
        low, high = np.searchsorted(self.time, [begin, end], side="left")
        return self[int(low) : int(high)]

    def split(self, train: float = 0.70, validation: float = 0.15) -> Split:
        """Cut this view at two quantiles of its times: JODIE's and TGN's chronological split.

        An event belongs to `train` if its time is at most the `train` quantile, to `validation` if it is at most the
        `train + validation` quantile, else to `test`. Ties are never cut.

        Args:
            train: Share of the first part, above 0 and below 1.
            validation: Share of the second, at least 0.

        Raises:
            InvalidValueError: If the shares leave nothing for the test.

        Cost:
            O(log E); no event is copied.
        """
        if not 0 < train < 1:
            raise InvalidValueError("train", train, "above 0 and below 1")
        if not 0 <= validation <= 1 - train:
            raise InvalidValueError("validation", validation, f"at least 0 and at most 1 - train = {1 - train:g}")
        first, second = self._rank(train), self._rank(train + validation)
        return Split(self[:first], self[first:second], self[second:])

    def _rank(self, share: float) -> int:
        """Count the events whose time is at most the linear `share` quantile (NumPy's default), in exact integers."""
        if not len(self):
            return 0
        place = share * (len(self) - 1)
        low = min(floor(place), len(self) - 1)
        high = min(low + 1, len(self) - 1)
        gap = int(self.time[high]) - int(self.time[low])
        quantile = int(self.time[low]) + floor(gap * (place - low))
        return int(np.searchsorted(self.time, quantile, side="right"))

    def read(self, slice: Slice) -> Batch:
        """Return the events of one slice as a batch.

        Args:
            slice: `begin`, `end` and `rows` count from this view's first event.

        Returns:
            `src`, `dst`, `time`, `event` (global positions), all int64 `[B]`; `label`, `event_type` and `own_feature`
            where the log has them; `seconds`.
        """
        rows = np.arange(slice.begin, slice.end) if slice.rows is None else slice.rows
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(self):
            raise InvalidValueError("slice", (int(rows.min()), int(rows.max()) + 1), f"within 0 and {len(self)}")
        event = rows.astype(np.int64) + self.begin
        place = event if slice.rows is not None else np.s_[slice.begin + self.begin : slice.end + self.begin]
        columns = self.snapshot
        fields: dict[str, object] = {
            "src": columns.src[place].astype(np.int64),
            "dst": columns.dst[place].astype(np.int64),
            "time": np.array(columns.time[place]),
            "event": event,
            "seconds": columns.seconds,
        }
        if columns.label is not None:
            fields["label"] = np.array(columns.label[place])
        if columns.event_type is not None:
            fields["event_type"] = np.array(columns.event_type[place])
        if columns.event_feature is not None:
            fields["own_feature"] = np.array(columns.event_feature[place])
        return Batch(slice, **fields)

    def statistics(self) -> Statistics:
        """Return what cost models ask for; the repeat rate is that of the snapshot's first events."""
        feature = self.event_feature
        return Statistics(
            num_rows=len(self),
            num_nodes=self.num_nodes,
            mean_degree=2 * len(self) / max(self.num_nodes, 1),
            repeat_rate=self.snapshot.repeat_rate,
            row_bytes=24 + (0 if self.snapshot.label is None else self.snapshot.label.itemsize),
            feature_bytes=0 if feature is None else feature.itemsize * feature.shape[1],
            span=int(self.time[-1]) - int(self.time[0]) if len(self) else 0,
        )

    def keys(self, nodes: npt.ArrayLike) -> npt.NDArray[np.generic]:
        """Return the user's own keys of `nodes`, in their order; the ids themselves for a log in memory."""
        ids = np.asarray(nodes, dtype=np.int64)
        return ids if self.snapshot.find_keys is None else self.snapshot.find_keys(ids)

    def nodes(self, keys: npt.ArrayLike, space: str = "") -> Ids:
        """Return the nodes of the user's own `keys`, int64 in their order, -1 for a key the log does not know.

        Args:
            keys: Integers or text, as in the source.
            space: Their key space; may be left out if there is only one.

        Raises:
            UnknownNameError: If there is no such key space.
            InvalidValueError: If the keys are of the wrong kind.

        Cost: one pass over the table of nodes.
        """
        if self.snapshot.find_nodes is not None:
            return self.snapshot.find_nodes(keys, space)
        ids = check_ids("keys", keys).astype(np.int64)
        return np.where(ids < self.num_nodes, ids, -1)

    def to_pandas(self) -> pd.DataFrame:
        """Return the events of this view as a frame; features are columns `f0`, `f1`, ..."""
        return frame_of(self)

    def to_pyg(self) -> TemporalData:
        """Return the events of this view as PyG `TemporalData` with `src`, `dst`, `t`, `msg` and `y`."""
        return temporal_data_of(self)


def _matrix(name: str, values: npt.ArrayLike) -> npt.NDArray[np.float32]:
    try:
        array = np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InvalidValueError(name, str(error), "a matrix of numbers, every row of the same length") from None
    if array.ndim != 2:
        raise InvalidValueError(name, list(array.shape), "a matrix, one row each")
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
        raise InvalidValueError(name, array[row].tolist(), f"finite everywhere (see row {row})")
    return array


def _int32(column: npt.NDArray[np.generic] | None) -> npt.NDArray[np.int32]:
    return np.ascontiguousarray(column, dtype=np.int32)
