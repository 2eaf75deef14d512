"""The labelling desk: its journal, its order, Label Studio's JSON, the command, and the page in a real browser."""

import argparse
import importlib.util
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from stepwell import storage
from stepwell.cli import label as verb
from stepwell.core.errors import DataError, InvalidValueError, UnknownNameError
from stepwell.prepare.label import LabelModel, Votes
from stepwell.prepare.label.desk import Desk
from stepwell.prepare.label.journal import Answer, Journal
from stepwell.prepare.label.studio import read_tasks, write_tasks

CLASSES = ("ham", "spam")
ROWS = pa.table({"_row": [10, 11, 12, 13], "text": ["hello", "win <b>money</b>", "see you", "free"]})


def desk(folder, person="ann", others=None):
    return Desk(ROWS, ["text"], CLASSES, Journal(folder / "answers.jsonl"), person, others)


# The journal -----------------------------------------------------------------------------------------------------


def test_answers_survive_and_a_torn_line_is_cut_off(tmp_path):
    path = tmp_path / "deep" / "answers.jsonl"
    journal = Journal(path)
    journal.append(Answer(1, "ham", "ann"))
    journal.append(Answer(2, None, "ann"))
    with path.open("ab") as file:
        file.write(b'{"row": 3, "lab')
    again = Journal(path)
    assert again.answers == journal.answers
    again.append(Answer(3, "spam", "ann"))
    assert [one.row for one in Journal(path).answers] == [1, 2, 3]


def test_two_desks_share_a_journal(tmp_path):
    def answer(name):
        journal = Journal(tmp_path / "answers.jsonl")
        for row in range(40):
            journal.append(Answer(row, "ham", name))

    workers = [threading.Thread(target=answer, args=(name,)) for name in ("ann", "bob")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(Journal(tmp_path / "answers.jsonl").standing()) == 80


def test_a_line_that_is_no_answer_is_refused_with_its_number(tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_text('{"row": 1, "label": "ham", "source": "ann", "undone": false}\n[]\n')
    with pytest.raises(DataError, match="line 2"):
        Journal(path)


def test_taking_back_brings_the_answer_before_it_into_force(tmp_path):
    journal = Journal(tmp_path / "answers.jsonl")
    for said in (Answer(1, "ham", "ann"), Answer(1, "spam", "ann"), Answer(1, "spam", "ann", undone=True)):
        journal.append(said)
    assert journal.standing("ann") == {(1, "ann"): "ham"}
    journal.append(Answer(1, "ham", "ann", undone=True))
    assert journal.standing() == {}


# The desk --------------------------------------------------------------------------------------------------------


def test_work_goes_on_where_it_stopped(tmp_path):
    first = desk(tmp_path)
    first.answer(10, "ham")
    first.answer(11, None)
    second = desk(tmp_path)
    assert second.next_row() == 12
    second.undo()
    assert second.next_row() == 11
    for row in (11, 12, 13):
        second.answer(row, "spam")
    assert second.next_row() is None
    assert "all done" in second.page().html()
    assert desk(tmp_path, person="bob").next_row() == 10
    assert second.votes().table().to_pylist()[0] == {"_row": 10, "source": "ann", "label": "ham"}


def test_the_least_certain_row_comes_first(tmp_path):
    others = Votes.from_arrays([10, 10, 11, 11, 12, 12], [0, 1] * 3, [0, 0, 0, 1, 1, 1], classes=CLASSES)
    at = desk(tmp_path, others=others)
    assert at.next_row() in (11, 13)  # disputed, and never voted on
    at.answer(11, "spam")
    at.answer(13, "spam")
    assert at.next_row() in (10, 12)
    labels = at.labels()
    assert set(labels.votes.sources) == {"0", "1", "ann"}


def test_what_a_row_says_cannot_become_markup(tmp_path):
    at = desk(tmp_path)
    at.answer(10, "ham")
    assert "win &lt;b&gt;money" in at.page().html()


@pytest.mark.parametrize(
    ("row", "label", "error"), [(10, "eggs", UnknownNameError), (99, "ham", DataError)], ids=["class", "row"]
)
def test_an_answer_to_nothing_is_refused_and_not_written(tmp_path, row, label, error):
    at = desk(tmp_path)
    with pytest.raises(error):
        at.answer(row, label)
    assert not (tmp_path / "answers.jsonl").exists()


def test_a_desk_needs_ids_columns_and_classes(tmp_path):
    journal = Journal(tmp_path / "answers.jsonl")
    with pytest.raises(UnknownNameError, match="column"):
        Desk(ROWS, ["body"], CLASSES, journal)
    with pytest.raises(InvalidValueError, match="classes"):
        Desk(ROWS, ["text"], ("ham",), journal)
    with pytest.raises(DataError, match="twice"):
        Desk(pa.concat_tables([ROWS, ROWS]), ["text"], CLASSES, journal)
    journal.append(Answer(10, "eggs", "ann"))
    with pytest.raises(DataError, match="eggs"):
        Desk(ROWS, ["text"], CLASSES, journal)


# Label Studio ----------------------------------------------------------------------------------------------------


def test_tasks_come_back_as_the_votes_they_were(tmp_path):
    votes = Votes.from_arrays([10, 10, 12], [0, 1, 0], [1, 0, 1], classes=CLASSES, sources=["ann", "bob"])
    path = write_tasks(tmp_path / "tasks.json", ROWS, ["text"], votes, LabelModel().fit(votes))
    back = read_tasks(path, CLASSES)
    assert back.table().equals(votes.table())
    assert back.rows.tolist() == [10, 11, 12, 13]
    task = json.loads(path.read_text())[0]
    assert task["data"] == {"text": "hello"}
    assert 0.5 <= task["predictions"][0]["score"] <= 1


def test_an_export_of_label_studio_is_read(tmp_path):
    answer = {"from_name": "sentiment", "to_name": "text", "type": "choices", "value": {"choices": ["spam"]}}
    box = {"type": "labels", "value": {"start": 0, "end": 2, "labels": ["x"]}}
    tasks = [
        {"id": 3, "data": {"text": "a"}, "annotations": [{"id": 1, "completed_by": 7, "result": [answer, box]}]},
        {"id": 4, "annotations": [{"completed_by": {"id": 8, "email": "b@x"}, "result": [answer]}]},
        {"id": 5, "annotations": [{"completed_by": 7, "was_cancelled": True, "result": [answer]}]},
    ]
    path = tmp_path / "export.json"
    path.write_text(json.dumps(tasks))
    said = read_tasks(path, CLASSES).table().to_pylist()
    assert [(one["_row"], one["source"], one["label"]) for one in said] == [(3, "7", "spam"), (4, "b@x", "spam")]


@pytest.mark.parametrize(
    ("text", "problem"),
    [("{", "cannot be read"), ("{}", "no list"), ('[{"id": "x"}]', "task 0")],
)
def test_a_bad_file_of_tasks_is_refused(tmp_path, text, problem):
    path = tmp_path / "export.json"
    path.write_text(text)
    with pytest.raises(DataError, match=problem):
        read_tasks(path, CLASSES)


# The command -----------------------------------------------------------------------------------------------------


def options(*words):
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    verb.add_arguments(parser)
    return parser.parse_args(list(words))


def test_the_command_takes_over_answers_and_puts_votes_into_the_lake(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lake = storage.open("lake")
    lake.write("mails", ROWS.rename_columns(["id", "text"]))
    votes = Votes.from_arrays([10, 12], [0, 0], [1, 0], classes=CLASSES, sources=["bob"])
    write_tasks("in.json", ROWS, ["text"], votes)
    words = ("mails", "--classes", "ham,spam", "--key", "id", "--show", "text", "--import-tasks", "in.json")
    for _ in range(2):  # the second time takes nothing over twice
        assert verb.label(options(*words, "--export-tasks", "out.json", "--no-page", "--json")) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["votes"] == 2
    assert lake.table("mails_votes").to_arrow().sort_by("_row").to_pylist() == votes.table().to_pylist()
    assert len(Path("labels/mails.jsonl").read_text().splitlines()) == 2
    assert read_tasks("out.json", CLASSES).table().equals(votes.table())
    with pytest.raises(InvalidValueError, match="--key"):
        verb.label(options("mails", "--classes", "ham,spam", "--no-page"))


SERVE = """
import argparse, sys
from stepwell.cli import label as verb
parser = argparse.ArgumentParser()
parser.add_argument("--json", action="store_true")
verb.add_arguments(parser)
sys.exit(verb.label(parser.parse_args(sys.argv[1:])))
"""


def _tab():
    """Return the class that drives a browser, from the tests of `view`."""
    path = Path(__file__).parents[1] / "view" / "test_in_a_browser.py"
    spec = importlib.util.spec_from_file_location("view_in_a_browser", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Tab


def _press(tab, key):
    for kind in ("keyDown", "keyUp"):
        tab.call("Input.dispatchKeyEvent", type=kind, key=key, text=key if kind == "keyDown" else "")


def test_single_keys_label_skip_and_take_back_in_a_browser_and_a_kill_loses_nothing(chromium, tmp_path):
    storage.open(tmp_path / "lake").write("mails", ROWS)
    command = [sys.executable, "-c", SERVE, "mails", "--classes", "ham,spam", "--show", "text", "--by", "ann"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    watchdog = threading.Timer(90, process.kill)
    watchdog.start()
    tab = None
    try:
        url = process.stdout.readline().split()[1]
        tab = _tab()(chromium, tmp_path, url)
        heading = "document.querySelector('h2') && document.querySelector('h2').textContent == 'Row {}'"
        said = "document.querySelector('pre').textContent"
        tab.wait_for(heading.format(10))
        _press(tab, "2")
        tab.wait_for(heading.format(11))
        assert tab.wait_for(said) == "win <b>money</b>"
        _press(tab, "s")
        tab.wait_for(heading.format(12))
        _press(tab, "1")
        tab.wait_for(heading.format(13))
        _press(tab, "u")
        tab.wait_for(heading.format(12))
        _press(tab, "x")  # no button has it
        _press(tab, "2")
        tab.wait_for(heading.format(13))
        process.kill()
    finally:
        watchdog.cancel()
        if tab is not None:
            tab.close()
        process.kill()
        process.wait(20)
        process.stdout.close()
    standing = Journal(tmp_path / "labels" / "mails.jsonl").standing("ann")
    assert standing == {(10, "ann"): "spam", (11, "ann"): None, (12, "ann"): "spam"}


def test_an_interrupt_ends_the_page_and_commits_the_votes(tmp_path):
    storage.open(tmp_path / "lake").write("mails", ROWS)
    Journal(tmp_path / "labels" / "mails.jsonl").append(Answer(13, "spam", "me"))
    command = [sys.executable, "-c", SERVE, "mails", "--classes", "ham,spam"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    try:
        assert "127.0.0.1" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0
    assert "1 votes on 4 rows" in rest
    found = storage.open(tmp_path / "lake").table("mails_votes").to_arrow()
    assert found.to_pylist() == [{"_row": 13, "source": "me", "label": "spam"}]
    assert np.array_equal(found["_row"].to_numpy(), [13])
