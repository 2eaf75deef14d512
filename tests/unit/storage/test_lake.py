"""A lake keeps every version, answers SQL over all of them, knows where they come from, and spares what is used."""

import json
import logging

import numpy as np
import pyarrow as pa
import pytest

from stepwell.core.errors import DataError, InvalidValueError, UnknownNameError
from stepwell.storage.lake import ConflictError, Input, Lake, Origin, open


@pytest.fixture
def lake(tmp_path) -> Lake:
    return open(tmp_path / "lake")


def numbers(count: int) -> dict[str, np.ndarray]:
    return {"x": np.arange(count), "y": np.arange(count) / 2}


def test_a_folder_is_created_and_a_file_is_refused(tmp_path):
    assert open(tmp_path / "new" / "lake").names() == []
    assert (tmp_path / "new" / "lake").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="is a file"):
        open(tmp_path / "file")


def test_every_write_is_a_version_and_old_ones_stay(lake):
    lake.write("a", numbers(3))
    lake.write("a", numbers(2), mode="append", step="more")
    lake.write("a", {"z": np.array(["only"])}, step="anew")
    assert [(v.version, v.rows, v.operation, v.step, v.readable) for v in lake.versions("a")] == [
        (0, 3, "CREATE TABLE", "write", True),
        (1, 5, "WRITE", "more", True),
        (2, 1, "WRITE", "anew", True),
    ]
    assert lake.table("a").schema.names == ["z"]
    assert len(lake.table("a", version=1)) == 5
    assert lake.names() == ["a"]
    assert "a" in lake
    assert "a@0" not in lake


def test_unknown_names_and_versions_are_named_with_what_there_is(lake):
    lake.write("orders", numbers(1))
    with pytest.raises(UnknownNameError, match="Did you mean 'orders'"):
        lake.table("order")
    with pytest.raises(DataError, match=r"orders@7: does not exist. Allowed: 0"):
        lake.table("orders", version=7)
    for name in ("../up", "_lineage", "a b", "a.b", ""):
        with pytest.raises(InvalidValueError, match="name"):
            lake.write(name, numbers(1))
    with pytest.raises(UnknownNameError):
        lake.table("../up")


def test_mode_error_refuses_an_existing_table_and_a_wrong_mode_is_named(lake):
    lake.write("a", numbers(1), mode="error")
    with pytest.raises(DataError, match="exists already"):
        lake.write("a", numbers(1), mode="error")
    with pytest.raises(InvalidValueError, match="'replace', 'append' or 'error'"):
        lake.write("a", numbers(1), mode="upsert")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"x": np.arange(2)}, "lacks the column 'y'"),
        ({"x": np.arange(2), "y": np.arange(2)}, "int64 in column 'y'.*Allowed: double"),
        ({**numbers(2), "z": np.arange(2)}, "column 'z', which the table lacks"),
    ],
)
def test_rows_that_do_not_fit_are_not_appended(lake, rows, message):
    lake.write("a", numbers(3))
    with pytest.raises(DataError, match=message):
        lake.write("a", rows, mode="append")
    assert len(lake.table("a")) == 3


def test_appended_columns_may_come_in_another_order(lake):
    lake.write("a", numbers(1))
    lake.write("a", {"y": np.array([9.0]), "x": np.array([7])}, mode="append")
    assert lake.sql("select y from a where x = 7").to_pylist() == [{"y": 9.0}]


def test_sql_sees_every_table_every_version_and_side_tables(lake):
    lake.write("my-orders", numbers(3))
    lake.write("my-orders", numbers(5))
    lake.commit_table("wiki.nodes", pa.table({"node": [4]}).to_reader())
    lake.write("wiki", numbers(2))
    assert lake.sql('select count(*) as n from "my-orders"').to_pylist() == [{"n": 5}]
    assert lake.sql('select count(*) as n from "my-orders@0"').to_pylist() == [{"n": 3}]
    assert lake.sql('select n.node, "wiki.nodes".node as m from wiki.nodes as n, "wiki.nodes"').to_pylist() == [
        {"node": 4, "m": 4}
    ]
    assert lake.sql("select count(*) as n from WIKI").to_pylist() == [{"n": 2}]
    assert lake.sql("select output, version from _lineage order by output, version").to_pylist() == [
        {"output": "my-orders", "version": 0},
        {"output": "my-orders", "version": 1},
        {"output": "wiki", "version": 0},
        {"output": "wiki.nodes", "version": 0},
    ]
    with pytest.raises(DataError, match=r"was refused .*nothing.* over my-orders, wiki"):
        lake.sql("select * from nothing")
    with pytest.raises(InvalidValueError, match="512MiB"):
        lake.sql("select 1", budget="plenty")


def test_a_query_cannot_reach_python_variables(lake):
    secret = pa.table({"a": [1]})
    with pytest.raises(DataError, match="secret"):
        lake.sql("select * from secret")
    assert len(secret) == 1


def test_a_query_becomes_a_table_whose_lineage_names_what_it_read(lake):
    lake.write("a", numbers(4))
    lake.write("a", numbers(6))
    lake.write("b", 'select x * 2 as x from "a@0"', step="double", params={"factor": 2})
    (line,) = lake.lineage("b")
    assert line.origin.inputs == (Input("a", 0),)
    assert (line.origin.step, line.origin.parameters) == ("double", {"factor": 2})
    assert str(line) == "b@0 <- double <- a@0"
    assert lake.table("b").to_arrow()["x"].to_pylist() == [0, 2, 4, 6]
    assert lake.sql("select step, parameters from _lineage where output = 'b'").to_pylist() == [
        {"step": "double", "parameters": '{"factor": 2}'}
    ]


def test_inputs_are_tables_texts_or_outside_names(lake):
    table = lake.write("a", numbers(1))
    lake.write("a", numbers(2))
    lake.write("b", numbers(1), inputs=[table, "a@1", "a", "https://example.org/file.csv"])
    names = [str(entry) for entry in lake.lineage("b")[0].origin.inputs]
    assert names == ["a@0", "a@1", "a@1", "https://example.org/file.csv"]
    lake.write("c", table)
    assert lake.lineage("c")[0].origin.inputs == (Input("a", 0),)


def test_a_table_may_be_rewritten_from_itself(lake):
    lake.write("a", numbers(4))
    lake.write("a", "select * from a where x > 1")
    assert lake.table("a").to_arrow()["x"].to_pylist() == [2, 3]
    assert lake.lineage("a")[1].origin.inputs == (Input("a", 0),)


def test_diff_says_columns_rows_and_distributions(lake):
    lake.write("a", {"x": np.array([1, 2, 2]), "gone": np.arange(3), "kind": np.arange(3)})
    lake.write("a", {"x": np.array([2, 2, 2, 9]), "new": np.arange(4), "kind": np.array(list("abcd"))})
    diff = lake.diff("a", 0, 1)
    assert (diff.columns_added, diff.columns_removed) == (("new",), ("gone",))
    assert diff.columns_changed == (("kind", "int64", "string"),)
    assert (diff.rows, diff.rows_added, diff.rows_removed) == ((3, 4), 2, 1)
    (shift,) = diff.shifts
    assert (shift.column, shift.low, shift.high, shift.nulls) == ("x", (1.0, 2.0), (2.0, 9.0), (0, 0))
    assert "mean 1.66667 -> 3.75" in str(diff)
    assert lake.diff("a", 1, 1).rows_added == 0


def test_metadata_and_side_tables_are_hidden_until_asked_for(lake):
    version = lake.commit_table("a.nodes", pa.table({"n": [1]}).to_reader(), metadata={"note": "first"})
    assert lake.metadata("a.nodes", version)["note"] == "first"
    assert lake.names() == []
    assert lake.names(all=True) == ["_lineage", "a.nodes"]
    with pytest.raises(InvalidValueError, match="<name>"):
        lake.commit_table("_lineage", pa.table({"n": [1]}).to_reader())


def test_vacuum_spares_what_lineage_and_side_tables_refer_to(lake):
    for count in range(1, 5):
        lake.write("a", numbers(count))
        lake.commit_table("a.nodes", pa.table({"n": [count]}).to_reader())
    lake.write("b", 'select * from "a@1"')
    tables = json.dumps({"a.nodes": 2})
    last = lake.commit_table("a", pa.table({"x": [1]}).to_reader(), metadata={"tables": tables})
    assert lake.vacuum() == 5
    assert [v.version for v in lake.versions("a") if v.readable] == [1, last]
    assert [v.version for v in lake.versions("a.nodes") if v.readable] == [2, 3]
    assert len(lake.table("a", 1)) == len(lake.table("a", 1).to_arrow()) == 2
    assert lake.table("a.nodes", 2).to_arrow()["n"].to_pylist() == [3]
    with pytest.raises(DataError, match=r"a@0: was dropped by a vacuum. Allowed: 1, 4"):
        lake.table("a", 0)


def test_vacuum_adds_no_version_and_finds_nothing_the_second_time(lake):
    lake.write("a", numbers(1))
    lake.write("a", numbers(2))
    assert lake.vacuum("a") == 1
    assert lake.vacuum("a") == 0
    assert lake.table("a").version == 1
    assert lake.metadata("a")["origin"]
    assert lake.commit_table("a", pa.table({"x": [1]}).to_reader(), expected=1) > 1
    assert [v.rows for v in lake.versions("a")] == [1, 2, 1]


def test_drop_removes_the_table_its_parts_and_indexes_but_not_its_lineage(lake, tmp_path):
    lake.write("a", numbers(2), step="made")
    lake.commit_table("a.nodes", pa.table({"n": [1]}).to_reader())
    index = tmp_path / "lake" / "_index" / "a@0" / "tcsr"
    index.mkdir(parents=True)
    lake.write("ab", numbers(1))
    lake.drop("a")
    assert lake.names(all=True) == ["_lineage", "ab"]
    assert not index.exists()
    assert [line.origin.step for line in lake.lineage("a")] == ["made", "drop"]
    assert len(lake.write("a", numbers(1), mode="error")) == 1
    with pytest.raises(UnknownNameError):
        lake.drop("never")
    with pytest.raises(UnknownNameError):
        lake.lineage("never")


def test_a_stale_writer_gets_a_conflict_and_changes_nothing(lake):
    lake.write("a", numbers(1))
    with pytest.raises(ConflictError, match="another writer"):
        lake.commit_table("a", pa.table({"x": [1]}).to_reader(), expected=5)
    with pytest.raises(ConflictError):
        lake.commit_table("a", pa.table({"x": [1]}).to_reader(), expected=-1)
    assert lake.commit_table("new", pa.table({"x": [1]}).to_reader(), expected=-1) == 0
    assert lake.table("a").version == 0


def test_types_that_delta_lacks_are_widened_and_noted(lake, caplog):
    table = pa.table(
        {
            "u": pa.array([2**32 - 1], pa.uint32()),
            "h": pa.array(np.array([0.5], np.float16)),
            "d": pa.array(["x"]).dictionary_encode(),
            "f": pa.FixedSizeListArray.from_arrays(pa.array([1.0, 2.0]), 2),
            "t": pa.array([1_000], pa.timestamp("ns")),
        }
    )
    with caplog.at_level(logging.INFO, logger="stepwell"):
        stored = lake.write("a", table)
    assert stored.schema.types == [
        pa.int64(),
        pa.float32(),
        pa.string(),
        pa.list_(pa.field("element", pa.float64())),
        pa.timestamp("us"),
    ]
    assert stored.to_arrow().to_pylist()[0]["u"] == 2**32 - 1
    assert json.loads(lake.metadata("a")["types"])["u"] == "uint32"
    assert "stored with other types" in caplog.text


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([1, 2**63], pa.uint64()), r"row 1, column 'c': holds 9223372036854775808 as uint64"),
        (
            pa.array([0, 0, 1_001], pa.timestamp("ns")),
            r"row 2, column 'c': holds .*000001001 as timestamp\[ns\].*round it",
        ),
        (pa.array([5], pa.duration("s")), r"column 'c': has the type duration"),
    ],
)
def test_a_value_that_would_change_in_silence_is_refused_with_its_row(lake, column, message):
    with pytest.raises(DataError, match=message):
        lake.write("a", pa.table({"c": column}))
    assert lake.names() == []


def test_two_columns_of_one_name_are_refused(lake):
    with pytest.raises(DataError, match="the column 'x' twice"):
        lake.write("a", pa.table([pa.array([1]), pa.array([2])], names=["x", "x"]))


def test_origins_survive_as_text():
    origin = Origin("step", (Input("a", 3), Input("file.csv")), {"k": [1, None, "x"]}, "1.2.3")
    assert Origin.from_json(origin.to_json()) == origin


def test_printing_a_lake_says_where_and_what(lake):
    assert repr(lake).endswith("lake: empty")
    lake.write("a", numbers(1))
    assert repr(lake).endswith("lake: a")
