"""A table of numbers in as few bytes as its declared error allows, read row by row like any source.

The codec of each column is chosen by the error that the user allows, the cheapest that keeps it; what it is, how many
bytes it takes and how far it is off, exactly, stand in the schema.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stepwell.core.batch import Batch, Ids, Slice
from stepwell.core.errors import DataError, InvalidValueError, UnknownNameError
from stepwell.core.plan import Statistics
from stepwell.core.shapes import Accuracy
from stepwell.kernels.codecs import LEVELS, Layout, decode_rows, make_layout, pack_rows
from stepwell.prepare.compress.codecs import Codec, Error, Fitted, Plain, codecs

Float32 = npt.NDArray[np.float32]
META = b"stepwell.codec"
_SAMPLE = 65_536
_LOSSLESS = ("bit-pack", "dictionary", "plain")


@dataclass(frozen=True, slots=True)
class Tolerance:
    """The error that a column may have: a codec must keep every limit that is given.

    Args:
        rmse: Root mean squared error at most, as a share of the column's standard deviation; 0 keeps what float32
            holds exactly.
        max_abs: Largest error at most, in the column's unit; None for no such limit.
    """

    rmse: float = 0.01
    max_abs: float | None = None

    def __post_init__(self) -> None:
        if not self.rmse >= 0:
            raise InvalidValueError("rmse", self.rmse, "at least 0")
        if self.max_abs is not None and not self.max_abs >= 0:
            raise InvalidValueError("max_abs", self.max_abs, "at least 0, or None")

    def allows(self, error: Error, deviation: float) -> bool:
        """Say whether an error keeps the limits."""
        return error.rmse <= self.rmse * deviation and (self.max_abs is None or error.max_abs <= self.max_abs)


def choose(values: npt.NDArray[np.generic], tolerance: Tolerance, candidates: Sequence[Codec] | None = None) -> Fitted:
    """Fit the cheapest codec that keeps a tolerance on a column, by bytes of codes and codebook together.

    Args:
        values: The column, all of it: the error is exact, not estimated.
        tolerance: What may be lost.
        candidates: Codecs to try; all known ones if None. The plain float is always there.

    Returns:
        The fitted codec; of equally cheap ones that with the smaller squared error.

    Cost:
        A few sorts of a sample of 65,536 values to rank the codecs, and one encoding of the column for each tried.
    """
    column = np.asarray(values)
    finite = np.isfinite(column.astype(np.float64))
    seen = column[finite]
    if not len(seen):
        return _fit(Plain(), column)
    deviation = float(seen.astype(np.float64).std())
    known = [codecs[name] for name in codecs] if candidates is None else [*candidates]
    if not finite.all():
        known = [codec for codec in known if codec.name in ("float16", "plain")]
    sample = seen if len(seen) <= _SAMPLE else seen[np.linspace(0, len(seen) - 1, _SAMPLE).astype(np.int64)]
    found = list[tuple[float, float, Fitted]]()
    for codec in known:
        fitted = codec.fit(sample)
        if fitted is not None:
            size = fitted.bits / 8 * len(column) + fitted.codebook_bytes
            found.append((size, fitted.error(sample).rmse, fitted))
    for _, _, fitted in sorted(found, key=lambda entry: entry[:2]):
        whole = fitted if sample is seen else codecs[fitted.name].fit(seen) if fitted.name in codecs else fitted
        if whole is not None and tolerance.allows(whole.error(column), deviation):
            return whole
    return _fit(Plain(), column)


def _fit(codec: Codec, values: npt.NDArray[np.generic]) -> Fitted:
    found = codec.fit(values)
    if found is None:
        raise DataError("column", f"codec {codec.name} cannot hold it", "another codec", "choose by tolerance instead")
    return found


@dataclass(frozen=True)
class CompressedRows:
    """Rows of coded numbers: a source for `Pipeline` that decodes as it gathers.

    Batches have `x`, float32 `[B, F]`, and the columns that were kept as they are (labels, ids), one field each.

    Args:
        names: The coded columns.
        fitted: Their codecs.
        error: Their exact errors, over all rows.
        packed: uint8 `[N, R]`.
        kept: Columns kept as they are, `[N]` each.
    """

    names: tuple[str, ...]
    fitted: tuple[Fitted, ...]
    error: tuple[Error, ...]
    packed: npt.NDArray[np.uint8]
    kept: Mapping[str, npt.NDArray[np.generic]]
    layout: Layout

    @property
    def by_row(self) -> Literal[True]:
        """A row is the same whichever rows are read with it."""
        return True

    @property
    def accuracy(self) -> Accuracy:
        """`same` if every column is exact, else `bounded`."""
        return "same" if all(error.max_abs == 0 for error in self.error) else "bounded"

    def __len__(self) -> int:
        return len(self.packed)

    @property
    def codebook_bytes(self) -> int:
        """Bytes of all codebooks."""
        return sum(fitted.codebook_bytes for fitted in self.fitted)

    @property
    def nbytes(self) -> int:
        """Bytes held: codes, codebooks, and the columns kept as they are."""
        return self.packed.nbytes + self.codebook_bytes + sum(column.nbytes for column in self.kept.values())

    def take(self, rows: Ids, out: Float32 | None = None) -> Float32:
        """Return rows of numbers, float32 `[B, F]`, gathered and decoded in one pass."""
        return decode_rows(self.packed, self.layout, rows, out)

    def read(self, slice: Slice) -> Batch:
        """Return the rows of a slice."""
        rows = slice.rows if slice.rows is not None else np.arange(slice.begin, slice.end, dtype=np.int64)
        return Batch(slice, x=self.take(rows), **{name: column[rows] for name, column in self.kept.items()})

    def statistics(self) -> Statistics:
        """Return the number of rows and the bytes of one."""
        return Statistics(num_rows=len(self), row_bytes=self.nbytes // max(1, len(self)))

    def to_arrow(self) -> pa.Table:
        """Return a table for the lake: one binary column of codes, its codecs, bytes and errors in the schema."""
        data = pa.Array.from_buffers(
            pa.binary(self.layout.row_bytes), len(self), [None, pa.py_buffer(np.ascontiguousarray(self.packed))]
        )
        entries = [
            {
                "name": name, "codec": one.name, "bits": one.bits, "kind": one.kind, "low": one.low, "step": one.step,
                "cuts": one.cuts.tolist(), "levels": [] if one.name == "float16" else one.levels.tolist(),
                "max_abs_err": error.max_abs, "rmse": error.rmse, "mae": error.mae,
                "bytes": one.bits / 8 * len(self) + one.codebook_bytes,
            }
            for name, one, error in zip(self.names, self.fitted, self.error, strict=True)
        ]  # fmt: skip
        field = pa.field("codes", pa.binary(), nullable=False, metadata={META: json.dumps(entries)})
        columns = {name: pa.array(column) for name, column in self.kept.items()}
        fields = [field, *(pa.field(name, array.type) for name, array in columns.items())]
        return pa.table([data.cast(pa.binary()), *columns.values()], schema=pa.schema(fields))

    @classmethod
    def from_arrow(cls, table: pa.Table, declared: str | None = None) -> CompressedRows:
        """Read back what `to_arrow` gave.

        Args:
            table: The table; row order as it is.
            declared: The JSON of the codecs, where a store kept no field metadata; that of the schema if None.

        Raises:
            DataError: If the table has no column of codes, or nothing says what they mean.
        """
        if "codes" not in table.column_names:
            raise UnknownNameError("column", "codes", table.column_names)
        meta = table.schema.field("codes").metadata or {}
        text = declared if declared is not None else meta.get(META, b"").decode()
        if not text:
            raise DataError(
                "column 'codes'", "nothing says what the codes mean", "field metadata 'stepwell.codec'",
                "pass `declared`, the JSON that `declaration()` returned",
            )  # fmt: skip
        entries = json.loads(text)
        fitted = tuple(_restore(entry) for entry in entries)
        error = tuple(Error(entry["max_abs_err"], entry["rmse"], entry["mae"]) for entry in entries)
        layout = layout_of(fitted)
        raw = table["codes"].combine_chunks()
        packed = np.frombuffer(b"".join(raw.to_pylist()), np.uint8).reshape(-1, layout.row_bytes)
        kept = {name: table[name].to_numpy() for name in table.column_names if name != "codes"}
        return cls(tuple(entry["name"] for entry in entries), fitted, error, packed, kept, layout)

    def declaration(self) -> str:
        """Return what the codes mean as JSON: for the metadata of a commit."""
        return str(self.to_arrow().schema.field("codes").metadata[META].decode())

    def __repr__(self) -> str:
        lines = [
            f"  {name}: {one.name}, {one.bits} bits, rmse {error.rmse:.3g}, largest error {error.max_abs:.3g}"
            for name, one, error in zip(self.names[:20], self.fitted, self.error, strict=False)
        ]
        more = [f"  ... {len(self.names) - 20} more columns"] if len(self.names) > 20 else []
        whole = 4 * len(self) * len(self.names)
        coded = self.packed.nbytes + self.codebook_bytes
        head = f"CompressedRows: {len(self):,} rows, {coded:,} bytes of codes and codebooks for {whole:,} as float32"
        return "\n".join([head, *lines, *more])


def compress(
    data: pa.Table | npt.NDArray[np.generic],
    tolerance: Tolerance | Mapping[str, Tolerance] | None = None,
    *,
    keep: Sequence[str] = (),
    codec: Codec | str | None = None,
) -> CompressedRows:
    """Code the number columns of a table, or a matrix, each by the cheapest codec within its tolerance.

    Args:
        data: A table, or numbers `[N, F]` (columns are then called 0, 1, ...).
        tolerance: What may be lost: for all columns, or by column (others then as by default, 1 % of a deviation).
        keep: Columns to keep as they are (labels, `_row`); text columns must be dictionary-coded or left out before.
        codec: One codec for all columns instead of a choice.

    Raises:
        DataError: If a column holds no numbers, or the given codec cannot hold it.

    Cost:
        See `choose`, once a column.
    """
    columns, kept = _columns(data, keep)
    given = tolerance if isinstance(tolerance, Mapping) else dict.fromkeys(columns, tolerance or Tolerance())
    for name in given:
        if name not in columns:
            raise UnknownNameError("column", name, columns)
    one = codecs[codec] if isinstance(codec, str) else codec
    fitted = tuple(
        _fit(one, values) if one is not None else choose(values, given.get(name, Tolerance()))
        for name, values in columns.items()
    )
    error = tuple(part.error(values) for part, values in zip(fitted, columns.values(), strict=True))
    layout = layout_of(fitted)
    codes = np.stack([part.encode(values) for part, values in zip(fitted, columns.values(), strict=True)], 1)
    return CompressedRows(tuple(columns), fitted, error, pack_rows(codes, layout), kept, layout)


def _columns(
    data: pa.Table | npt.NDArray[np.generic], keep: Sequence[str]
) -> tuple[dict[str, npt.NDArray[np.generic]], dict[str, npt.NDArray[np.generic]]]:
    if isinstance(data, np.ndarray):
        return {str(i): column for i, column in enumerate(data.reshape(len(data), -1).T)}, {}
    for name in keep:
        if name not in data.column_names:
            raise UnknownNameError("column", name, data.column_names)
    columns = dict[str, npt.NDArray[np.generic]]()
    for field in data.schema:
        if field.name in keep:
            continue
        if not (pa.types.is_integer(field.type) or pa.types.is_floating(field.type) or pa.types.is_boolean(field.type)):
            raise DataError(
                f"column {field.name!r}", f"it holds {field.type}", "numbers", "name it in `keep`, or leave it out"
            )
        columns[field.name] = data[field.name].to_numpy(zero_copy_only=False)
    return columns, {name: data[name].to_numpy(zero_copy_only=False) for name in keep}


def layout_of(fitted: Sequence[Fitted]) -> Layout:
    """Return the layout of a row of codes."""
    return make_layout(
        [one.kind for one in fitted],
        [one.bits for one in fitted],
        [one.low for one in fitted],
        [one.step for one in fitted],
        [one.levels for one in fitted],
        [one.cuts for one in fitted],
    )


def _restore(entry: Mapping[str, object]) -> Fitted:
    found = Fitted(
        str(entry["codec"]),
        int(str(entry["bits"])),
        int(str(entry["kind"])),
        float(str(entry["low"])),
        float(str(entry["step"])),
        np.array(entry["cuts"], np.float32),
        np.array(entry["levels"], np.float32),
    )
    if found.kind == LEVELS and found.name == "float16":
        half = codecs["float16"].fit(np.zeros(1))
        return replace(found, levels=half.levels) if half is not None else found
    return found
