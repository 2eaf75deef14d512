"""Features of nodes on their way in: rows of a key and numbers, or a matrix whose row number is the key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stepwell.core.errors import DataError, InvalidValueError
from stepwell.storage.files import BATCH_ROWS, Rows
from stepwell.storage.sources import Source, open_source
from stepwell.storage.spill import check_batch_features, check_feature_file, check_keys


@dataclass(frozen=True)
class NodeSpill:
    """Checked node features.

    Args:
        folder: Where the files are.
        width: F, 0 if there are none.
        num_rows: Rows in all spaces.
    """

    folder: Path = Path()
    width: int = 0
    num_rows: int = 0

    @property
    def keys(self) -> Path:
        """Parquet of (row, type, key)."""
        return self.folder / "node_keys.parquet"

    def keys_of(self, space: int) -> Path:
        """Parquet of the keys of one space."""
        return self.folder / f"node_keys_{space}.parquet"

    @property
    def features(self) -> npt.NDArray[np.float32]:
        """The matrix, float32 `[num_rows, width]`, memory-mapped."""
        return np.memmap(self.folder / "node_features.f32", np.float32, "r", shape=(self.num_rows, self.width))


def spill_node_features(source: Source | None, spaces: tuple[str, ...], folder: Path, *, text: bool) -> NodeSpill:
    """Read and check node features once.

    Args:
        source: As `ingest_events` takes them.
        spaces: Names of the key spaces.
        folder: Where the spill goes.
        text: Whether the log's keys are text.

    Raises:
        DataError: At the first bad row.
        InvalidValueError: If the space is not clear.

    Cost: one pass; one batch in memory.
    """
    import pyarrow.parquet as pq

    if source is None:
        return NodeSpill()
    given = source if isinstance(source, Mapping) and set(source) <= set(spaces) else {spaces[0]: source}
    if len(spaces) > 1 and given.get(spaces[0]) is source:
        raise InvalidValueError(
            "node_features", type(source).__name__, f"a mapping from a key space ({', '.join(spaces)}) to its rows"
        )
    spill = NodeSpill(folder)
    kind = pa.string() if text else pa.int64()
    schema = pa.schema([("row", pa.int64()), ("type", pa.int16()), ("key", kind)])
    row, width = 0, 0
    with pq.ParquetWriter(spill.keys, schema) as keys, (folder / "node_features.f32").open("wb") as features:
        for code, space in enumerate(spaces):
            with pq.ParquetWriter(spill.keys_of(code), schema) as own:
                for key, matrix in _blocks(given[space], space, kind, width) if space in given else ():
                    if width and matrix.shape[1] != width:
                        problem = f"has {matrix.shape[1]} features where another space has {width}"
                        raise DataError(
                            f"node_features of {space!r}", problem, "one width for all spaces", "pad the narrower one"
                        )
                    width = matrix.shape[1]
                    arrays = [
                        pa.array(np.arange(row, row + len(key))),
                        pa.array(np.full(len(key), code, np.int16)),
                        key,
                    ]
                    keys.write_batch(pa.record_batch(arrays, schema=schema))
                    own.write_batch(pa.record_batch(arrays, schema=schema))
                    features.write(np.ascontiguousarray(matrix).data)
                    row += len(key)
    if not width:
        raise DataError(
            "node_features", "has no features", "at least one row with a key and a number", "leave the argument out"
        )
    return NodeSpill(folder, width, row)


def _blocks(
    source: object, space: str, kind: pa.DataType, width: int
) -> Iterator[tuple[pa.Array, npt.NDArray[np.float32]]]:
    if isinstance(source, str | Path) and str(source).endswith(".npy"):
        source = check_feature_file(str(source))
    if isinstance(source, np.ndarray):
        if source.ndim != 2 or source.dtype.kind not in "biuf" or not np.isfinite(source).all():
            raise InvalidValueError(
                "node_features", f"{source.dtype} {list(source.shape)}", "a matrix of finite numbers"
            )
        for begin in range(0, len(source), BATCH_ROWS):
            block = source[begin : begin + BATCH_ROWS].astype(np.float32)
            yield pa.array(np.arange(begin, begin + len(block))).cast(kind), block
        return
    rows = open_source(source)
    column = next((name for name in (space, "key", "node") if name in rows.schema.names), rows.schema.names[0])
    yield from _from_rows(rows, column, kind, width)


def _from_rows(
    rows: Rows, column: str, kind: pa.DataType, width: int
) -> Iterator[tuple[pa.Array, npt.NDArray[np.float32]]]:
    others = tuple(name for name in rows.schema.names if name != column)
    first = 0
    for batch in rows.batches():
        matrix = check_batch_features(rows.where, batch, first, others, width)
        width = matrix.shape[1]
        yield check_keys(rows.where, batch, first, column, kind), matrix
        first += batch.num_rows
