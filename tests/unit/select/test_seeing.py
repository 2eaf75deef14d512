"""What is shown of a study: text, plan, page; and its command line steers it."""

import argparse
import http.client
import json

import pytest

from stepwell.cli import search as cli
from stepwell.core.errors import InvalidValueError, UnknownNameError
from stepwell.select.page import importance
from stepwell.select.plan import core_hours
from stepwell.select.searching import StudySettings, search
from stepwell.select.space import Uniform
from stepwell.select.study import Study
from stepwell.select.table import LiveTable, rows, worker_use
from tests.equivalence.select import selected

SETTINGS = StudySettings(partitions=2, slices=2, batch_size=64)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    space = {"lr": Uniform(1e-4, 0.5, log=True), "width": [8, 12], "drop": 0.0}
    return search(
        space,
        selected.data(),
        selected.with_momentum,
        searcher="halving",
        configs=9,
        epochs=3,
        folder=folder,
        settings=SETTINGS,
    )


def test_the_text_has_the_best_first_with_an_interval_that_holds_its_value(study):
    shown = rows(study.records)
    assert [row[0] for row in shown[:2]] == [one.name for one in study.ranked()[:2]]
    low, high = map(float, shown[0][3].split(" to "))
    assert low < float(shown[0][2]) <= high
    assert "9 configurations (1 finished" in str(study) or "finished" in str(study)
    assert 0 < worker_use(study.records)[0] <= 1


def test_the_plan_has_a_prediction_beside_what_was_measured(study):
    tree = study.plan
    train = tree.children[0]
    assert train.measured.rows == sum(one.train_rows for one in study.configs)
    assert train.predicted.rows == sum(320 * one.until for one in study.configs)
    assert train.predicted.seconds > 0
    assert "measured" in str(tree)
    assert core_hours(study.records) > 0


def test_the_page_stands_alone_and_escapes_what_it_was_given(study, tmp_path):
    text = study.to_html(tmp_path / "page.html").read_text()
    for part in ("Learning curves", "parcoords", "Who ran where", "Share of variance", study.best().name):
        assert part in text
    assert "http://" not in text.split("<main>")[1].split("<script")[0]


def test_importance_finds_the_parameter_that_matters(study):
    found = importance(study.records)
    assert next(iter(found)) == "lr"
    assert found["drop"] == pytest.approx(0.0)


def test_the_live_table_draws_what_stands(study):
    from io import StringIO

    from rich.console import Console
    from rich.live import Live

    console = Console(file=StringIO(), width=160, force_terminal=True)
    with Live(console=console, auto_refresh=False) as live:
        table = LiveTable(live)
        table.hear(study.records, {"kind": "unit"})
        table.close(study.records)
    assert study.best().name in console.file.getvalue()


def options(*words):
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    cli.add_arguments(parser)
    return parser.parse_args(words)


def test_the_command_line_shows_and_steers(study, tmp_path, capsys):
    folder = str(study.folder)
    assert cli.search(options(folder, "--plan", "--html", str(tmp_path / "x.html"))) == 0
    out = capsys.readouterr().out
    assert "Hop" in out
    assert "best" in out or "not decided" in out
    assert cli.search(options(folder, "--json")) == 0
    assert len(json.loads(capsys.readouterr().out)["configs"]) == 9
    words = ["--resume", "c0", "--clone", "c1", "--cold", "--set", "lr=0.2", "--epochs", "4"]
    assert cli.search(options(folder, *words)) == 0
    lines = [json.loads(line) for line in (study.folder / "commands.jsonl").read_text().splitlines()]
    assert [(one["do"], one["config"], one["warm"], one["epochs"]) for one in lines] == [
        ("resume", "c0", True, 4),
        ("clone", "c1", False, 4),
    ]
    assert lines[1]["params"] == {"lr": 0.2}
    with pytest.raises(UnknownNameError):
        cli.search(options(folder, "--stop", "nobody"))
    with pytest.raises(InvalidValueError):
        cli.search(options(folder, "--set", "lr=1"))
    (study.folder / "commands.jsonl").unlink()


def test_the_live_page_serves_the_study_and_takes_commands(study):
    with cli.live_server(Study(study.folder)) as server:
        link = http.client.HTTPConnection("127.0.0.1", server.port)
        link.request("GET", f"/?token={server.token}")
        answer = link.getresponse()
        cookie = answer.getheader("Set-Cookie").split(";")[0]
        answer.read()
        link.request("GET", "/", headers={"Cookie": cookie})
        page = link.getresponse().read().decode()
        assert "Learning curves" in page
        assert 'data-action="steer"' in page
        head = {"Cookie": cookie, "Content-Type": "application/json"}
        for body, status in (({"do": "stop", "name": "c3"}, 200), ({"do": "stop", "name": "nobody"}, 400)):
            link.request("POST", "/action/steer", json.dumps(body), head)
            answer = link.getresponse()
            answer.read()
            assert answer.status == status
        link.close()
    assert json.loads((study.folder / "commands.jsonl").read_text())["config"] == "c3"
