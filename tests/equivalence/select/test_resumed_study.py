"""A study that was killed goes on exactly: with its searcher, its rungs, its random states; nothing is lost."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stepwell.core.errors import CheckpointError
from stepwell.select.log import BusyError, Log, read_log
from stepwell.select.searching import StudySettings, search
from stepwell.select.study import Study
from tests.equivalence.select import interrupted, selected

ROOT = Path(__file__).parents[3]


def outcome(study):
    """Return what must not depend on interruptions."""
    return [
        (
            one.name,
            dict(one.params),
            one.parent,
            one.status,
            one.epoch,
            one.visits,
            one.losses,
            [s.value for s in one.scores],
        )
        for one in study.configs
    ]


def weights(study):
    return {one.name: study.model(one.name).state_dict() for one in study.configs}


class Stop(Exception):
    pass


class Breaker:
    """Breaks a session off after some events, as a kill does: what was written stays."""

    def __init__(self, after):
        self.left = after

    def hear(self, records, event):
        self.left -= 1
        if not self.left:
            raise Stop

    def close(self, records):
        pass


@pytest.mark.parametrize("searcher", ["random", "halving", "asha", "hyperband", "pbt"])
def test_a_study_broken_off_anywhere_goes_on_exactly(searcher, tmp_path):
    whole = interrupted.run(tmp_path / "whole", searcher)
    broken = None
    sessions = 0
    while broken is None:
        sessions += 1
        try:
            broken = interrupted.run(tmp_path / "broken", searcher, watchers=[Breaker(17 + sessions)])
        except Stop:
            assert sessions < 99
    assert sessions > 3
    assert outcome(whole) == outcome(broken)
    for name, state in weights(whole).items():
        assert all(torch.equal(state[key], value) for key, value in weights(broken)[name].items())


def test_a_process_killed_with_signal_9_loses_nothing(tmp_path):
    whole = interrupted.run(tmp_path / "whole", "halving")
    words = [
        sys.executable,
        "-m",
        "tests.equivalence.select.interrupted",
        str(tmp_path / "killed"),
        "halving",
        "1",
        "40",
    ]
    env = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    assert subprocess.run(words, cwd=ROOT, env=env, check=False).returncode == -9
    with (tmp_path / "killed" / "log.jsonl").open("ab") as log:
        log.write(b'{"kind":"unit","config')  # a line cut short
    assert outcome(interrupted.run(tmp_path / "killed", "halving")) == outcome(whole)


def test_a_torn_state_falls_back_one_unit_and_ends_in_the_same_bits(tmp_path):
    whole = interrupted.run(tmp_path / "whole", "random")
    with pytest.raises(Stop):
        interrupted.run(tmp_path / "torn", "random", watchers=[Breaker(70)])
    study = Study(tmp_path / "torn")
    victim = max((one for one in study.configs if one.alive), key=lambda one: one.version)
    path = study.records.state_path(victim.name, victim.version)
    path.write_bytes(path.read_bytes()[:-7] + b"garbage")
    mended = interrupted.run(tmp_path / "torn", "random")
    assert [e["config"] for e in read_log(tmp_path / "torn" / "log.jsonl") if e["kind"] == "back"] == [victim.name]
    assert weights(whole).keys() == weights(mended).keys()
    for name, state in weights(whole).items():
        assert all(torch.equal(state[key], value) for key, value in weights(mended)[name].items())
    assert [one[-1] for one in outcome(whole)] == [one[-1] for one in outcome(mended)]


def test_a_budget_ends_a_session_and_the_next_one_goes_on(tmp_path):
    arguments = (selected.GRID, selected.data(), selected.with_momentum)
    settings = StudySettings(partitions=4, slices=2, batch_size=32)
    study = search(*arguments, epochs=1, folder=tmp_path, settings=settings, budget=0.0)
    assert not study.records.over
    assert not study.records.spans
    study = search(*arguments, epochs=1, folder=tmp_path, settings=settings)
    assert study.records.over
    assert all(one.status == "finished" for one in study.configs)


def test_another_search_in_the_folder_is_refused_and_so_are_two_at_once(tmp_path):
    interrupted.run(tmp_path, "random")
    with pytest.raises(CheckpointError, match="searcher: 'Random' there, 'Grid' here"):
        search({"lr": [0.1], "width": 8}, selected.data(), selected.with_adam, epochs=4, folder=tmp_path)
    log = Log(tmp_path / "log.jsonl")
    with pytest.raises(BusyError, match="another process"):
        interrupted.run(tmp_path, "random")
    log.close()
