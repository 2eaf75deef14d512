"""The pipeline: lazy, cached step by step, idempotent, and whole after a kill."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from stepwell.core.errors import DataError, InvalidValueError, LeakError, UnknownNameError
from stepwell.prepare.cache import cache_root, clear_cache
from stepwell.prepare.fitted import Standard
from stepwell.prepare.pipeline import Preparation
from stepwell.prepare.step import NOTHING, ROW, Rows, parents_table
from stepwell.storage import open as open_lake


@pytest.fixture
def lake(tmp_path):
    lake = open_lake(tmp_path / "lake")
    rng = np.random.default_rng(3)
    price = rng.normal(5, 4, 1000)
    lake.write("raw", {"id": np.arange(1000), "price": price, "day": rng.integers(0, 100, 1000)})
    return lake


def doubled(batch):
    place = batch.schema.names.index("price")
    return batch.set_column(place, "price", pc.multiply(batch.column("price"), 2.0))


def without_odd(batch):
    return batch.filter(pc.equal(pc.bit_wise_and(batch.column("id"), 1), 0))


def centred(batch):
    place = batch.schema.names.index("price")
    return batch.set_column(place, "price", pc.subtract(batch.column("price"), pc.mean(batch.column("price"))))


def test_every_row_is_accounted_for_and_quarantine_is_queryable(lake):
    prepared = Preparation(lake, "raw", key="id").where("price > 0").map(without_odd).map(doubled).commit("clean")
    read, where, odd, twice = prepared.reports
    assert (read.rows_in, where.rows_in, odd.rows_in) == (1000, 1000, where.rows_out)
    assert where.rows_in == where.rows_out + where.dropped["where price > 0"]
    assert odd.rows_in == odd.rows_out + odd.dropped["map without_odd"]
    assert twice.changed == twice.rows_out == len(prepared.table)
    counted = lake.sql("select reason, count(*) as n from clean.quarantine group by 1 order by 1").to_pylist()
    assert [row["n"] for row in counted] == [odd.dropped["map without_odd"], where.dropped["where price > 0"]]
    bad = lake.sql("select raw.price from clean.quarantine q join raw using (id) where q.step = 1")
    assert pc.max(bad.column("price")).as_py() <= 0
    steps = lake.sql("select name, rows_in, rows_out, detail from clean.steps order by step").to_pylist()
    assert "select * from input where" in steps[1]["detail"]


def test_printing_the_plan_runs_nothing_and_predicts_rows(lake):
    preparation = Preparation(lake, "raw", key="id").where("price > 0").map(doubled)
    text = str(preparation.plan)
    assert not list(cache_root(lake).glob("*/report.json"))
    assert "read raw@0" in text
    assert "ids by id" in text
    assert "SQL" in text
    predicted = preparation.plan.children[0].predicted
    kept = int(lake.sql("select count(*) as n from raw where price > 0").column("n")[0].as_py())
    assert predicted.rows == kept
    assert predicted.seconds is not None
    prepared = preparation.commit("clean")
    assert prepared.plan.measured is not None
    assert prepared.plan.measured.rows == kept
    assert "cached" in str(preparation.plan)


def test_a_second_commit_makes_no_version_and_a_change_makes_one(lake):
    preparation = Preparation(lake, "raw", key="id").where("price > 0")
    first, second = preparation.commit("clean"), preparation.commit("clean")
    assert (first.made, second.made) == (True, False)
    assert first.table.version == second.table.version == 0
    assert second.reports == first.reports
    clear_cache(lake)
    assert not preparation.commit("clean").made
    assert not list(cache_root(lake).glob("*/report.json"))
    changed = Preparation(lake, "raw", key="id").where("price > 1").commit("clean")
    assert (changed.made, changed.table.version) == (True, 1)
    lake.write("raw", lake.table("raw").to_arrow())
    assert preparation.commit("clean").table.version == 2


def test_code_counts_by_what_it_does(lake):
    def build(text):
        space = {"pc": pc, "__name__": "__main__"}
        exec(text, space)
        return Preparation(lake, "raw", key="id").map(space["f"])

    body = "def f(b):\n    {0}\n    i = b.schema.names.index('price')\n    return b.set_column(i, 'price', {1})\n"
    twice = "pc.multiply(b.column('price'), 2.0)"
    assert build(body.format("# one", twice)).commit("c").made
    assert not build(body.format("# another comment", twice)).commit("c").made
    assert build(body.format("", "pc.multiply(b.column('price'), 3.0)")).commit("c").made


def test_a_changed_step_runs_again_with_what_follows_and_nothing_before(lake, tmp_path):
    calls = tmp_path / "calls"

    def counted(batch):
        with calls.open("a") as file:
            file.write(".")
        return batch

    base = Preparation(lake, "raw", key="id").map(counted)
    base.where("price > 0").run()
    seen = len(calls.read_text())
    base.where("price > 1").run()
    assert len(calls.read_text()) == seen
    lake.write("raw", lake.table("raw").to_arrow().slice(0, 10))
    Preparation(lake, "raw", key="id").map(counted).run()
    assert len(calls.read_text()) > seen


def test_ids_survive_another_ingest(lake):
    preparation = Preparation(lake, "raw", key="id").map(doubled)
    first = preparation.commit("clean").table.to_arrow(["_row", "id"])
    lake.write("raw", lake.table("raw").to_arrow().take(np.random.default_rng(0).permutation(1000)))
    second = Preparation(lake, "raw", key="id").map(doubled).commit("clean").table.to_arrow(["_row", "id"])
    assert first.sort_by("id").equals(second.sort_by("id"))


def test_a_step_that_looks_at_other_rows_is_refused_unless_it_says_so(lake):
    with pytest.raises(LeakError, match="map centred says it sees one row at a time"):
        Preparation(lake, "raw", key="id").map(centred).commit("clean")
    with pytest.raises(LeakError, match="derive mean says it sees one row"):
        Preparation(lake, "raw", key="id").derive({"mean": "avg(price) over ()"}).commit("clean")
    with pytest.raises(LeakError, match="not deterministic"):
        Preparation(lake, "raw", key="id").derive({"chance": "random()"}).commit("clean")
    assert "clean" not in lake
    preparation = Preparation(lake, "raw", key="id").map(centred, sees="all").split(by="id")
    assert "test rows too" in str(preparation.plan)
    assert abs(np.mean(preparation.commit("clean").table.to_arrow(["price"]).column("price").to_numpy())) < 1e-9


def _by_day(batch, shift):
    order = np.argsort(batch.column("day").to_numpy(), kind="stable")
    price = batch.column("price").to_numpy()[order]
    total = np.cumsum(price) if shift == 0 else np.cumsum(price[::-1])[::-1]
    day = batch.column("day").to_numpy()[order]
    last = np.searchsorted(day, day, side="right") - 1 if shift == 0 else np.searchsorted(day, day, side="left")
    running = np.empty(len(price))
    running[order] = total[last]
    return batch.append_column("running", pa.array(running))


def so_far(batch):
    return _by_day(batch, 0)


def from_now(batch):
    return _by_day(batch, 1)


def test_a_step_that_looks_ahead_in_time_is_refused(lake):
    base = Preparation(lake, "raw", key="id")
    base.map(so_far, sees="past").split(time="day", test=0.2).commit("clean")
    with pytest.raises(LeakError, match="map from_now says it sees the past"):
        base.map(from_now, sees="past").split(time="day", test=0.2).commit("other")
    with pytest.raises(DataError, match="no column says when"):
        base.map(so_far, sees="past", label="untimed").commit("other")


def test_errors_name_the_step_and_show_a_row(lake):
    def broken(batch):
        raise ValueError("no such price")

    base = Preparation(lake, "raw", key="id")
    with pytest.raises(DataError, match=r"step map broken: raised ValueError: no such price .*'id': 0"):
        base.map(broken).commit("clean")
    with pytest.raises(DataError, match="step fitted nothing: raised KeyError: 'least'"):
        base.fit(lambda train: NOTHING, lambda batch, known: known.values["least"], label="nothing").commit("clean")
    with pytest.raises(DataError, match=r"step where prize > 0: was refused .*price"):
        base.where("prize > 0").commit("clean")
    with pytest.raises(DataError, match="returned a list"):
        base.map(lambda batch: [batch]).commit("clean")
    with pytest.raises(UnknownNameError, match="raw"):
        _ = Preparation(lake, "rau").plan
    with pytest.raises(InvalidValueError, match="another name"):
        base.commit("raw")
    with pytest.raises(DataError, match="no column 'prize'"):
        base.encode(Standard(("prize",))).commit("clean")


def test_a_whole_table_step_beyond_the_budget_is_refused(lake):
    with pytest.raises(DataError, match="needs its tables in memory"):
        Preparation(lake, "raw", key="id", budget=20_000).map(centred, sees="all").commit("clean")


def test_batches_fit_the_budget_and_do_not_change_the_result(lake):
    sizes = []

    def noted(batch):
        sizes.append(len(batch))
        return doubled(batch)

    wide = Preparation(lake, "raw", key="id").map(noted, label="wide").commit("wide").table.to_arrow()
    sizes.clear()
    narrow = Preparation(lake, "raw", key="id", budget=40_000).map(noted, label="narrow").run()[-1].read()
    assert max(sizes) <= 128
    assert wide.sort_by(ROW).equals(narrow.sort_by(ROW).select(wide.schema.names))


class Halves:
    """Cuts every row into two; a step of somebody else's."""

    name, sees, fits, others = "halves", "row", False, {}

    def fit(self, train):
        raise AssertionError("is not fitted")

    def apply(self, tables, fitted):
        from stepwell.prepare.row_ids import child_ids

        given = tables["input"]
        old = given.column(ROW).to_numpy()
        ids = np.concatenate([child_ids(old, 0), child_ids(old, 1)])
        out = pa.concat_tables([given, given]).set_column(0, ROW, pa.array(ids))
        return Rows(out, parents_table(ids, np.concatenate([old, old])))


def test_pieces_are_listed_with_their_parents(lake):
    prepared = Preparation(lake, "raw", key="id").then(Halves()).commit("halves")
    assert len(prepared.table) == prepared.reports[-1].made == 2000
    joined = lake.sql("select count(distinct _parent) as n, count(*) as m from halves join halves.parents using (_row)")
    assert joined.to_pylist() == [{"n": 1000, "m": 2000}]


def test_a_table_without_rows_passes(tmp_path):
    lake = open_lake(tmp_path)
    lake.write("raw", pa.table({"id": pa.array([], pa.int64()), "price": pa.array([], pa.float64())}))
    prepared = Preparation(lake, "raw", key="id").where("price > 0").map(doubled).commit("clean")
    assert len(prepared.table) == 0
    assert prepared.table.schema.names == ["_row", "id", "price"]


KILLED = """
import os, signal, sys
import pyarrow.compute as pc
from stepwell.prepare.pipeline import Preparation
from stepwell.storage import Lake, open as open_lake

def slow(batch):
    with open(os.environ["CALLS"], "a") as file:
        file.write("slow ")
    return batch

def fatal(batch):
    if os.path.exists(os.environ["FATAL"]) and len(batch) > 2500:
        os.kill(os.getpid(), signal.SIGKILL)
    return batch

if sys.argv[2] == "commit":
    whole = Lake.commit_table
    def commit_table(self, name, *args, **kwargs):
        if name == "clean" and os.path.exists(os.environ["FATAL"]):
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(self, name, *args, **kwargs)
    Lake.commit_table = commit_table

lake = open_lake(sys.argv[1])
steps = Preparation(lake, "raw", key="id").map(slow).where("price > " + sys.argv[3])
if sys.argv[2] == "step":
    steps = steps.map(fatal)
print(steps.commit("clean").table.version)
"""


@pytest.mark.parametrize("where", ["step", "commit"])
def test_a_killed_run_leaves_the_last_version_and_goes_on_from_its_cache(lake, tmp_path, where):
    script, fatal, calls = tmp_path / "run.py", tmp_path / "fatal", tmp_path / "calls"
    script.write_text(KILLED)
    env = {**os.environ, "FATAL": str(fatal), "CALLS": str(calls)}

    def run(least):
        words = [sys.executable, str(script), lake.path, where, least]
        return subprocess.run(words, env=env, capture_output=True, text=True, timeout=100)

    lake.write("raw", {"id": np.arange(5000), "price": np.arange(5000) % 100 - 10.0})  # more than a plan tries
    Preparation(lake, "raw", key="id").where("price > 0").commit("clean")
    before = lake.table("clean").to_arrow().sort_by(ROW)
    fatal.touch()
    assert run("1").returncode == -signal.SIGKILL
    assert lake.table("clean").version == 0
    assert lake.table("clean").to_arrow().sort_by(ROW).equals(before)
    count = len(calls.read_text().split())
    fatal.unlink()
    again = run("1")
    assert again.stdout.strip() == "1", again.stderr
    assert len(calls.read_text().split()) == count
    assert pc.min(lake.table("clean").to_arrow(["price"]).column("price")).as_py() > 1
    assert not list(Path(cache_root(lake)).glob(".*"))
