"""The truth is ordinary Delta and Parquet: other readers see what we wrote, version by version, and we see theirs."""

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from stepwell.storage.lake import Lake, open


@pytest.fixture
def lake(tmp_path) -> Lake:
    lake = open(tmp_path)
    lake.write("events", {"src": np.array([1, 2], np.uint32), "feature": np.ones((2, 3), np.float32)})
    lake.write("events", {"src": np.array([5], np.uint32), "feature": np.ones((1, 3), np.float32)})
    return lake


def test_the_deltalake_package_reads_every_version(lake):
    assert sorted(DeltaTable(f"{lake.path}/events", version=0).to_pyarrow_table()["src"].to_pylist()) == [1, 2]
    assert DeltaTable(f"{lake.path}/events").to_pyarrow_table()["feature"].to_pylist() == [[1.0, 1.0, 1.0]]


def test_polars_reads_it(lake):
    polars = pytest.importorskip("polars")
    assert polars.read_delta(f"{lake.path}/events")["src"].to_list() == [5]


def test_duckdb_reads_its_files(lake):
    import duckdb

    paths = DeltaTable(f"{lake.path}/events").file_uris()
    assert duckdb.connect().sql(f"select src from read_parquet({paths!r})").fetchall() == [(5,)]


def test_a_commit_carries_its_origin_and_keeps_the_log_for_ever(lake):
    table = DeltaTable(f"{lake.path}/events")
    assert '"step": "write"' in table.history(1)[0]["stepwell.origin"]
    assert table.metadata().configuration["delta.enableExpiredLogCleanup"] == "false"
    assert table.metadata().configuration["delta.logRetentionDuration"] == "interval 36500 days"


def test_another_program_may_write_and_we_read_its_version(lake):
    write_deltalake(
        f"{lake.path}/events",
        pa.table({"src": [9], "feature": [[0.5]]}, schema=lake.table("events").schema),
        mode="append",
    )
    assert sorted(lake.table("events").to_arrow()["src"].to_pylist()) == [5, 9]
    last = lake.versions("events")[-1]
    assert (last.version, last.rows, last.step) == (2, 2, "")
    assert len(lake.lineage("events")) == 2


def test_a_table_made_by_another_program_joins_the_lake(lake):
    write_deltalake(f"{lake.path}/theirs", pa.table({"a": [1, 2, 3]}))
    assert lake.names() == ["events", "theirs"]
    assert lake.sql("select sum(a) as total from theirs").to_pylist() == [{"total": 6}]
    assert lake.vacuum() >= 1
