"""Repairs and doubtful labels as steps: training rows teach, test rows pass, every change is noted."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from sklearn.linear_model import LogisticRegression

from stepwell.core.errors import InvalidValueError, UnknownNameError
from stepwell.prepare import Preparation, provenance
from stepwell.prepare.clean.constraints import Between, NotNull
from stepwell.prepare.clean.label_issues import Probe
from stepwell.prepare.clean.policy import Clip, Fill
from stepwell.storage import open as open_lake


def fitted(features, labels):
    return LogisticRegression().fit(features, labels)


def probabilities(model, features):
    return model.predict_proba(features)


PROBE = Probe(fitted, probabilities)


@pytest.fixture
def lake(tmp_path):
    lake = open_lake(tmp_path)
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 2, 400)
    wrong = np.arange(400) % 20 == 0
    label = np.where(np.where(wrong, 1 - truth, truth) == 1, "spam", "ham")
    x = truth * 6 + rng.normal(size=400)
    lake.write("raw", {"id": np.arange(400), "x": x, "label": label, "wrong": wrong, "day": np.arange(400)})
    return lake


def test_repairs_learn_from_training_rows_and_are_noted(tmp_path):
    lake = open_lake(tmp_path)
    price = pa.array([1.0, 1.0, 3.0, None, 70.0, 90.0, 90.0, None])
    lake.write("raw", pa.table({"id": range(8), "day": range(8), "price": price}))
    base = Preparation(lake, "raw", key="id")
    rules = ((NotNull("price"), Fill("price", "median")), (Between("price", high=80), Clip("price", high=80)))
    prepared = base.mend(*rules).split(time="day", test=4).commit("clean")
    rows = prepared.table.to_arrow().sort_by("id")
    assert rows.column("price").to_pylist() == [1, 1, 3, 1, 70, 80, 80, 1]
    assert prepared.reports[-1].changed == 4
    row = rows.column("_row")[5].as_py()
    notes = [note.values for note in provenance(lake, "clean", row).notes if note.kind == "repairs"]
    assert [(note["before"], note["after"]) for note in notes] == [("90", "80")]


@pytest.mark.parametrize("then", ["weight", "quarantine", "relabel"])
def test_doubtful_labels_of_training_rows_are_found(lake, then):
    base = Preparation(lake, "raw", key="id").split(time="day", test=300)
    prepared = base.clean_labels(PROBE, ["x"], then=then).commit("clean")
    every = "(from clean union all by name from clean.quarantine)"
    issues = lake.sql(f"select r.id, r.wrong from clean.label_issues join {every} r using (_row)")
    found = issues.to_pylist()
    assert all(row["id"] < 300 for row in found)
    assert 10 <= sum(row["wrong"] for row in found) <= 15
    assert sum(not row["wrong"] for row in found) <= 3
    rows = prepared.table.to_arrow()
    if then == "weight":
        doubtful = pc.is_in(rows.column("id"), issues.column("id"))
        assert pc.max(rows.filter(doubtful).column("weight")).as_py() < 0.5
        assert set(rows.filter(pc.invert(doubtful)).column("weight").to_pylist()) == {1.0}
    elif then == "quarantine":
        assert dict(prepared.reports[-1].dropped) == {"label issue": len(found)}
    else:
        assert prepared.reports[-1].changed == len(found)


def test_arguments_that_do_not_fit_are_refused(lake):
    base = Preparation(lake, "raw", key="id")
    with pytest.raises(InvalidValueError, match="then"):
        base.clean_labels(PROBE, ["x"], then="drop")
    with pytest.raises(UnknownNameError, match="y"):
        base.clean_labels(PROBE, ["y"]).commit("clean")
