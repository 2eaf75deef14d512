"""The step that holds numbers in fewer bytes at a declared error, and how they are read back as what a model eats."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from stepwell.core.errors import DataError, InvalidValueError, UnknownNameError
from stepwell.kernels.codecs import FLOAT, LINE, pack_rows
from stepwell.prepare.commit import committed_fitted
from stepwell.prepare.compress import CompressedRows, Error, Tolerance, compress
from stepwell.prepare.compress import Fitted as FittedCodec
from stepwell.prepare.step import INPUT, ROW, SPLIT, Fitted, Keyed, Rows, Sees, Stream
from stepwell.storage import Lake

CODES = "codes"
KEPT = ("label", "label_prob", "weight")
"""Columns that are not coded unless they are named."""


@dataclass(frozen=True)
class Compress:
    """Put number columns into one binary column `codes`; each has the cheapest codec within its tolerance.

    Codecs are fitted on the training rows, and their bytes and exact errors there are kept with the data. A value that
    is further from its code than that (beyond all training values, say) is listed in the note `beyond`.

    Args:
        columns: Number columns; None for all but `label`, `label_prob` and `weight`.
        tolerance: What may be lost: for all columns, or by column; 1 % of a deviation where nothing is said.
        beyond: `"keep"` rows with such a value under its nearest code, or `"quarantine"` them. A row in which a number
            is missing that no code stands for is quarantined in any case.
    """

    columns: tuple[str, ...] | None = None
    tolerance: Tolerance | Mapping[str, Tolerance] = field(default_factory=Tolerance)
    beyond: Literal["keep", "quarantine"] = "keep"
    sees: Sees = field(default="row", init=False)
    fits: bool = field(default=True, init=False)
    others: Mapping[str, Keyed] = field(default_factory=dict, init=False)
    engines: tuple[str, ...] = field(default=("compress",), init=False)

    def __post_init__(self) -> None:
        if self.beyond not in ("keep", "quarantine"):
            raise InvalidValueError("beyond", self.beyond, "'keep' or 'quarantine'")
        if self.columns is not None and not self.columns:
            raise InvalidValueError("columns", self.columns, "at least one column, or None for all")

    @property
    def name(self) -> str:
        """The columns."""
        return f"compress {'all numbers' if self.columns is None else ', '.join(self.columns)}"

    def fit(self, train: Stream) -> Fitted:
        """Choose codecs. Cost: the coded columns of the training rows in memory, and what `choose` takes a column."""
        names = self._columns(train.schema)
        kept = train.schema.empty_table().select(names).schema
        table = pa.Table.from_batches((batch.select(names) for batch in train), kept)
        if not len(table):
            raise DataError(f"step {self.name}", "has no training rows to fit on", "at least one", "see .split(test=)")
        return Fitted({"codecs": compress(table, self.tolerance).declaration()})

    def apply(self, tables: Mapping[str, pa.Table], fitted: Fitted) -> Rows:
        """Code a batch."""
        table = tables[INPUT]
        known = _declared(str(fitted.values["codecs"]))
        values = {name: _numbers(table, name) for name in known.names}
        missing = {name: ~np.isfinite(column) for name, column in values.items()}
        lost = {name: missing[name] & (one.kind != FLOAT and one.name != "float16") for name, one in _by_name(known)}
        notes, far = self._beyond(table, known, values, lost)
        gone = np.logical_or.reduce([*lost.values(), far if self.beyond == "quarantine" else np.zeros_like(far)])
        filled = {name: np.where(lost[name], 0.0, column) for name, column in values.items()}
        codes = np.stack([one.encode(filled[name]) for name, one in _by_name(known)], axis=1)
        out = table.drop_columns(list(known.names)).append_column(CODES, _binary(pack_rows(codes, known.layout)))
        if not gone.any():
            return Rows(out, notes=notes)
        taken = table.filter(pa.array(gone))
        reason = [self._reason(lost, row) for row in np.flatnonzero(gone).tolist()]
        taken = taken.add_column(1, "reason", pa.array(reason, pa.string()))
        return Rows(out.filter(pa.array(~gone)), quarantine=taken, notes=notes)

    def _columns(self, schema: pa.Schema) -> list[str]:
        if CODES in schema.names:
            raise DataError(f"step {self.name}", f"finds a column {CODES!r} already", "no such column", "rename it")
        if self.columns is None:
            return [one.name for one in schema if one.name not in (ROW, *KEPT) and _is_number(one.type)]
        for name in self.columns:
            if name not in schema.names:
                raise UnknownNameError("column", name, schema.names)
            if not _is_number(schema.field(name).type):
                problem = f"is to code {name!r}, which holds {schema.field(name).type}"
                raise DataError(f"step {self.name}", problem, "numbers", "encode it first, or leave it out")
        return list(self.columns)

    def _beyond(
        self,
        table: pa.Table,
        known: CompressedRows,
        values: Mapping[str, npt.NDArray[np.float64]],
        lost: Mapping[str, npt.NDArray[np.bool_]],
    ) -> tuple[dict[str, pa.Table], npt.NDArray[np.bool_]]:
        """Return the cells that are further from their code than the codec says, and their rows."""
        parts, far = [], np.zeros(len(table), np.bool_)
        for (name, one), error in zip(_by_name(known), known.error, strict=True):
            given = np.where(lost[name], 0.0, values[name])
            decoded = one.decode(one.encode(given)).astype(np.float64)
            off = (np.abs(decoded - given) > _reach(one, error, given)) & ~lost[name] & np.isfinite(given)
            far |= off
            place = np.flatnonzero(off)
            column = pa.array([name] * len(place), pa.string())
            parts.append(
                pa.table([table.column(ROW).take(pa.array(place)), column, given[place], decoded[place]], _CELLS)
            )
        return {"beyond": pa.concat_tables(parts)}, far

    def _reason(self, lost: Mapping[str, npt.NDArray[np.bool_]], row: int) -> str:
        missing = [name for name, where in lost.items() if where[row]]
        return f"compress: {', '.join(missing)} missing" if missing else "compress: beyond the codes"


_CELLS = [ROW, "column", "value", "decoded"]


def compressed(lake: Lake, name: str, version: int | None = None, *, split: str = "") -> CompressedRows:
    """Return the rows of a table that a preparation compressed: a source for `Pipeline` that decodes as it gathers.

    Args:
        lake: The lake.
        name: The table.
        version: Its version; None for the newest.
        split: Only the rows of this part, such as `"train"`; "" for all.

    Returns:
        The rows, in the order of the table; its other number columns (`_row`, the label if it is one) are kept.

    Raises:
        UnknownNameError: If there is no such table.
        DataError: If no step of its preparation compressed it.

    Cost:
        The codes in memory.
    """
    table = lake.table(name, version)
    learnt = committed_fitted(lake, name, table.version)
    texts = [str(one.values["codecs"]) for _, one in sorted(learnt.items()) if "codecs" in one.values]
    if not texts or CODES not in table.schema.names:
        raise DataError(name, "holds no codes", "a table that .compress(...) was a step of", "add the step and commit")
    kept = [one.name for one in table.schema if _is_number(one.type) or pa.types.is_boolean(one.type)]
    parted = [SPLIT] if split else []
    rows = table.to_arrow([CODES, *parted, *kept])
    if split:
        rows = rows.filter(pc.equal(rows.column(SPLIT), split)).drop_columns([SPLIT])
    return CompressedRows.from_arrow(rows, texts[-1])


def codec_rows(declared: str) -> list[dict[str, str | int | float]]:
    """Return what is declared of each column: `column`, `codec`, `bits`, `rmse`, `max_abs_err`."""
    return [
        {"column": e["name"], **{k: e[k] for k in ("codec", "bits", "rmse", "max_abs_err")}}
        for e in json.loads(declared)
    ]


def _declared(text: str) -> CompressedRows:
    return CompressedRows.from_arrow(pa.table({CODES: pa.array([], pa.binary())}), text)


def _by_name(known: CompressedRows) -> list[tuple[str, FittedCodec]]:
    return list(zip(known.names, known.fitted, strict=True))


def _numbers(table: pa.Table, name: str) -> npt.NDArray[np.float64]:
    """Return a column as float64, NaN where it is null."""
    found = table.column(name).cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return np.asarray(found, np.float64)


def _reach(one: FittedCodec, error: Error, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return how far a value may be from its code: as far as training values were, and what rounding adds."""
    rounding = np.abs(values) * (2.0**-10 if one.name == "float16" else 2.0**-23)
    half = one.step * 0.5 if one.kind == LINE and error.max_abs > 0 else 0.0
    return np.asarray(max(error.max_abs, half) * (1 + 1e-6) + rounding, np.float64)


def _binary(packed: npt.NDArray[np.uint8]) -> pa.Array:
    width = pa.binary(packed.shape[1])
    return pa.Array.from_buffers(width, len(packed), [None, pa.py_buffer(np.ascontiguousarray(packed))]).cast(
        pa.binary()
    )


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))
