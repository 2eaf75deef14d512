"""Batches that arrive once: from a lake table in the order of a column, an event log, coded rows, or any iterator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from stepwell.core.batch import Batch, Ids, Slice
from stepwell.core.errors import DataError, InvalidValueError, UnknownNameError
from stepwell.core.shapes import Source
from stepwell.storage import EventLog, Table


class Arrival(NamedTuple):
    """One batch of a stream.

    Args:
        x: Rows `[B, ...]`, float32.
        y: Labels `[B]`: int64 classes or float32 targets.
        row: Ids of the rows, int64 `[B]`.
    """

    x: torch.Tensor
    y: torch.Tensor
    row: Ids


Item: TypeAlias = "Batch | tuple[object, object] | tuple[object, object, object]"


class Arrivals:
    """A stream that can be read once more from any batch on: what a resume needs.

    Args:
        source: A lake table, an event log with features and labels, any source whose batches have `x` and `y`, or an
            iterable of batches, of `(x, y)`, or of `(x, y, row ids)`; its items are batches as they come.
        batch_rows: Rows of a batch; not for an iterable, whose items are the batches.
        columns: Number columns of a table; all but label, order and `_row` if None.
        label: Label column of a table.
        order: Column of a table that says what comes first; ties stay as read. None reads as stored, which is no order
            that a lake promises.

    Raises:
        InvalidValueError: If the source is none of these.
        DataError: When read: if labels or features are missing, or a number is not finite.

    Cost:
        Reads a batch at a time. With `order`, the column and one number a row are held, and the table's row index is
        built beside the lake at first use.
    """

    def __init__(
        self,
        source: Source | Iterable[Item],
        batch_rows: int = 500,
        *,
        columns: Sequence[str] | None = None,
        label: str | None = None,
        order: str | None = None,
    ) -> None:
        if batch_rows < 1:
            raise InvalidValueError("batch_rows", batch_rows, "at least 1")
        if not isinstance(source, Source | Iterable):
            raise InvalidValueError("source", type(source).__name__, "a table, an event log, a source or an iterable")
        self.source, self.batch_rows = source, batch_rows
        self.columns, self.label, self.order = columns, label, order
        self._turn: Ids | None = None

    def __len__(self) -> int:
        if isinstance(self.source, Source):
            return -(-len(self.source) // self.batch_rows)
        return len(self.source)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Arrival]:
        return self.after(0)

    def after(self, start: int) -> Iterator[Arrival]:
        """Yield the batches from number `start` on; an iterable is read, and left out, from its beginning."""
        if not isinstance(self.source, Source):
            begin = 0
            for index, item in enumerate(self.source):
                found = _arrival(item, begin, index)
                begin += len(found.row)
                if index >= start:
                    yield found
            return
        read = self._reader(self.source)
        for index in islice(range(len(self)), start, None):
            begin = index * self.batch_rows
            yield read(index, begin, min(len(self.source), begin + self.batch_rows))

    def _reader(self, source: Source) -> Callable[[int, int, int], Arrival]:
        if isinstance(source, EventLog):
            return partial(_events, source)
        if isinstance(source, Table):
            self._check_columns(source)
            if self.order is not None:
                key = source.row_index.read(Slice(0, 0, 0, len(source))).array(self.order)
                self._turn = np.argsort(key, kind="stable")
            return self._table
        return lambda index, begin, end: _arrival(source.read(Slice(0, index, begin, end)), begin, index)

    def _check_columns(self, table: Table) -> None:
        names = table.schema.names
        for name in (*(self.columns or ()), *((self.order,) if self.order else ()), self.label or ""):
            if name not in names:
                raise UnknownNameError("column", name, names)

    def _table(self, index: int, begin: int, end: int) -> Arrival:
        rows = np.arange(begin, end) if self._turn is None else self._turn[begin:end]
        batch = self.source.read(Slice(0, index, begin, end, rows))  # type: ignore[union-attr]
        label = str(self.label)
        names = self.columns or [
            name
            for name in batch
            if name not in (label, self.order, "_row")
            and isinstance(batch[name], np.ndarray)
            and not (name.endswith("_valid") and name.removesuffix("_valid") in batch)
        ]
        x = np.stack([batch.array(name).astype(np.float32) for name in names], 1)
        row = batch.array("_row") if "_row" in batch else rows
        return _checked(x, batch.array(label), row, f"batch {index}")


def _events(log: EventLog, index: int, begin: int, end: int) -> Arrival:
    if log.event_feature is None or log.label is None:
        raise DataError(
            "event log", "it has no features or no labels", "events with both", "name them when the log is read"
        )
    part = slice(log.begin + begin, log.begin + end)
    return _checked(log.event_feature[part], log.label[begin:end], log.event_id[begin:end], f"batch {index}")


def _arrival(item: object, begin: int, index: int) -> Arrival:
    """Return what an iterable or a source gave as a batch; rows without ids are numbered."""
    if isinstance(item, Batch):
        parts: tuple[object, ...] = (item["x"], item["y"], *((item["row"],) if "row" in item else ()))
    elif isinstance(item, tuple) and len(item) in (2, 3):
        parts = item
    else:
        raise InvalidValueError("source", type(item).__name__, "batches with x and y, or tuples (x, y[, row ids])")
    arrays = [part.numpy(force=True) if isinstance(part, torch.Tensor) else np.asarray(part) for part in parts]
    row = arrays[2] if len(arrays) > 2 else np.arange(begin, begin + len(arrays[0]))
    return _checked(arrays[0], arrays[1], row, f"batch {index}")


def _checked(
    x: npt.NDArray[np.generic], y: npt.NDArray[np.generic], row: npt.NDArray[np.generic], where: str
) -> Arrival:
    found = np.ascontiguousarray(x, np.float32)
    if len(found) != len(y) or len(found) != len(row):
        raise DataError(
            where, f"{len(found)} rows, {len(y)} labels, {len(row)} ids", "as many of each", "check the source"
        )
    for name, values in (("x", found), ("label", y)):
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            bad = int(np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(1))[0])
            raise DataError(
                f"{where}, row {bad} (id {row[bad]})", f"a number in {name} is missing or infinite", "finite numbers",
                "fill or quarantine such rows before they are learnt",
            )  # fmt: skip
    label = y.astype(np.float32 if y.dtype.kind == "f" else np.int64)
    writable = found if found.flags.writeable else found.copy()
    return Arrival(torch.from_numpy(writable), torch.from_numpy(label), row.astype(np.int64))
