"""Row ids belong to the key: they do not depend on order, batches, or what else is in the table."""

import numpy as np
import pyarrow as pa
import pytest

from stepwell.prepare.row_ids import child_ids, key_ids, merged_ids, table_ids
from stepwell.storage import open as open_lake


def test_equal_keys_have_equal_ids_whatever_their_arrow_type():
    small, large = pa.array([1, 2, None], pa.int8()), pa.array([1, 2, None], pa.int64())
    assert np.array_equal(key_ids("t", [small]), key_ids("t", [large]))
    text = pa.array(["a", None, "bc"])
    assert np.array_equal(key_ids("t", [text]), key_ids("t", [text.cast(pa.large_string())]))
    assert np.array_equal(key_ids("t", [text]), key_ids("t", [text.dictionary_encode()]))
    assert np.array_equal(key_ids("t", [text[1:]]), key_ids("t", [text])[1:])
    assert key_ids("t", [pa.array([0.0])])[0] == key_ids("t", [pa.array([-0.0])])[0]


def test_another_table_column_or_boundary_gives_another_id():
    a, b = pa.array(["ab"]), pa.array(["c"])
    ids = [
        key_ids("t", [a, b])[0],
        key_ids("u", [a, b])[0],
        key_ids("t", [b, a])[0],
        key_ids("t", [pa.array(["a"]), pa.array(["bc"])])[0],
        key_ids("t", [pa.array([1])])[0],
        key_ids("t", [pa.array(["1"])])[0],
        key_ids("t", [pa.array([None], pa.int64())])[0],
        key_ids("t", [pa.array([0])])[0],
    ]
    assert len(set(ids)) == len(ids)
    assert min(ids) >= 0


def test_a_million_keys_do_not_meet():
    assert len(np.unique(key_ids("t", [pa.array(np.arange(1_000_000))]))) == 1_000_000


def test_pieces_and_merged_rows_get_ids_from_their_parents():
    parents = key_ids("t", [pa.array([1, 2, 3])])
    pieces = np.concatenate([child_ids(parents, k) for k in range(3)])
    assert len(np.unique(np.concatenate([parents, pieces]))) == 12
    groups, ids = merged_ids(np.array([7, 7, 5]), parents)
    again = merged_ids(np.array([1, 0, 0]), parents[[2, 1, 0]])[1]
    assert groups.tolist() == [5, 7]
    assert ids.tolist() == again[::-1].tolist()


def test_rows_keep_their_ids_when_the_table_is_written_again_in_another_order(tmp_path):
    lake = open_lake(tmp_path)
    keys = np.arange(100)
    lake.write("t", {"id": keys, "x": keys * 2})
    first = dict(zip(keys.tolist(), table_ids(lake.table("t"), ["id"]).tolist(), strict=True))
    mixed = np.random.default_rng(0).permutation(120)
    lake.write("t", {"id": mixed, "x": mixed * 3})
    again = dict(zip(mixed.tolist(), table_ids(lake.table("t"), ["id"]).tolist(), strict=True))
    assert {key: again[key] for key in first} == first


@pytest.mark.parametrize("key", [["id"], []])
def test_rows_of_one_key_get_ids_by_their_content(tmp_path, key):
    lake = open_lake(tmp_path)
    table = pa.table({"id": [1, 1, 1, 2], "x": ["a", "b", "b", "a"]})
    lake.write("t", table)
    first = table_ids(lake.table("t"), key)
    order = [3, 2, 0, 1]
    lake.write("t", table.take(order))
    again = table_ids(lake.table("t"), key)
    assert len(set(first.tolist())) == 4
    assert sorted(first.tolist()) == sorted(again.tolist())
    by_content = {("a", 1): first[0], ("a", 2): first[3]}
    assert by_content == {("a", 1): again[2], ("a", 2): again[0]}
