"""The six crafts run where no data are, say so, beat the plain way on rows made for it, and leave a traceable table."""

import argparse
import json

import pytest

from stepwell.cli import prepare as verb
from stepwell.core.errors import InvalidValueError
from stepwell.prepare import provenance
from stepwell.recipes.crafts import crafts
from stepwell.storage import open as open_lake


def run(capsys, *words):
    parser = argparse.ArgumentParser()
    verb.add_arguments(parser)
    parser.add_argument("--json", action="store_true")
    assert verb.prepare(parser.parse_args(words)) == 0
    return capsys.readouterr().out


@pytest.fixture(autouse=True)
def without_data(monkeypatch):
    monkeypatch.delenv("STEPWELL_DATA", raising=False)


def test_there_is_one_for_each_craft():
    assert set(crafts) >= {"integrate", "clean", "extract", "label", "compress", "select"}


@pytest.mark.parametrize("name", ["integrate", "clean", "extract", "label", "compress", "select"])
def test_a_craft_scores_no_worse_than_the_plain_way(name, tmp_path):
    lake = open_lake(tmp_path)
    score = crafts[name](lake)
    assert "generated rows (STEPWELL_DATA has no" in str(score)
    assert 0 < score.baseline <= 1
    assert score.ours >= score.baseline - (0.02 if name in ("compress", "select") else 0)
    row = lake.table(score.table).to_arrow(["_row"])["_row"][0].as_py()
    assert provenance(lake, score.table, row).sources


def test_the_command_runs_a_craft_and_says_its_score(capsys, tmp_path):
    said = run(capsys, "label", "--lake", str(tmp_path / "lake"), "--report", str(tmp_path / "page.html"))
    assert "accuracy of labels on generated rows" in said
    assert "label by 8 functions" in said
    assert (tmp_path / "page.html").exists()
    assert "messages" in open_lake(tmp_path / "lake").names()
    facts = json.loads(run(capsys, "label", "--json"))
    assert facts["ours"] >= facts["baseline"]
    with pytest.raises(InvalidValueError, match="module:function only"):
        run(capsys, "label", "--name", "mail")
    with pytest.raises(InvalidValueError, match="integrate"):
        run(capsys, "labels")
