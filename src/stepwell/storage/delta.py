"""The Delta tables under a lake: open, commit, list versions, vacuum; every failure as one of our errors.

Commits are optimistic. A replacing commit that finds another writer's commit in between fails and changes nothing;
appends of two writers both land. Data files are written first and named by the commit last, so a write that is
killed, or runs out of disk, leaves the last version as it was.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Schema, WriterProperties, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import create_table_with_add_actions

from stepwell.core.errors import DataError, StepwellError
from stepwell.storage.files import BATCH_ROWS, Rows
from stepwell.storage.parquet import ROW_GROUP_BYTES, write_files

Mode = Literal["replace", "append", "error"]
PREFIX = "stepwell."
FILE_BYTES = 64 << 20
LEFTOVER_HOURS = 24
_KEEP_ALL = {
    "delta.enableExpiredLogCleanup": "false",
    "delta.logRetentionDuration": "interval 36500 days",
    "delta.deletedFileRetentionDuration": "interval 36500 days",
}
_MODES: dict[Mode, Literal["overwrite", "append", "error"]] = {
    "replace": "overwrite",
    "append": "append",
    "error": "error",
}


class ConflictError(StepwellError, RuntimeError):
    """Another writer changed the table between reading and committing; nothing was written."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name}: another writer committed a version meanwhile, so this write was given up and the table stands as "
            f"that writer left it. Allowed: one writer at a time. To mend it: read the newest version and write again."
        )


class DiskFullError(StepwellError, OSError):
    """There is no room for the data; the table stays at its last version."""

    def __init__(self, name: str, error: Exception) -> None:
        reason = _one_line(str(error))
        super().__init__(
            f"{name}: the disk is full or a file-size limit was met ({reason}). The table stays at its last version. "
            f"To mend it: free space (`lake.vacuum()` drops versions that nothing refers to) and write again."
        )


def _one_line(text: str) -> str:
    """Return the library's coloured, multi-line messages as one plain line."""
    plain = re.sub(r"\x1b\[\d+m|↳|\s+", " ", text)
    return " ".join(plain.split())[:300].rstrip(".")


@dataclass(frozen=True)
class Version:
    """One version of a table.

    Args:
        version: Its number.
        time: When it was committed (UTC).
        rows: How many rows the table has in it.
        operation: What Delta calls the commit (`"WRITE"`, `"DELETE"`).
        step: The step that made it, empty if another program did.
        readable: False once a vacuum has dropped its files.
    """

    version: int
    time: datetime
    rows: int
    operation: str
    step: str
    readable: bool


@contextmanager
def failures(name: str) -> Iterator[None]:
    """Turn errors of the table format into ours, named after the table."""
    try:
        yield
    except CommitFailedError as error:
        raise ConflictError(name) from error
    except StepwellError:
        raise
    except Exception as error:
        # The library raises bare Exception for some failures, so only the text tells them apart.
        text = str(error)
        if "No space left" in text or "os error 28" in text or "File too large" in text or "os error 122" in text:
            raise DiskFullError(name, error) from error
        if "already exists" in text:
            raise ConflictError(name) from error
        if isinstance(error, DeltaError | OSError) or type(error) is Exception:
            problem = _one_line(text) or type(error).__name__
            raise DataError(
                name,
                f"the table refused it ({problem})",
                "a whole Delta table",
                "check the folder, or read an older version",
            ) from error
        raise


def open_delta(uri: str, version: int | None, options: Mapping[str, str] | None) -> DeltaTable | None:
    """Open a Delta table, or return None if there is none."""
    try:
        return DeltaTable(uri, version=version, storage_options=dict(options) if options else None)
    except TableNotFoundError:
        return None


def commit(
    uri: str,
    name: str,
    rows: Rows,
    mode: Mode,
    metadata: Mapping[str, str],
    options: Mapping[str, str] | None,
    expected: int | None,
) -> int:
    """Write rows as one commit and return its version.

    Args:
        uri: The table's folder or address.
        name: How errors call it.
        rows: The rows, in types that Delta stores.
        mode: Replace all rows, append, or refuse if there is a table.
        metadata: Written into the commit under our prefix.
        options: Of the object store.
        expected: The version the table must still have; None: the one found now, and appends let others' appends pass.

    Raises:
        ConflictError: If another writer was faster.
        DiskFullError: If there is no room.

    Cost: one pass over the rows; memory is about 100 MiB, however many rows there are; 0.6 GiB for wide rows
    where the files go to an object store or a replacement changes the columns.
    """
    with failures(name):
        table = open_delta(uri, None, options)
        if table is not None and expected is not None and table.version() != expected:
            raise ConflictError(name)
        retries = None if mode == "append" and expected is None else 0
        token = uuid.uuid4().hex
        texts = {PREFIX + key: value for key, value in {**metadata, "commit": token}.items()}
        properties = CommitProperties(texts, max_commit_retries=retries)
        same = table is None or pa.schema(table.schema().to_arrow()).equals(rows.schema)
        if "://" in uri or not same:
            _write_through(uri, table, rows, mode, properties, options)
        else:
            _write_local(uri, table, rows, mode, properties)
        return _version_of(token, uri, name, options)


def _version_of(token: str, uri: str, name: str, options: Mapping[str, str] | None) -> int:
    """Return the version that carries our token; another writer's append may already stand above it."""
    table = open_delta(uri, None, options)
    for limit in (1, 100, None):
        for entry in table.history(limit) if table is not None else ():
            if metadata_of(entry).get("commit") == token:
                return int(str(entry["version"]))
    raise DataError(name, "vanished while it was written", "a folder that nobody deletes meanwhile", "write it again")


def _write_local(uri: str, table: DeltaTable | None, rows: Rows, mode: Mode, properties: CommitProperties) -> None:
    """Write the files ourselves, then commit them by name."""
    actions = write_files(Path(uri), rows)
    schema = Schema.from_arrow(rows.schema)
    if table is None:
        create_table_with_add_actions(
            uri, schema, actions, "error", configuration=_KEEP_ALL, commit_properties=properties
        )
    else:
        table.create_write_transaction([*actions], _MODES[mode], schema, commit_properties=properties)


def _write_through(
    uri: str,
    table: DeltaTable | None,
    rows: Rows,
    mode: Mode,
    properties: CommitProperties,
    options: Mapping[str, str] | None,
) -> None:
    """Let the library write the files: to object stores, and where a replacement changes the columns."""
    raised: list[Exception] = []

    def stream() -> Iterator[pa.RecordBatch]:
        try:
            yield from _small(rows)
        except Exception as error:
            raised.append(error)
            raise

    try:
        write_deltalake(
            table if table is not None else uri,
            pa.RecordBatchReader.from_batches(rows.schema, stream()),
            mode=_MODES[mode],
            schema_mode="overwrite" if mode == "replace" and table is not None else None,
            configuration=_KEEP_ALL if table is None else None,
            storage_options=None if table is not None or not options else dict(options),
            target_file_size=FILE_BYTES,
            writer_properties=_writing(rows.schema),
            commit_properties=properties,
        )
    except Exception as error:
        if raised:
            raise raised[0] from error
        raise


def _row_bytes(schema: pa.Schema) -> int:
    """Guess the bytes of a row; lists and text count 256."""
    return sum(getattr(kind, "bit_width", 8) // 8 if pa.types.is_primitive(kind) else 256 for kind in schema.types) or 1


def _writing(schema: pa.Schema) -> WriterProperties:
    rows = max(1024, min(1 << 20, ROW_GROUP_BYTES // _row_bytes(schema)))
    return WriterProperties(max_row_group_size=rows, compression="ZSTD", compression_level=1)


def _small(rows: Rows) -> Iterator[pa.RecordBatch]:
    """Cut batches so that none is above a few MiB, which bounds what the writer queues."""
    for batch in rows.batches():
        size = max(1, min(BATCH_ROWS, (4 << 20) * batch.num_rows // max(1, batch.nbytes)))
        for begin in range(0, batch.num_rows, size):
            yield batch.slice(begin, size)


def history(table: DeltaTable) -> list[dict[str, object]]:
    """Return the commits up to the opened version, oldest first."""
    return sorted(table.history(), key=lambda entry: int(str(entry["version"])))


def is_vacuum(entry: Mapping[str, object]) -> bool:
    """Say whether a commit only removed files of older versions."""
    return str(entry["operation"]).startswith("VACUUM")


def newest_version(table: DeltaTable) -> int:
    """Return the newest version that changed rows; a vacuum makes versions of its own, which do not count."""
    last = table.history(1)[0]
    if not is_vacuum(last):
        return int(table.version())
    return max(int(str(entry["version"])) for entry in history(table) if not is_vacuum(entry))


def metadata_of(entry: Mapping[str, object]) -> dict[str, str]:
    """Return the metadata under our prefix of one commit."""
    return {key.removeprefix(PREFIX): str(value) for key, value in entry.items() if key.startswith(PREFIX)}


def commit_time(entry: Mapping[str, object]) -> datetime:
    """Return when a commit was made."""
    return datetime.fromtimestamp(int(str(entry["timestamp"])) / 1000, UTC)


def readable_versions(entries: list[dict[str, object]]) -> set[int]:
    """Return the versions whose files no vacuum has dropped."""
    readable: set[int] = set()
    for entry in entries:
        if is_vacuum(entry):
            kept = metadata_of(entry).get("kept")
            readable = readable & set(json.loads(kept)) if kept else {max(readable)} if readable else set()
        else:
            readable.add(int(str(entry["version"])))
    return readable


def vacuum(table: DeltaTable, keep: set[int]) -> int:
    """Drop the files that none of the versions in `keep` needs; return how many files went.

    Files of a write in progress are younger than a day and are spared; those of a killed write go after it.
    """
    gone: set[str] = set()
    # A tombstone stays in the log after its file went, so a dry run alone would find work for ever.
    if readable_versions(history(table)) - keep:
        gone |= _drop_files(table, 0, keep, dry_run=False, full=False)
    if _drop_files(table, LEFTOVER_HOURS, keep, dry_run=True, full=True):
        gone |= _drop_files(table, LEFTOVER_HOURS, keep, dry_run=False, full=True)
    return len(gone)


def _drop_files(table: DeltaTable, hours: int, keep: set[int], *, dry_run: bool, full: bool) -> set[str]:
    kept = sorted(keep)
    return set(
        table.vacuum(
            retention_hours=hours,
            dry_run=dry_run,
            enforce_retention_duration=False,
            commit_properties=CommitProperties({PREFIX + "kept": json.dumps(kept)}),
            full=full,
            keep_versions=kept,
        )
    )
