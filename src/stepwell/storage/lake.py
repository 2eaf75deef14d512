"""A lake: one Delta table per data set, in a folder or an object store, with versions, SQL and lineage.

Every write is one atomic commit and a new version; nothing is changed in place, and any Delta reader can read it
without us. A data set of several tables keeps them as side tables named `<name>.<part>`: they are committed first,
and the main commit names their versions in its metadata under `"tables"`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from stepwell.core.errors import DataError, InvalidValueError, UnknownNameError
from stepwell.core.log import logger
from stepwell.core.state import Json
from stepwell.storage import delta
from stepwell.storage.commits import commit_rows, note
from stepwell.storage.delta import ConflictError, DiskFullError, Mode, Version
from stepwell.storage.diff import Diff, diff_tables
from stepwell.storage.files import Rows
from stepwell.storage.lineage import TABLE, Input, Lineage, Origin
from stepwell.storage.place import Place, is_stored, is_table
from stepwell.storage.query import connect, query_rows
from stepwell.storage.retention import spared
from stepwell.storage.sources import Source, open_source
from stepwell.storage.table import Table

if TYPE_CHECKING:
    import numpy.typing as npt

    from stepwell.storage.events import EventLog

__all__ = ["ConflictError", "Diff", "DiskFullError", "Input", "Lake", "Lineage", "Origin", "Version", "open"]

log = logger(__name__)

_QUERY = re.compile(r"\s*(select|with|from|values)\s", re.IGNORECASE)


def open(path: str | Path, storage_options: Mapping[str, str] | None = None) -> Lake:
    """Open a lake; a local folder is created if it is absent.

    Args:
        path: A folder, or the address of an object store (`s3://bucket/lake`, `gs://...`, `az://...`).
        storage_options: Keys and settings of the object store, as the `deltalake` package names them.

    Raises:
        DataError: If the path is a file.
    """
    return Lake(path, storage_options)


class Lake:
    """A folder or object store of versioned tables.

    Args:
        path: Where it is.
        storage_options: Keys and settings of the object store.

    Example:
        >>> lake = stepwell.storage.open(folder)
        >>> table = lake.write("orders", "orders.csv")
        >>> lake.sql("select count(*) as orders from orders").to_pylist()
        [{'orders': 3}]
    """

    def __init__(self, path: str | Path, storage_options: Mapping[str, str] | None = None) -> None:
        self._place = Place(path, storage_options)
        self.path, self.is_local = self._place.path, self._place.is_local

    def __repr__(self) -> str:
        names = self.names()
        return f"Lake {self.path}: {', '.join(names) or 'empty'}"

    def __contains__(self, name: str) -> bool:
        return name in self._place.names()

    # Names and versions -----------------------------------------------------------------------------------------

    def names(self, *, all: bool = False) -> list[str]:
        """Return the tables' names, sorted; with `all` also side tables (`<name>.<part>`) and `_lineage`.

        Cost: lists the folder; in an object store it reads `_lineage`.
        """
        return [name for name in self._place.names() if all or is_table(name)]

    def table(self, name: str, version: int | None = None) -> Table:
        """Return one version of a table, by default the newest.

        Raises:
            UnknownNameError: If there is no such table.
            DataError: If there is no such version, or a vacuum has dropped it.
        """
        newest = self._place.open(name)
        if version is None:
            last = delta.newest_version(newest)
            return Table(name, newest if last == newest.version() else self._place.open(name, last))
        entries = delta.history(newest)
        known = [int(str(entry["version"])) for entry in entries if not delta.is_vacuum(entry)]
        readable = delta.readable_versions(entries)
        if version not in readable:
            problem = "was dropped by a vacuum" if version in known else "does not exist"
            raise DataError(
                f"{name}@{version}", problem, ", ".join(map(str, sorted(readable))), f"see lake.versions({name!r})"
            )
        return Table(name, self._place.open(name, version))

    def versions(self, name: str) -> list[Version]:
        """Return every version of a table, oldest first.

        Cost: reads the table's log once for each version; no data.
        """
        return self._place.versions(name)

    def metadata(self, name: str, version: int | None = None) -> dict[str, str]:
        """Return what was written into the commit of one version, by default the newest."""
        wanted = self.table(name, version).version
        # Only the newest table numbers its history right, so an older version's entry is looked up there.
        entries = delta.history(self._place.open(name))
        return delta.metadata_of(next(entry for entry in entries if int(str(entry["version"])) == wanted))

    # Writing ----------------------------------------------------------------------------------------------------

    def write(
        self,
        name: str,
        source: Source,
        mode: Mode = "replace",
        inputs: Sequence[Table | Input | str] = (),
        step: str = "write",
        params: Mapping[str, Json] | None = None,
    ) -> Table:
        """Write rows as a new version of a table.

        The table has the old version or the whole new one at any moment, also if the process dies on the way.

        Args:
            name: The table: letters, digits, `_` and `-`.
            source: Anything `open_source` reads, or a SQL query over this lake (`"select ..."`).
            mode: `"replace"` all rows, `"append"`, or `"error"` if the table exists.
            inputs: What the rows were made from: tables, `"name@version"`, or names of things outside. The source
                itself, and the tables a query reads, are noted without being named.
            step: What was done, for the lineage.
            params: The step's parameters, for the lineage.

        Raises:
            DataError: If the source is bad (file, row and column are named), or does not fit the table on append.
            ConflictError: If another writer was faster.
            DiskFullError: If there is no room; the table stays at its last version.

        Cost: one pass over the source; memory is bounded, whatever the source's size, except for a `DataFrame`,
        which is in memory already.
        """
        if not is_table(name):
            raise InvalidValueError("name", name, "letters, digits, `_` and `-`, beginning with a letter or digit")
        noted = [self._input(entry) for entry in inputs]
        if isinstance(source, str) and _QUERY.match(source):
            rows, read = query_rows(source, self)
            noted += [entry for entry in read if entry not in noted]
        else:
            rows = open_source(source)
            own = Input(source.name, source.version) if isinstance(source, Table) else Input(rows.where)
            noted += [] if noted else [own]
        origin = Origin(step, tuple(noted), dict(params or {}))
        return self.table(name, self.commit_table(name, rows, mode, {}, origin=origin))

    def commit_table(
        self,
        name: str,
        batches: Rows | pa.RecordBatchReader,
        mode: Mode = "replace",
        metadata: Mapping[str, str] | None = None,
        *,
        origin: Origin | None = None,
        expected: int | None = None,
    ) -> int:
        """Commit rows as a version of a table or side table and return its number; the primitive below `write`.

        Args:
            name: The table, or `<name>.<part>` for a side table.
            batches: The rows.
            mode: As in `write`.
            metadata: Text for the commit. `"tables"`, a JSON object of names to versions, says which versions of side
                tables belong to this one; a vacuum spares them.
            origin: For the lineage.
            expected: The version the table must still have (-1: it must not exist), checked at the commit; None leaves
                it open.

        Raises:
            DataError, ConflictError, DiskFullError: As `write`.
        """
        if not is_stored(name) or name == TABLE:
            raise InvalidValueError("name", name, "`<name>` or `<name>.<part>` of letters, digits, `_` and `-`")
        if mode not in ("replace", "append", "error"):
            raise InvalidValueError("mode", mode, "'replace', 'append' or 'error'")
        source = batches if isinstance(batches, Rows) else open_source(batches)
        origin = origin or Origin("commit", (Input(source.where),))
        return commit_rows(self._place, name, source, mode, origin, metadata=metadata, expected=expected)

    def _input(self, entry: Table | Input | str) -> Input:
        if isinstance(entry, Input):
            return entry
        if isinstance(entry, Table):
            return Input(entry.name, entry.version)
        name, _, version = entry.partition("@")
        if version.isdigit():
            return Input(name, int(version))
        return Input(name, self.table(name).version) if name in self else Input(entry)

    # Events -----------------------------------------------------------------------------------------------------

    def events(
        self,
        name: str,
        source: Source | None = None,
        *,
        src: str | tuple[str, str] = "src",
        dst: str | tuple[str, str] = "dst",
        time: str = "time",
        features: str | Path | Sequence[str] | None = None,
        label: str | None = None,
        node_features: Source | None = None,
        event_type: str | None = None,
        unit: str | tuple[str, str] | None = None,
        budget: str | int = "1GiB",
        directed: bool = False,
        version: int | None = None,
    ) -> EventLog:
        """Ingest a source of events as a new version of a log, or open an existing log if there is no source.

        A file that was ingested before with the same arguments, and has not changed, is not read again.

        Args:
            name: The log.
            source: Anything `open_source` reads; None opens the log.
            src: Column of the source node's key, integers or text; or a pair (key space, column). Ends given as plain
                columns share the key space "node".
            dst: The same for the destination.
            time: Column of the time: numbers, timestamps or dates.
            features: Numeric columns, one column of lists, or an `.npy` file with one row an event in the source's
                order.
            label: Column of one number an event.
            node_features: Rows of a key and numeric columns (the key's column is called like the space, "key" or
                "node", or is the first); a matrix or `.npy` file whose row number is the key; or a mapping from space
                to one of these. Nodes without a row get zeros.
            event_type: Column of small integers or of names.
            unit: What the numbers of `time` count ("s" if not given), or a pair (source, stored) such as ("s", "ms");
                timestamps keep their own unit if it is not given.
            budget: Memory to use beyond a few batches, such as "1GiB"; the rest goes to spill files in the lake's
                folder.
            directed: Whether an event is seen from its source only.
            version: The version to open, by default the newest; only without a source.

        Raises:
            DataError: If a column is missing or has a wrong type, or a row is bad; names the file, row and column.
            ConflictError: If another writer changed the log meanwhile.
            DiskFullError: If there is no room. In every case the log stays at its last version.
            UnknownNameError: If there is no source and no such log.

        Cost: one pass over the source, one external sort, and the tables' size written once; opening maps files.
        """
        from stepwell.storage.event_columns import EventColumns
        from stepwell.storage.ingest import ingest_events
        from stepwell.storage.stored import open_log
        from stepwell.storage.units import to_bytes

        if source is None:
            return open_log(self, name, version, budget_bytes=to_bytes(budget))
        columns = EventColumns(src, dst, time, features, label, event_type, unit)
        return ingest_events(self, name, source, columns, node_features=node_features, directed=directed, budget=budget)

    def append(
        self, name: str, source: Source, *, unit: str | tuple[str, str] | None = None, budget: str | int = "1GiB"
    ) -> EventLog:
        """Add late events to a log: a new version with each of them at its place in time.

        Behind an event of the same time comes what arrived later. Ids of nodes and events stay.

        Args:
            name: The log.
            source: The late events, in any order, with columns called as in the first ingest.
            unit: Unit of the late times, or a pair (source, stored); by default that of the first ingest.
            budget: As in `events`.

        Raises:
            DataError, ConflictError, DiskFullError: As `events`.

        Cost: one pass over the source and a sort of it, one over the log's own columns; features are not rewritten.
        """
        from stepwell.storage.ingest import append_events

        return append_events(self, name, source, unit=unit, budget=budget)

    def delete(self, name: str, event_ids: npt.ArrayLike) -> EventLog:
        """Delete events of a log: a new version without them; their rows stay in the table, with position -1.

        Args:
            name: The log.
            event_ids: Permanent ids of the events.

        Raises:
            InvalidValueError: If an id is unknown or deleted already.
            ConflictError, DiskFullError: As `events`.

        Cost: one pass over the log's own columns.
        """
        from stepwell.storage.ingest import delete_events

        return delete_events(self, name, event_ids)

    # Queries ----------------------------------------------------------------------------------------------------

    def sql(self, query: str, *, budget: str = "1GiB") -> pa.Table:
        """Run a DuckDB query over the lake and return its result.

        Every table is visible under its name (in double quotes if it has a `-`), an older version as `"name@3"`, and a
        side table as `name.part` or `"name.part"`.

        Args:
            query: One `select`.
            budget: DuckDB's memory limit; above it, it spills to the temporary folder.

        Raises:
            DataError: If DuckDB refuses the query.
        """
        rows, _ = query_rows(query, self, budget)
        return pa.Table.from_batches(rows.batches(), rows.schema)

    def diff(self, name: str, v1: int, v2: int) -> Diff:
        """Say what changed from version `v1` to `v2`: columns, rows, distributions of numbers.

        Cost: two passes over both versions.
        """
        connection = connect()
        try:
            return diff_tables(connection, self.table(name, v1), self.table(name, v2))
        finally:
            connection.close()

    # Lineage and cleaning ---------------------------------------------------------------------------------------

    def lineage(self, name: str) -> list[Lineage]:
        """Return where each version of a table comes from, oldest first; a dropped table is still remembered.

        Raises:
            UnknownNameError: If there never was such a table.
        """
        if name in self:
            return [
                Lineage(name, int(str(entry["version"])), Origin.from_json(text), delta.commit_time(entry))
                for entry in delta.history(self._place.open(name))
                if (text := delta.metadata_of(entry).get("origin"))
            ]
        every = Lineage.from_rows(self.table(TABLE).to_arrow()) if TABLE in self else []
        found = [entry for entry in every if entry.output == name]
        if not found:
            raise UnknownNameError("table", name, self.names())
        return found

    def drop(self, name: str) -> None:
        """Remove a table with all its versions, its side tables and its indexes. Its lineage is remembered.

        Raises:
            UnknownNameError: If there is no such table.
        """
        parts = [other for other in self._place.names() if other.startswith(f"{name}.")]
        for part in [*parts, name]:
            version = self.table(part).version
            self._place.remove(part)
            note(self._place, Lineage(part, version, Origin("drop", (Input(part, version),)), datetime.now(UTC)))

    def vacuum(self, name: str | None = None) -> int:
        """Drop old versions' files and return how many went.

        Spared: the newest version of each table, every version that the lineage of some version names as an input, and
        every version of a side table that a spared commit names.

        Args:
            name: One table with its side tables; None for all.

        Cost: reads the logs of all tables.
        """
        tables = self._place.names()
        names = [other for other in tables if name is None or other == name or other.startswith(f"{name}.")]
        if name is not None and name not in names:
            raise UnknownNameError("table", name, self.names())
        commits = {other: delta.history(self._place.open(other)) for other in tables}
        keep = spared(commits, {other: delta.newest_version(self._place.open(other)) for other in tables})
        dropped = 0
        for other in names:
            with delta.failures(other):
                dropped += delta.vacuum(self._place.open(other), keep[other])
        return dropped
