"""Every kind of source gives the same rows, in order, with exact types; bad ones say what to do."""

import sqlite3
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import feather, parquet

from stepwell.core.errors import DataError, InvalidValueError, MissingExtraError
from stepwell.storage.sources import Rows, first_misfit, open_source, sql_source

TABLE = pa.table({"src": [3, 1, 2], "dst": ["b", "a", "a"], "time": [1.5, -2.0, 3.0]})


def read(source: object, columns: list[str] | None = None) -> pa.Table:
    rows = open_source(source, columns)
    return pa.Table.from_batches(rows.batches(), rows.schema)


def as_parquet(folder: Path) -> object:
    parquet.write_table(TABLE, folder / "t.parquet")
    return folder / "t.parquet"


def as_folder(folder: Path) -> object:
    (folder / "parts").mkdir()
    parquet.write_table(TABLE.slice(0, 2), folder / "parts" / "0.parquet")
    parquet.write_table(TABLE.slice(2), folder / "parts" / "1.parquet")
    return str(folder / "parts")


def as_glob(folder: Path) -> object:
    return as_folder(folder) + "/*.parquet"


def as_feather(folder: Path) -> object:
    feather.write_feather(TABLE, str(folder / "t.feather"))
    return folder / "t.feather"


def as_ipc_stream(folder: Path) -> object:
    with pa.ipc.new_stream(str(folder / "t.arrow"), TABLE.schema) as writer:
        writer.write_table(TABLE)
    return folder / "t.arrow"


def as_json_lines(folder: Path) -> object:
    lines = [
        '{"src": 3, "dst": "b", "time": 1.5}',
        '{"src": 1, "dst": "a", "time": -2.0}',
        '{"src": 2, "dst": "a", "time": 3}',
    ]
    (folder / "t.jsonl").write_text("\n".join(lines))
    return folder / "t.jsonl"


def as_csv(folder: Path) -> object:
    (folder / "t.csv").write_text("src,dst,time\n3,b,1.5\n1,a,-2\n2,a,3\n")
    return folder / "t.csv"


def as_delta(folder: Path) -> object:
    from deltalake import write_deltalake

    write_deltalake(folder / "delta", TABLE)
    return folder / "delta"


def as_sqlite(folder: Path) -> object:
    connection = sqlite3.connect(folder / "t.db")
    connection.execute("create table t (src integer, dst text, time real)")
    connection.executemany("insert into t values (?, ?, ?)", [tuple(row.values()) for row in TABLE.to_pylist()])
    connection.commit()
    connection.close()
    return sql_source(f"sqlite:///{folder / 't.db'}", "select * from t order by rowid")


def as_pandas(folder: Path) -> object:
    return TABLE.to_pandas()


def as_polars(folder: Path) -> object:
    return pytest.importorskip("polars").from_arrow(TABLE)


def as_dataset(folder: Path) -> object:
    from pyarrow import dataset

    return dataset.dataset(as_parquet(folder))


def as_duckdb(folder: Path) -> object:
    import duckdb

    connection = duckdb.connect()
    connection.register("t", TABLE)
    return connection.sql("select * from t")


def as_arrays(folder: Path) -> object:
    return {name: np.asarray(TABLE[name].to_pylist()) for name in TABLE.column_names}


KINDS = [
    as_parquet, as_folder, as_glob, as_feather, as_ipc_stream, as_json_lines, as_csv, as_delta, as_sqlite, as_pandas,
    as_polars, as_dataset, as_duckdb, as_arrays,
]  # fmt: skip


@pytest.mark.parametrize("make", KINDS)
def test_every_kind_of_source_gives_the_same_rows_twice(make, tmp_path):
    source = make(tmp_path)
    assert read(source).to_pylist() == TABLE.to_pylist()
    assert read(source, ["time", "src"]).to_pylist() == TABLE.select(["time", "src"]).to_pylist()


@pytest.mark.parametrize("make", KINDS)
def test_a_missing_column_is_named_with_a_suggestion(make, tmp_path):
    with pytest.raises(DataError, match=r"has no column 'tiem'.*did you mean 'time'"):
        open_source(make(tmp_path), ["src", "tiem"])


def test_a_reader_is_read_once_and_says_so_the_second_time():
    rows = open_source(TABLE.to_reader())
    assert sum(len(batch) for batch in rows.batches()) == 3
    with pytest.raises(DataError, match="was read to its end before"):
        list(rows.batches())


def test_an_iceberg_table_is_read_as_a_stream(tmp_path):
    pytest.importorskip("pyiceberg")
    from pyiceberg.catalog.sql import SqlCatalog

    catalog = SqlCatalog("test", uri=f"sqlite:///{tmp_path}/catalog.db", warehouse=f"file://{tmp_path}/warehouse")
    catalog.create_namespace("shop")
    table = catalog.create_table("shop.orders", schema=TABLE.schema)
    table.append(TABLE)
    assert read(table).to_pylist() == TABLE.to_pylist()
    assert read(table, ["dst"]).to_pylist() == TABLE.select(["dst"]).to_pylist()
    catalog.close()


def test_pyg_temporal_data_keeps_its_columns():
    data = pytest.importorskip("torch_geometric.data")
    import torch

    events = data.TemporalData(
        src=torch.tensor([0, 1]), dst=torch.tensor([2, 2]), t=torch.tensor([5, 6]), msg=torch.arange(6.0).reshape(2, 3)
    )
    table = read(events)
    assert table.column_names == ["src", "dst", "t", "msg"]
    assert table["msg"].to_pylist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.csv", b"", "is empty"),
        ("empty.parquet", b"", "is empty"),
        ("cut.parquet", b"PAR1" + b"x" * 50, "cannot be read as Parquet"),
        ("cut.feather", b"ARROW1" + b"x" * 50, "cannot be read as Arrow IPC"),
        ("torn.jsonl", b'{"a": 1}\n{"a": ', "cannot be read as JSON lines"),
        ("rows.xyz", b"1 2 3", "unknown extension .xyz"),
        ("cut.csv.gz", b"\x1f\x8b\x08\x00aaaa", "cannot be read as text"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path / name)
    assert name in str(caught.value)


def test_a_parquet_file_torn_in_its_middle_is_named_while_reading(tmp_path):
    path = tmp_path / "t.parquet"
    parquet.write_table(pa.table({"a": np.arange(50_000)}), path)
    content = bytearray(path.read_bytes())
    content[4:2004] = b"\xff" * 2000
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"t.parquet"):
        read(path)


def test_a_missing_file_names_its_likely_neighbour(tmp_path):
    as_csv(tmp_path)
    with pytest.raises(DataError, match=r"does not exist.*did you mean .*t\.csv"):
        open_source(tmp_path / "tt.csv")


def test_parquet_files_of_two_schemas_are_refused(tmp_path):
    parquet.write_table(pa.table({"a": [1]}), tmp_path / "0.parquet")
    parquet.write_table(pa.table({"a": ["x"]}), tmp_path / "1.parquet")
    with pytest.raises(DataError, match=r"1\.parquet: differs from 0\.parquet in column 'a'"):
        open_source(tmp_path)


def test_arrays_of_two_lengths_and_objects_without_rows_are_refused():
    with pytest.raises(DataError, match=r"lengths \{'a': 2, 'b': 3\}"):
        open_source({"a": np.arange(2), "b": np.arange(3)})
    with pytest.raises(DataError, match="no source of rows"):
        open_source(3)


def test_a_frame_with_a_column_of_mixed_types_is_refused():
    pandas = pytest.importorskip("pandas")
    with pytest.raises(DataError, match="mixed types"):
        open_source(pandas.DataFrame({"a": [1, "x"]}))


def test_the_first_value_of_a_wrong_type_is_found_with_its_row():
    rows = open_source({"time": np.array(["1", "2", "noon", "4"])})
    assert first_misfit(rows, "time", pa.int64()) == (2, "noon")
    assert first_misfit(rows, "time", pa.string()) is None


def test_a_sql_source_hides_the_password_and_names_the_missing_driver(tmp_path):
    source = sql_source("postgresql://me:secret@localhost/db", "select 1")
    assert source.where == "postgresql://me:***@localhost/db"
    assert "secret" not in repr(source)
    with pytest.raises(InvalidValueError, match="driver='adbc_driver_"):
        open_source(sql_source("oracle://me:secret@host/db", "select 1"))
    with pytest.raises(MissingExtraError, match=r"stepwell\[sql\]"):
        open_source(sql_source("oracle://host/db", "select 1", driver="no_such_driver"))


def test_a_refused_query_says_what_the_database_said(tmp_path):
    source = as_sqlite(tmp_path)
    with pytest.raises(DataError, match="no such table: absent"):
        open_source(sql_source(source.uri, "select * from absent"))


def test_a_source_streams_and_never_holds_all_rows():
    alive = []

    def start(columns):
        for i in range(50):
            alive.append(i)
            yield pa.record_batch({"a": np.full(10, i)})

    batches = Rows("generator", pa.schema([("a", pa.int64())]), start).batches()
    next(batches)
    assert len(alive) == 1
