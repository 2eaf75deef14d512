"""Rows as the Parquet files of a Delta table in a local folder, a row group at a time.

The `deltalake` package can write files too, but it holds several of them in memory (0.6 GiB for wide rows, where this
holds 0.1 GiB) and, when the disk is full, reads its source to the end before it says so. Files written here belong
to nothing until a commit names them.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from deltalake.transaction import AddAction
from pyarrow import parquet

from stepwell.core.files import sync
from stepwell.storage.files import Rows

ROW_GROUP_BYTES = 16 << 20
FILE_BYTES = 256 << 20


def write_files(folder: Path, rows: Rows) -> list[AddAction]:
    """Write rows as new files and return the actions that would add them to the table.

    No file is left behind if the source or the disk fails.

    Cost: one pass; about three row groups (16 MiB each) in memory.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    actions: list[AddAction] = []
    groups = _groups(rows)
    try:
        for group in groups:
            path = folder / f"part-{len(written):05d}-{uuid.uuid4()}.zstd.parquet"
            written.append(path)
            count = _write_one(path, group, groups)
            stat = path.stat()
            actions.append(
                AddAction(
                    path=path.name,
                    size=stat.st_size,
                    partition_values={},
                    modification_time=int(stat.st_mtime * 1000),
                    data_change=True,
                    stats=json.dumps({"numRecords": count}),
                )
            )
        sync(folder)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise
    return actions


def _write_one(path: Path, first: pa.Table, more: Iterator[pa.Table]) -> int:
    """Write row groups until the file is large enough; return how many rows it holds."""
    with path.open("wb") as file:
        writer = parquet.ParquetWriter(
            file, first.schema, compression="zstd", compression_level=1, memory_pool=pa.system_memory_pool()
        )
        with writer:
            group: pa.Table | None = first
            count = 0
            while group is not None:
                writer.write_table(group, row_group_size=len(group))
                count += len(group)
                group = next(more, None) if file.tell() < FILE_BYTES else None
    sync(path)
    return count


def _groups(rows: Rows) -> Iterator[pa.Table]:
    """Gather batches to tables of about `ROW_GROUP_BYTES`; long batches are cut."""
    held: list[pa.RecordBatch] = []
    size = 0
    for batch in rows.batches():
        step = max(1, ROW_GROUP_BYTES * len(batch) // max(1, batch.nbytes))
        for begin in range(0, len(batch), step):
            piece = batch.slice(begin, step)
            held.append(piece)
            size += piece.nbytes
            if size >= ROW_GROUP_BYTES:
                yield pa.Table.from_batches(held, rows.schema)
                held, size = [], 0
    if held:
        yield pa.Table.from_batches(held, rows.schema)
