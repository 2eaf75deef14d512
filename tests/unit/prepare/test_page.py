"""The page and the command say of a prepared table what became of every row."""

import json

import numpy as np
import pyarrow as pa
import pytest

from stepwell.cli import prepare as verb
from stepwell.core.errors import DataError, InvalidValueError, UnknownNameError
from stepwell.prepare import Preparation, report
from stepwell.prepare.clean.constraints import Between
from stepwell.prepare.label import Pattern
from stepwell.prepare.link import Same, Text
from stepwell.prepare.page import report_page
from stepwell.storage import open as open_lake

RECIPE = """
from stepwell import open as open_lake
from stepwell.prepare import Preparation

def clean():
    return Preparation(open_lake("lake"), "raw", key="id").where("price > 0").split(by="id", test=0.2)

def other():
    return 5
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lake = open_lake("lake")
    text = ["free <b>cash</b>", "see you", "free stuff", "hello", "hello"] * 20
    lake.write("raw", {"id": np.arange(100), "price": np.arange(100) - 10.0, "text": np.array(text)})
    (tmp_path / "tickets.py").write_text(RECIPE)
    return lake


def run(capsys, *words):
    import argparse

    parser = argparse.ArgumentParser()
    verb.add_arguments(parser)
    parser.add_argument("--json", action="store_true")
    assert verb.prepare(parser.parse_args(words)) == 0
    return capsys.readouterr().out


def test_the_page_holds_steps_reasons_sources_profile_lineage_and_changes(here, tmp_path):
    rules = [Pattern("free", "text", "free", "spam"), Pattern("greet", "text", "you|hello", "ham")]
    base = Preparation(here, "raw", key="id").expect(Between("price", low=0))
    base.commit("mail")
    base.label(rules, classes=("ham", "spam")).split(by="id").commit("mail")
    text = report(here, "mail", tmp_path / "mail.html").read_text()
    for words in ("price &gt;= 0", "greet", "What changed", "raw@0", "column label: added"):
        assert words in text
    assert "<b>cash" not in text
    titles = [section.title for section in report_page(here, "mail").sections]
    assert titles == [
        "What was done",
        "What was taken out",
        "What was violated",
        "Who labelled",
        "What the data look like",
        "Where it comes from",
        "What changed",
    ]
    with pytest.raises(DataError, match="not made by a preparation"):
        report(here, "raw", tmp_path / "raw.html")


def test_the_page_of_a_linkage_shows_its_threshold(here):
    here.write("books", pa.table({"key": [1, 2, 3, 4], "title": ["dune", "Dune", "emma", "ulysses"]}))
    linking = Preparation(here, "books", key="key").link(compare=[Text("title")], block=[Same("title")], threshold=0.4)
    linking.commit("entities")
    page = report_page(here, "entities").html()
    assert "What was linked" in page
    assert "Pairs count as matches from a probability of 0.400 (given)" in page


def test_the_command_plans_commits_reports_and_traces(here, capsys, tmp_path):
    planned = run(capsys, "tickets:clean")
    assert "where price &gt; 0" not in planned
    assert "where price > 0" in planned
    assert "mail" not in here.names()
    done = run(capsys, "tickets:clean", "--name", "mail", "--report", "out.html")
    assert "dropped 11 where price > 0" in done
    assert (tmp_path / "out.html").exists()
    assert "nothing has changed" in run(capsys, "tickets:clean", "--name", "mail")
    row = here.table("mail").to_arrow().column("_row")[0].as_py()
    assert f"row {row}" in run(capsys, "tickets:clean", "--name", "mail", "--row", str(row))
    facts = json.loads(run(capsys, "tickets:clean", "--name", "mail", "--json", "--budget", "64MiB"))
    assert (facts["rows"], facts["made"], facts["steps"][1]["dropped"]) == (89, False, {"where price > 0": 11})
    assert json.loads(run(capsys, "tickets:clean", "--json"))["plan"][0]["name"] == "split by id"


def test_the_command_refuses_what_is_no_recipe(here, capsys):
    with pytest.raises(InvalidValueError, match="module:function"):
        run(capsys, "tickets")
    with pytest.raises(UnknownNameError, match="nothing"):
        run(capsys, "tickets:nothing")
    with pytest.raises(InvalidValueError, match="returns a Preparation"):
        run(capsys, "tickets:other")
    with pytest.raises(InvalidValueError, match="--name"):
        run(capsys, "tickets:clean", "--row", "5")
