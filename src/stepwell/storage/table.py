"""One version of a lake's table: an immutable view that reads what is asked, when it is asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import pyarrow as pa

from stepwell.core.batch import Batch, Slice
from stepwell.core.errors import MissingExtraError
from stepwell.core.plan import Statistics
from stepwell.storage.files import BATCH_ROWS, Rows
from stepwell.storage.rows import TableRows

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    from deltalake import DeltaTable
    from pyarrow.dataset import Dataset


class Table:
    """One version of a table; writing to the lake makes new versions and never changes this one.

    Row order is no property of a table: where order matters, it is a column.

    Args:
        name: The table's name in its lake.
        delta: The Delta table, opened at this version.

    Example:
        >>> lake = stepwell.storage.open(folder)
        >>> lake.write("orders", {"user": np.array([1, 2]), "price": np.array([9.5, 3.0])})
        Table orders@0: 2 rows
          user   int64
          price  double
    """

    def __init__(self, name: str, delta: DeltaTable) -> None:
        self.name = name
        self.version = int(delta.version())
        self.delta = delta

    @cached_property
    def dataset(self) -> Dataset:
        """The version's files as a pyarrow dataset; also the door to files that only this version has."""
        return self.delta.to_pyarrow_dataset()

    @cached_property
    def schema(self) -> pa.Schema:
        """The columns."""
        return self.dataset.schema.remove_metadata()

    @cached_property
    def num_rows(self) -> int:
        """How many rows there are; read from the log, not from the data."""
        return int(self.delta.count())

    @property
    def by_row(self) -> Literal[True]:
        """A row is the same whichever rows are read with it."""
        return True

    def __len__(self) -> int:
        return self.num_rows

    @property
    def rows(self) -> Rows:
        """The table as a source of rows."""
        return Rows(
            f"{self.name}@{self.version}", self.schema, lambda columns: self._scan(columns, BATCH_ROWS), self.num_rows
        )

    def batches(self, columns: Sequence[str] | None = None, batch_rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """Yield the rows in batches of at most `batch_rows`, in bounded memory.

        Raises:
            DataError: If a column is not there, with a suggestion.

        Cost: one pass over the asked columns; about two batches and one row group (16 MiB) in memory.
        """
        rows = self.rows if columns is None else self.rows.select(columns)
        return self._scan(rows.schema.names, batch_rows)

    def _scan(self, columns: list[str], batch_rows: int) -> Iterator[pa.RecordBatch]:
        from pyarrow.dataset import ParquetFragmentScanOptions

        # A dataset's own scan reads whole files ahead (0.7 GiB for wide rows); one row group at a time does not.
        options = ParquetFragmentScanOptions(pre_buffer=False, use_buffered_stream=True)
        pool = pa.system_memory_pool()
        for file in self.dataset.get_fragments():
            for group in file.split_by_row_group():
                for batch in group.to_batches(
                    schema=self.schema,
                    columns=columns,
                    batch_size=batch_rows,
                    fragment_scan_options=options,
                    memory_pool=pool,
                ):
                    if batch.num_rows:
                        yield batch

    def to_arrow(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Read the whole version into memory."""
        rows = self.rows if columns is None else self.rows.select(columns)
        return pa.Table.from_batches(rows.batches(), rows.schema)

    def to_pandas(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Read the whole version into a pandas frame."""
        try:
            import pandas  # noqa: F401 - pyarrow needs it, and our error names the extra
        except ImportError as error:
            raise MissingExtraError("Table.to_pandas", "pandas", "pandas") from error
        return self.to_arrow(columns).to_pandas()

    def to_polars(self, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Read the whole version into a Polars frame."""
        try:
            import polars
        except ImportError as error:
            raise MissingExtraError("Table.to_polars", "polars", "polars") from error
        return polars.DataFrame(self.to_arrow(columns))

    def head(self, count: int = 5) -> pa.Table:
        """Return some rows, not the first ones in any sense."""
        batches: list[pa.RecordBatch] = []
        missing = count
        for batch in self.batches(batch_rows=max(1, count)):
            batches.append(batch.slice(0, missing))
            missing -= len(batches[-1])
            if missing <= 0:
                break
        return pa.Table.from_batches(batches, self.schema)

    @cached_property
    def row_index(self) -> TableRows:
        """Random access to the rows, out of core; built beside the lake at first use, in 256 MiB of memory."""
        from stepwell.storage.derived import index_root
        from stepwell.storage.row_index import open_or_build_rows, rows_folder

        lake = self.delta.table_uri.rstrip("/").rpartition("/")[0]
        folder = rows_folder(index_root(lake), self.name, self.version)
        return open_or_build_rows(self.batches(), self.schema, folder, where=f"{self.name}@{self.version}")

    def read(self, slice: Slice) -> Batch:
        """Return the rows of a slice, one field a column; rows are numbered in the order of the scan."""
        return self.row_index.read(slice)

    def statistics(self) -> Statistics:
        """Return what a cost model wants to know; without a row index, the row's size is that of 1,024 sampled rows."""
        if "row_index" in self.__dict__:
            return self.row_index.statistics()
        sample = self.head(1024)
        return Statistics(num_rows=len(self), row_bytes=sample.nbytes // max(1, len(sample)))

    def __repr__(self) -> str:
        width = max((len(name) for name in self.schema.names), default=0)
        lines = [f"  {column.name:<{width}}  {column.type}" for column in self.schema]
        more = [f"  ... {len(lines) - 20} more columns"] if len(lines) > 20 else []
        return "\n".join([f"Table {self.name}@{self.version}: {self.num_rows:,} rows", *lines[:20], *more])
