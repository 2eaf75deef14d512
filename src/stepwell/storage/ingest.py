"""Makes event logs of a lake: first ingest, late events, deletions.

The truth is three kinds of tables: `<name>` (one row an event: event_id, position, src, dst, time, label, type),
`<name>.nodes` (node, type, space, key) and `<name>.features`. Side tables are committed first, and the events' commit
names their versions; a process killed anywhere leaves the last whole version. `event_id` is permanent and grows with
arrival; `position` is the rank by (time, event_id) in its version, and -1 is the tombstone of a deleted event.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stepwell.core.batch import Ids
from stepwell.core.errors import DataError, InvalidValueError
from stepwell.core.log import logger
from stepwell.storage.derived import ArrayWriter, index_root, raise_if_full, scratch_folder
from stepwell.storage.event_columns import EventColumns
from stepwell.storage.events import EventLog
from stepwell.storage.files import Rows
from stepwell.storage.lineage import Input, Origin
from stepwell.storage.log_rows import chained, event_rows, feature_rows, list_rows, merged_rows
from stepwell.storage.log_schema import KEY, LogSchema
from stepwell.storage.node_features import NodeSpill, spill_node_features
from stepwell.storage.sort import Events, Sorter, sorter
from stepwell.storage.sources import Source, open_source
from stepwell.storage.spill import Columns, Spill, spill_source
from stepwell.storage.stored import open_log
from stepwell.storage.units import parse_unit, to_bytes

if TYPE_CHECKING:
    from stepwell.storage.lake import Lake

__all__ = ["append_events", "delete_events", "ingest_events"]

log = logger(__name__)


def ingest_events(
    lake: Lake,
    name: str,
    source: Source,
    asked: EventColumns,
    *,
    node_features: Source | None = None,
    directed: bool = False,
    budget: str | int = "1GiB",
) -> EventLog:
    """Ingest a source of events as a new version of a log, in bounded memory: what `Lake.events` does.

    Args:
        lake: Where the log goes.
        name: Its name.
        source: Anything `open_source` reads.
        asked: Which columns hold what.
        node_features: Rows of a key and numeric columns, a matrix or `.npy` file, or a mapping from space to one.
        directed: Whether an event is seen from its source only.
        budget: Memory to use beyond a few batches.

    Raises:
        DataError: If a column is missing or has a wrong type, or a row is bad; names the file, row and column.
        ConflictError: If another writer changed the log meanwhile.
        DiskFullError: If there is no room. In every case the log stays at its last version.

    Cost: one pass over the source, one external sort, and the tables' size written once.
    """
    rows = open_source(source)
    columns = asked.in_source(rows)
    seen = _fingerprint(source, [asdict(columns), directed, _look_of(node_features), _stat(columns.feature_file)])
    expected = lake.table(name).version if name in lake else -1
    if seen and expected >= 0:
        known = lake.metadata(name, expected)
        if KEY in known and LogSchema.from_metadata(name, known).fingerprint == seen:
            log.info("%s@%d was made from this very file; it is opened", name, expected)
            return open_log(lake, name)
    spaces = tuple(dict.fromkeys([columns.src[0], columns.dst[0]]))
    with _scratch(lake, name) as folder:
        spill = spill_source(rows, columns, folder, text=False)
        nodes = spill_node_features(node_features, spaces, folder, text=spill.text)
        with sorter(folder, to_bytes(budget), text=spill.text) as job:
            num_nodes, codes = _number(job, spill, columns, spaces, nodes)
            schema = LogSchema(
                columns=columns,
                num_events=spill.num_events,
                next_id=spill.num_events,
                num_nodes=num_nodes,
                spaces=spaces,
                text=spill.text,
                directed=directed,
                width=spill.width,
                node_width=nodes.width,
                types=tuple(spill.types),
                notes=_notes(rows, spill),
                fingerprint=seen,
            )
            events = job.events(spill, codes, 0, ArrayWriter(folder))
            tables = {f"{name}.nodes": lake.commit_table(f"{name}.nodes", job.new_nodes(name, spaces), "replace")}
            if nodes.width:
                part = f"{name}.node_features"
                tables[part] = lake.commit_table(part, _node_rows(job, nodes), "replace")
        if spill.features is not None:
            part = f"{name}.features"
            tables[part] = lake.commit_table(part, feature_rows(spill.features, 0), "replace")
        schema = replace(schema, tables=tuple(tables.items()))
        origin = Origin("ingest", (Input(rows.where),), {"columns": json.dumps(asdict(columns))})
        _commit(lake, name, event_rows(events), schema, origin, expected)
    return open_log(lake, name)


def append_events(
    lake: Lake, name: str, source: Source, *, unit: str | tuple[str, str] | None = None, budget: str | int = "1GiB"
) -> EventLog:
    """Add late events to a log: what `Lake.append` does.

    New nodes come behind the known ones. If the last version's index was built, the new version's is made from it by
    merging.

    Args:
        lake: Where the log is.
        name: Its name.
        source: The late events, in any order.
        unit: Unit of the late times, or a pair (source, stored); by default that of the first ingest. The stored unit
            must be the log's.
        budget: As in `ingest_events`.

    Raises:
        DataError, ConflictError, DiskFullError: As `ingest_events`.

    Cost: one pass over the source and a sort of it; one pass over the log's own columns; features are not rewritten.
    """
    old = open_log(lake, name)
    schema = schema_of(lake, old)
    columns = schema.columns
    if unit is not None:
        columns = replace(columns, unit=parse_unit(unit))
        if columns.unit[1] != schema.columns.unit[1]:
            raise InvalidValueError(
                "unit", unit, f"stored in the log's unit, ({columns.unit[0]!r}, {schema.columns.unit[1]!r})"
            )
    rows = open_source(source)
    with _scratch(lake, name) as folder:
        spill = spill_source(rows, columns, folder, text=schema.text, types=schema.types)
        if spill.text != schema.text or spill.width != schema.width:
            problem = f"has {'text' if spill.text else 'integer'} keys and {spill.width} features"
            allowed = f"{'text' if schema.text else 'integer'} keys and {schema.width} features, as the log"
            raise DataError(rows.where, problem, allowed, "convert the late events to the log's columns")
        with sorter(folder, to_bytes(budget), text=schema.text) as job:
            job.know(lake.table(f"{name}.nodes", schema.table("nodes")).dataset)
            num_nodes, codes = _number(job, spill, columns, schema.spaces, NodeSpill())
            late = job.events(spill, codes, schema.next_id, ArrayWriter(folder))
            tables = dict(schema.tables)
            _extend(lake, tables, f"{name}.nodes", job.new_nodes(name, schema.spaces))
        if spill.features is not None:
            _extend(lake, tables, f"{name}.features", feature_rows(spill.features, schema.next_id))
        new = replace(
            schema,
            num_events=schema.num_events + len(late),
            next_id=schema.next_id + len(late),
            num_nodes=num_nodes,
            types=tuple(spill.types),
            parent=old.snapshot.version,
            fingerprint="",
            tables=tuple(tables.items()),
        )
        merged = merged_rows(_events_of(old), late)
        rewritten = chained(merged, _tombstones(lake, old))
        origin = Origin("append", (Input(name, old.snapshot.version), Input(rows.where)), {"events": len(late)})
        _commit(lake, name, rewritten, new, origin, old.snapshot.version)
    return _carried(lake, name, old)


def delete_events(lake: Lake, name: str, event_ids: npt.ArrayLike) -> EventLog:
    """Delete events: what `Lake.delete` does.

    Args:
        lake: Where the log is.
        name: Its name.
        event_ids: Permanent ids.

    Raises:
        InvalidValueError: If an id is unknown or deleted already.
        ConflictError, DiskFullError: As `ingest_events`.

    Cost: one pass over the log's own columns.
    """
    old = open_log(lake, name)
    schema = schema_of(lake, old)
    ids = np.unique(np.asarray(event_ids, dtype=np.int64))
    marked = np.zeros(schema.next_id, dtype=bool)
    marked[ids[(ids >= 0) & (ids < schema.next_id)]] = True
    gone = marked[old.event_id]
    if int(gone.sum()) != len(ids):
        missing = np.setdiff1d(ids, old.event_id[gone])
        raise InvalidValueError("event_ids", missing[:5].tolist(), f"ids of events in {old.name}")
    position = np.where(gone, np.int32(-1), np.cumsum(~gone, dtype=np.int32) - np.int32(1))
    new = replace(schema, num_events=int((~gone).sum()), parent=old.snapshot.version, fingerprint="")
    rewritten = chained(event_rows(_events_of(old), position), _tombstones(lake, old))
    origin = Origin("delete", (Input(name, old.snapshot.version),), {"events": len(ids)})
    _commit(lake, name, rewritten, new, origin, old.snapshot.version)
    return _carried(lake, name, old)


def schema_of(lake: Lake, events: EventLog) -> LogSchema:
    """Return the record of the version that a log shows."""
    snapshot = events.snapshot
    return LogSchema.from_metadata(snapshot.name, lake.metadata(snapshot.name, snapshot.version))


def _carried(lake: Lake, name: str, old: EventLog) -> EventLog:
    """Open the new version; if the old index is on disk, make the new one from it now."""
    new = open_log(lake, name)
    if old.snapshot.has_index is not None and old.snapshot.has_index():
        _ = new.index
    return new


# Arguments --------------------------------------------------------------------------------------------------------


def _fingerprint(source: Source, arguments: list[object]) -> str:
    """Describe a file and how it is read; empty for anything that is not one file."""
    if not isinstance(source, str | Path) or not Path(source).is_file():
        return ""
    return json.dumps([_stat(str(source)), *arguments], default=str)


def _stat(path: str) -> list[str | int]:
    if not path or not Path(path).is_file():
        return []
    state = Path(path).stat()
    return [str(Path(path).absolute()), state.st_size, state.st_mtime_ns]


def _look_of(node_features: Source | None) -> object:
    if node_features is None:
        return None
    return _stat(str(node_features)) if isinstance(node_features, str | Path) else id(node_features)


def _notes(rows: Rows, spill: Spill) -> tuple[str, ...]:
    if spill.sorted:
        return ()
    note = f"{rows.where} was not in order of time; its {spill.num_events} events have been sorted, ties as they came."
    log.info(note)
    return (note,)


@contextmanager
def _scratch(lake: Lake, name: str) -> Iterator[Path]:
    """Give a folder for spill files beside the lake's indexes."""
    try:
        with scratch_folder(index_root(lake.path), ".ingest-") as folder:
            yield folder
    except OSError as error:
        raise_if_full(name, error)
        raise


# Rows to commit ---------------------------------------------------------------------------------------------------


def _number(
    job: Sorter, spill: Spill, columns: Columns, spaces: tuple[str, ...], nodes: NodeSpill
) -> tuple[int, tuple[int, int]]:
    codes = spaces.index(columns.src[0]), spaces.index(columns.dst[0])
    job.add_keys(spill.events, "src", codes[0])
    job.add_keys(spill.events, "dst", codes[1])
    if nodes.width:
        twice = job.repeated(nodes.keys)
        if twice is not None:
            raise DataError("node_features", f"has the key {twice} twice", "one row a key", "drop one of the rows")
        for code in range(len(spaces)):
            job.add_keys(nodes.keys_of(code), "key", code)
    return job.number(), codes


def _commit(lake: Lake, name: str, rows: Rows, schema: LogSchema, origin: Origin, expected: int) -> None:
    lake.commit_table(name, rows, "replace", schema.to_metadata(), origin=origin, expected=expected)


def _extend(lake: Lake, tables: dict[str, int], part: str, rows: Rows) -> None:
    """Append to a side table, leaving out what a failed append may have left behind the version in `tables`."""
    named = lake.table(part, tables[part])
    newest = lake.table(part).version
    if newest == named.version:
        tables[part] = lake.commit_table(part, rows, "append", expected=newest)
    else:
        tables[part] = lake.commit_table(part, chained(named.rows, rows), "replace", expected=newest)


def _events_of(events: EventLog) -> Events:
    shot = events.snapshot
    return Events(events.event_id, shot.src, shot.dst, shot.time, shot.label, shot.event_type)


def _tombstones(lake: Lake, events: EventLog) -> Rows:
    import pyarrow.dataset as ds

    table = lake.table(events.snapshot.name, events.snapshot.version)

    def start(columns: list[str]) -> Iterator[pa.RecordBatch]:
        yield from table.dataset.to_batches(columns=columns, filter=ds.field("position") < 0)

    return Rows("tombstones", table.schema, start)


def _node_rows(job: Sorter, nodes: NodeSpill) -> Rows:
    def blocks() -> Iterator[tuple[Ids, npt.NDArray[np.generic]]]:
        begin = 0
        for ids in job.node_of(nodes.keys):
            yield ids, nodes.features[begin : begin + len(ids)]
            begin += len(ids)

    return list_rows("node", blocks)
