"""SQL over a lake: DuckDB sees the tables that a query names, at the versions it asks for, and nothing else of ours."""

from __future__ import annotations

import re
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote

import pyarrow as pa

from stepwell.core.errors import DataError, InvalidValueError
from stepwell.core.log import logger
from stepwell.storage.files import Rows, first_line
from stepwell.storage.lineage import Input
from stepwell.storage.table import Table

if TYPE_CHECKING:
    import duckdb

log = logger(__name__)


class Catalog(Protocol):
    """What a query looks its tables up in: a lake."""

    def names(self, *, all: bool = False) -> list[str]:
        """Return the tables' names; with `all` also those of side tables and of the lineage."""

    def table(self, name: str, version: int | None = None) -> Table:
        """Return one version of a table, by default the newest."""


def quoted(name: str) -> str:
    """Return a name as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'


def connect(budget: str = "1GiB") -> duckdb.DuckDBPyConnection:
    """Open DuckDB in memory with a memory limit; it spills to the temporary folder and downloads no extension."""
    import duckdb

    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": budget,
        "temp_directory": str(Path(tempfile.gettempdir()) / f"stepwell-sql-{uuid.uuid4().hex[:8]}"),
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "python_enable_replacements": "false",
        "asof_loop_join_threshold": 0,  # a stream's size is unknown: a nested loop over it would be quadratic
    }
    try:
        return duckdb.connect(config=settings)
    except duckdb.Error as error:
        raise InvalidValueError("budget", budget, "a size such as '512MiB' or '4GiB'") from error


def query_rows(query: str, catalog: Catalog, budget: str = "1GiB") -> tuple[Rows, list[Input]]:
    """Return a query's rows, to be read once, and the tables it reads with their versions.

    Raises:
        DataError: If DuckDB refuses the query, now or while it runs.
    """
    import duckdb

    connection = connect(budget)
    read = _register(connection, query, catalog)
    where = f"query {' '.join(query.split())[:60]!r}"
    try:
        relation = connection.sql(query)
        if relation is None:
            raise _refused(where, ValueError("it has no result"), catalog)
        reader = pa.RecordBatchReader.from_stream(relation)
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        raise _refused(where, error, catalog) from error

    def start(columns: list[str]) -> Iterator[pa.RecordBatch]:
        try:
            for batch in reader:
                yield batch.select(columns)
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            raise _refused(where, error, catalog) from error
        finally:
            connection.close()

    return Rows(where, reader.schema, start), read


def show(connection: duckdb.DuckDBPyConnection, view: str, table: Table) -> None:
    """Make a version visible under the name `view`.

    DuckDB reads local files itself, within its memory limit; a table that another program has partitioned, or whose
    files differ in their columns, goes through Arrow.
    """
    import duckdb

    files = [file.path for file in table.dataset.get_fragments()]
    root = Path(unquote(table.delta.table_uri.removeprefix("file://")))
    if files and root.is_dir() and not table.delta.metadata().partition_columns:
        paths = ", ".join("'" + str(root / file).replace("'", "''") + "'" for file in files)
        try:
            connection.execute(f"create view {quoted(view)} as from read_parquet([{paths}])").fetchall()
            if connection.table(quoted(view)).columns == table.schema.names:
                return
            connection.execute(f"drop view {quoted(view)}").fetchall()
        except duckdb.Error as error:
            log.info("%s is read through Arrow: %s", view, first_line(error))
    connection.register(view, table.dataset)


def _register(connection: duckdb.DuckDBPyConnection, query: str, catalog: Catalog) -> list[Input]:
    """Make the tables whose names stand in the query visible; return them with their versions."""
    read = []
    for name in catalog.names(all=True):
        found = set(re.findall(rf"(?<![\w.-]){re.escape(name)}(@\d+)?(?![\w@-])", query, re.IGNORECASE))
        for at in sorted(found):
            table = catalog.table(name, int(at[1:]) if at else None)
            show(connection, name + at, table)
            read.append(Input(name, table.version))
        if "." in name and "" in found:
            schema, _, part = name.partition(".")
            connection.execute(f"create schema if not exists {quoted(schema)}").fetchall()
            connection.execute(f"create view {quoted(schema)}.{quoted(part)} as from {quoted(name)}").fetchall()
    return read


def _refused(where: str, error: Exception, catalog: Catalog) -> DataError:
    known = ", ".join(catalog.names()) or "an empty lake"
    if "Out of Memory" in str(error):
        allowed = "what fits the budget with its spill files"
        return DataError(
            where, f"ran out of memory ({first_line(error)})", allowed, "pass a larger budget= or ask for less"
        )
    return DataError(
        where, f"was refused ({first_line(error)})", f"one DuckDB select over {known}", "correct the query"
    )
