"""Row ids that belong to the source's key: a pure function of the table's name and the key's values.

Ingesting a file again, in another order or with more rows, gives every row the id it had. Without a key the whole
content of a row is its key. Rows that share a key get ids of their own by the order of their content, the first
keeping the plain one; so do two keys that meet in one 63-bit hash (once in 200,000 tables of ten million rows).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from stepwell.core.errors import DataError
from stepwell.prepare.step import ROW
from stepwell.storage import Table

Ids = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]

_FNV, _PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
_NULL, _TEXT, _NUMBER, _REAL = (np.uint64(kind) for kind in (0x6E756C6C, 0x74657874, 0x6E756D, 0x7265616C))


@numba.njit(cache=True, inline="always")
def _mixed(value: np.uint64) -> np.uint64:
    """Spread the bits of a word (the finaliser of splitmix64)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@numba.njit(cache=True, nogil=True)
def _add_words(state: Hashes, words: Hashes, kind: np.uint64) -> None:
    for i in range(len(state)):
        state[i] = _mixed(_mixed(state[i] ^ kind) + words[i])


@numba.njit(cache=True, nogil=True)
def _add_texts(state: Hashes, bounds: npt.NDArray[np.int64], data: npt.NDArray[np.uint8], kind: np.uint64) -> None:
    for i in range(len(state)):
        word = np.uint64(0xCBF29CE484222325)
        for place in range(bounds[i], bounds[i + 1]):
            word = (word ^ np.uint64(data[place])) * np.uint64(0x100000001B3)
        state[i] = _mixed(_mixed(state[i] ^ kind) + word)


def key_ids(source: str, columns: Sequence[pa.Array]) -> Ids:
    """Return one id a row, 0 to 2**63 - 1, equal for equal values of all columns.

    Integers of any width are equal if their values are; so are texts of any encoding in Arrow, and -0.0 and 0.0.

    Args:
        source: The name of the space that the key belongs to.
        columns: The key's columns, of one length.

    Cost:
        One pass; about 1 GB/s of text.
    """
    state = np.full(len(columns[0]), zlib.crc32(source.encode()), np.uint64)
    for column in columns:
        _add(state, column)
    found: Ids = (state >> np.uint64(1)).astype(np.int64)
    return found


def child_ids(parents: Ids, number: npt.ArrayLike) -> Ids:
    """Return ids of the `number`-th pieces of rows: functions of the row's id and the number."""
    state = np.ascontiguousarray(parents, np.int64).astype(np.uint64)
    words = np.ascontiguousarray(np.broadcast_to(np.asarray(number, np.int64), state.shape)).astype(np.uint64)
    _add_words(state, words, _NUMBER)
    found: Ids = (state >> np.uint64(1)).astype(np.int64)
    return found


def merged_ids(group: Ids, parents: Ids) -> tuple[Ids, Ids]:
    """Return the distinct groups and an id for each: a function of the set of its parents' ids.

    Args:
        group: The group of each parent.
        parents: The parents' ids.

    Cost:
        One sort.
    """
    order = np.lexsort((parents, group))
    groups, begin = np.unique(group[order], return_index=True)
    words = parents[order].astype(np.uint64)
    state = np.full(len(groups), _FNV, np.uint64)
    _fold(state, np.append(begin, len(order)).astype(np.int64), words)
    return groups, (state >> np.uint64(1)).astype(np.int64)


@numba.njit(cache=True, nogil=True)
def _fold(state: Hashes, bounds: npt.NDArray[np.int64], words: Hashes) -> None:
    for i in range(len(state)):
        for place in range(bounds[i], bounds[i + 1]):
            state[i] = _mixed(_mixed(state[i]) + words[place])


def with_ids(table: Table, key: Sequence[str] = ()) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a table with `_row` as first column; a table that has the column keeps it.

    Raises:
        DataError: If a column of the key is absent.

    Cost:
        Two passes over the key and one over the rows; 24 bytes of memory a row.
    """
    if ROW in table.schema.names:
        yield from table.batches()
        return
    ids = table_ids(table, key)
    begin = 0
    for batch in table.batches():
        own = pa.array(ids[begin : begin + len(batch)])
        begin += len(batch)
        yield pa.RecordBatch.from_arrays([own, *batch.columns], names=[ROW, *batch.schema.names])


def ids_schema(table: Table) -> pa.Schema:
    """Return the schema of `with_ids`."""
    names = table.schema.names
    return table.schema if ROW in names else pa.schema([pa.field(ROW, pa.int64()), *table.schema])


def table_ids(table: Table, key: Sequence[str] = ()) -> Ids:
    """Return the ids of a table's rows in the order of its scan."""
    columns = list(key) or table.schema.names
    parts = [key_ids(table.name, batch.columns) for batch in table.batches(columns)]
    ids = np.concatenate([*parts, np.empty(0, np.int64)])
    return distinct_ids(ids, lambda: (batch.columns for batch in table.batches()), table.name)


def distinct_ids(ids: Ids, contents: Callable[[], Iterable[Sequence[pa.Array]]], where: str) -> Ids:
    """Give rows of equal ids ids of their own, in the order of their content; the first keeps the plain id.

    Args:
        ids: Ids by key.
        contents: A function that starts a pass over the columns of the same rows, in batches.
        where: The table, for the message.

    Raises:
        DataError: If the new ids meet others (which asks for billions of rows).
    """
    ordered = np.sort(ids)
    if not (ordered[1:] == ordered[:-1]).any():
        return ids
    content = np.concatenate([key_ids("", columns) for columns in contents()])
    order = np.lexsort((content, ids))
    same = np.append(False, ids[order][1:] == ids[order][:-1])
    place = np.arange(len(ids))
    rank = place - np.maximum.accumulate(np.where(same, 0, place))
    found = ids.copy()
    again = order[rank > 0]
    found[again] = child_ids(ids[again], rank[rank > 0])
    if len(np.unique(found)) != len(found):
        raise DataError(where, "has rows whose ids meet", "distinct ids", "give a key that tells its rows apart")
    return found


def _add(state: Hashes, column: pa.Array) -> None:
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.dictionary_decode(), kind.value_type
    before = state.copy() if column.null_count else None
    if pa.types.is_floating(kind):
        reals = pc.fill_null(column, 0.0).cast(pa.float64()).to_numpy(zero_copy_only=False) + 0.0
        _add_words(state, np.ascontiguousarray(reals).view(np.uint64), _REAL)
    elif pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        filled = pc.fill_null(column, False if pa.types.is_boolean(kind) else 0)
        whole = filled.cast(pa.uint64() if kind == pa.uint64() else pa.int64()).to_numpy(zero_copy_only=False)
        _add_words(state, np.ascontiguousarray(whole).astype(np.uint64), _NUMBER)
    elif pa.types.is_temporal(kind) and not pa.types.is_interval(kind):
        _add_texts(state, *_texts(column.cast(pa.string())), _TEXT)
    else:
        _add_texts(state, *_texts(column), _TEXT)
    if before is not None:
        missing = np.asarray(column.is_null())
        before = before[missing]
        _add_words(before, np.zeros(len(before), np.uint64), _NULL)
        state[missing] = before


def _texts(column: pa.Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """Return bounds and bytes of a column of text; lists and structs are written out."""
    try:
        column = column.cast(pa.large_binary() if pa.types.is_fixed_size_binary(column.type) else pa.large_string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
            column = column.cast(pa.large_binary())
        else:
            column = pa.array(
                [None if value is None else repr(value) for value in column.to_pylist()], pa.large_string()
            )
    _, bounds, data = column.buffers()
    ends = np.frombuffer(bounds, np.int64)[column.offset : column.offset + len(column) + 1]
    return np.ascontiguousarray(ends), np.frombuffer(data, np.uint8) if data else np.empty(0, np.uint8)
