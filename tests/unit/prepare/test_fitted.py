"""What is learnt comes from training rows alone, and splits share neither time nor groups."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from stepwell.core.errors import InvalidValueError, LeakError
from stepwell.prepare.fitted import Hash, Impute, Standard, Vocabulary
from stepwell.prepare.pipeline import Preparation
from stepwell.prepare.split import Split
from stepwell.prepare.step import Fitted
from stepwell.storage import open as open_lake


@pytest.fixture
def lake(tmp_path):
    lake = open_lake(tmp_path / "lake")
    rng = np.random.default_rng(5)
    n = 2000
    day = rng.integers(0, 100, n)
    price = np.where(day >= 80, 1000.0, rng.normal(3, 2, n))
    city = np.where(day >= 80, "late", rng.choice(["a", "b", "b", "c"], n))
    weight = pa.array([None if x < 0.2 else float(x) for x in rng.random(n)])
    who = rng.integers(0, 300, n)
    lake.write("raw", {"id": np.arange(n), "day": day, "price": price, "city": city, "weight": weight, "who": who})
    return lake


def learnt(lake, name):
    return json.loads(lake.sql(f"select values from {name}.fitted").column("values")[0].as_py())


def test_scalers_vocabularies_and_fills_come_from_the_training_period(lake):
    encoders = (Standard(("price",)), Vocabulary(("city",)), Impute(("weight",)))
    prepared = Preparation(lake, "raw", key="id").encode(*encoders).split(time="day", test=80).commit("clean")
    raw = lake.table("raw").to_arrow()
    train = raw.filter(pc.less(raw.column("day"), 80))
    values = learnt(lake, "clean")
    assert values["0"]["price"] == pytest.approx([np.mean(train["price"]), np.std(train["price"])])
    assert values["1"]["city"] == ["b", "a", "c"]
    assert values["2"]["weight"] == pytest.approx(np.median(train["weight"].drop_null()))
    rows = prepared.table.to_arrow()
    late = rows.filter(pc.equal(rows.column("split"), "test"))
    assert set(late.column("city").to_pylist()) == {0}
    assert pc.min(late.column("price")).as_py() > 100
    assert rows.column("weight").null_count == 0
    assert pc.sum(rows.column("weight_missing")).as_py() == raw.column("weight").null_count
    kept = rows.filter(pc.equal(rows.column("split"), "train")).column("price").to_numpy()
    assert (abs(kept.mean()), kept.std()) == pytest.approx((0, 1), abs=1e-5)


def test_the_future_does_not_change_what_is_learnt(lake):
    steps = Preparation(lake, "raw", key="id").encode(Standard(("price",)), Vocabulary(("city",)))
    steps.split(time="day", test=80).commit("one")
    raw = lake.table("raw").to_arrow()
    late = pc.greater_equal(raw.column("day"), 80)
    raw = raw.set_column(2, "price", pc.if_else(late, pc.multiply(raw.column("price"), -7.0), raw.column("price")))
    lake.write("raw", raw)
    steps = Preparation(lake, "raw", key="id").encode(Standard(("price",)), Vocabulary(("city",)))
    steps.split(time="day", test=80).commit("two")
    assert learnt(lake, "one") == learnt(lake, "two")


def test_a_fitted_step_of_the_users_own_gets_training_rows_only_and_may_not_peek(lake):
    def learn(train):
        assert pc.max(train.read().column("day")).as_py() < 80
        return Fitted({"least": pc.min(train.read().column("price")).as_py()})

    def shifted(batch, fitted):
        return batch.append_column("shifted", pc.subtract(batch.column("price"), fitted.values["least"]))

    def peeking(batch, fitted):
        return batch.append_column("shifted", pc.subtract(batch.column("price"), pc.min(batch.column("price"))))

    base = Preparation(lake, "raw", key="id").split(time="day", test=80)
    rows = base.fit(learn, shifted).commit("clean").table.to_arrow()
    train = rows.filter(pc.equal(rows.column("split"), "train"))
    assert pc.min(train.column("shifted")).as_py() == 0
    with pytest.raises(LeakError, match="fitted peeking"):
        base.fit(learn, peeking).commit("other")


def test_other_encoders_do_as_they_say(lake):
    steps = Preparation(lake, "raw", key="id").derive({"kind": "city", "copy": "price", "empty": "price * 0"})
    encoders = (Hash(("kind",), 16), Impute(("city",), "mode", indicator=False), Standard(("empty",)))
    rows = steps.encode(*encoders, Vocabulary(("who",), size=5, min_count=2)).commit("clean").table.to_arrow()
    assert 0 <= pc.min(rows["kind"]).as_py() <= pc.max(rows["kind"]).as_py() < 16
    pairs = {(kind, city) for kind, city in zip(rows["kind"].to_pylist(), rows["city"].to_pylist(), strict=True)}
    assert len(pairs) == len(set(rows["city"].to_pylist()))
    assert set(rows["who"].to_pylist()) == set(range(6))
    assert set(rows["empty"].to_pylist()) == {0.0}
    with pytest.raises(InvalidValueError, match="buckets"):
        Hash(("kind",), 0)


@pytest.mark.parametrize("by", [(), "who"])
def test_a_split_in_time_shares_neither_moments_nor_groups(lake, by):
    prepared = Preparation(lake, "raw", key="id").split(by=by, time="day", valid=60, test=80).commit("clean")
    rows = prepared.table.to_arrow().group_by("split").aggregate([("day", "min"), ("day", "max"), ("who", "distinct")])
    found = {row["split"]: row for row in rows.to_pylist()}
    assert set(found) == {"train", "valid", "test"}
    assert found["train"]["day_max"] < 60 <= found["valid"]["day_min"]
    assert found["valid"]["day_max"] < 80 <= found["test"]["day_min"]
    if by:
        groups = [set(found[part]["who_distinct"]) for part in ("train", "valid", "test")]
        assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
        assert "split: who also in a later part" in prepared.reports[-1].dropped
    assert prepared.reports[-1].rows_out + sum(prepared.reports[-1].dropped.values()) == 2000


def test_a_split_by_group_is_stable_when_rows_are_added(lake):
    steps = Preparation(lake, "raw", key="id").split(by="who", test=0.25, valid=0.25)
    first = steps.commit("clean").table.to_arrow()
    shares = {row["split"]: row["n"] for row in lake.sql("select split, count(*) n from clean group by 1").to_pylist()}
    assert all(0.1 < shares[part] / 2000 < 0.45 for part in ("test", "valid"))
    raw = lake.table("raw").to_arrow()
    more = raw.set_column(0, "id", pc.add(raw.column("id"), 5000))
    lake.write("raw", pa.concat_tables([raw, more]))
    second = Preparation(lake, "raw", key="id").split(by="who", test=0.25, valid=0.25).commit("clean").table.to_arrow()
    parts = dict(zip(first["who"].to_pylist(), first["split"].to_pylist(), strict=True))
    assert all(
        parts[who] == part for who, part in zip(second["who"].to_pylist(), second["split"].to_pylist(), strict=True)
    )


def test_a_share_of_time_takes_the_latest_rows_and_no_time_is_quarantined(tmp_path):
    lake = open_lake(tmp_path)
    lake.write("raw", pa.table({"id": range(10), "at": [9, 8, 7, 6, 5, 4, 3, 2, 1, None]}))
    prepared = Preparation(lake, "raw", key="id").split(time="at", test=0.2, valid=0.2).commit("clean")
    rows = {row["at"]: row["split"] for row in prepared.table.to_arrow().to_pylist()}
    assert rows[9] == rows[8] == "test"
    assert rows[1] == rows[2] == rows[3] == rows[4] == "train"
    assert dict(prepared.reports[-1].dropped) == {"split: no time": 1}


def test_a_split_without_sense_is_refused(lake):
    with pytest.raises(InvalidValueError, match="share between 0 and 1"):
        Split(test="2026-01-01")
    with pytest.raises(InvalidValueError, match="below 1 in sum"):
        Split(test=0.6, valid=0.5)
    with pytest.raises(InvalidValueError, match="one split"):
        Preparation(lake, "raw").split().split()


def test_a_date_splits_a_column_of_timestamps(tmp_path):
    lake = open_lake(tmp_path)
    moments = np.array(["2026-08-30", "2026-08-31T23:59:59", "2026-09-01"], "datetime64[us]")
    lake.write("raw", {"id": np.arange(3), "at": moments})
    rows = Preparation(lake, "raw", key="id").split(time="at", test="2026-09-01").commit("clean").table.to_arrow()
    assert rows.sort_by("id").column("split").to_pylist() == ["train", "train", "test"]
