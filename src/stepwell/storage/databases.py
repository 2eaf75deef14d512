"""Rows of databases and foreign table formats: SQL through ADBC, Delta and Iceberg tables, always as a stream."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from stepwell.core.errors import DataError, InvalidValueError, MissingExtraError
from stepwell.storage.files import Rows, first_line, must_exist, unreadable


@dataclass(frozen=True)
class SqlQuery:
    """The rows of a SQL query, read through ADBC as a stream.

    Args:
        uri: `postgresql://user:password@host/database`, `sqlite:///path/to/file`, or what `driver` understands.
        query: The query. Sort in the query if the order matters.
        driver: An ADBC driver's Python module (`adbc_driver_snowflake`), or None to tell it from `uri`.
    """

    uri: str = field(repr=False)
    query: str
    driver: str | None = None

    @property
    def where(self) -> str:
        """The database without its password, as errors name it."""
        return re.sub(r"//([^:/@]+):[^@]*@", r"//\1:***@", self.uri)


def sql_source(uri: str, query: str, *, driver: str | None = None) -> SqlQuery:
    """Name a query against PostgreSQL, SQLite or any database with an ADBC driver as a source of rows.

    Nothing is opened before the rows are read.

    Args:
        uri: `postgresql://user:password@host/database`, `sqlite:///path/to/file`, or what `driver` understands.
        query: The query. Sort in the query if the order matters.
        driver: An ADBC driver's Python module (`adbc_driver_snowflake`), or None to tell it from `uri`.

    Example:
        >>> sql_source("sqlite:///shop.db", "select user, item, at from orders").where
        'sqlite:///shop.db'
    """
    return SqlQuery(uri, query, driver)


def open_delta_source(source: str) -> Rows:
    """Open the newest version of a Delta table that any program wrote.

    Raises:
        DataError: If it is no Delta table, or one with features that the `deltalake` package cannot read.
    """
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    try:
        table = DeltaTable(source)
        schema = pa.schema(table.schema().to_arrow())
        num_rows = table.count()
    except (DeltaError, OSError) as error:
        raise unreadable(source, error, "a Delta table") from error

    def start(columns: list[str]) -> Iterator[pa.RecordBatch]:
        for batch in pa.RecordBatchReader.from_stream(table.scan(columns=columns)):
            yield batch.select(columns)

    return _typed(Rows(f"{source} (Delta version {table.version()})", schema, start, num_rows))


def open_iceberg(table: Any) -> Rows:
    """Open the current snapshot of a `pyiceberg` table."""
    schema = table.scan().to_arrow_batch_reader().schema.remove_metadata()

    def start(columns: list[str]) -> Iterator[pa.RecordBatch]:
        for batch in table.scan(selected_fields=tuple(columns)).to_arrow_batch_reader():
            yield batch.select(columns)

    return _typed(Rows(f"Iceberg table {'.'.join(table.name())}", schema, start))


def open_sql(source: SqlQuery) -> Rows:
    """Open a query: it is run once now for its columns, and once for each pass.

    Raises:
        DataError: If the database refuses the connection or the query.
        MissingExtraError: If the driver is not installed.
    """
    connection, error_type = _connect(source)
    with connection, connection.cursor() as cursor:
        try:
            cursor.execute(source.query)
            schema = cursor.fetch_record_batch().schema
        except error_type as error:
            raise _sql_error(source, error) from error

    def start(columns: list[str]) -> Iterator[pa.RecordBatch]:
        connection, error_type = _connect(source)
        with connection, connection.cursor() as cursor:
            try:
                cursor.execute(source.query)
                for batch in cursor.fetch_record_batch():
                    yield batch.select(columns)
            except (error_type, pa.ArrowException, OSError) as error:
                raise _sql_error(source, error) from error

    return _typed(Rows(source.where, schema, start))


def _connect(source: SqlQuery) -> tuple[Any, type[Exception]]:
    scheme = source.uri.partition(":")[0]
    known = {
        "postgresql": "adbc_driver_postgresql",
        "postgres": "adbc_driver_postgresql",
        "sqlite": "adbc_driver_sqlite",
    }
    name = source.driver or known.get(scheme)
    if name is None:
        raise InvalidValueError(
            "uri", source.where, "postgresql://... or sqlite:///..., or given with driver='adbc_driver_...'"
        )
    try:
        driver = importlib.import_module(f"{name}.dbapi")
    except ImportError as error:
        raise MissingExtraError("A SQL source", name, "sql") from error
    target = source.uri
    if name == "adbc_driver_sqlite":
        target = re.sub("^sqlite:(///|//)?", "", source.uri)
        must_exist(Path(target))
    try:
        return driver.connect(target), driver.Error
    except driver.Error as error:
        raise _sql_error(source, error) from error


def _sql_error(source: SqlQuery, error: Exception) -> DataError:
    problem = f"refused the query or the connection ({first_line(error)})"
    return DataError(
        source.where,
        problem,
        "a query that the database accepts",
        f"try it in the database's own shell: {source.query[:80]}",
    )


def _typed(rows: Rows) -> Rows:
    """Return the rows with extension types replaced by what they are stored as (JSON and UUID columns of databases)."""
    plain = pa.schema([(c.name, getattr(c.type, "storage_type", c.type)) for c in rows.schema])
    if plain.equals(rows.schema):
        return replace(rows, schema=plain)
    inner = rows.start

    def start(columns: list[str]) -> Iterator[pa.RecordBatch]:
        for batch in inner(columns):
            arrays = [a.storage if isinstance(a, pa.ExtensionArray) else a for a in batch.columns]
            yield pa.record_batch(arrays, names=columns)

    return replace(rows, schema=plain, start=start)
