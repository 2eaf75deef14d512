"""Settings come from the environment at each call; progress is silent without a terminal."""

from pathlib import Path

import pytest

from stepwell.core.progress import progress
from stepwell.core.settings import settings


def test_settings_follow_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("STEPWELL_DATA", str(tmp_path))
    monkeypatch.setenv("STEPWELL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("STEPWELL_PROGRESS", "0")
    found = settings()
    assert (found.data, found.home, found.progress) == (tmp_path, tmp_path / "home", False)

    for name in ("STEPWELL_DATA", "STEPWELL_HOME", "STEPWELL_PROGRESS"):
        monkeypatch.delenv(name)
    found = settings()
    assert (found.data, found.home, found.progress) == (None, Path.home() / ".cache" / "stepwell", True)


@pytest.mark.parametrize(("terminal", "shown", "rank"), [(False, "1", 0), (True, "0", 0), (True, "1", 1)])
def test_progress_is_silent_without_a_terminal_when_turned_off_and_on_other_ranks(
    monkeypatch, capsys, terminal, shown, rank
):
    monkeypatch.setenv("STEPWELL_PROGRESS", shown)
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)

    with progress("reading", total=2, rank=rank) as task:
        task.advance()
        task.note("half")

    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_progress_draws_on_stderr_of_a_terminal(monkeypatch, capsys):
    monkeypatch.setenv("STEPWELL_PROGRESS", "1")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)

    with progress("reading", total=2) as task:
        task.advance(2)
        task.note("loss 0.5")

    captured = capsys.readouterr()
    assert captured.out == ""
    assert "reading" in captured.err
