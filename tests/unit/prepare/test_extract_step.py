"""Extraction as a step: a column a field, and the place of every find in the row's provenance."""

import pyarrow as pa
import pytest

from stepwell.core.errors import InvalidValueError
from stepwell.prepare import Preparation, provenance
from stepwell.prepare.extract import Regex
from stepwell.storage import open as open_lake


def test_the_surest_find_becomes_a_column_and_all_finds_are_noted(tmp_path):
    lake = open_lake(tmp_path)
    texts = ["order 12 of 34, 5 kg", "nothing", None]
    lake.write("raw", pa.table({"id": [1, 2, 3], "text": texts}))
    finders = (Regex("number", r"\d+", score=0.5), Regex("weight", r"(\d+) kg"))
    prepared = Preparation(lake, "raw", key="id").extract(*finders, fields=["number", "weight"]).commit("orders")
    rows = prepared.table.to_arrow().sort_by("id").to_pylist()
    assert [(row["number"], row["weight"]) for row in rows] == [("12", "5"), (None, None), (None, None)]
    notes = [note.values for note in provenance(lake, "orders", rows[0]["_row"]).notes]
    assert {(note["value"], note["begin"], note["end"]) for note in notes} == {
        ("12", 6, 8),
        ("34", 12, 14),
        ("5", 16, 17),
    }
    assert all(texts[0][note["begin"] : note["end"]] == note["value"] for note in notes)
    with pytest.raises(InvalidValueError, match="fields"):
        Preparation(lake, "raw").extract(*finders, fields=[])
