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


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Make all runs, each in a folder of its own, in one process that forks: nothing is imported twice."""
    root = tmp_path_factory.mktemp("runs")
    found = {name: root / str(number) for number, name in enumerate(_RUNS)}
    kills = {name: ",".join(str(step + random.randrange(3)) for step in steps) for name, steps in _RUNS.items()}
    subprocess.run(
        [sys.executable, str(_SCRIPT), *(f"{found[name]}={kills[name]}" for name in _RUNS)],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "STEPWELL_PROGRESS": "0"},
    )
    return found


@pytest.mark.parametrize("name", [name for name in _RUNS if name != "never"])
def test_a_killed_run_continues_with_the_same_bits(folders, name):
    for part in ("last", "best"):
        mine, theirs = read_state(folders["never"] / part).tensors(), read_state(folders[name] / part).tensors()
        assert mine.keys() == theirs.keys()
        for tensor, value in mine.items():
            assert torch.equal(value, theirs[tensor]), f"{part}/{tensor}"
    loops = [read_state(folders[which] / "last").value("loop") for which in ("never", name)]
    histories = [[(epoch["loss"], epoch["scores"], epoch["best"]) for epoch in loop["history"]] for loop in loops]
    assert histories[0] == histories[1]


def test_parameters_memory_and_optimiser_are_among_what_was_compared(folders):
    names = read_state(folders["never"] / "last").tensors().keys()
    for part in (
        "model/module/memory.memory",
        "model/module/memory.pending_time",
        "optimizer/0/exp_avg",
        "generators/torch",
    ):
        assert part in names
