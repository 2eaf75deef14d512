"""Wrong cells: found by constraints, by the rest of the row, by spelling and by shape; and the kernels' definitions."""

import csv
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.core.errors import UnknownNameError
from stepwell.kernels.cooccur import predict_column, predict_column_reference
from stepwell.kernels.edit import edit_distance, edit_distance_reference, letters
from stepwell.prepare.clean.cells import find_errors, repaired, trusted_margin
from stepwell.prepare.clean.constraints import Matches, OfType
from stepwell.prepare.clean.formats import misspelt, odd_shapes, shape


def places(num=60):
    towns = [("10115", "Berlin", "yes", "030"), ("20095", "Hamburg", "no", "040"), ("50667", "Cologne", "yes", "0221")]
    rows = [towns[i % 3] for i in range(num)]
    names = ("zip", "city", "open", "area")
    return {name: [row[j] for row in rows] for j, name in enumerate(names)}


def test_the_rest_of_a_row_tells_which_value_belongs_there():
    columns = places()
    columns["city"][4] = "Berlin"  # beside Hamburg's zip
    table = pa.table({"_row": np.arange(60), **columns})
    errors = find_errors(table)
    assert errors.select(["_row", "column", "value", "repair", "reason"]).to_pylist() == [
        {"_row": 4, "column": "city", "value": "Berlin", "repair": "Hamburg", "reason": "the rest of its row"}
    ]
    assert repaired(table, errors).column("city").to_pylist() == places()["city"]


def test_a_constraint_keeps_the_part_that_satisfies_it():
    table = pa.table({"_row": [0, 1, 2], "size": ["12 oz", "7.5", "none"], "code": ["ab1", "see AB2", "AB3"]})
    errors = find_errors(table, [OfType("size", "double"), Matches("code", "[A-Z]{2}[0-9]")])
    assert [(e["_row"], e["column"], e["repair"]) for e in errors.to_pylist()] == [
        (0, "size", "12"),
        (0, "code", "AB1"),
        (1, "code", "AB2"),
        (2, "size", None),
    ]


def test_numbers_are_not_misspellings_of_each_other():
    assert misspelt({"2013": 500, "2014": 1, "yes": 400, "yex": 2, "no": 300}) == {"yex": "yes"}


def test_a_rare_shape_is_odd_only_where_usual_ones_cover_nearly_all():
    assert shape("12.0 Oz") == "9.9 Aa"
    assert odd_shapes({str(i): 1 for i in range(300)} | {"3x1": 1}) == {"3x1"}
    assert odd_shapes({"a b": 40, "a": 40, "9": 40, "a9 c": 1, "A-b": 30, "9-9": 6, "a.b": 6}) == set()


def test_a_margin_is_trusted_where_it_and_all_above_agree():
    margin = np.arange(40.0)
    right = margin >= 10
    right[:10:2] = True
    assert trusted_margin(margin, right, 0.9) == 4.0
    assert trusted_margin(margin, np.zeros(40, bool), 0.9) == float("inf")


@given(st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=2, max_size=12))
def test_predictions_score_as_the_reference(rows):
    codes = np.array(rows)
    found = predict_column(codes, 1)
    for i, (scores, own) in enumerate(predict_column_reference(codes, 1)):
        best = scores[int(found.value[i])]
        assert best == pytest.approx(max(score for value, score in scores.items() if value >= 0), abs=1e-9)
        assert found.above_own[i] == pytest.approx(best - scores[own], abs=1e-9)


@given(st.text("abc", max_size=6), st.text("abc", max_size=6), st.integers(0, 6))
def test_the_edit_distance_is_that_of_the_reference(a, b, most):
    assert edit_distance(letters(a), letters(b), most) == min(edit_distance_reference(a, b), most + 1)


def test_repairs_of_unknown_cells_are_refused():
    table = pa.table({"_row": [0], "a": [1]})
    errors = find_errors(pa.table({"_row": [7], "b": ["x"]}), [OfType("b", "integer")])
    with pytest.raises(UnknownNameError, match="No column named 'b'"):
        repaired(table, errors)


def test_nearly_all_wrong_cells_of_hospital_are_found_without_a_rule():
    folder = Path(os.environ.get("STEPWELL_DATA", "")) / "clean-hospital"
    if not (folder / "dirty.csv").exists():
        pytest.skip("STEPWELL_DATA has no clean-hospital")
    dirty, clean = (list(csv.reader((folder / f"{name}.csv").read_text().splitlines())) for name in ("dirty", "clean"))
    names = dirty[0]
    table = pa.table({"_row": np.arange(len(dirty) - 1), **dict(zip(names, zip(*dirty[1:], strict=True), strict=True))})
    errors = find_errors(table)
    found = {(e["_row"], names.index(e["column"])) for e in errors.to_pylist()}
    wrong = {(i, j) for i, row in enumerate(dirty[1:]) for j, value in enumerate(row) if value != clean[i + 1][j]}
    assert 2 * len(found & wrong) / (len(found) + len(wrong)) >= 0.95
