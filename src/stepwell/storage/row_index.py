"""Builds the row index of a table in one scan, within a byte budget, atomically."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import pyarrow as pa

from stepwell.core.errors import InvalidValueError
from stepwell.storage.derived import put_in_place, scratch_folder
from stepwell.storage.row_writers import Folder, writers_of
from stepwell.storage.rows import FORMAT, RowColumn, RowManifest, TableRows

_MIN_BUDGET = 1 << 20


def rows_folder(root: Path, name: str, version: int, columns: tuple[str, ...] | None = None) -> Path:
    """Return where the row index of a table version belongs: `<root>/<name>@<version>/rows-<hash>`."""
    text = json.dumps([FORMAT, columns])
    return root / f"{name}@{version}" / f"rows-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def open_or_build_rows(
    scan: Iterable[pa.RecordBatch], schema: pa.Schema, folder: Path, *, where: str, budget_bytes: int = 256 << 20
) -> TableRows:
    """Open the row index at `folder`, building it first if it is not there.

    Args:
        scan: The table's rows, as `build_rows` takes them; untouched if the index is there.
        schema: Their schema.
        folder: Where the index is, or goes.
        where: The table's name, for messages.
        budget_bytes: Memory to build in.

    Raises:
        DataError, InvalidValueError: As `build_rows`.

    Cost: opening maps the files when a column is first read; building is one scan.
    """
    if (folder / "manifest.json").exists():
        return TableRows(folder)
    return build_rows(scan, schema, folder, where=where, budget_bytes=budget_bytes)


def build_rows(
    scan: Iterable[pa.RecordBatch], schema: pa.Schema, folder: Path, *, where: str, budget_bytes: int = 256 << 20
) -> TableRows:
    """Write the row index of a table and open it.

    Files are written aside, flushed and renamed as one folder, so a killed build leaves nothing half-valid. If
    another process finished the same index first, that one is used.

    Args:
        scan: The table's rows in order, as Arrow record batches of any size.
        schema: Their schema: numbers, booleans, dates and times, strings, binaries, lists of numbers of one length.
        folder: Where the index goes.
        where: The table's name, for messages.
        budget_bytes: Memory to use beyond the scan's own batches, at least 1 MiB.

    Raises:
        DataError: If a column has a type that no batch can hold, or lists of several lengths.
        InvalidValueError: If the budget is below 1 MiB.

    Cost:
        One scan and one sequential write of the table's uncompressed size.
    """
    if budget_bytes < _MIN_BUDGET:
        raise InvalidValueError("budget_bytes", budget_bytes, f"at least {_MIN_BUDGET}")
    with scratch_folder(folder.parent, f".{folder.name}.") as aside:
        _write(scan, schema, aside, where, budget_bytes)
        put_in_place(aside, folder, "manifest.json")
    return TableRows(folder)


def _write(scan: Iterable[pa.RecordBatch], schema: pa.Schema, folder: Path, where: str, budget: int) -> None:
    columns: dict[str, RowColumn] = {}
    files: dict[str, tuple[int, str]] = {}
    with closing(Folder(folder)) as opened:
        writers = writers_of(schema, opened, where)
        rows = 0
        for batch in scan:
            for part in _parts(batch, budget // 4):
                for writer in writers:
                    writer.add(part)
                rows += part.num_rows
        for writer in writers:
            found, written = writer.finish(rows)
            columns.update({column.name: column for column in found})
            files.update(written)
    RowManifest(rows, tuple(columns[name] for name in schema.names), files).write(folder)


def _parts(batch: pa.RecordBatch, limit: int) -> Iterator[pa.RecordBatch]:
    """Cut a record batch so that no part holds more than about `limit` bytes."""
    step = max(1, min(1 << 16, int(limit * batch.num_rows // max(1, batch.nbytes))))
    for begin in range(0, batch.num_rows, step):
        yield batch.slice(begin, step)
