"""Anything with rows becomes `Rows`: a schema, and record batches that stream in bounded memory.

Files, folders, data frames, Arrow objects, DuckDB relations, arrays, PyG's `TemporalData`, Delta and Iceberg tables
and SQL queries differ only here; everything behind sees one shape. Optional libraries are recognised by what their
objects offer, so nothing is imported that the caller has not imported already.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias, cast, runtime_checkable

import numpy as np
import pyarrow as pa

from stepwell.core.errors import DataError
from stepwell.storage.databases import SqlQuery, open_delta_source, open_iceberg, open_sql, sql_source
from stepwell.storage.files import (
    BATCH_ROWS,
    Rows,
    must_exist,
    open_ipc,
    open_json_lines,
    open_parquet,
    suffix_of,
)
from stepwell.storage.text import CsvFile, open_csv

__all__ = ["ArrowStream", "CsvFile", "Rows", "Source", "SqlQuery", "first_misfit", "open_source", "sql_source"]

_TEXT = (".csv", ".tsv", ".txt", ".edges", ".tab")
_OPENERS: dict[str, Callable[[Path], Rows]] = {
    ".parquet": lambda path: open_parquet([path]),
    ".pq": lambda path: open_parquet([path]),
    ".arrow": open_ipc,
    ".feather": open_ipc,
    ".ipc": open_ipc,
    ".jsonl": open_json_lines,
    ".ndjson": open_json_lines,
    ".json": open_json_lines,
}


@runtime_checkable
class ArrowStream(Protocol):
    """What every modern data frame offers: its rows as an Arrow stream."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...


Source: TypeAlias = "str | Path | CsvFile | SqlQuery | Rows | ArrowStream | Mapping[str, object] | object"


def open_source(source: Source, columns: Sequence[str] | None = None) -> Rows:
    """Open anything with rows as a stream.

    Accepted: a path to `.csv`, `.tsv`, `.txt` (also `.gz`, `.zst`, `.bz2`), Parquet, Arrow IPC, JSON lines; a folder
    or glob of Parquet files; a Delta table's folder; `CsvFile`; `SqlQuery`; a pandas or Polars frame; a pyarrow
    Table, Dataset, RecordBatch or reader; a DuckDB relation; any object with an Arrow stream; a mapping of names to
    NumPy arrays; PyG `TemporalData`; a lake's `Table`; an Iceberg table.

    Args:
        source: The rows.
        columns: Which columns to read; None for all.

    Raises:
        DataError: If the source is missing, empty, torn, of no known kind, or lacks one of `columns`.
        MissingExtraError: If a SQL source's driver is not installed.

    Cost: opening reads footers or the first block (a long CSV file once in full); a pass holds a few batches.
    """
    rows = _open(source)
    return rows if columns is None else rows.select(columns)


def first_misfit(rows: Rows, column: str, type: pa.DataType) -> tuple[int, object] | None:
    """Return (row from 0, value) of the first value of `column` that cannot become `type`, or None if all can.

    For error messages; one pass over the source, nulls count as fitting.
    """
    begin = 0
    for batch in rows.batches():
        values = batch.column(column)
        try:
            values.cast(type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            for row, value in enumerate(values):
                if not _fits(value, type):
                    return begin + row, value.as_py()
        begin += batch.num_rows
    return None


def _fits(value: pa.Scalar, type: pa.DataType) -> bool:
    try:
        value.cast(type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return False
    return True


def _open(source: Source) -> Rows:
    if isinstance(source, Rows):
        return source
    if isinstance(source, CsvFile):
        must_exist(Path(source.path))
        return open_csv(source)
    if isinstance(source, SqlQuery):
        return open_sql(source)
    if isinstance(source, str | Path):
        return _open_path(str(source))
    if isinstance(source, Mapping):
        return _open_arrays(source, "mapping of arrays")
    return _open_object(source)


# Paths ------------------------------------------------------------------------------------------------------------


def _open_path(source: str) -> Rows:
    if "://" in source:
        return open_delta_source(source)
    path = Path(source)
    if re.search(r"[*?\[]", source) and not path.exists():
        return _open_folder(source, sorted(_matching(path)))
    must_exist(path)
    if (path / "_delta_log").is_dir():
        return open_delta_source(source)
    if path.is_dir():
        return _open_folder(source, sorted(p for p in path.rglob("*") if p.suffix in (".parquet", ".pq")))
    if path.stat().st_size == 0:
        raise DataError(source, "is empty", "a file with rows", "check the export that made it")
    suffix = suffix_of(path)
    if suffix in _TEXT:
        return open_csv(CsvFile(path))
    if suffix in _OPENERS:
        return _OPENERS[suffix](path)
    allowed = ", ".join([*_TEXT, *_OPENERS])
    raise DataError(
        source, f"has the unknown extension {suffix or 'none'}", allowed, "rename it, or pass CsvFile(path) for text"
    )


def _matching(pattern: Path) -> Iterator[Path]:
    parts = pattern.parts
    first = next(i for i, part in enumerate(parts) if re.search(r"[*?\[]", part))
    return Path(*parts[:first]).glob("/".join(parts[first:]))


def _open_folder(source: str, paths: list[Path]) -> Rows:
    if not paths:
        raise DataError(source, "holds no Parquet file", "a folder or glob of .parquet files", "check the path")
    bad = [path for path in paths if path.suffix not in (".parquet", ".pq")]
    if bad and len(paths) > 1:
        raise DataError(source, f"matches {bad[0].name}, which is no Parquet file", ".parquet files", "narrow the glob")
    return _open_path(str(bad[0])) if bad else open_parquet(paths)


# Objects in memory ------------------------------------------------------------------------------------------------


def _open_object(source: object) -> Rows:
    kind = type(source)
    if kind.__module__.startswith("pyiceberg."):
        return open_iceberg(cast("Any", source))
    if kind.__name__ == "TemporalData":
        store = dict(cast("Any", source).to_dict())
        return _open_arrays({name: value for name, value in store.items() if value is not None}, "TemporalData")
    if isinstance(source, pa.RecordBatchReader):
        return _open_once(source)
    if kind.__name__ == "LazyFrame":
        return _open_object(cast("Any", source).collect())
    if isinstance(source, pa.dataset.Dataset if hasattr(pa, "dataset") else ()):
        return _open_dataset(source)
    if kind.__module__.split(".")[0] == "pandas":
        return _open_pandas(cast("Any", source))
    rows = getattr(source, "rows", None)
    if kind.__module__.startswith("stepwell.") and isinstance(rows, Rows):
        return rows
    if isinstance(source, ArrowStream):
        return _open_stream(source)
    if isinstance(source, pa.RecordBatch):
        return _open_stream(pa.Table.from_batches([source]))
    allowed = "a path, a data frame, an Arrow or DuckDB object, a mapping of arrays, a Table or sql_source(...)"
    raise DataError(
        f"{kind.__module__}.{kind.__name__} object", "is no source of rows", allowed, "convert it to one of these"
    )


def _open_stream(source: ArrowStream) -> Rows:
    where = f"{type(source).__module__.split('.')[0].lstrip('_')} {type(source).__name__}"
    num_rows = len(source) if isinstance(source, Sized) and not hasattr(source, "to_arrow_reader") else None
    schema = pa.RecordBatchReader.from_stream(source).schema.remove_metadata()

    def start(columns: list[str]) -> Iterator[pa.RecordBatch]:
        for batch in pa.RecordBatchReader.from_stream(source):
            for begin in range(0, batch.num_rows, BATCH_ROWS):
                yield batch.slice(begin, BATCH_ROWS).select(columns).replace_schema_metadata(None)

    return Rows(where, schema, start, num_rows)


def _open_once(source: pa.RecordBatchReader) -> Rows:
    used = False

    def start(columns: list[str]) -> Iterator[pa.RecordBatch]:
        nonlocal used
        if used:
            fix = "pass a Table, a Dataset or a file, which can be read again"
            raise DataError("RecordBatchReader", "was read to its end before", "one pass over a reader", fix)
        used = True
        for batch in source:
            yield batch.select(columns)

    return Rows("RecordBatchReader", source.schema.remove_metadata(), start)


def _open_dataset(source: Any) -> Rows:
    def start(columns: list[str]) -> Iterator[pa.RecordBatch]:
        yield from source.to_batches(columns=columns, batch_size=BATCH_ROWS, batch_readahead=2, fragment_readahead=1)

    return Rows("pyarrow Dataset", source.schema.remove_metadata(), start, source.count_rows())


def _open_pandas(frame: Any) -> Rows:
    try:
        names = [str(name) for name in frame.columns]
        table = pa.Table.from_pandas(frame.set_axis(names, axis=1), preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        problem = f"has a column of mixed types ({str(error).splitlines()[0]})"
        raise DataError(
            "pandas DataFrame", problem, "one type a column", "convert it with frame[column].astype(...)"
        ) from error
    return replace(_open_stream(table), where="pandas DataFrame")


def _open_arrays(source: Mapping[Any, object], where: str) -> Rows:
    columns = {str(name): _to_arrow(f"{where}, column {name!r}", value) for name, value in source.items()}
    lengths = {name: len(column) for name, column in columns.items()}
    if not columns or len(set(lengths.values())) > 1:
        raise DataError(
            where, f"has columns of the lengths {lengths}", "at least one column, all of one length", "cut or fill them"
        )
    return replace(_open_stream(pa.table(columns)), where=where)


def _to_arrow(where: str, value: object) -> pa.Array | pa.ChunkedArray:
    if isinstance(value, pa.Array | pa.ChunkedArray):
        return value
    array = np.asarray(value.numpy(force=True) if hasattr(value, "numpy") else value)
    if array.ndim == 2 and array.dtype.kind in "biuf":
        return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(array).reshape(-1)), array.shape[1])
    if array.ndim != 1:
        raise DataError(where, f"has the shape {array.shape}", "one or two dimensions", "reshape it")
    try:
        return pa.array(array)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise DataError(
            where, f"has the dtype {array.dtype} ({error})", "numbers, text, times or bytes", "convert it"
        ) from error
