"""The first pass of an ingest: read the source once, check every row, and leave plain columns in spill files.

Every problem is found here, before anything is sorted or committed, and named with its file, row and column. What
comes out has one row an event in the order of arrival: keys, ticks, label and type as Parquet, features as raw
float32. At no time is more than one batch in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stepwell.core.batch import Ids
from stepwell.core.errors import DataError, InvalidValueError
from stepwell.core.progress import progress
from stepwell.storage.files import BATCH_ROWS, Rows
from stepwell.storage.units import LostTimeError, to_ticks

COUNTED = "rows count from 0"


@dataclass(frozen=True)
class Columns:
    """Which columns of a source mean what.

    Args:
        src: (key space, column) of the source node.
        dst: (key space, column) of the destination node.
        time: Column of the time.
        features: Numeric columns, or one column of lists; empty for none.
        feature_file: An `.npy` matrix with one row an event, in the source's order, instead of columns; or "".
        label: Column of the label, or "".
        event_type: Column of the type, or "".
        unit: (source, stored) units of time.
    """

    src: tuple[str, str]
    dst: tuple[str, str]
    time: str
    features: tuple[str, ...] = ()
    feature_file: str = ""
    label: str = ""
    event_type: str = ""
    unit: tuple[str, str] = ("s", "s")

    @property
    def names(self) -> list[str]:
        """Distinct columns to read."""
        names = [self.src[1], self.dst[1], self.time, *self.features, self.label, self.event_type]
        return [name for name in dict.fromkeys(names) if name]


@dataclass
class Spill:
    """What the first pass left behind.

    Args:
        folder: Where the files are.
        num_events: Rows read.
        width: F, 0 without features.
        sorted: Whether the times ascend.
        text: Whether the keys are text; integers otherwise.
        types: Names of the event types, if they were text, in the order of their codes.
        features: The feature matrix in the order of arrival, `[E, F]` float32, or None.
    """

    folder: Path
    num_events: int = 0
    width: int = 0
    sorted: bool = True
    text: bool = False
    types: list[str] = field(default_factory=list)
    features: npt.NDArray[np.float32] | None = None

    @property
    def events(self) -> Path:
        """The Parquet file of (row, src, dst, time, label, type)."""
        return self.folder / "events.parquet"


def spill_source(rows: Rows, columns: Columns, folder: Path, *, text: bool, types: tuple[str, ...] = ()) -> Spill:
    """Read and check a source once.

    Args:
        rows: The source.
        columns: What its columns mean.
        folder: An empty folder for the spill files.
        text: Whether the keys shall be text even if they are integers here.
        types: Known event types; new ones are added behind.

    Raises:
        DataError: At the first bad row, naming it.

    Cost: one pass; one batch of 65,536 rows in memory; the spill has about the size of the used columns.
    """
    chosen = rows.select(columns.names)
    spill = Spill(
        folder, types=list(types), text=text or any(_is_text(chosen, end[1]) for end in (columns.src, columns.dst))
    )
    key = pa.string() if spill.text else pa.int64()
    schema = pa.schema([("row", pa.int64()), ("src", key), ("dst", key), ("time", pa.int64())])
    if columns.label:
        schema = schema.append(pa.field("label", _label_type(chosen, columns.label)))
    if columns.event_type:
        schema = schema.append(pa.field("type", pa.int16()))
    last = None
    with (
        pq.ParquetWriter(spill.events, schema, compression="lz4") as events,
        (folder / "features.f32").open("wb") as features,
        progress(f"reading {Path(rows.where).name}", rows.num_rows, "events") as task,
    ):
        for batch in _batches(chosen):
            read = _Batch(rows.where, batch, spill.num_events)
            ticks = read.ticks(columns.time, columns.unit)
            arrays = [pa.array(np.arange(read.first, read.first + batch.num_rows)), read.key(columns.src[1], key)]
            arrays += [read.key(columns.dst[1], key), pa.array(ticks)]
            if columns.label:
                arrays.append(read.label(columns.label, schema.field("label").type))
            if columns.event_type:
                arrays.append(read.type(columns.event_type, spill.types))
            events.write_batch(pa.record_batch(arrays, schema=schema))
            if columns.features:
                matrix = read.matrix(columns.features, spill.width)
                spill.width = matrix.shape[1]
                features.write(np.ascontiguousarray(matrix).data)
            if spill.sorted:
                spill.sorted = bool((ticks[1:] >= ticks[:-1]).all()) and (last is None or last <= ticks[0])
            last = ticks[-1]
            spill.num_events += batch.num_rows
            task.advance(batch.num_rows)
    if not spill.num_events:
        raise DataError(rows.where, "has no rows", "at least one event", "check the export that made it")
    _attach_features(spill, columns)
    return spill


def _batches(rows: Rows) -> Iterator[pa.RecordBatch]:
    for batch in rows.batches():
        for begin in range(0, batch.num_rows, BATCH_ROWS):
            yield batch.slice(begin, BATCH_ROWS)


def _attach_features(spill: Spill, columns: Columns) -> None:
    if columns.features and spill.width:
        shape = (spill.num_events, spill.width)
        spill.features = np.memmap(spill.folder / "features.f32", np.float32, "r", shape=shape)
    if columns.feature_file:
        spill.features = check_feature_file(columns.feature_file, spill.num_events)
        spill.width = spill.features.shape[1]


def check_feature_file(path: str, num_rows: int | None = None) -> npt.NDArray[np.float32]:
    """Map an `.npy` matrix of features and check its length and every value.

    Raises:
        DataError: If it is missing, torn, no matrix of numbers, of another length, or not finite somewhere.
    """
    allowed = f"a matrix of {'any number of' if num_rows is None else num_rows} rows of finite numbers"
    try:
        matrix: npt.NDArray[np.float32] = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise DataError(path, f"cannot be read as .npy ({error})", allowed, "write it with numpy.save") from error
    if matrix.ndim != 2 or matrix.dtype.kind not in "biuf":
        raise DataError(path, f"is {matrix.dtype} {list(matrix.shape)}", allowed, "write one row an event")
    if num_rows is not None and len(matrix) != num_rows:
        problem = f"has {len(matrix)} rows for {num_rows} events"
        raise DataError(path, problem, allowed, "write one row for each row of the source, in the same order")
    for begin in range(0, len(matrix), BATCH_ROWS):
        _check_finite(path, matrix[begin : begin + BATCH_ROWS].astype(np.float32), begin)
    return matrix


def _check_finite(where: str, matrix: npt.NDArray[np.float32], first: int) -> None:
    bad = ~np.isfinite(matrix)
    if bad.any():
        row, column = (int(i) for i in np.argwhere(bad)[0])
        raise DataError(
            f"{where}, row {first + row}",
            f"feature {column} is {matrix[row, column]}",
            "numbers that are finite in float32",
            f"fill or drop the row ({COUNTED})",
        )


def _is_text(rows: Rows, column: str) -> bool:
    kind = rows.schema.field(column).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_integer(kind):
        return False
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return True
    raise DataError(
        f"{rows.where}, column {column!r}", f"has the type {kind}", "integers or text for keys", "cast it first"
    )


def _label_type(rows: Rows, column: str) -> pa.DataType:
    kind = rows.schema.field(column).type
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return pa.int64()
    if pa.types.is_floating(kind):
        return pa.float64()
    fix = "turn classes into numbers first, or pass the column as `event_type`"
    raise DataError(
        f"{rows.where}, column {column!r}", f"has the type {kind}", "integers, booleans or floats for labels", fix
    )


@dataclass(frozen=True)
class _Batch:
    """One record batch, its place in the source, and the checks of each role."""

    where: str
    batch: pa.RecordBatch
    first: int

    def _place(self, column: str, row: int) -> str:
        return f"{self.where}, row {self.first + row}, column {column!r}"

    def _whole(self, column: str, what: str) -> pa.Array:
        values = self.batch.column(column)
        if values.null_count:
            row = int(np.flatnonzero(pc.is_null(values).to_numpy(zero_copy_only=False))[0])
            raise DataError(
                self._place(column, row),
                f"has no {what}",
                f"a {what} in every row",
                f"fill or drop the row ({COUNTED})",
            )
        return values

    def key(self, column: str, kind: pa.DataType) -> pa.Array:
        values = self._whole(column, "key")
        try:
            return values.cast(kind)
        except pa.ArrowInvalid as error:
            problem = f"does not fit {kind} ({error})"
            raise DataError(
                f"{self.where}, column {column!r}", problem, "64-bit integers or text", "cast it to text first"
            ) from error

    def ticks(self, column: str, unit: tuple[str, str]) -> npt.NDArray[np.int64]:
        values = self._whole(column, "time")
        kind = values.type
        if pa.types.is_date(kind):
            values, kind = values.cast(pa.timestamp("s")), pa.timestamp("s")
        if pa.types.is_timestamp(kind):
            times = values.cast(pa.int64()).to_numpy().view(f"datetime64[{kind.unit}]")
        elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
            times = values.to_numpy(zero_copy_only=False)
        else:
            way = "convert it to numbers or timestamps first"
            raise DataError(
                f"{self.where}, column {column!r}",
                f"has the type {kind}",
                "numbers, timestamps or dates for times",
                way,
            )
        try:
            return to_ticks(times, unit, self.first)
        except LostTimeError as error:
            fix = f"pass unit={(error.unit[0], error.finer)!r}" if error.finer else f"round the times ({COUNTED})"
            problem = f"the time {error.value} is no whole number of {error.unit[1]}"
            raise DataError(
                self._place(column, error.row - self.first), problem, f"whole {error.unit[1]}", fix
            ) from error
        except InvalidValueError as error:
            fix = f"fill or drop the row ({COUNTED})"
            raise DataError(
                f"{self.where}, column {column!r}", str(error).rstrip("."), "finite 64-bit times", fix
            ) from error

    def label(self, column: str, kind: pa.DataType) -> pa.Array:
        values = self.batch.column(column) if pa.types.is_floating(kind) else self._whole(column, "label")
        return values.cast(kind)

    def type(self, column: str, names: list[str]) -> pa.Array:
        values = self._whole(column, "type")
        if pa.types.is_integer(values.type):
            try:
                return values.cast(pa.int16())
            except pa.ArrowInvalid as error:
                where = f"{self.where}, column {column!r}"
                raise DataError(
                    where, f"is out of range ({error})", "types from 0 to 32767", "renumber the types"
                ) from error
        codes = values.cast(pa.string()).dictionary_encode()
        known = {name: code for code, name in enumerate(names)}
        for name in codes.dictionary.to_pylist():
            if name not in known:
                known[name] = len(names)
                names.append(name)
        if len(names) > np.iinfo(np.int16).max:
            raise DataError(
                f"{self.where}, column {column!r}", f"has {len(names)} types", "at most 32767", "use fewer types"
            )
        table = np.array([known[name] for name in codes.dictionary.to_pylist()], dtype=np.int16)
        return pa.array(table[codes.indices.to_numpy()])

    def matrix(self, columns: tuple[str, ...], width: int) -> npt.NDArray[np.float32]:
        if len(columns) == 1 and not pa.types.is_primitive(self.batch.column(columns[0]).type):
            matrix = self._lists(columns[0], width)
        else:
            parts = [self._number(column) for column in columns]
            matrix = np.stack(parts, axis=1) if parts else np.empty((self.batch.num_rows, 0), np.float32)
        name = columns[0] if len(columns) == 1 else "features"
        _check_finite(f"{self.where}, column {name!r}", matrix, self.first)
        return matrix

    def _number(self, column: str) -> npt.NDArray[np.float32]:
        values = self._whole(column, "number")
        kind = values.type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
            raise DataError(
                f"{self.where}, column {column!r}",
                f"has the type {kind}",
                "numbers for features",
                "encode it as numbers first",
            )
        with np.errstate(over="ignore"):
            return np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.float32)

    def _lists(self, column: str, width: int) -> npt.NDArray[np.float32]:
        values = self._whole(column, "features")
        kind = values.type
        if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
            raise DataError(
                f"{self.where}, column {column!r}",
                f"has the type {kind}",
                "numbers or lists of numbers",
                "encode it first",
            )
        lengths: Ids = pc.list_value_length(values).to_numpy(zero_copy_only=False)
        width = width or int(lengths[0])
        if (lengths != width).any():
            row = int((lengths != width).argmax())
            problem = f"has {lengths[row]} features where the rows before have {width}"
            raise DataError(
                self._place(column, row), problem, f"{width} features in every row", f"fill or drop the row ({COUNTED})"
            )
        flat = values.flatten()
        if flat.null_count:
            row = int(np.flatnonzero(pc.is_null(flat).to_numpy(zero_copy_only=False))[0]) // max(width, 1)
            raise DataError(
                self._place(column, row),
                "has a missing feature",
                "numbers everywhere",
                f"fill or drop the row ({COUNTED})",
            )
        with np.errstate(over="ignore"):
            return np.asarray(flat.to_numpy(zero_copy_only=False), dtype=np.float32).reshape(-1, width)


def check_keys(where: str, batch: pa.RecordBatch, first: int, column: str, kind: pa.DataType) -> pa.Array:
    """Return a column of keys as `kind`, or raise `DataError` naming the row; `first` is the batch's first row."""
    return _Batch(where, batch, first).key(column, kind)


def check_batch_features(
    where: str, batch: pa.RecordBatch, first: int, columns: tuple[str, ...], width: int
) -> npt.NDArray[np.float32]:
    """Return numeric columns, or one column of lists, as a finite matrix, or raise `DataError` naming the row."""
    return _Batch(where, batch, first).matrix(columns, width)
