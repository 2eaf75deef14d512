"""One stream, whatever it comes in as, gives one log."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stepwell.storage import open

ROWS = {
    "src": np.array([3, 1, 3, 2]),
    "dst": np.array([9, 8, 8, 9]),
    "time": np.array([40, -10, 40, 20]),
    "a": np.array([0.5, 1.5, 2.5, 3.5]),
    "b": np.array([1, 0, 1, 0]),
}
TABLE = pa.table(ROWS)


def as_csv(folder: Path) -> object:
    lines = [",".join(ROWS), *(",".join(str(value) for value in row) for row in zip(*ROWS.values(), strict=True))]
    path = folder / "rows.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def as_gzip(folder: Path) -> object:
    path = folder / "rows.csv.gz"
    path.write_bytes(gzip.compress(Path(str(as_csv(folder))).read_bytes()))
    return str(path)


def as_parquet(folder: Path) -> object:
    pq.write_table(TABLE, folder / "rows.parquet", row_group_size=2)
    return folder / "rows.parquet"


def as_pandas(folder: Path) -> object:
    del folder
    return pytest.importorskip("pandas").DataFrame(ROWS)


def as_polars(folder: Path) -> object:
    del folder
    return pytest.importorskip("polars").DataFrame(ROWS)


def as_duckdb(folder: Path) -> object:
    duckdb = pytest.importorskip("duckdb")
    return duckdb.connect().read_parquet(str(as_parquet(folder)))


def as_lake_table(folder: Path) -> object:
    return open(folder / "other").write("rows", TABLE)


@pytest.mark.parametrize(
    "make", [as_csv, as_gzip, as_parquet, as_pandas, as_polars, as_duckdb, as_lake_table, lambda folder: ROWS]
)
def test_every_source_gives_the_same_log(tmp_path, make: Callable[[Path], object]):
    log = open(tmp_path / "lake").events("log", make(tmp_path), features=["a", "b"], label="b")
    assert log.time.tolist() == [-10, 20, 40, 40]
    assert log.keys(log.src).tolist() == [1, 2, 3, 3]
    assert log.keys(log.dst).tolist() == [8, 9, 9, 8]
    assert log.event_feature.tolist() == [[1.5, 0], [3.5, 0], [0.5, 1], [2.5, 1]]
    assert log.label.tolist() == [0, 0, 1, 1]
