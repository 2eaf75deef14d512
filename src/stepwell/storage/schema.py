"""What a lake can store: every column type either has a place in a Delta table or is refused with a way out.

Delta has no unsigned integers, no half floats and no nanoseconds, and would narrow some of them without a word. Here
a value either keeps its meaning exactly (uint32 becomes int64, float16 becomes float32) or the write fails naming
the row. What was converted is written into the commit's metadata.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from stepwell.core.errors import DataError
from stepwell.storage.files import Rows

_SIGNED = {pa.uint8(): pa.int16(), pa.uint16(): pa.int32(), pa.uint32(): pa.int64(), pa.uint64(): pa.int64()}
_PLAIN = {
    pa.float16(): pa.float32(),
    pa.date64(): pa.date32(),
    pa.large_string(): pa.string(),
    pa.large_binary(): pa.binary(),
}
_VIEWS = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary(), pa.null(): pa.string()}


def stored_type(where: str, column: pa.Field) -> pa.DataType:
    """Return the type in which a column is stored.

    Raises:
        DataError: If Delta has no type that keeps the values' meaning (times of day, durations, unions).
    """
    return _stored(where, column.name, column.type)


def _stored(where: str, name: str, kind: pa.DataType) -> pa.DataType:
    plain = {**_SIGNED, **_PLAIN, **_VIEWS}.get(kind)
    if plain is not None:
        return plain
    types = pa.types
    if types.is_dictionary(kind):
        return _stored(where, name, kind.value_type)
    if types.is_fixed_size_binary(kind):
        return pa.binary()
    if types.is_timestamp(kind):
        return pa.timestamp("us", "UTC" if kind.tz else None)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return pa.list_(_stored(where, name, kind.value_type))
    if types.is_struct(kind):
        return pa.struct([(inner.name, _stored(where, f"{name}.{inner.name}", inner.type)) for inner in kind])
    if types.is_time(kind) or types.is_duration(kind) or types.is_union(kind) or isinstance(kind, pa.ExtensionType):
        allowed = "integers, floats, decimals, text, bytes, dates, timestamps, lists and structs"
        raise DataError(f"{where}, column {name!r}", f"has the type {kind}", allowed, "cast it to int64 or text first")
    return kind


def conversions(where: str, schema: pa.Schema) -> dict[str, str]:
    """Return the columns whose stored type is another, with the type they had.

    Raises:
        DataError: If a column cannot be stored, or two columns have one name.
    """
    for name in schema.names:
        if schema.names.count(name) > 1:
            raise DataError(where, f"has the column {name!r} twice", "distinct column names", "rename one")
    return {c.name: str(c.type) for c in schema if not _same(stored_type(where, c), c.type)}


def _same(stored: pa.DataType, kind: pa.DataType) -> bool:
    alike = {pa.large_string(): pa.string(), pa.large_binary(): pa.binary(), **_VIEWS}
    return bool(stored.equals(kind) or alike.get(kind) == stored)


def storable(rows: Rows) -> Rows:
    """Return the rows with every column in its stored type; each value keeps its meaning or the pass fails.

    Raises:
        DataError: At once if a column's type has no place in a lake; in the pass if a value does not fit (an unsigned
            number above 2**63 - 1, a timestamp between two microseconds), naming the row.
    """
    target = pa.schema([pa.field(c.name, stored_type(rows.where, c)) for c in rows.schema])
    conversions(rows.where, rows.schema)

    def start(columns: list[str]) -> Iterator[pa.RecordBatch]:
        begin = 0
        for batch in rows.select(columns).batches():
            arrays = [fit(rows.where, name, batch.column(name), target.field(name).type, begin) for name in columns]
            yield pa.RecordBatch.from_arrays(arrays, schema=pa.schema([target.field(name) for name in columns]))
            begin += batch.num_rows

    return Rows(rows.where, target, start, rows.num_rows)


def fit(where: str, name: str, values: pa.Array, kind: pa.DataType, begin: int) -> pa.Array:
    """Cast without loss, or raise a `DataError` naming the first row that does not fit (`begin` is the array's row)."""
    if values.type.equals(kind):
        return values
    try:
        return values.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        for row, value in enumerate(values):
            try:
                value.cast(kind)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
                problem = f"holds {_show(value)} as {values.type}, which {kind} cannot hold"
                fix = (
                    "round it to microseconds"
                    if pa.types.is_timestamp(kind)
                    else f"cast the column to a type that fits {kind}"
                )
                raise DataError(
                    f"{where}, row {begin + row}, column {name!r}", problem, f"values that fit {kind}", fix
                ) from error
        problem = f"has the type {values.type}, which does not become {kind}"
        raise DataError(f"{where}, column {name!r}", problem, f"values of {kind}", "cast it first") from error


def _show(value: pa.Scalar) -> str:
    return str(pc.cast(value, pa.string())) if pa.types.is_timestamp(value.type) else str(value.as_py())


def compare_schemas(where: str, table: pa.Schema, found: pa.Schema) -> None:
    """Raise a `DataError` if rows of `found` cannot be appended to a table of schema `table` (order is free)."""
    fix = "rename or cast the columns, or write with mode='replace'"
    for column in table:
        if column.name not in found.names:
            raise DataError(where, f"lacks the column {column.name!r} of the table", ", ".join(table.names), fix)
        kind = found.field(column.name).type
        if not kind.equals(column.type):
            problem = f"has {kind} in column {column.name!r}"
            raise DataError(where, problem, f"{column.type}, as in the table", fix)
    extra = [name for name in found.names if name not in table.names]
    if extra:
        raise DataError(where, f"has the column {extra[0]!r}, which the table lacks", ", ".join(table.names), fix)
