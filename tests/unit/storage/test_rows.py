"""The row index: the table's values, in any order, from memory maps."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.core import Slice
from stepwell.core.errors import DataError, InvalidValueError, UnknownNameError
from stepwell.storage import Codes, Ragged
from stepwell.storage.derived import index_root
from stepwell.storage.row_index import build_rows, open_or_build_rows, rows_folder
from stepwell.storage.row_writers import MAX_CODES

SCHEMA = pa.schema([
    ("a", pa.int64()), ("b", pa.float32()), ("c", pa.float32()), ("flag", pa.bool_()), ("day", pa.date32()),
    ("when", pa.timestamp("us")), ("kind", pa.dictionary(pa.int32(), pa.string())), ("text", pa.string()),
    ("raw", pa.binary()), ("vector", pa.list_(pa.float32(), 3)), ("pixels", pa.binary(4)),
])  # fmt: skip


def table(n, seed=0):
    rng = np.random.default_rng(seed)
    columns = [
        pa.array(rng.integers(-9, 9, n)), pa.array(rng.random(n), pa.float32()), pa.array(rng.random(n), pa.float32()),
        pa.array(rng.random(n) < 0.5), pa.array(rng.integers(0, 999, n), pa.int32()).cast(pa.date32()),
        pa.array(rng.integers(0, 10**15, n)).cast(pa.timestamp("us")),
        pa.array([["x", "y", "zed"][k] for k in rng.integers(0, 3, n)]).dictionary_encode(),
        pa.array([f"word{k}" * (k % 3) for k in rng.integers(0, 50, n)], pa.string()),
        pa.array([bytes(rng.integers(0, 256, k, np.uint8)) for k in rng.integers(0, 9, n)], pa.binary()),
        pa.FixedSizeListArray.from_arrays(pa.array(rng.random(3 * n), pa.float32()), 3),
        pa.array([bytes(rng.integers(0, 256, 4, np.uint8)) for _ in range(n)], pa.binary(4)),
    ]  # fmt: skip
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def built(batch, folder, **options):
    return build_rows([batch.slice(0, 7), batch.slice(7)], batch.schema, folder / "rows", where="t@0", **options)


def values(field):
    return field.tolist()


@settings(max_examples=15, deadline=None)
@given(n=st.integers(1, 40), data=st.data())
def test_rows_in_any_order_are_the_table_s_values(tmp_path_factory, n, data):
    batch = table(n, seed=n)
    rows = np.array(data.draw(st.lists(st.integers(0, n - 1), max_size=60)), np.int64)
    read = built(batch, tmp_path_factory.mktemp("lake")).read(Slice(0, 0, 0, len(rows), rows))
    taken = batch.take(pa.array(rows))
    for name in ("a", "b", "c", "flag", "kind", "text", "raw"):
        assert values(read[name]) == taken.column(name).to_pylist()
    assert read.array("day").tolist() == taken.column("day").cast(pa.int32()).to_pylist()
    assert read.array("when").tolist() == taken.column("when").cast(pa.int64()).to_pylist()
    assert read.array("vector").tolist() == taken.column("vector").to_pylist()
    assert [bytes(row) for row in read.array("pixels")] == taken.column("pixels").to_pylist()


def test_a_range_is_read_in_the_table_s_order(tmp_path):
    batch = table(30)
    read = built(batch, tmp_path).read(Slice(0, 0, 5, 12))
    assert read.array("a").tolist() == batch.column("a").to_pylist()[5:12]


def test_few_strings_become_codes_and_many_become_text(tmp_path):
    many = [f"id-{i}" for i in range(MAX_CODES + 10)]
    few = ["a", None, "b"] * len(many)
    batch = pa.record_batch({"many": many, "few": few[: len(many)]})
    rows = built(batch, tmp_path)
    read = rows.read(Slice(0, 0, 0, len(rows)))
    assert isinstance(read["few"], Codes)
    assert isinstance(read["many"], Ragged)
    assert values(read["few"]) == batch.column("few").to_pylist()
    assert values(read["many"]) == many
    assert read.array("few_valid").tolist() == [value is not None for value in few[: len(many)]]


def test_missing_values_are_nan_or_zero_and_said_so(tmp_path):
    batch = pa.record_batch({"i": pa.array([1] * 8 + [None]), "f": pa.array([None] + [0.5] * 8), "s": ["a"] * 9})
    read = built(batch, tmp_path).read(Slice(0, 0, 0, 9))
    assert read.array("i").tolist() == [1] * 8 + [0]
    assert np.isnan(read.array("f")[0])
    assert read.array("i_valid").tolist() == [True] * 8 + [False]
    assert read.array("f_valid").tolist() == [False] + [True] * 8
    assert "s_valid" not in read


def test_only_selected_columns_are_read(tmp_path):
    rows = built(table(9), tmp_path)
    assert set(rows.select(("c", "text")).read(Slice(0, 0, 0, 3))) == {"c", "text"}
    with pytest.raises(UnknownNameError, match="Did you mean 'text'"):
        rows.select(("txt",))


def test_an_empty_table_has_an_index_too(tmp_path):
    rows = build_rows([], SCHEMA, tmp_path / "rows", where="t@0")
    assert len(rows) == 0
    assert len(rows.read(Slice(0, 0, 0, 0)).array("a")) == 0


def test_a_type_that_no_batch_can_hold_is_refused_by_name(tmp_path):
    batch = pa.record_batch({"tags": [["a"], ["b", "c"]]})
    with pytest.raises(DataError, match=r"t@0, column 'tags'.*list<.*cast or drop"):
        build_rows([batch], batch.schema, tmp_path / "rows", where="t@0")
    assert not any(tmp_path.iterdir())


def test_a_missing_list_is_refused_with_its_row(tmp_path):
    batch = pa.record_batch({"v": pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2))})
    with pytest.raises(DataError, match="row 1"):
        build_rows([batch], batch.schema, tmp_path / "rows", where="t@0")


def test_lists_of_one_length_are_a_matrix_and_others_are_refused_with_their_row(tmp_path):
    lists = [[float(i), i + 0.5] for i in range(20)]
    batch = pa.record_batch({"v": lists})
    assert built(batch, tmp_path).read(Slice(0, 0, 0, 20)).array("v").tolist() == lists
    batch = pa.record_batch({"v": [*lists[:11], [1.0]]})
    with pytest.raises(DataError, match=r"row 11: the list has another length. Allowed: 2 values"):
        built(batch, tmp_path / "other")


def test_damage_is_found(tmp_path):
    rows = built(table(20), tmp_path)
    rows.verify()
    path = tmp_path / "rows" / "scalar-float32.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="checksum"):
        rows.verify()
    path.write_bytes(data[:-8])
    with pytest.raises(DataError, match="short"):
        rows.select(("a",))


def test_a_second_opening_scans_nothing(tmp_path):
    folder = rows_folder(index_root(str(tmp_path)), "t", 3)
    first = open_or_build_rows([table(9)], SCHEMA, folder, where="t@3")

    def never():
        raise AssertionError("scanned again")
        yield

    assert len(open_or_build_rows(never(), SCHEMA, folder, where="t@3")) == len(first)
    assert folder.parent.name == "t@3"


def test_a_budget_below_a_mebibyte_is_refused(tmp_path):
    with pytest.raises(InvalidValueError, match="budget_bytes"):
        build_rows([], SCHEMA, tmp_path / "rows", where="t@0", budget_bytes=1)


def test_a_killed_build_leaves_no_index(tmp_path):
    script = f"""
        import os, pathlib, signal
        import pyarrow as pa
        from stepwell.storage.row_index import build_rows
        def scan():
            yield pa.record_batch({{"a": [1, 2]}})
            os.kill(os.getpid(), signal.SIGKILL)
        build_rows(scan(), pa.schema([("a", pa.int64())]), pathlib.Path({str(tmp_path)!r}) / "rows", where="t@0")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    )
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "rows").exists()
    batch = pa.record_batch({"a": [1, 2]})
    assert len(build_rows([batch], batch.schema, tmp_path / "rows", where="t@0")) == 2


def test_more_data_than_the_budget_is_written_in_parts(tmp_path):
    batch = pa.record_batch({"v": pa.array(np.arange(1 << 20, dtype=np.int64))})
    rows = built(batch, tmp_path, budget_bytes=1 << 20)
    assert np.array_equal(rows.read(Slice(0, 0, 0, 1 << 20)).array("v"), np.arange(1 << 20))
