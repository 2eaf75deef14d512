"""The rows that a log commits: events with their positions, features as lists; streamed, never held."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stepwell.core.batch import Ids
from stepwell.storage.files import BATCH_ROWS, Rows
from stepwell.storage.sort import Events

Part: TypeAlias = "dict[str, npt.NDArray[np.generic]]"


def event_rows(events: Events, position: npt.NDArray[np.integer] | None = None) -> Rows:
    """Return the rows of the events' table, in bounded memory; positions are those of `events` if not given."""
    columns = events.columns()

    def parts() -> Iterator[Part]:
        for begin in range(0, len(events), BATCH_ROWS):
            window = np.s_[begin : min(begin + BATCH_ROWS, len(events))]
            place = np.arange(window.start, window.stop) if position is None else position[window].astype(np.int64)
            yield {"position": place, **{name: column[window] for name, column in columns.items()}}

    return _as_rows(columns, parts)


def merged_rows(old: Events, late: Events) -> Rows:
    """Merge two sorted runs of events into one; of equal times the old come first."""
    columns, added = old.columns(), late.columns()
    place = np.searchsorted(old.time, late.time, side="right") + np.arange(len(late))

    def parts() -> Iterator[Part]:
        total = len(old) + len(late)
        for begin in range(0, total, BATCH_ROWS):
            end = min(begin + BATCH_ROWS, total)
            first, last = (int(i) for i in np.searchsorted(place, [begin, end]))
            is_late = np.zeros(end - begin, dtype=bool)
            is_late[place[first:last] - begin] = True
            part: Part = {"position": np.arange(begin, end)}
            for name, column in columns.items():
                part[name] = np.empty(end - begin, column.dtype)
                part[name][is_late] = added[name][first:last]
                part[name][~is_late] = column[begin - first : end - last]
            yield part

    return _as_rows(columns, parts)


def _as_rows(columns: Part, parts: Callable[[], Iterator[Part]]) -> Rows:
    kinds = {"event_id": np.dtype(np.int64), "position": np.dtype(np.int64)} | {
        name: column.dtype for name, column in columns.items()
    }
    schema = pa.schema([(name, pa.from_numpy_dtype(kind)) for name, kind in kinds.items()])

    def start(names: list[str]) -> Iterator[pa.RecordBatch]:
        for part in parts():
            yield pa.record_batch([pa.array(part[name]) for name in names], names=names)

    return Rows("events", schema, start)


def feature_rows(features: npt.NDArray[np.generic], first_id: int) -> Rows:
    """Return a matrix as rows of (event_id, feature), ids counting from `first_id`."""
    step = max(1, min(BATCH_ROWS, (4 << 20) // (4 * max(1, features.shape[1]))))

    def blocks() -> Iterator[tuple[Ids, npt.NDArray[np.generic]]]:
        for begin in range(0, len(features), step):
            block = features[begin : begin + step]
            yield first_id + np.arange(begin, begin + len(block)), block

    return list_rows("event_id", blocks)


def list_rows(key: str, blocks: Callable[[], Iterator[tuple[Ids, npt.NDArray[np.generic]]]]) -> Rows:
    """Return (ids, matrix) blocks as rows of an id and a list."""
    schema = pa.schema([(key, pa.int64()), ("feature", pa.list_(pa.float32()))])

    def start(columns: list[str]) -> Iterator[pa.RecordBatch]:
        for ids, block in blocks():
            offsets = pa.array(np.arange(0, block.size + 1, block.shape[1], dtype=np.int32))
            values = pa.array(np.ascontiguousarray(block, dtype=np.float32).reshape(-1))
            arrays = [pa.array(ids), pa.ListArray.from_arrays(offsets, values)]
            yield pa.record_batch(arrays, schema=schema).select(columns)

    return Rows("features", schema, start)


def chained(first: Rows, second: Rows) -> Rows:
    """Return the rows of both, in the types of the first."""

    def start(columns: list[str]) -> Iterator[pa.RecordBatch]:
        for rows in (first, second):
            for batch in rows.start(columns):
                yield batch.cast(pa.schema([first.schema.field(name) for name in columns]))

    return replace(first, start=start, num_rows=None)
