"""A source with its row stages already applied, kept within a byte budget: prepare a row once, gather it ever after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from stepwell.access.dense.stage import RowStage
from stepwell.buffer import CacheCounts, RowCache
from stepwell.core.batch import Batch, Ids, Slice
from stepwell.core.errors import PlanError
from stepwell.core.plan import Statistics
from stepwell.core.shapes import Source


class CachedRows:
    """Rows of a source after some row stages; what was computed once is kept while it fits.

    *Guarantee*: `read` gives what reading the source and applying the stages would give; only time and memory depend on
    the budget, and the memory stays below it.

    Args:
        source: A table, or any source of column fields.
        stages: Row stages (`Encode`, `Tokenise`, `DecodeImage`), in order. Every field that is left must then be an
            array with one row for each row of the source.
        budget_bytes: Bytes to keep, bookkeeping included (4 for each row of the source).

    Raises:
        InvalidValueError: If the budget is negative.
        PlanError: When read, if a field that is left is no array.

    Example::

        table = lake.table("mnist")
        rows = CachedRows(table, [DecodeImage("image", (28, 28))], budget_bytes=64 << 20)
        for batch in Pipeline(rows, Shuffled(256)): ...
    """

    def __init__(self, source: Source, stages: Sequence[RowStage] = (), *, budget_bytes: int) -> None:
        self.source, self.stages = source, tuple(stages)
        self._cache = RowCache(len(source), budget_bytes)

    @property
    def by_row(self) -> Literal[True]:
        """A row is the same whichever rows are read with it."""
        return True

    def __len__(self) -> int:
        return len(self.source)

    def __repr__(self) -> str:
        budget = self._cache.budget_bytes / 2**20
        return f"CachedRows({self.source!r}, {len(self.stages)} stages, {budget:.4g} MiB)"

    @property
    def counts(self) -> CacheCounts:
        """Hits, misses, rows and bytes held so far."""
        return self._cache.counts

    @property
    def resident(self) -> bool:
        """Whether every row is held, so that reading is a gather and nothing else."""
        return self._cache.counts.rows == len(self)

    def read(self, slice: Slice) -> Batch:
        """Return the rows of a slice with all stages applied."""
        rows = slice.rows if slice.rows is not None else np.arange(slice.begin, slice.end, dtype=np.int64)
        return Batch(slice, **self._cache.read(rows, lambda missing: self._compute(slice, missing)))

    def _compute(self, slice: Slice, rows: Ids) -> dict[str, npt.NDArray[np.generic]]:
        batch = self.source.read(Slice(slice.epoch, slice.index, 0, len(rows), rows))
        for stage in self.stages:
            batch = stage(batch)
        found: dict[str, npt.NDArray[np.generic]] = {}
        for name in batch:
            value = batch[name]
            if not isinstance(value, np.ndarray) or len(value) != len(rows):
                raise PlanError(
                    f"CachedRows cannot keep the field {name!r}: it is {type(value).__name__}. Allowed: arrays with "
                    "a row for each row of the source. Add the stage that encodes it (Encode, Tokenise, DecodeImage), "
                    "or read the table with select(columns) and leave it out."
                )
            found[name] = value
        return found

    def statistics(self) -> Statistics:
        """Return the source's statistics."""
        return self.source.statistics()
