"""What each step gave, on disk under a key of everything it depends on: the reason a run can stop and go on.

Under `<lake>/_index/_prepare/<key>/` stand `out.parquet`, `parents.parquet`, `quarantine.parquet`,
`note.<name>.parquet`, what the step learnt, and its report, which is written last. A folder is written aside and
renamed, so it is there whole or not at all. All of it can be deleted at any time; it is then made again.
"""

from __future__ import annotations

import json
import re
import shutil
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import parquet

from stepwell.core.errors import DataError, InvalidValueError
from stepwell.prepare.step import ROW, Fitted, Report
from stepwell.storage import Lake
from stepwell.storage.derived import index_root, put_in_place, raise_if_full, scratch_folder

OUT, QUARANTINE, LISTED = "out", "quarantine", "parents"
_NOTE = "note."


def cache_root(lake: Lake) -> Path:
    """Return the folder of a lake's steps."""
    return index_root(lake.path) / "_prepare"


def clear_cache(lake: Lake) -> None:
    """Forget what steps gave; the next run makes it again."""
    shutil.rmtree(cache_root(lake), ignore_errors=True)


@dataclass(frozen=True)
class Stored:
    """A step's result on disk.

    Args:
        key: What it depends on.
        folder: Where it is.
        report: What the step did.
    """

    key: str
    folder: Path
    report: Report

    @cached_property
    def schema(self) -> pa.Schema:
        """The columns of what went on."""
        return self.schema_of(OUT)

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """The tables that are there: `out`, and those of `parents`, `quarantine` and `note.*` that have rows."""
        return tuple(sorted(path.name.removesuffix(".parquet") for path in self.folder.glob("*.parquet")))

    @property
    def notes(self) -> tuple[str, ...]:
        """Names of the notes."""
        return tuple(part.removeprefix(_NOTE) for part in self.parts if part.startswith(_NOTE))

    def path(self, part: str = OUT) -> Path:
        """Return a table's file."""
        return self.folder / f"{part}.parquet"

    def schema_of(self, part: str) -> pa.Schema:
        """Return the columns of a table."""
        with parquet.ParquetFile(self.path(part)) as file:
            return file.schema_arrow.remove_metadata()

    def batches(
        self, part: str = OUT, *, columns: list[str] | None = None, rows: int = 65_536
    ) -> Iterator[pa.RecordBatch]:
        """Yield a table in batches of at most so many rows."""
        with parquet.ParquetFile(self.path(part), pre_buffer=False) as file:
            for batch in file.iter_batches(rows, columns=columns):
                if batch.num_rows:
                    yield batch.replace_schema_metadata(None)

    def read(self, part: str = OUT, columns: list[str] | None = None) -> pa.Table:
        """Return a table in memory."""
        return parquet.read_table(self.path(part), columns=columns, pre_buffer=False).replace_schema_metadata(None)

    def ids(self, part: str = OUT) -> npt.NDArray[np.int64]:
        """Return the ids of a table's rows, or none if the table is not there."""
        if part not in self.parts:
            return np.empty(0, np.int64)
        found: npt.NDArray[np.int64] = self.read(part, [ROW]).column(ROW).to_numpy()
        return found

    @cached_property
    def fitted(self) -> Fitted:
        """What the step learnt."""
        values = json.loads((self.folder / "fitted.json").read_text()) if (self.folder / "fitted.json").exists() else {}
        tables = {path.stem.removeprefix("fitted."): _read_ipc(path) for path in self.folder.glob("fitted.*.arrow")}
        return Fitted(values, tables)


def find(root: Path, key: str) -> Stored | None:
    """Return a step's result if it is there and whole."""
    try:
        report = json.loads((root / key / "report.json").read_text())
    except (OSError, ValueError):
        return None
    return Stored(key, root / key, Report(**report))


class StepWriter:
    """Collects a step's tables, batch after batch, in a folder that nobody sees yet.

    Args:
        folder: The folder.
        name: The step, for messages.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.size_bytes = 0
        self._writers: dict[str, tuple[parquet.ParquetWriter, pa.Schema]] = {}
        self.rows: dict[str, int] = {}

    def add(self, part: str, table: pa.Table) -> None:
        """Append rows to a table.

        Raises:
            DataError: If the columns differ from those of the batches before.
        """
        table = table.replace_schema_metadata(None)
        if part not in self._writers:
            path = self.folder / f"{part}.parquet"
            writer = parquet.ParquetWriter(path, table.schema, compression="lz4", memory_pool=pa.system_memory_pool())
            weakref.finalize(self, writer.close)
            self._writers[part] = writer, table.schema
        writer, schema = self._writers[part]
        if not table.schema.equals(schema):
            problem = f"gave {_difference(schema, table.schema)} in a later batch"
            raise DataError(f"step {self.name}", problem, "the same columns in every batch", "cast the column")
        writer.write_table(table)
        self.rows[part] = self.rows.get(part, 0) + len(table)
        self.size_bytes += table.nbytes if part == OUT else 0

    def drop(self, part: str) -> None:
        """Remove a table that only served to make the others."""
        (self.folder / f"{part}.parquet").unlink(missing_ok=True)

    def fitted(self, fitted: Fitted) -> None:
        """Write what the step learnt."""
        if fitted.values or fitted.tables:
            (self.folder / "fitted.json").write_text(json.dumps(dict(fitted.values)))
        for name, table in fitted.tables.items():
            with pa.ipc.new_file(self.folder / f"fitted.{name}.arrow", table.schema) as file:
                file.write_table(table)

    def close(self) -> None:
        """Write the ends of the files."""
        for writer, _ in self._writers.values():
            writer.close()

    def report(self, report: Report) -> None:
        """Write the report, which makes the folder whole."""
        record = {**asdict(report), "dropped": dict(report.dropped)}
        (self.folder / "report.json").write_text(json.dumps(record))


@contextmanager
def writing(root: Path, key: str, name: str) -> Iterator[StepWriter]:
    """Give a writer; when the block ends well, what it wrote becomes visible under the key.

    Raises:
        DiskFullError: If there is no room.
    """
    try:
        with scratch_folder(root, f".{key}.") as aside:
            writer = StepWriter(aside, name)
            try:
                yield writer
            finally:
                writer.close()
            put_in_place(aside, root / key, "report.json")
    except OSError as error:
        raise_if_full(name, error)
        raise


def note_name(name: str) -> str:
    """Return what a note's file is called.

    Raises:
        InvalidValueError: If its name has a meaning of its own, or could be no table's.
    """
    if name in ("steps", "quarantine", "parents", "fitted", "origins") or not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise InvalidValueError("note", name, "letters, digits, `_` and `-`, and none of the pipeline's own tables")
    return _NOTE + name


def _difference(first: pa.Schema, second: pa.Schema) -> str:
    for column in second:
        if column.name not in first.names:
            return f"the new column {column.name!r}"
        if column.type != first.field(column.name).type:
            return f"{column.name!r} as {column.type} instead of {first.field(column.name).type}"
    return f"the columns {', '.join(second.names)} instead of {', '.join(first.names)}"


def _read_ipc(path: Path) -> pa.Table:
    with pa.ipc.open_file(path) as file:
        return file.read_all()


@dataclass
class Parts:
    """Tables of several steps, to be written as one: columns of one name and several types become text."""

    stored: list[tuple[int, Stored]]
    part: str
    schema: pa.Schema = field(init=False)

    def __post_init__(self) -> None:
        fields: dict[str, pa.DataType] = {ROW: pa.int64(), "step": pa.int32()}
        for _, stored in self.stored:
            for column in stored.schema_of(self.part):
                known = fields.setdefault(column.name, column.type)
                if known != column.type:
                    fields[column.name] = pa.string()
        self.schema = pa.schema(list(fields.items()))

    def batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Yield the rows, step by step; what a step's table lacks is null."""
        for number, stored in self.stored:
            for batch in stored.batches(self.part):
                given: Mapping[str, pa.Array] = dict(zip(batch.schema.names, batch.columns, strict=True))
                yield pa.RecordBatch.from_arrays(
                    [_fit(given, name, self.schema.field(name).type, number, len(batch)) for name in columns], columns
                )


def _fit(given: Mapping[str, pa.Array], name: str, kind: pa.DataType, number: int, length: int) -> pa.Array:
    if name == "step":
        return pa.array(np.full(length, number, np.int32))
    if name not in given:
        return pa.nulls(length, kind)
    column = given[name]
    if column.type == kind:
        return column
    try:
        return column.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return pa.array(
            [None if value is None else json.dumps(value, default=str) for value in column.to_pylist()], kind
        )
