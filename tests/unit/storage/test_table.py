"""One version of a table: read whole, by column, or as a stream; counted without reading."""

import numpy as np
import pyarrow as pa
import pytest

from stepwell.core.errors import DataError
from stepwell.storage.lake import open
from stepwell.storage.sources import open_source
from stepwell.storage.table import Table


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Table:
    lake = open(tmp_path_factory.mktemp("lake"))
    return lake.write(
        "numbers", {"x": np.arange(10_000), "y": np.arange(10_000) / 2, "s": np.array(["a", "b"] * 5_000)}
    )


def test_it_is_read_whole_or_by_column(table):
    assert table.to_arrow().num_rows == len(table) == 10_000
    assert table.to_arrow(["s"]).column_names == ["s"]
    assert sorted(table.to_arrow(["x"])["x"].to_pylist()) == list(range(10_000))
    assert table.to_pandas(["x", "y"]).shape == (10_000, 2)
    assert pytest.importorskip("polars") and table.to_polars(["s", "x"]).columns == ["s", "x"]


def test_a_missing_column_is_named_with_a_suggestion(table):
    with pytest.raises(DataError, match=r"numbers@0: has no column 'z'"):
        table.to_arrow(["z"])
    with pytest.raises(DataError, match="has no column"):
        list(table.batches(["xx"]))


def test_batches_hold_at_most_what_was_asked(table):
    sizes = [len(batch) for batch in table.batches(["x"], batch_rows=999)]
    assert sum(sizes) == 10_000
    assert max(sizes) == 999


def test_head_gives_some_rows_and_never_more(table):
    assert len(table.head()) == 5
    assert len(table.head(20_000)) == 10_000
    assert len(table.head(0)) == 0


def test_it_is_a_source_of_rows(table):
    rows = open_source(table, ["y"])
    assert (rows.where, rows.num_rows, rows.schema.types) == ("numbers@0", 10_000, [pa.float64()])
    assert sum(map(len, rows.batches())) == 10_000


def test_statistics_count_rows_and_bytes(table):
    statistics = table.statistics()
    assert statistics.num_rows == 10_000
    assert 17 <= statistics.row_bytes <= 24


def test_printing_names_version_rows_and_columns(table):
    assert repr(table) == "Table numbers@0: 10,000 rows\n  x  int64\n  y  double\n  s  string"


def test_an_empty_table_has_columns_and_no_rows(tmp_path):
    table = open(tmp_path).write("none", pa.schema([("a", pa.int64())]).empty_table())
    assert len(table) == len(table.to_arrow()) == len(table.head()) == 0
    assert table.schema.names == ["a"]


def test_a_table_is_a_view_that_later_writes_do_not_change(tmp_path):
    lake = open(tmp_path)
    first = lake.write("a", {"x": np.arange(3)})
    lake.write("a", {"x": np.arange(9)})
    assert (first.version, len(first), len(first.to_arrow())) == (0, 3, 3)
