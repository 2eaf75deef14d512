"""Matching columns as a step: names change, rows do not, and what is known for certain is kept to."""

import pyarrow as pa
import pytest

from stepwell.core.errors import InvalidValueError, UnknownNameError
from stepwell.prepare import Preparation, provenance
from stepwell.prepare.link import Nearest, Text
from stepwell.storage import open as open_lake

PEOPLE = ["ada lovelace", "alan turing", "grace hopper", "emmy noether", "sofia kowalewska", "alonzo church"]
BORN = [1815, 1912, 1906, 1882, 1850, 1903]


@pytest.fixture
def lake(tmp_path):
    lake = open_lake(tmp_path)
    lake.write("crm", pa.table({"key": range(6), "fullName": PEOPLE, "birthYear": BORN}))
    table = {"id": [10, 11, 12, 13], "name_full": PEOPLE[:4], "year_of_birth": BORN[:4], "fullName": ["w"] * 4}
    lake.write("web", pa.table(table))
    return lake


def test_columns_are_called_as_those_that_mean_the_same(lake):
    steps = Preparation(lake, "web", key="id").match_schema("crm", known={"id": ""})
    done = steps.commit("web2")
    table = done.table.to_arrow().sort_by("id")
    assert table.schema.names == ["_row", "id", "fullName", "birthYear", "fullName_own"]
    assert table.column("fullName").to_pylist() == PEOPLE[:4]
    assert table.column("birthYear").to_pylist() == BORN[:4]
    report = done.reports[-1]
    assert (report.rows_in, report.rows_out, report.made, dict(report.dropped)) == (4, 4, 0, {})
    scores = lake.sql('select "left", "right" from web2.schema where match order by 1').to_pylist()
    assert scores == [{"left": "name_full", "right": "fullName"}, {"left": "year_of_birth", "right": "birthYear"}]
    assert not steps.commit("web2").made
    source = provenance(lake, "web2", table.column("_row")[0].as_py()).sources[0]
    assert source.values["name_full"] == PEOPLE[0]


def test_matched_tables_can_be_linked(lake):
    matched = Preparation(lake, "web", key="id").match_schema("crm", known={"id": ""})
    linked = matched.link("crm", compare=[Text("fullName")], block=[Nearest("fullName", k=3)], threshold=0.4)
    assert len(linked.commit("people").table) == 6


def test_what_is_known_for_certain_wins(lake):
    base = Preparation(lake, "web", key="id")
    done = base.match_schema("crm", known={"id": "key", "year_of_birth": "", "fullName": "fullName"}).commit("known")
    assert done.table.schema.names == ["_row", "key", "name_full", "year_of_birth", "fullName"]
    with pytest.raises(UnknownNameError, match="ident"):
        base.match_schema("crm", known={"ident": "key"}).commit("none")
    with pytest.raises(UnknownNameError, match="of crm named 'keys'"):
        base.match_schema("crm", known={"id": "keys"}).commit("none")
    with pytest.raises(InvalidValueError, match="known"):
        base.match_schema("crm", known={"id": "key", "fullName": "key"})
