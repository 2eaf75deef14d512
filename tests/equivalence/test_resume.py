"""A run killed at any step and resumed ends in the same bits as one never killed."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stepwell.core.state import read_state

_SCRIPT = Path(__file__).with_name("resumable_run.py")
_RUNS = {
    "never": [],
    "once, near the end of an epoch": [16],
    "twice": [4, 11],
}
_ALL = {"never": [], "once": [13]}


def made(root: Path, runs: dict[str, list[int]], mark: str = "") -> dict[str, Path]:
    """Make runs, each in a folder of its own, in one process that forks: nothing is imported twice."""
    found = {name: root / str(number) for number, name in enumerate(runs)}
    kills = {name: ",".join(str(step + random.randrange(3)) for step in steps) for name, steps in runs.items()}
    subprocess.run(
        [sys.executable, str(_SCRIPT), *(f"{found[name]}{mark}={kills[name]}" for name in runs)],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "STEPWELL_PROGRESS": "0"},
    )
    return found


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    return made(tmp_path_factory.mktemp("runs"), _RUNS)


@pytest.fixture(scope="module")
def with_all(tmp_path_factory) -> dict[str, Path]:
    """Make runs in which a stage, kept embeddings and node state out of core have a state too."""
    return made(tmp_path_factory.mktemp("all"), _ALL, "+")


def check_equal(never: Path, killed: Path) -> None:
    for part in ("last", "best"):
        mine, theirs = read_state(never / part).tensors(), read_state(killed / part).tensors()
        assert mine.keys() == theirs.keys()
        for tensor, value in mine.items():
            assert torch.equal(value, theirs[tensor]), f"{part}/{tensor}"
    loops = [read_state(folder / "last").value("loop") for folder in (never, killed)]
    histories = [[(epoch["loss"], epoch["scores"], epoch["best"]) for epoch in loop["history"]] for loop in loops]
    assert histories[0] == histories[1]


@pytest.mark.parametrize("name", [name for name in _RUNS if name != "never"])
def test_a_killed_run_continues_with_the_same_bits(folders, name):
    check_equal(folders["never"], folders[name])


def test_a_killed_run_brings_back_stages_embeddings_and_state_out_of_core(with_all):
    check_equal(with_all["never"], with_all["once"])
    states = [read_state(folder / "last") for folder in with_all.values()]
    for part in ("batches/Ranks/weight", "model/own/reuse/0/values"):
        assert part in states[0].tensors()
    rows = [state.child("model/part/memory").file("rows").read_bytes() for state in states]
    assert rows[0] == rows[1] and any(rows[0])


def test_parameters_memory_and_optimiser_are_among_what_was_compared(folders):
    names = read_state(folders["never"] / "last").tensors().keys()
    for part in (
        "model/module/memory.memory",
        "model/module/memory.pending_time",
        "optimizer/0/exp_avg",
        "generators/torch",
    ):
        assert part in names
