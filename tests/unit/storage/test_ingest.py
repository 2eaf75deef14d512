"""Ingest into the lake: what is accepted, what is refused and how, and what a version keeps."""

from __future__ import annotations

import resource
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stepwell.core.errors import DataError, InvalidValueError, UnknownNameError
from stepwell.storage import EventLog, Lake, open
from stepwell.storage.delta import ConflictError, DiskFullError
from stepwell.storage.derived import open_arrays

TEXT = """user,page,ts,x,y
bob,P2,30,0.5,1
ann,P1,10,1.5,0
bob,P1,30,2.5,0
cyd,P2,-5,3.5,1
"""
ENDS = {"src": ("user", "user"), "dst": ("page", "page"), "time": "ts"}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return open(tmp_path / "lake")


@pytest.fixture
def edits(tmp_path: Path) -> Path:
    path = tmp_path / "edits.csv"
    path.write_text(TEXT)
    return path


def leftovers(lake: Lake) -> list[Path]:
    return list(Path(lake.path).glob("_index/.*"))


def test_keys_are_numbered_space_by_space_and_events_by_time(lake, edits):
    log = lake.events("edits", edits, **ENDS, features=["x"], label="y")
    assert log.keys(np.arange(5)).tolist() == ["ann", "bob", "cyd", "P1", "P2"]
    assert log.node_type.tolist() == [0, 0, 0, 1, 1]
    assert log.time.tolist() == [-5, 10, 30, 30]
    assert log.src.tolist() == [2, 0, 1, 1]
    assert log.event_id.tolist() == [3, 1, 0, 2]
    assert log.event_feature[:, 0].tolist() == [3.5, 1.5, 0.5, 2.5]
    assert log.label.tolist() == [1, 0, 1, 0]
    assert "sorted" in log.notes[0]
    assert not leftovers(lake)


def test_the_tables_can_be_read_without_us(lake, edits):
    lake.events("edits", edits, **ENDS, features=["x"])
    rows = lake.sql("select e.position, n.key from edits e join edits.nodes n on n.node = e.src order by position")
    assert rows.column("key").to_pylist() == ["cyd", "ann", "bob", "bob"]


def test_nodes_are_found_by_the_users_keys(lake, edits):
    log = lake.events("edits", edits, **ENDS)
    assert log.nodes(["cyd", "nobody", "ann", "cyd"], "user").tolist() == [2, -1, 0, 2]
    assert log.nodes(["P2"], space="page").tolist() == [4]
    with pytest.raises(InvalidValueError, match="several key spaces"):
        log.nodes(["cyd"])
    with pytest.raises(UnknownNameError, match="Did you mean 'page'"):
        log.nodes(["P2"], space="pages")
    assert EventLog.from_arrays([0], [1], [5]).nodes([1, 7]).tolist() == [1, -1]


def test_plain_columns_share_one_key_space(lake):
    log = lake.events("calls", {"src": np.array([7, 3]), "dst": np.array([3, 7]), "time": np.array([1, 2])})
    assert log.keys([0, 1]).tolist() == [3, 7]
    assert log.src.tolist() == [1, 0] and log.node_type is None
    with pytest.raises(InvalidValueError, match="from 0 to 1"):
        log.keys([2])


def test_the_same_file_is_not_read_twice_and_a_changed_one_is(lake, edits):
    first = lake.events("edits", edits, **ENDS)
    assert lake.events("edits", edits, **ENDS).name == first.name == "edits@0"
    edits.write_text(TEXT + "dan,P3,99,0,0\n")
    assert len(lake.events("edits", edits, **ENDS)) == 5


def test_an_existing_log_opens_by_name_and_version(lake, edits):
    lake.events("edits", edits, **ENDS)
    lake.append("edits", edits)
    assert len(lake.events("edits")) == 8
    assert len(lake.events("edits", version=0)) == 4
    with pytest.raises(UnknownNameError, match="Did you mean 'edits'"):
        lake.events("edit")
    lake.write("plain", {"a": np.arange(2)})
    with pytest.raises(DataError, match="no event log"):
        lake.events("plain")


def test_deleting_the_index_only_costs_time(lake, edits):
    log = lake.events("edits", edits, **ENDS, features=["x"])
    before = log.index.event.tolist(), log.event_feature.tolist()
    shutil.rmtree(Path(lake.path) / "_index")
    log = lake.events("edits")
    assert (log.index.event.tolist(), log.event_feature.tolist()) == before


def test_a_torn_index_file_is_noticed_and_built_again(lake, edits):
    before = lake.events("edits", edits, **ENDS).index.event.tolist()
    (file,) = Path(lake.path).glob("_index/edits@0/tcsr-*/event.npy")
    file.write_bytes(file.read_bytes()[:-4])
    assert lake.events("edits").index.event.tolist() == before
    body = file.read_bytes()
    file.write_bytes(body[:-1] + b"\x07")
    with pytest.raises(DataError, match="checksum"):
        open_arrays(file.parent, verify=True)


def test_late_events_go_to_their_place_and_ids_stay(lake, edits):
    old = lake.events("edits", edits, **ENDS, features=["x"], label="y")
    _ = old.index
    new = lake.append(
        "edits", {"user": ["zoe", "ann"], "page": ["P1", "P0"], "ts": [30, 0], "x": [8.5, 9.5], "y": [0, 1]}
    )
    assert new.time.tolist() == [-5, 0, 10, 30, 30, 30]
    assert new.event_id.tolist() == [3, 5, 1, 0, 2, 4]
    assert new.event_feature[:, 0].tolist() == [3.5, 9.5, 1.5, 0.5, 2.5, 8.5]
    assert new.keys(np.arange(7)).tolist() == ["ann", "bob", "cyd", "P1", "P2", "zoe", "P0"]
    assert len(list(Path(lake.path).glob("_index/edits@1/tcsr-*"))) == 1
    assert old.time.tolist() == [-5, 10, 30, 30]
    assert len(lake.events("edits", version=0).index) == 8


def test_deleted_events_vanish_from_the_log_and_stay_as_tombstones(lake, edits):
    lake.events("edits", edits, **ENDS)
    log = lake.delete("edits", [1])
    assert log.event_id.tolist() == [3, 0, 2]
    assert lake.append("edits", edits).event_id.tolist() == [3, 7, 5, 0, 2, 4, 6]
    gone = lake.sql("select event_id from edits where position = -1")
    assert gone.column("event_id").to_pylist() == [1]
    with pytest.raises(InvalidValueError, match=r"\[1\]"):
        lake.delete("edits", [1, 3])


def test_what_a_failed_append_left_in_a_side_table_is_not_seen(lake, edits):
    log = lake.events("edits", edits, **ENDS, features=["x"])
    rows = pa.table({"event_id": [4], "feature": pa.array([[7.0]], pa.list_(pa.float32()))})
    lake.commit_table("edits.features", pa.RecordBatchReader.from_batches(rows.schema, rows.to_batches()), "append")
    log = lake.append("edits", edits)
    assert log.event_feature[log.event_id == 4].tolist() == [[0.5]]


def test_names_of_types_become_codes(lake):
    rows = {"src": [0, 1, 0], "dst": [1, 2, 2], "time": [1, 2, 3], "what": ["buy", "see", "buy"]}
    assert lake.events("shop", rows, event_type="what").event_type.tolist() == [0, 1, 0]
    late = {"src": [0], "dst": [1], "time": [9], "what": ["sell"]}
    assert lake.append("shop", late).event_type.tolist() == [0, 1, 0, 2]


def test_features_come_from_lists_and_from_files(lake, tmp_path):
    rows = {"src": np.array([0, 1]), "dst": np.array([1, 0]), "time": np.array([2, 1]), "msg": np.eye(2)}
    assert lake.events("a", rows, features="msg").event_feature.tolist() == [[0, 1], [1, 0]]
    np.save(tmp_path / "f.npy", np.array([[1.0], [2.0]]))
    del rows["msg"]
    assert lake.events("b", rows, features=tmp_path / "f.npy").event_feature.tolist() == [[2], [1]]
    np.save(tmp_path / "g.npy", np.zeros((3, 1)))
    with pytest.raises(DataError, match=r"g\.npy: has 3 rows for 2 events"):
        lake.events("c", rows, features=str(tmp_path / "g.npy"))
    assert "c" not in lake


def test_node_features_come_by_key_and_the_others_are_zero(lake, edits):
    given = {"user": {"user": ["cyd", "ann"], "age": [3, 1]}, "page": {"page": ["P1"], "size": [7]}}
    log = lake.events("edits", edits, **ENDS, node_features=given)
    assert log.node_feature[:, 0].tolist() == [1, 0, 3, 7, 0]
    rows = {"src": [2], "dst": [0], "time": [1]}
    log = lake.events("m", rows, node_features=np.array([[1.0], [2.0], [3.0]]))
    assert log.num_nodes == 3 and log.node_feature[:, 0].tolist() == [1, 2, 3]
    with pytest.raises(DataError, match="key 0 twice"):
        lake.events("n", rows, node_features={"node": {"key": [0, 0], "x": [1.0, 2.0]}})
    with pytest.raises(InvalidValueError, match="mapping from a key space"):
        lake.events("o", edits, **ENDS, node_features=np.eye(2))


def test_timestamps_keep_their_unit(lake):
    times = np.array(["2020-01-01T00:00:00.5", "2020-01-01T00:00:01"], dtype="datetime64[ms]")
    log = lake.events("t", pa.table({"src": [0, 1], "dst": [1, 0], "time": times}))
    assert np.diff(log.time).tolist() == [500] and log.seconds == 1e-3


GOOD = {"src": [0, 1, 2], "dst": [1, 2, 0], "time": [1.0, 2.0, 3.0], "x": [0.0, 1.0, 2.0]}


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ({}, {"time": "tme"}, "did you mean 'time'"),
        ({}, {"features": ["z"]}, "no column 'z'"),
        ({"src": [0.5, 1, 2]}, {}, "column 'src': has the type double. Allowed: integers or text"),
        ({"src": pa.array([0, None, 2])}, {}, "row 1, column 'src': has no key"),
        ({"time": pa.array([1, 2, None])}, {}, "row 2, column 'time': has no time"),
        ({"time": [1, float("nan"), 2]}, {}, "finite number .row 1"),
        ({"time": ["a", "b", "c"]}, {}, "column 'time': has the type string"),
        ({"time": [1.0, 1.25, 2]}, {}, r"row 1, column 'time': the time 1.25 .* pass unit=\('s', 'ms'\)"),
        ({"x": [0, 1, float("inf")]}, {"features": "x"}, "row 2: feature 0 is inf"),
        ({"x": pa.array([0, None, 1])}, {"features": ["x"]}, "row 1, column 'x': has no number"),
        ({"x": pa.array([[1.0], [1.0, 2.0], [1.0]])}, {"features": "x"}, "row 1, column 'x': has 2 features .* have 1"),
        ({"x": ["a", "b", "c"]}, {"features": "x"}, "numbers or lists|numbers for features"),
        ({"x": ["a", "b", "c"]}, {"label": "x"}, "for labels"),
        ({"src": [], "dst": [], "time": [], "x": []}, {}, "has no rows|has the type null"),
        ({}, {"unit": "sec"}, "No time unit named 'sec'"),
        ({}, {"budget": "lots"}, "`budget` must be"),
    ],
)
def test_bad_input_names_file_row_and_way_out_and_changes_nothing(lake, tmp_path, change, arguments, message):
    lake.events("log", GOOD)
    path = tmp_path / "bad.parquet"
    pq.write_table(pa.table({**GOOD, **change}), path)
    with pytest.raises((DataError, InvalidValueError, UnknownNameError), match=message):
        lake.events("log", path, **arguments)
    assert lake.events("log").name == "log@0"
    assert not leftovers(lake)


def test_a_late_batch_of_other_columns_is_refused(lake, edits):
    lake.events("log", GOOD, features=["x"])
    with pytest.raises(DataError, match="no column 'x'"):
        lake.append("log", {"src": [1], "dst": [1], "time": [1]})
    with pytest.raises(DataError, match="text keys"):
        lake.append("log", {"src": ["a"], "dst": ["b"], "time": [1], "x": [0.0]})
    with pytest.raises(InvalidValueError, match="stored in the log's unit"):
        lake.append("log", GOOD, unit="ms")


def test_the_second_of_two_writers_loses_and_says_so(lake, monkeypatch):
    lake.events("log", GOOD)
    commit = Lake.commit_table

    def overtaken(self, name, *arguments, **options):
        if name == "log":
            commit(self, name, pa.RecordBatchReader.from_batches(pa.schema([("x", pa.int64())]), []), "replace")
        return commit(self, name, *arguments, **options)

    monkeypatch.setattr(Lake, "commit_table", overtaken)
    with pytest.raises(ConflictError, match="another writer"):
        lake.append("log", GOOD)


@pytest.mark.parametrize("limit_bytes", [20_000, 150_000, 400_000])
def test_a_full_disk_is_said_and_the_log_stays_at_its_last_version(lake, limit_bytes):
    lake.events("log", GOOD)
    size = 30_000
    rows = {
        "src": np.arange(size),
        "dst": np.arange(size)[::-1].copy(),
        "time": np.arange(size),
        "x": np.ones((size, 4)),
    }
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, before[1]))
    try:
        with pytest.raises(DiskFullError, match="disk is full"):
            lake.events("log", rows, features="x")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(lake.events("log", version=0)) == 3
    assert not leftovers(lake)
    assert len(lake.events("log", rows, features="x")) == size


def test_a_log_survives_pandas_and_pyg(lake):
    torch = pytest.importorskip("torch")
    data = pytest.importorskip("torch_geometric.data")
    given = data.TemporalData(
        src=torch.tensor([0, 1]), dst=torch.tensor([2, 2]), t=torch.tensor([5, 6]), msg=torch.ones(2, 3)
    )
    log = lake.events("pyg", given, time="t", features="msg")
    assert log.to_pyg().msg.tolist() == given.msg.tolist()
    again = lake.events("pandas", log.to_pandas(), features=["f0", "f1", "f2"])
    assert again.src.tolist() == log.src.tolist() and isinstance(again, EventLog)
