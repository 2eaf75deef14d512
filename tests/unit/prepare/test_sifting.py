"""Repeated, outlying and leaking rows as steps: every row is kept, merged or quarantined, and says why."""

import os
import signal
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from stepwell.core.errors import DataError, InvalidValueError, UnknownNameError
from stepwell.prepare import Preparation, provenance
from stepwell.prepare.cache import cache_root
from stepwell.prepare.row_ids import key_ids
from stepwell.prepare.step import ROW
from stepwell.storage import open as open_lake


@pytest.fixture
def lake(tmp_path):
    lake = open_lake(tmp_path / "lake")
    text = [
        "The pump is broken again.",
        "the pump is broken  again.",
        "Water is clear today.",
        None,
        None,
        "Go home now",
    ]
    columns = {
        "id": range(6),
        "who": ["a", "a", "b", None, None, "c"],
        "day": [1, 5, 2, 3, 9, 8],
        "x": [1.0, 1.01, 5.0, 0.0, 0.0, 5.0],
        "y": [1.0, 1.0, -5.0, 0.0, 1.0, -4.99],
        "text": text,
    }
    lake.write("raw", pa.table(columns))
    return lake


def ids(lake, table):
    return sorted(table.column("id").to_pylist())


def accounted(report):
    return report.rows_in == report.rows_out - report.made + sum(report.dropped.values()) + report.merged


@pytest.mark.parametrize("then", ["merge", "quarantine"])
@pytest.mark.parametrize(
    ("columns", "how", "similarity", "kept", "gone"),
    [
        (("who",), "exact", None, [0, 2, 3, 5], [1, 4]),
        (("text",), "text", 0.7, [0, 2, 3, 4, 5], [1]),
        (("x", "y"), "vectors", 0.999, [0, 2, 3, 4], [1, 5]),
    ],
)
def test_one_row_of_those_that_repeat_is_kept(lake, columns, how, similarity, kept, gone, then):
    base = Preparation(lake, "raw", key="id")
    made = base.deduplicate(*columns, how=how, similarity=similarity, then=then, order="day").commit("once")
    found = made.table.to_arrow().sort_by("day")
    assert ids(lake, found) == kept
    report = made.reports[-1]
    assert (report.rows_in, report.rows_out, report.made, report.changed) == (6, len(kept), 0, 0)
    assert accounted(report)
    assert (report.merged, sum(report.dropped.values())) == ((len(gone), 0) if then == "merge" else (0, len(gone)))
    taken = lake.sql("select id, reason from once.quarantine").to_pylist() if then == "quarantine" else []
    assert sorted(row["id"] for row in taken) == (gone if then == "quarantine" else [])
    stood = lake.sql("select r.id from once.duplicates d join (from raw) r on true where d.other = d.other").num_rows
    assert stood == 6 * len(gone)
    first = found.column(ROW)[found.column("id").to_pylist().index(0)].as_py()
    sources = {source.values["id"] for source in provenance(lake, "once", first).sources}
    assert sources == ({0, 1} if then == "merge" else {0})


def test_the_kept_row_is_the_latest_part_then_the_least_value_then_the_least_id(lake):
    base = Preparation(lake, "raw", key="id").split(time="day", test=5)
    assert ids(lake, base.deduplicate("who", order="day").commit("parted").table.to_arrow()) == [1, 2, 4, 5]
    plain = Preparation(lake, "raw", key="id").deduplicate("who").commit("plain").table.to_arrow()
    least = min(key_ids("raw", [pa.array([0])])[0], key_ids("raw", [pa.array([1])])[0])
    assert least in plain.column(ROW).to_pylist()


def test_outliers_are_training_rows_only_and_missing_numbers_are_none(tmp_path):
    lake = open_lake(tmp_path)
    x = np.concatenate([np.linspace(-1, 1, 98), [50.0, 90.0]])
    values = pa.array([None if i == 3 else v for i, v in enumerate(x)])
    lake.write("raw", {"id": np.arange(100), "day": np.r_[np.arange(98), 40, 99], "x": values})
    base = Preparation(lake, "raw", key="id").split(time="day", test=90)
    done = base.outliers("x", share=0.03).commit("near")
    assert dict(done.reports[-1].dropped) == {"outlier": 2}
    assert accounted(done.reports[-1])
    gone = set(lake.sql("select id from near.quarantine").column("id").to_pylist())
    assert 98 in gone
    assert not gone & {3, 99}
    noted = base.outliers("x", share=0.03, then="keep").commit("noted")
    assert len(noted.table) == 100
    scores = lake.sql(
        "select n.id, o.score from noted n join noted.outliers o using (_row) order by 2 desc"
    ).to_pylist()
    assert scores[0]["id"] == 98
    assert {row["id"] for row in scores} == gone


def test_rows_of_an_earlier_part_that_share_an_entity_or_a_text_are_taken_out(lake):
    base = Preparation(lake, "raw", key="id").split(time="day", test=5)
    done = base.leaks("who", text="text", similarity=0.7).commit("apart")
    assert dict(done.reports[-1].dropped) == {"leak: duplicate, who": 1}
    assert ids(lake, done.table.to_arrow()) == [1, 2, 3, 4, 5]
    assert accounted(done.reports[-1])
    both = lake.sql("select key, count(*) as n from apart.leaks group by 1 order by 1").to_pylist()
    assert both == [{"key": "duplicate", "n": 2}, {"key": "who", "n": 2}]
    assert len(base.leaks("who", then="keep").commit("kept").table) == 6
    with pytest.raises(DataError, match="2 rows that leak"):
        base.leaks("who", then="fail").commit("failed")
    with pytest.raises(DataError, match="no parts to compare"):
        Preparation(lake, "raw", key="id").leaks("who").commit("whole")
    assert not Preparation(lake, "raw", key="id").leaks("who").split(by="who", test=0.5).commit("g").reports[-1].dropped


def test_a_second_run_reuses_the_steps_and_a_changed_argument_does_not(lake):
    base = Preparation(lake, "raw", key="id").split(time="day", test=5)
    chain = base.deduplicate("text", how="text").outliers("x", share=0.4).leaks("who")
    assert chain.commit("once").made
    assert not chain.commit("once").made
    assert "cached; fitted on training rows" in str(chain.plan)
    count = len(list(cache_root(lake).glob("*/report.json")))
    other = base.deduplicate("text", how="text").outliers("x", share=0.4).leaks("who", then="keep")
    assert other.commit("once").made
    assert len(list(cache_root(lake).glob("*/report.json"))) == count + 1


KILLED = """
import os, signal, sys
from stepwell.prepare import Preparation
from stepwell.storage import open as open_lake

def fatal(batch):
    if len(batch) > 2500:
        os.kill(os.getpid(), signal.SIGKILL)
    return batch

lake = open_lake(sys.argv[1])
steps = Preparation(lake, "raw", key="id").deduplicate("x").split(by="id").outliers("x").leaks("y").map(fatal)
print(steps.compress("x").commit("clean").table.version)
"""


def test_a_killed_run_goes_on_behind_its_last_whole_step(tmp_path):
    lake, script = open_lake(tmp_path / "lake"), tmp_path / "run.py"
    x = np.arange(5000) // 2 * 1.0
    lake.write("raw", {"id": np.arange(5000), "x": np.where(x > 2000, -np.arange(5000.0), x), "y": np.arange(5000)})
    script.write_text(KILLED)
    words = [sys.executable, str(script), lake.path]
    killed = subprocess.run(words, env=dict(os.environ), capture_output=True, text=True, timeout=100, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert "clean" not in lake
    before = {path: path.stat().st_mtime_ns for path in cache_root(lake).glob("*/report.json")}
    assert len(before) == 5
    steps = Preparation(lake, "raw", key="id").deduplicate("x").split(by="id").outliers("x").leaks("y").compress("x")
    assert steps.commit("clean").table.version == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(list(cache_root(lake).glob("*/report.json"))) == 6


def test_arguments_that_do_not_fit_are_refused(lake):
    base = Preparation(lake, "raw", key="id")
    with pytest.raises(InvalidValueError, match="similarity"):
        base.deduplicate("who", similarity=0.5)
    with pytest.raises(InvalidValueError, match="then"):
        base.deduplicate("who", then="drop")
    with pytest.raises(InvalidValueError, match="one column of texts"):
        base.deduplicate("who", "text", how="text")
    with pytest.raises(InvalidValueError, match="columns"):
        base.leaks()
    with pytest.raises(InvalidValueError, match="share"):
        base.outliers("x", share=1.0)
    with pytest.raises(UnknownNameError, match="z"):
        base.outliers("z").commit("none")
    with pytest.raises(DataError, match="zz"):
        base.deduplicate("zz").commit("none")
