"""Codecs as a step: fitted on training rows, exact about their errors, and no row lost without a reason."""

import numpy as np
import pyarrow as pa
import pytest

from stepwell.core.batch import Slice
from stepwell.core.errors import DataError, InvalidValueError, UnknownNameError
from stepwell.prepare import Preparation, compressed
from stepwell.prepare.compress import Tolerance
from stepwell.prepare.compressing import codec_rows
from stepwell.storage import open as open_lake


@pytest.fixture
def lake(tmp_path):
    lake = open_lake(tmp_path)
    rng = np.random.default_rng(0)
    x = rng.normal(size=3000)
    x[2999] = 40.0
    age = rng.integers(20, 60, 3000)
    kind = rng.choice([0.5, 1.5, 9.0], 3000)
    label = rng.integers(0, 2, 3000)
    lake.write("raw", {"id": np.arange(3000), "day": np.arange(3000), "x": x, "age": age, "kind": kind, "label": label})
    return lake


def test_values_come_back_within_the_declared_error_and_others_are_listed(lake):
    steps = Preparation(lake, "raw", key="id").split(time="day", test=2500)
    done = steps.compress("x", "age", "kind", tolerance={"x": Tolerance(0.01)}).commit("small")
    assert done.table.schema.names == ["_row", "id", "day", "label", "split", "codes"]
    rows = compressed(lake, "small")
    assert rows.names == ("x", "age", "kind")
    table = done.table.to_arrow()
    raw = lake.table("raw").to_arrow()
    place = table.column("id").to_numpy()
    found = rows.take(np.arange(len(rows)))
    exact = np.stack([raw.column(name).to_numpy()[place] for name in rows.names], 1)
    off = np.abs(found - exact).max(0)
    beyond = lake.sql("select s.id, b.column, b.value from small.beyond b join small s using (_row)").to_pylist()
    assert {(row["id"], row["column"]) for row in beyond} >= {(2999, "x")}
    assert all(row["id"] >= 2500 for row in beyond)
    listed = np.isin(place, [row["id"] for row in beyond])
    assert np.abs(found - exact)[~listed][:, 0].max() <= max(rows.error[0].max_abs, rows.fitted[0].step / 2) * 1.001
    assert off[1] == off[2] == 0
    assert rows.error[0].rmse <= 0.01 * raw.column("x").to_numpy()[:2500].std()
    assert len(compressed(lake, "small", split="train")) == 2500
    batch = rows.read(Slice(0, 0, 0, 5))
    assert np.array_equal(batch["label"], table.column("label").to_numpy()[:5])
    assert [row["bits"] for row in codec_rows(rows.declaration())] == [one.bits for one in rows.fitted]
    assert not steps.compress("x", "age", "kind", tolerance={"x": Tolerance(0.01)}).commit("small").made


def test_codecs_are_fitted_on_training_rows_only(lake):
    def codecs(test):
        steps = Preparation(lake, "raw", key="id").compress("x").split(time="day", test=test)
        return steps.commit(f"at{test}").reports, compressed(lake, f"at{test}").fitted[0]

    before = codecs(2500)[1]
    assert before.low + before.step * (2**before.bits - 1) < 10
    table = lake.table("raw").to_arrow()
    x = table.column("x").to_numpy().copy()
    x[2500:] *= 100
    lake.write("raw", table.set_column(table.schema.names.index("x"), "x", pa.array(x)))
    assert np.array_equal(codecs(2500)[1].low, before.low)


def test_a_missing_number_that_no_code_stands_for_is_quarantined(tmp_path):
    lake = open_lake(tmp_path)
    x = pa.array([1.0, 2.0, 4.0, 8.0] * 100 + [None, 3.0, 99.0])
    lake.write("raw", pa.table({"id": range(403), "day": range(403), "x": x}))
    base = Preparation(lake, "raw", key="id").split(time="day", test=400)
    done = base.compress("x", tolerance=Tolerance(0)).commit("small")
    assert dict(done.reports[-1].dropped) == {"compress: x missing": 1}
    assert len(done.table) == 402
    strict = base.compress("x", tolerance=Tolerance(0), beyond="quarantine").commit("strict")
    assert dict(strict.reports[-1].dropped) == {"compress: x missing": 1, "compress: beyond the codes": 2}
    assert sorted(lake.sql("select id from strict.quarantine").column("id").to_pylist()) == [400, 401, 402]
    whole = Preparation(lake, "raw", key="id").compress("x").commit("whole")
    assert len(whole.table) == 403
    assert np.isnan(compressed(lake, "whole").take(np.arange(403))).sum() == 1


def test_what_cannot_be_coded_is_refused(lake):
    base = Preparation(lake, "raw", key="id")
    with pytest.raises(UnknownNameError, match="y"):
        base.compress("y").commit("none")
    with pytest.raises(DataError, match="holds string"):
        base.split(by="id").compress("split").commit("none")
    with pytest.raises(InvalidValueError, match="beyond"):
        base.compress("x", beyond="drop")
    with pytest.raises(DataError, match="already"):
        base.compress("x").compress("age").commit("none")
    with pytest.raises(DataError, match="no training rows"):
        base.where("day < 0").compress("x").commit("none")
    with pytest.raises(DataError, match="holds no codes"):
        base.commit("plain")
        compressed(lake, "plain")
