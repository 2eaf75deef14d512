"""Writers of a row index's files: one for each way to lay out a column, fed with record batches in order.

Scalars of one dtype lie side by side, lists of one length as a matrix, text and bytes as codes while their distinct
values are few, and as offsets and bytes otherwise. Every writer returns its columns and the size and hash of its files.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from stepwell.core.errors import DataError
from stepwell.storage.rows import RowColumn, column_stem, valid_file

MAX_CODES = 4096
"""A string column with more distinct values than this is kept as text."""


def writers_of(schema: pa.Schema, folder: Folder, where: str) -> list[Writer]:
    """Open a writer for each column of a schema; scalars of one dtype share one, and stand first.

    Args:
        schema: The columns.
        folder: Where their files go.
        where: The table's name, for messages.

    Raises:
        DataError: If a column has a type that no batch can hold.
    """
    scalars: dict[np.dtype[np.generic], list[str]] = {}
    writers: list[Writer] = []
    for field in schema:
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if pa.types.is_fixed_size_binary(kind):
            writers.append(_Matrix(folder, field, np.dtype(np.uint8), kind.byte_width, where))
        elif _is_list(kind) and (inner := _dtype(kind.value_type)) is not None:
            width = kind.list_size if pa.types.is_fixed_size_list(kind) else -1
            writers.append(_Matrix(folder, field, inner, width, where))
        elif _is_bytes(kind):
            writers.append(_Bytes(folder, field))
        elif (dtype := _dtype(kind)) is not None:
            scalars.setdefault(dtype, []).append(field.name)
        else:
            raise DataError(
                f"{where}, column {field.name!r}", f"no batch can hold type {field.type}",
                "numbers, booleans, dates, times, strings, binaries, lists of numbers of one length",
                "cast or drop the column before writing the table, or open the rows without it",
            )  # fmt: skip
    return [*(_Scalars(folder, dtype, names) for dtype, names in scalars.items()), *writers]


class Folder:
    """A folder of files being written; all are closed when it is.

    Args:
        path: The folder; it exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files: list[_File] = []

    def file(self, name: str, dtype: np.dtype[np.generic] | None, width: tuple[int, ...] = ()) -> _File:
        """Begin a file: `.npy` of rows of this dtype and width, or raw bytes if the dtype is None."""
        self._files.append(_File(self.path / name, dtype, width))
        return self._files[-1]

    def close(self) -> None:
        """Close all files, finished or not."""
        for file in self._files:
            file.close()


class _File:
    """One `.npy` or raw file, appended to; the header gets its row count at the end."""

    def __init__(self, path: Path, dtype: np.dtype[np.generic] | None, width: tuple[int, ...] = ()) -> None:
        self.path, self._dtype, self._width = path, dtype, width
        self._handle = path.open("wb")
        self._digest = hashlib.sha256()
        self.size_bytes = 0
        self._header(0)

    def _header(self, rows: int) -> None:
        if self._dtype is not None:
            self._handle.seek(0)
            descr = np.lib.format.dtype_to_descr(self._dtype)
            shape = (rows, *self._width)
            np.lib.format.write_array_header_1_0(self._handle, {"descr": descr, "fortran_order": False, "shape": shape})

    def add(self, data: npt.NDArray[np.generic]) -> None:
        raw = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        self._handle.write(raw.data)
        self._digest.update(raw.data)
        self.size_bytes += len(raw)

    def finish(self, rows: int) -> dict[str, tuple[int, str]]:
        self._header(rows)
        self._handle.close()
        return {self.path.name: (self.size_bytes, self._digest.hexdigest())}

    def close(self) -> None:
        self._handle.close()


class _Validity:
    """Which values of a column are there; its file appears with the first missing value."""

    def __init__(self, folder: Folder, column: str) -> None:
        self._folder, self._name, self._rows = folder, valid_file(column), 0
        self._file: _File | None = None

    @property
    def missing(self) -> bool:
        return self._file is not None

    def add(self, array: pa.Array) -> None:
        if array.null_count and self._file is None:
            self._file = self._folder.file(self._name, np.dtype(bool))
            self._file.add(np.ones(self._rows, bool))
        if self._file is not None:
            self._file.add(array.is_valid().to_numpy(zero_copy_only=False))
        self._rows += len(array)

    def finish(self, rows: int) -> dict[str, tuple[int, str]]:
        return self._file.finish(rows) if self._file is not None else {}


class _Scalars:
    """All scalar columns of one dtype, side by side."""

    def __init__(self, folder: Folder, dtype: np.dtype[np.generic], names: list[str]) -> None:
        self._dtype, self._names = dtype, names
        self._file = folder.file(f"scalar-{dtype.name}.npy", dtype, (len(names),))
        self._valid = {name: _Validity(folder, name) for name in names}

    def add(self, batch: pa.RecordBatch) -> None:
        block = np.empty((batch.num_rows, len(self._names)), self._dtype)
        for place, name in enumerate(self._names):
            array = batch.column(name)
            self._valid[name].add(array)
            block[:, place] = _numbers(array, self._dtype)
        self._file.add(block)

    def finish(self, rows: int) -> tuple[list[RowColumn], dict[str, tuple[int, str]]]:
        files = self._file.finish(rows)
        for valid in self._valid.values():
            files.update(valid.finish(rows))
        file = self._file.path.name
        columns = [
            RowColumn(name, "scalar", file, place, missing=self._valid[name].missing)
            for place, name in enumerate(self._names)
        ]
        return columns, files


class _Matrix:
    """A column of lists of one length, or of fixed-size binary; the first row says the length if the type does not."""

    def __init__(self, folder: Folder, field: pa.Field, dtype: np.dtype[np.generic], width: int, where: str) -> None:
        self._folder, self._name, self._dtype, self._where = folder, field.name, dtype, where
        self._width, self._rows = width, 0
        self._file: _File | None = None

    def add(self, batch: pa.RecordBatch) -> None:
        array = batch.column(self._name)
        if array.null_count:
            self._refuse(~array.is_valid().to_numpy(zero_copy_only=False), "the value is missing")
        if pa.types.is_fixed_size_binary(array.type):
            whole = np.frombuffer(array.buffers()[1], np.uint8)
            begin = array.offset * self._width
            found: npt.NDArray[np.generic] = whole[begin : begin + len(array) * self._width]
        else:
            lengths = pc.list_value_length(array).to_numpy(zero_copy_only=False)
            self._width = int(lengths[0]) if self._width < 0 else self._width
            if (lengths != self._width).any():
                self._refuse(lengths != self._width, "the list has another length")
            found = _numbers(array.flatten(), self._dtype)
        self._open().add(found)
        self._rows += len(array)

    def _open(self) -> _File:
        if self._file is None:
            name, width = f"{column_stem(self._name)}.npy", max(0, self._width)
            self._file = self._folder.file(name, self._dtype, (width,))
        return self._file

    def _refuse(self, bad: npt.NDArray[np.bool_], problem: str) -> None:
        raise DataError(
            f"{self._where}, column {self._name!r}, row {self._rows + int(np.flatnonzero(bad)[0])}",
            problem,
            f"{self._width} values in every row" if self._width >= 0 else "lists of one length",
            "fill, cut or drop such rows before writing the table, or open the rows without the column",
        )

    def finish(self, rows: int) -> tuple[list[RowColumn], dict[str, tuple[int, str]]]:
        file = self._open()
        return [RowColumn(self._name, "matrix", file.path.name)], file.finish(rows)


class _Bytes:
    """A string or binary column: codes while its distinct values are few, offsets and bytes otherwise."""

    def __init__(self, folder: Folder, field: pa.Field) -> None:
        self._folder, self._name = folder, field.name
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        self._text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
        self._stem = column_stem(field.name)
        self._valid = _Validity(folder, field.name)
        self._codes: dict[str, int] = {}
        self._code_file: _File | None = None
        self._offset: _File | None = None
        self._blob: _File | None = None
        self._end = 0
        if self._text:
            self._code_file = folder.file(f"{self._stem}.codes.npy", np.dtype(np.int32))
        else:
            self._begin_ragged()

    def _begin_ragged(self) -> None:
        self._offset = self._folder.file(f"{self._stem}.offset.npy", np.dtype(np.int64))
        self._blob = self._folder.file(f"{self._stem}.bin", None)
        self._offset.add(np.zeros(1, np.int64))

    def add(self, batch: pa.RecordBatch) -> None:
        array = batch.column(self._name)
        self._valid.add(array)
        if self._code_file is not None:
            encoded = array if pa.types.is_dictionary(array.type) else pc.dictionary_encode(array)
            for value in encoded.dictionary.to_pylist():
                self._codes.setdefault(value, len(self._codes))
            if len(self._codes) <= MAX_CODES:
                own = [self._codes[value] for value in encoded.dictionary.to_pylist()]
                table = np.array([*own, -1], np.int32)
                self._code_file.add(table[pc.fill_null(encoded.indices, len(own)).to_numpy(zero_copy_only=False)])
                return
            self._respell()
        self._add_ragged(array)

    def _respell(self) -> None:
        """Turn the codes written so far into text: there are too many distinct values."""
        assert self._code_file is not None
        path, file, self._code_file = self._code_file.path, self._code_file, None
        file.finish(file.size_bytes // 4)
        self._begin_ragged()
        values = pa.array([*self._codes], pa.large_string())
        codes = np.load(path, mmap_mode="r") if file.size_bytes else np.zeros(0, np.int32)
        for begin in range(0, len(codes), 1 << 14):
            part = np.asarray(codes[begin : begin + (1 << 14)])
            self._add_ragged(values.take(pa.array(part, mask=part < 0)))
        self._codes = {}
        path.unlink()

    def _add_ragged(self, array: pa.Array) -> None:
        assert self._offset is not None
        assert self._blob is not None
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        array = pc.fill_null(
            array.cast(pa.large_string() if self._text else pa.large_binary()), "" if self._text else b""
        )
        _, offsets, data = array.buffers()
        cut = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
        self._offset.add(cut[1:] - cut[0] + self._end)
        if data is not None:
            self._blob.add(np.frombuffer(data, np.uint8)[cut[0] : cut[-1]])
        self._end += int(cut[-1] - cut[0])

    def finish(self, rows: int) -> tuple[list[RowColumn], dict[str, tuple[int, str]]]:
        files = self._valid.finish(rows)
        missing = self._valid.missing
        if self._code_file is not None:
            files.update(self._code_file.finish(rows))
            file, values = self._code_file.path.name, tuple(self._codes)
            return [RowColumn(self._name, "codes", file, values=values, missing=missing)], files
        assert self._offset is not None
        assert self._blob is not None
        files.update({**self._offset.finish(rows + 1), **self._blob.finish(rows)})
        return [RowColumn(self._name, "ragged", self._stem, text=self._text, missing=missing)], files


Writer = _Scalars | _Matrix | _Bytes


def _is_bytes(kind: pa.DataType) -> bool:
    t = pa.types
    return bool(t.is_string(kind) or t.is_large_string(kind) or t.is_string_view(kind) or t.is_binary(kind)
                or t.is_large_binary(kind) or t.is_binary_view(kind))  # fmt: skip


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _dtype(kind: pa.DataType) -> np.dtype[np.generic] | None:
    t = pa.types
    if t.is_boolean(kind):
        return np.dtype(bool)
    if t.is_integer(kind) or t.is_floating(kind):
        dtype: np.dtype[np.generic] = np.dtype(kind.to_pandas_dtype())
        return dtype
    if t.is_temporal(kind) and not t.is_interval(kind):
        return np.dtype(np.int32 if kind.bit_width == 32 else np.int64)
    if t.is_decimal(kind):
        return np.dtype(np.float64)
    return None


def _numbers(array: pa.Array, dtype: np.dtype[np.generic]) -> npt.NDArray[np.generic]:
    """Return an Arrow column as numbers; a missing one is NaN, or 0 where the type has none."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_temporal(array.type):
        array = array.view(pa.int32() if dtype.itemsize == 4 else pa.int64())
    elif pa.types.is_decimal(array.type):
        array = array.cast(pa.float64())
    if array.null_count:
        array = pc.fill_null(array, pa.scalar(float("nan") if dtype.kind == "f" else dtype.type(0).item(), array.type))
    return np.asarray(array.to_numpy(zero_copy_only=False))
