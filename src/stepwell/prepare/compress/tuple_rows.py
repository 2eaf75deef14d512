"""A whole table in tuple codes, mini-batch by mini-batch: a source whose batches a linear layer trains on as they are.

The rows are cut once into blocks of a mini-batch, and each block is coded on its own; an epoch takes the blocks in
another order (`ShuffledBlocks`). Rows should be shuffled before they are coded, as for any training in fixed batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from stepwell.core.batch import Batch, Ids, Slice
from stepwell.core.errors import InvalidValueError
from stepwell.core.plan import Statistics
from stepwell.prepare.compress.toc import Float32, TupleCodes


@dataclass(frozen=True)
class TupleRows:
    """Rows in blocks of tuple codes: a source for `Pipeline`; lossless.

    Batches have `codes`, a block as `TupleCodes`, and the columns that were kept as they are; only whole blocks can be
    read. `decoded` gives the rows as numbers, in any order.

    Args:
        blocks: The blocks; all but the last have `block_rows` rows.
        block_rows: Rows of a block.
        kept: Columns kept as they are, `[N]` each.

    Example:
        >>> source = TupleRows.of(np.eye(6, dtype=np.float32), 4, {"label": np.arange(6)})
        >>> batch = source.read(Slice(0, 1, 4, 6))
        >>> batch.codes.dense().argmax(1).tolist(), batch.label.tolist()
        ([4, 5], [4, 5])
    """

    blocks: tuple[TupleCodes, ...]
    block_rows: int
    kept: Mapping[str, npt.NDArray[np.generic]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        rows: npt.NDArray[np.generic],
        block_rows: int = 250,
        kept: Mapping[str, npt.NDArray[np.generic]] | None = None,
    ) -> TupleRows:
        """Code rows, numbers `[N, F]`, block by block.

        Args:
            rows: The rows.
            block_rows: Rows of a mini-batch.
            kept: Columns beside them, such as labels.

        Raises:
            InvalidValueError: If a number is not finite, a column has another length, or `block_rows < 1`.

        Cost:
            As `TupleCodes.of`, a block at a time.
        """
        if block_rows < 1:
            raise InvalidValueError("block_rows", block_rows, "at least 1")
        for name, column in (kept or {}).items():
            if len(column) != len(rows):
                raise InvalidValueError(f"kept[{name!r}]", f"{len(column)} values", f"{len(rows)}, one a row")
        blocks = tuple(TupleCodes.of(rows[at : at + block_rows]) for at in range(0, len(rows), block_rows))
        return cls(blocks, block_rows, dict(kept or {}))

    def __len__(self) -> int:
        return self.block_rows * (len(self.blocks) - 1) + len(self.blocks[-1]) if self.blocks else 0

    @property
    def nbytes(self) -> int:
        """Bytes at rest of codes and of the columns kept as they are."""
        return sum(block.nbytes for block in self.blocks) + sum(column.nbytes for column in self.kept.values())

    def take(self, rows: Ids) -> Float32:
        """Return rows as they were, float32 `[B, F]`, in the order asked for."""
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            raise InvalidValueError("rows", (int(rows.min()), int(rows.max())), f"in [0, {len(self)})")
        width = self.blocks[0].width if self.blocks else 0
        out, block = np.empty((len(rows), width), np.float32), rows // self.block_rows
        for b in np.unique(block):
            here = np.flatnonzero(block == b)
            out[here] = self.blocks[b].dense(rows[here] - b * self.block_rows)
        return out

    def read(self, slice: Slice) -> Batch:
        """Return a block.

        Raises:
            InvalidValueError: If the slice is no block.
        """
        block, past = divmod(slice.begin, self.block_rows)
        if slice.rows is not None or past or slice.end != min(slice.begin + self.block_rows, len(self)):
            wanted = f"blocks of {self.block_rows} rows: ShuffledBlocks({self.block_rows}), or read `decoded`"
            raise InvalidValueError("slice", (slice.begin, slice.end), wanted)
        columns = {name: column[slice.begin : slice.end] for name, column in self.kept.items()}
        return Batch(slice, codes=self.blocks[block], **columns)

    def statistics(self) -> Statistics:
        """Return the number of rows and the bytes of one."""
        return Statistics(num_rows=len(self), row_bytes=self.nbytes // max(1, len(self)))

    @property
    def decoded(self) -> DecodedTuples:
        """The same rows as a source of numbers, decoded as they are gathered."""
        return DecodedTuples(self)


@dataclass(frozen=True)
class DecodedTuples:
    """Rows of tuple codes, decoded as they are gathered: batches have `x`, float32 `[B, F]`, and the kept columns.

    Args:
        coded: The rows.
    """

    coded: TupleRows

    @property
    def by_row(self) -> Literal[True]:
        """A row is the same whichever rows are read with it."""
        return True

    def __len__(self) -> int:
        return len(self.coded)

    def read(self, slice: Slice) -> Batch:
        """Return the rows of a slice, in its order."""
        rows = slice.rows if slice.rows is not None else np.arange(slice.begin, slice.end, dtype=np.int64)
        columns = {name: column[rows] for name, column in self.coded.kept.items()}
        return Batch(slice, x=self.coded.take(rows), **columns)

    def statistics(self) -> Statistics:
        """Return the number of rows and the bytes of one."""
        return self.coded.statistics()
