"""A training row answers where it comes from, and two versions what lies between them."""

import numpy as np
import pyarrow as pa
import pytest

from stepwell.core.errors import DataError, InvalidValueError
from stepwell.prepare.answers import diff, provenance
from stepwell.prepare.asof import AsOf
from stepwell.prepare.clean.constraints import Between, NotNull, Unique
from stepwell.prepare.label import Pattern
from stepwell.prepare.labelling import Crowd
from stepwell.prepare.link import Same, Text
from stepwell.prepare.pipeline import Preparation
from stepwell.prepare.sources import ingest
from stepwell.prepare.step import ROW, Keyed
from stepwell.storage import open as open_lake


@pytest.fixture
def lake(tmp_path):
    lake = open_lake(tmp_path / "lake")
    for number, lines in enumerate((["1,free cash,2,a", "2,see you,3,b"], ["3,free stuff,4,a", "4,hello,-1,c"])):
        (tmp_path / f"part{number}.csv").write_text("id,text,day,who\n" + "\n".join(lines) + "\n")
    ingest(lake, "raw", tmp_path / "part*.csv", key="id")
    return lake


def row_of(table, **where):
    rows = table.to_arrow().to_pylist()
    return next(row[ROW] for row in rows if all(row[name] == value for name, value in where.items()))


def test_an_ingest_keeps_file_and_place_and_is_idempotent(lake, tmp_path):
    table = lake.table("raw")
    origins = {row[ROW]: (row["file"], row["place"]) for row in lake.sql("from raw.origins").to_pylist()}
    assert origins[row_of(table, id=3)] == (str(tmp_path / "part1.csv"), 0)
    assert ingest(lake, "raw", tmp_path / "part*.csv", key="id").version == 0
    ids = {row["id"]: row[ROW] for row in table.to_arrow().to_pylist()}
    (tmp_path / "part0.csv").write_text("id,text,day,who\n9,new,1,z\n2,see you,3,b\n1,free cash,2,a\n")
    again = ingest(lake, "raw", tmp_path / "part*.csv", key="id")
    assert again.version == 1
    after = {row["id"]: row[ROW] for row in again.to_arrow().to_pylist()}
    assert {key: after[key] for key in ids} == ids
    (tmp_path / "part2.csv").write_text("id,text\n5,x\n")
    with pytest.raises(DataError, match=r"part2\.csv: has other columns"):
        ingest(lake, "raw", tmp_path / "part*.csv", key="id")


def test_a_row_is_followed_to_its_file_its_votes_and_the_row_that_was_joined(lake, tmp_path):
    features = {"who": np.array(["a", "a", "b"]), "at": np.array([1, 3, 9]), "score": np.array([0.1, 0.9, 0.5])}
    lake.write("features", features)
    rules = [Pattern("free", "text", "free", "spam"), Pattern("greet", "text", "you|hello", "ham")]
    base = Preparation(lake, "raw", key="id").expect(Between("day", low=0))
    base = base.join_asof(base.table("features"), AsOf(by="who", time="day", right_time="at"))
    prepared = base.label(rules, classes=("ham", "spam")).commit("mail")
    assert [report.rows_out for report in prepared.reports] == [4, 3, 3, 3]
    row = row_of(prepared.table, id=1)
    found = provenance(lake, "mail", row)
    assert found.values["label"] == "spam"
    assert found.values["score"] == 0.1
    source = {one.table: one for one in found.sources}
    assert source["raw@0"].row == row
    assert (source["raw@0"].files, source["raw@0"].place) == ((str(tmp_path / "part0.csv"),), 0)
    assert source["features@0"].values["at"] == 1
    votes = [note.values for note in found.notes if note.kind == "votes"]
    assert [(vote["source"], vote["label"]) for vote in votes] == [("free", "spam")]
    text = str(found)
    assert f"row 0 of {tmp_path / 'part0.csv'}" in text
    assert "votes: source='free'" in text
    alone = provenance(lake, "mail", row_of(prepared.table, id=2))
    assert [one.table for one in alone.sources] == ["raw@0"]
    with pytest.raises(InvalidValueError, match="the `_row` of a row of mail@0"):
        provenance(lake, "mail", 5)
    with pytest.raises(DataError, match="was not made by a preparation"):
        provenance(lake, "raw", row)


def test_a_chain_of_preparations_is_followed_to_the_end(lake):
    Preparation(lake, "raw", key="id").where("day > 0").commit("one")
    prepared = Preparation(lake, "one").derive({"twice": "day * 2"}).commit("two")
    found = provenance(lake, "two", row_of(prepared.table, id=3))
    further = found.sources[0].further
    assert further is not None
    assert further.sources[0].table == "raw@0"
    assert "part1.csv" in str(found)


def test_a_merged_row_lists_all_that_it_was_made_from(tmp_path):
    lake = open_lake(tmp_path)
    names = ["anna karenina", "war and peace", "the idiot", "dead souls", "fathers and sons"]
    lake.write(
        "left", pa.table({"key": [f"l{i}" for i in range(5)], "title": names, "year": [1878, 1869, 1869, 1842, 1862]})
    )
    other = ["Anna Karenina", "War and Peace", "The Idiot", "Crime and Punishment"]
    lake.write(
        "right", pa.table({"key": [f"r{i}" for i in range(4)], "title": other, "year": [1878, 1869, 1868, 1866]})
    )
    base = Preparation(lake, "left", key="key")
    linking = base.link(base.table("right", "key"), compare=[Text("title")], block=[Same("title")], threshold=0.5)
    assert "Same" in str(linking.plan)
    assert "3 pairs" in str(linking.plan)
    prepared = linking.commit("books")
    assert len(prepared.table) == 6
    idiot = row_of(prepared.table, title="the idiot")
    found = provenance(lake, "books", idiot)
    assert sorted(str(one.values["key"]) for one in found.sources) == ["l2", "r2"]
    assert {note.kind for note in found.notes} >= {"pairs", "conflicts"}
    alone = provenance(lake, "books", row_of(prepared.table, title="Crime and Punishment"))
    assert [(one.table, one.values["key"]) for one in alone.sources] == [("right@0", "r3")]


def test_a_difference_tells_rows_labels_steps_and_columns(lake):
    rules = [Pattern("free", "text", "free", "spam"), Pattern("greet", "text", "you|hello", "ham")]
    Preparation(lake, "raw", key="id").label(rules, classes=("ham", "spam")).commit("mail")
    rules = [Pattern("free", "text", "free cash", "spam"), Pattern("greet", "text", "you|hello|stuff", "ham")]
    base = Preparation(lake, "raw", key="id").expect(Between("day", low=0), NotNull("text"))
    base.label(rules, classes=("ham", "spam")).derive({"long": "length(text)"}).commit("mail")
    found = diff(lake, "mail", 0, 1)
    assert found.rows == (0, 1, 3)
    assert found.tables.columns_added == ("long",)
    label = next(shift for shift in found.labels if shift.column == "label")
    assert label.changed == 1
    assert label.counts == {"ham": (2, 2), "spam": (2, 1)}
    assert ("read raw@0", 4, 4) in found.steps
    assert any(name.startswith("expect") and a is None and b == 3 for name, a, b in found.steps)
    assert "column long: added" in str(found)


def test_a_column_of_another_type_is_compared_by_its_text(lake):
    base = Preparation(lake, "raw", key="id")
    base.commit("mail")
    changed = base.derive({"day": "case when day > 3 then 'late' else day::varchar end"}).commit("mail")
    assert changed.reports[-1].changed == 1
    found = diff(lake, "mail", 0, 1)
    assert found.rows == (0, 0, 1)
    assert found.tables.columns_changed == (("day", "int64", "string"),)


def test_expectations_quarantine_null_keep_or_fail(lake):
    base = Preparation(lake, "raw", key="id")
    rules = (Between("day", low=3), Unique(("who",)))
    prepared = base.expect(*rules).commit("q")
    assert dict(prepared.reports[-1].dropped) == {"day >= 3; unique who": 1, "unique who": 1, "day >= 3": 1}
    assert len(prepared.table) == 1
    assert len(lake.sql("from q.violations")) == 4
    nulled = base.expect(*rules, on_fail="null").commit("n").table.to_arrow().to_pylist()
    assert {row["id"]: (row["day"], row["who"]) for row in nulled} == {
        1: (None, None), 2: (3, "b"), 3: (4, None), 4: (None, "c")
    }  # fmt: skip
    kept = base.expect(*rules, on_fail="keep").commit("k")
    assert len(kept.table) == 4
    assert kept.reports[-1].changed == 0
    with pytest.raises(DataError, match="day >= 3: 2 rows"):
        base.expect(*rules, on_fail="fail").commit("f")
    assert "f" not in lake
    with pytest.raises(InvalidValueError, match="on_fail"):
        base.expect(NotNull("day"), on_fail="ignore")


def test_a_crowd_labels_by_the_users_own_key_and_silence_may_be_quarantined(lake):
    lake.write("answers", pa.table({"id": [1, 1, 1, 2, 2], "worker": ["x", "y", "z", "x", "y"], "said": list("sshhh")}))
    base = Preparation(lake, "raw", key="id")
    crowd = Crowd(Keyed(lake.table("answers")), "id", source="worker", label="said")
    prepared = base.label(classes=("h", "s"), crowd=crowd, uncovered="quarantine").commit("mail")
    assert {row["id"]: row["label"] for row in prepared.table.to_arrow().to_pylist()} == {1: "s", 2: "h"}
    assert dict(prepared.reports[-1].dropped) == {"label: no vote": 2}
    kept = base.label(classes=("h", "s"), crowd=crowd).commit("all").table.to_arrow().to_pylist()
    assert {row["id"]: row["weight"] for row in kept if row["label"] is None} == {3: 0.0, 4: 0.0}
    report = lake.sql("select source, votes from mail.label_sources order by source").to_pylist()
    assert report == [{"source": "x", "votes": 2}, {"source": "y", "votes": 2}, {"source": "z", "votes": 1}]


def test_a_selection_keeps_training_rows_by_weight_and_all_test_rows(tmp_path):
    lake = open_lake(tmp_path)
    rng = np.random.default_rng(0)
    lake.write("raw", {"id": np.arange(400), "x": rng.normal(size=400), "y": rng.integers(0, 2, 400)})
    prepared = Preparation(lake, "raw", key="id").split(by="id", test=0.25).select(0.1, label="y").commit("few")
    rows = prepared.table.to_arrow().to_pylist()
    split = prepared.reports[-2].rows_out - sum(row["split"] == "test" for row in rows)
    train = [row for row in rows if row["split"] == "train"]
    assert len(train) == -(-split // 10)
    assert sum(row["weight"] for row in train) == pytest.approx(split)
    assert {row["weight"] for row in rows if row["split"] == "test"} == {1.0}
    assert prepared.reports[-1].dropped["not selected"] == split - len(train)
    assert len(lake.sql("from few.selection")) == len(train)
