"""Opens a log of a lake: maps its derived arrays, and builds those that are not there from the tables.

Under `<lake>/_index/<name>@<version>/` stand `columns-*` (the events' own columns by position), `features-*` and
`tcsr-*`. For a lake in an object store they stand below the local home. A version that was made from another one
takes features and adjacency over from it where they are still there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from stepwell.core.batch import Ids
from stepwell.core.errors import DataError, InvalidValueError, UnknownNameError
from stepwell.storage.build import SortedEvents, build_rows, update_rows
from stepwell.storage.derived import MANIFEST, Arrays, ArrayWriter, folder_of, index_root, open_arrays, open_or_build
from stepwell.storage.events import EventLog
from stepwell.storage.files import BATCH_ROWS
from stepwell.storage.index import TemporalCSR
from stepwell.storage.log_schema import LogSchema
from stepwell.storage.snapshot import Snapshot
from stepwell.storage.table import Table
from stepwell.storage.units import seconds_of

if TYPE_CHECKING:
    from stepwell.storage.lake import Lake


def open_log(lake: Lake, name: str, version: int | None = None, *, budget_bytes: int = 1 << 30) -> EventLog:
    """Open one version of a log, by default the newest.

    Args:
        lake: Where it is.
        name: Its name.
        version: Its version.
        budget_bytes: Memory for building the index, if it is not there.

    Raises:
        UnknownNameError: If there is no such table.
        DataError: If it is no event log, or the version does not exist.

    Cost: maps files; the first time, one pass over the tables.
    """
    table = lake.table(name, version)
    schema = LogSchema.from_metadata(f"{name}@{table.version}", lake.metadata(name, table.version))
    return EventLog.of(_Stored(lake, table, schema, budget_bytes).snapshot())


class _Stored:
    """One version of a log: its tables, and where its derived arrays are."""

    def __init__(self, lake: Lake, table: Table, schema: LogSchema, budget_bytes: int) -> None:
        self.lake, self.table, self.schema, self.budget_bytes = lake, table, schema, budget_bytes
        self.root = index_root(lake.path) / f"{table.name}@{table.version}"
        self.identity = str(table.delta.metadata().id)

    def folder(self, kind: str) -> Path:
        """Return where arrays of a kind belong; a table dropped and made anew has another identity."""
        return folder_of(self.root, kind, {"table": self.identity, "directed": self.schema.directed})

    def side(self, part: str) -> Table:
        return self.lake.table(f"{self.table.name}.{part}", self.schema.table(part))

    def parent(self) -> _Stored | None:
        """Return the version this one was made from, if its columns are still there."""
        if self.schema.parent < 0:
            return None
        try:
            table = self.lake.table(self.table.name, self.schema.parent)
            schema = LogSchema.from_metadata(table.name, self.lake.metadata(table.name, table.version))
        except DataError:
            return None
        found = _Stored(self.lake, table, schema, self.budget_bytes)
        return found if (found.folder("columns") / MANIFEST).exists() else None

    def columns(self) -> Arrays:
        return open_or_build(self.folder("columns"), self._build_columns)

    def features(self) -> Arrays:
        if not self.schema.width and not self.schema.node_width:
            return {}
        return open_or_build(self.folder("features"), self._build_features)

    def index(self) -> TemporalCSR:
        arrays = open_or_build(self.folder("tcsr"), self._build_index)
        return TemporalCSR(**arrays)  # type: ignore[arg-type]

    def snapshot(self) -> Snapshot:
        columns, features, schema = self.columns(), self.features(), self.schema
        return Snapshot(
            src=cast("npt.NDArray[np.int32]", columns["src"]),
            dst=cast("npt.NDArray[np.int32]", columns["dst"]),
            time=cast("npt.NDArray[np.int64]", columns["time"]),
            num_nodes=schema.num_nodes,
            seconds=seconds_of(schema.columns.unit),
            directed=schema.directed,
            event_id=cast("Ids", columns["event_id"]),
            label=columns.get("label"),
            event_type=cast("npt.NDArray[np.int16] | None", columns.get("type")),
            node_type=cast("npt.NDArray[np.int16] | None", columns.get("node_type")),
            event_feature=cast("npt.NDArray[np.float32] | None", features.get("event_feature")),
            node_feature=cast("npt.NDArray[np.float32] | None", features.get("node_feature")),
            name=self.table.name,
            version=self.table.version,
            notes=schema.notes,
            open_index=self.index,
            has_index=lambda: (self.folder("tcsr") / MANIFEST).exists(),
            find_keys=partial(_find_keys, self.side("nodes"), schema.num_nodes),
            find_nodes=partial(_find_nodes, self.side("nodes"), schema),
        )

    # Building -----------------------------------------------------------------------------------------------------

    def _build_columns(self, writer: ArrayWriter) -> None:
        kinds: dict[str, type[np.generic]] = {
            "event_id": np.int64,
            "src": np.int32,
            "dst": np.int32,
            "time": np.int64,
            "type": np.int16,
        }
        names = [name for name in self.table.schema.names if name != "position"]
        if "label" in names:
            kinds["label"] = self.table.schema.field("label").type.to_pandas_dtype()
        arrays = {name: writer.create(name, (self.schema.num_events,), kinds[name]) for name in names}
        placed = 0
        for batch in self.table.batches(["position", *names]):
            position = batch.column("position").to_numpy()
            alive = position >= 0
            for name, array in arrays.items():
                array[position[alive]] = batch.column(name).to_numpy(zero_copy_only=False)[alive]
            placed += int(alive.sum())
        if placed != self.schema.num_events:
            where = f"{self.table.name}@{self.table.version}"
            problem = f"has {placed} events where its commit says {self.schema.num_events}"
            raise DataError(
                where, problem, "the rows that were ingested", "read an older version, and write only through the lake"
            )
        if len(self.schema.spaces) > 1:
            types = writer.create("node_type", (self.schema.num_nodes,), np.int16)
            for batch in self.side("nodes").batches(["node", "type"]):
                types[batch.column("node").to_numpy()] = batch.column("type").to_numpy()

    def _build_features(self, writer: ArrayWriter) -> None:
        if self.schema.node_width:
            nodes = writer.create("node_feature", (self.schema.num_nodes, self.schema.node_width), np.float32)
            for ids, block in _lists(self.side("node_features"), "node"):
                nodes[ids] = block
        if not self.schema.width:
            return
        matrix = writer.create("event_feature", (self.schema.num_events, self.schema.width), np.float32)
        place, first_id = self._places(writer), 0
        parent = self.parent()
        if parent is not None and (parent.folder("features") / MANIFEST).exists():
            first_id = parent.schema.next_id
            _take_over(
                open_arrays(parent.folder("features"))["event_feature"], parent.columns()["event_id"], place, matrix
            )
        for ids, block in _lists(self.side("features"), "event_id", first_id):
            position = place[ids]
            matrix[position[position >= 0]] = block[position >= 0]

    def _places(self, writer: ArrayWriter) -> npt.NDArray[np.int32]:
        """Return the position of each permanent id, -1 where it is deleted; a scratch file, unlinked at once."""
        path = writer.folder / "places.bin"
        place = np.memmap(path, np.int32, "w+", shape=(max(1, self.schema.next_id),))
        path.unlink()
        event_id = self.columns()["event_id"]
        place[...] = -1
        for begin in range(0, len(event_id), BATCH_ROWS):
            ids = event_id[begin : begin + BATCH_ROWS]
            place[ids] = np.arange(begin, begin + len(ids), dtype=np.int32)
        return place

    def _build_index(self, writer: ArrayWriter) -> None:
        columns, parent = self.columns(), self.parent()
        events = SortedEvents(
            src=cast("npt.NDArray[np.int32]", columns["src"]),
            dst=cast("npt.NDArray[np.int32]", columns["dst"]),
            time=cast("Ids", columns["time"]),
            num_nodes=self.schema.num_nodes,
            directed=self.schema.directed,
        )
        if parent is not None and (parent.folder("tcsr") / MANIFEST).exists():
            moved = self._places(writer)[parent.columns()["event_id"]]
            late = np.flatnonzero(cast("Ids", columns["event_id"]) >= parent.schema.next_id)
            added = replace(events, src=events.src[late], dst=events.dst[late], time=events.time[late])
            update_rows(parent.index(), moved, added, late, writer)
            return
        build_rows(events, writer, budget_bytes=self.budget_bytes)


def _take_over(
    old: npt.NDArray[np.generic],
    event_id: npt.NDArray[np.generic],
    place: npt.NDArray[np.int32],
    matrix: npt.NDArray[np.generic],
) -> None:
    step = max(1, (16 << 20) // max(1, 4 * old.shape[1]))
    for begin in range(0, len(old), step):
        position = place[event_id[begin : begin + step]]
        alive = position >= 0
        matrix[position[alive]] = old[begin : begin + step][alive]


def _lists(table: Table, key: str, first: int = 0) -> Iterator[tuple[Ids, npt.NDArray[np.float32]]]:
    """Yield (ids, matrix) blocks of a table of lists, for ids from `first` on."""
    import pyarrow.dataset as ds

    chosen = ds.field(key) >= first
    for batch in table.dataset.to_batches(
        columns=[key, "feature"], filter=chosen, batch_size=4096, batch_readahead=2, fragment_readahead=1
    ):
        if batch.num_rows:
            values = batch.column("feature").flatten().to_numpy(zero_copy_only=False)
            yield batch.column(key).to_numpy(), values.reshape(batch.num_rows, -1)


def _find_keys(nodes: Table, num_nodes: int, ids: Ids) -> npt.NDArray[np.generic]:
    """Look the keys of `ids` up in one pass over the nodes' table; memory is that of the answer."""
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < num_nodes:
        raise InvalidValueError("nodes", (int(ids.min()), int(ids.max())), f"from 0 to {num_nodes - 1}")
    wanted, inverse = np.unique(ids, return_inverse=True)
    text = pa.types.is_string(nodes.schema.field("key").type)
    found: npt.NDArray[np.generic] = np.empty(len(wanted), dtype=object if text else np.int64)
    for batch in nodes.batches(["node", "key"]):
        node = batch.column("node").to_numpy()
        row = np.searchsorted(wanted, node)
        hit = (
            (row < len(wanted)) & (wanted[np.minimum(row, len(wanted) - 1)] == node)
            if len(wanted)
            else np.zeros(len(node), bool)
        )
        found[row[hit]] = batch.column("key").filter(pa.array(hit)).to_numpy(zero_copy_only=False)
    return found[inverse.reshape(ids.shape)]


def _find_nodes(table: Table, schema: LogSchema, keys: npt.ArrayLike, space: str) -> Ids:
    """Look the nodes of `keys` up in one pass over the nodes' table; memory is that of the answer."""
    if not space and len(schema.spaces) > 1:
        raise InvalidValueError(
            "space", space, f"one of {', '.join(schema.spaces)}, because the log has several key spaces"
        )
    if space and space not in schema.spaces:
        raise UnknownNameError("key space", space, schema.spaces)
    try:
        wanted = pa.array(keys).cast(pa.string() if schema.text else pa.int64())
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise InvalidValueError("keys", str(error), "text" if schema.text else "integers") from error
    found = np.full(len(wanted), -1, np.int64)
    code = schema.spaces.index(space) if space else 0
    for batch in table.batches(["node", "type", "key"]):
        own = batch.filter(pc.equal(batch.column("type"), code))
        place = pc.index_in(wanted, own.column("key"))
        hit = place.is_valid().to_numpy(zero_copy_only=False)
        found[hit] = own.column("node").take(place.drop_null()).to_numpy()
    return found
