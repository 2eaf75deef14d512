"""Files of rows, read as a stream of Arrow record batches with a schema that is known before the first batch.

`Rows` is the one shape in which data enters: a name for errors, a schema, and a way to start a pass. The binary formats
are here and text is in `text`. At most a few batches are in memory at any time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path

import pyarrow as pa

from stepwell.core.errors import DataError, InvalidValueError

BLOCK_BYTES = 8 << 20
BATCH_ROWS = 65_536
_COMPRESSED = (".gz", ".zst", ".bz2")


@dataclass(frozen=True)
class Rows:
    """Rows from anywhere: a schema, and batches that can be read in bounded memory.

    Args:
        where: The file, table or object, as errors name it.
        schema: The columns.
        start: Starts a pass over the batches with the columns it is given; a source that can be read only once raises
            `DataError` the second time.
        num_rows: How many rows there are, or None if only a pass would tell.
    """

    where: str
    schema: pa.Schema
    start: Callable[[list[str]], Iterator[pa.RecordBatch]] = field(repr=False)
    num_rows: int | None = None

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows in their order; every batch has `schema`.

        Raises:
            DataError: If the source cannot be read to its end, naming the file and, where known, the line.
        """
        for batch in self.start(self.schema.names):
            if batch.num_rows:
                yield batch if batch.schema.equals(self.schema) else batch.cast(self.schema)

    def select(self, columns: Sequence[str]) -> Rows:
        """Return the rows with these columns only, in this order; formats that can skip the others do.

        Raises:
            DataError: If a column is not there, with a suggestion.
        """
        for name in columns:
            if name not in self.schema.names:
                near = get_close_matches(name, self.schema.names, n=1)
                hint = f"did you mean {near[0]!r}?" if near else "name one of these"
                raise DataError(self.where, f"has no column {name!r}", ", ".join(self.schema.names), hint)
        return replace(self, schema=pa.schema([self.schema.field(name) for name in columns]))

    def reader(self) -> pa.RecordBatchReader:
        """Return one pass as an Arrow reader."""
        return pa.RecordBatchReader.from_batches(self.schema, self.batches())


def unreadable(where: str, error: Exception, kind: str) -> DataError:
    """Say that a file is not what its name promises."""
    return DataError(
        where, f"cannot be read as {kind} ({first_line(error)})", f"a whole {kind} file", "copy or export it again"
    )


def must_exist(path: Path) -> None:
    """Raise a `DataError` with a suggestion if there is no such file or folder."""
    if not path.exists():
        near = get_close_matches(
            path.name, [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else [], n=1
        )
        hint = (
            f"did you mean {path.parent / near[0]}?"
            if near
            else f"check the path; it was looked for at {path.absolute()}"
        )
        raise DataError(str(path), "does not exist", "the path of a file or folder", hint)


def first_line(error: Exception) -> str:
    """Return the first line of an error's text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def suffix_of(path: Path) -> str:
    """Return the extension that tells the format, without one of compression."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def open_parquet(paths: list[Path]) -> Rows:
    """Open Parquet files with one schema as one stream, in the order given.

    Cost: reads footers now; a pass holds about one row group's selected columns.

    Raises:
        DataError: If a file is torn, or its columns differ from those of the first.
    """
    from pyarrow import parquet

    schema: pa.Schema | None = None
    num_rows = 0
    for path in paths:
        try:
            with parquet.ParquetFile(path) as file:
                found, rows = file.schema_arrow.remove_metadata(), file.metadata.num_rows
        except (pa.ArrowInvalid, OSError) as error:
            raise unreadable(str(path), error, "Parquet") from error
        schema = schema or found
        if not found.equals(schema):
            raise _other_schema(path, paths[0], schema, found)
        num_rows += rows
    if schema is None:
        raise InvalidValueError("paths", paths, "at least one file")

    def start(columns: list[str]) -> Iterator[pa.RecordBatch]:
        for path in paths:
            try:
                with parquet.ParquetFile(path, pre_buffer=False) as file:
                    yield from file.iter_batches(BATCH_ROWS, columns=columns, use_threads=True)
            except (pa.ArrowInvalid, OSError) as error:
                raise unreadable(str(path), error, "Parquet") from error

    where = str(paths[0]) if len(paths) == 1 else f"{paths[0].parent} ({len(paths)} Parquet files)"
    return Rows(where, schema, start, num_rows)


def _other_schema(path: Path, first: Path, schema: pa.Schema, found: pa.Schema) -> DataError:
    differing = [
        column.name
        for column in (*schema, *found)
        if column.name not in schema.names
        or column.name not in found.names
        or not found.field(column.name).equals(schema.field(column.name))
    ]
    problem = (
        f"differs from {first.name} in column {differing[0]!r}"
        if differing
        else f"has the columns of {first.name} in another order"
    )
    return DataError(str(path), problem, "files of one schema in a folder", "convert the file, or read it on its own")


def open_ipc(path: Path) -> Rows:
    """Open an Arrow IPC (Feather) file, memory-mapped; an IPC stream works too.

    Raises:
        DataError: If the file is torn.
    """

    def reader(source: pa.NativeFile) -> pa.RecordBatchFileReader | pa.RecordBatchStreamReader:
        if source.read(6) == b"ARROW1":
            return pa.ipc.open_file(source)
        source.seek(0)
        return pa.ipc.open_stream(source)

    def start(columns: list[str]) -> Iterator[pa.RecordBatch]:
        try:
            with pa.memory_map(str(path)) as source, reader(source) as stream:
                many = isinstance(stream, pa.RecordBatchFileReader)
                found = (stream.get_batch(i) for i in range(stream.num_record_batches)) if many else stream
                for batch in found:
                    yield batch.select(columns)
        except (pa.ArrowInvalid, OSError) as error:
            raise unreadable(str(path), error, "Arrow IPC") from error

    try:
        with pa.memory_map(str(path)) as source, reader(source) as stream:
            schema = stream.schema.remove_metadata()
    except (pa.ArrowInvalid, OSError) as error:
        raise unreadable(str(path), error, "Arrow IPC") from error
    return Rows(str(path), schema, start)


def open_json_lines(path: Path) -> Rows:
    """Open a file with one JSON object a line; types come from the first 8 MiB.

    Raises:
        DataError: If a line is no JSON object, or a later value does not fit the column's type.
    """
    from pyarrow import json

    def parse() -> Iterator[pa.RecordBatch]:
        try:
            with pa.input_stream(str(path), compression="detect") as stream:
                yield from json.open_json(stream, json.ReadOptions(block_size=BLOCK_BYTES, use_threads=False))
        except (pa.ArrowInvalid, OSError) as error:
            raise unreadable(str(path), error, "JSON lines") from error

    first = next(parse(), None)
    if first is None or first.num_rows == 0:
        raise DataError(str(path), "is empty", "at least one JSON object", "check the export that made it")
    return Rows(str(path), first.schema, lambda columns: (batch.select(columns) for batch in parse()))
