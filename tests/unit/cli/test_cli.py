"""The command line does the whole job, speaks JSON, and turns errors into one line."""

import json
from pathlib import Path

import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from stepwell.cli import main
from stepwell.datasets.synthetic import Habits, habits

SET = ["model.dim=16", "loop.epochs=1", "evaluation.ranking=50", "batches.size=100"]


def sets(*more: str) -> list[str]:
    return [word for pair in (*SET, *more) for word in ("--set", pair)]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STEPWELL_DATA", raising=False)
    table = habits(Habits(users=30, items=20, events=700, days=8, bursts=2, features=0))
    pyarrow.csv.write_csv(table.rename_columns(["uid", "pid", "ts", "banned"]), tmp_path / "edits.csv")
    return tmp_path


COLUMNS = ["--src", "user:uid", "--dst", "page:pid", "--time", "ts", "--label", "banned"]


def test_ingest_plan_train_evaluate_and_predict_follow_each_other(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ingest", "edits.csv", *COLUMNS]) == 0
    assert "700 events" in capsys.readouterr().out
    assert main(["plan", "link", *sets("data.name=edits")]) == 0
    assert "Neighbors" in capsys.readouterr().out
    assert main(["train", "link", "--out", "run", *sets("data.name=edits")]) == 0
    assert "edgebank" in capsys.readouterr().out
    assert main(["evaluate", "run", "--protocol", "p3", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["scores"]
    assert {row["metric"] for row in rows} == {"mrr", "hits@1", "hits@10"}
    (here / "pairs.csv").write_text("src,dst,time\n0,1,900000000\n")
    assert main(["predict", "run", "pairs.csv", "--out", "scores.parquet"]) == 0
    assert 0 < pq.read_table(here / "scores.parquet")["score"][0].as_py() < 1


def test_the_demo_takes_a_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--data", "edits.csv", *COLUMNS, *sets()]) == 0
    said = capsys.readouterr().out
    assert "what next" in said and (here / "runs" / "demo-edits" / "report.html").exists()
    assert main(["demo", "--data", "edits.csv", *COLUMNS, *sets()]) == 0
    assert (here / "runs" / "demo-edits-2" / "report.html").exists()


def test_usual_column_names_need_no_options(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "mail.csv").write_text("From,To,Timestamp\n1,2,10\n2,1,20\n")
    assert main(["ingest", "mail.csv"]) == 0
    assert "2 events, 2 nodes" in capsys.readouterr().out
    (here / "edits.txt.csv").write_text("user_id,item_id,ts\n1,2,10\n2,1,20\n")
    assert main(["ingest", "edits.txt.csv", "--name", "apart"]) == 0
    assert "2 events, 4 nodes" in capsys.readouterr().out


def test_datasets_are_listed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["datasets"]) == 0
    assert "collegemsg" in capsys.readouterr().out
    assert main(["datasets", "collegemsg", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["datasets"][0]["name"] == "collegemsg"


def test_a_plan_says_why_and_what_else_and_is_analysed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ingest", "edits.csv", *COLUMNS]) == 0
    capsys.readouterr()
    words = ["--accuracy", "changed", "--price", "0.1", "--table", "--html", "plan.html"]
    assert main(["plan", "edits", *words, "--analyze", *sets()]) == 0
    said = capsys.readouterr().out
    for word in ("next best", "adaptive", "core-hour", "measured", "furthest off"):
        assert word in said
    assert "Neighbors" in (here / "plan.html").read_text()


def test_a_plan_is_asked_under_other_conditions(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ingest", "edits.csv", *COLUMNS]) == 0
    capsys.readouterr()
    assert main(["plan", "edits", "--what-if", "prefetch=0", "--json", *sets("batches.kind=adaptive")]) == 0
    choices = {one["place"]: one["name"] for one in json.loads(capsys.readouterr().out)["choices"]}
    assert choices["prefetch"] == "0" and choices["batches"] == "adaptive"


def test_reuse_is_set_like_any_other_setting(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ingest", "edits.csv", *COLUMNS]) == 0
    capsys.readouterr()
    more = sets("sampling.hops=2", "sampling.k=3", "sampling.hop_time=root", "reuse.rows=1000")
    assert main(["plan", "edits", "--json", *more]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["experiment"]["reuse"]["rows"] == 1000
    assert {one["place"]: one["name"] for one in found["choices"]}["reuse"] == "mrd"
    assert main(["plan", "edits", "--what-if", "reuse=none", "--json", *more]) == 0
    assert {one["place"]: one["name"] for one in json.loads(capsys.readouterr().out)["choices"]}["reuse"] == "none"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "tgn_wikipdia"], "tgn_wikipedia"),
        (["train", "link", "--set", "loop.epoch=3"], "epochs"),
        (["plan", "link", "--set", "data.name=nowhere"], "nowhere"),
        (["evaluate", "runs/none"], "stepwell train"),
        (["ingest", "gone.csv"], "gone.csv"),
        (["ingest", "edits.csv", "--src", "uuid", "--dst", "pid", "--time", "ts"], "uid"),
        (["plan"], "RECIPE"),
        (["plan", "link", "--what-if", "memry=1GiB"], "memory"),
        (["plan", "link", "--what-if", "prefetch=x"], "prefetch"),
    ],
)
def test_an_error_is_one_line_that_says_what_to_do(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert main(words) == 1
    error = capsys.readouterr().err
    assert error.startswith("stepwell: ") and error.count("\n") == 1 and said in error


def test_recipes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--list"]) == 0
    assert "tgat_collegemsg" in capsys.readouterr().out
