"""The index built out of memory is the one built in memory, under any budget, and a killed build leaves nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.core.errors import InvalidValueError
from stepwell.storage import TemporalCSR
from stepwell.storage.build import SortedEvents, build_rows
from stepwell.storage.derived import ArrayWriter, open_arrays

NAMES = ("indptr", "neighbor", "event", "time")


def columns(num_events: int, num_nodes: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    ends = (num_nodes * rng.random((2, num_events)) ** 3).astype(np.int32)
    return ends[0], ends[1], np.sort(rng.integers(-9, num_events, num_events))


@given(
    num_events=st.integers(0, 60),
    num_nodes=st.integers(1, 12),
    budget=st.integers(64, 2000),
    directed=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_budget_gives_the_index_of_the_build_in_memory(
    tmp_path_factory, num_events, num_nodes, budget, directed, seed
):
    src, dst, time_ = columns(num_events, num_nodes, seed)
    folder = tmp_path_factory.mktemp("rows")
    events = SortedEvents(src, dst, time_, num_nodes, directed)
    build_rows(events, ArrayWriter(folder), budget_bytes=budget, num_threads=1 + seed % 3)
    expected = TemporalCSR.from_events(src, dst, time_, num_nodes, directed=directed)
    for name in NAMES:
        assert np.load(folder / f"{name}.npy").tolist() == getattr(expected, name).tolist(), name


def test_an_id_out_of_range_is_named(tmp_path):
    ends = np.array([0, 7], np.int32)
    with pytest.raises(InvalidValueError, match="event 1"):
        TemporalCSR.build(tmp_path / "index", ends, ends, np.array([1, 2]), num_nodes=7)
    assert not (tmp_path / "index").exists() and not list(tmp_path.glob(".*"))


LIMITED = """
import resource, sys
import numpy as np
from stepwell.storage import TemporalCSR

folder, num_nodes, budget = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
src, dst, time = (np.load(f"{folder}/{name}.npy", mmap_mode="r") for name in ("src", "dst", "time"))
TemporalCSR.build(f"{folder}/warm", src[:9], dst[:9], time[:9], num_nodes)
words = (line.split() for line in open("/proc/self/status"))
data = next(int(word[1]) for word in words if word[0] == "VmData:") * 1024
resource.setrlimit(resource.RLIMIT_DATA, (data + budget, data + budget))
TemporalCSR.build(f"{folder}/index", src, dst, time, num_nodes, budget=budget)
"""

KILLED = """
import os, signal, sys, time
import numpy as np
import stepwell
from stepwell.storage import TemporalCSR, ingest, stored
from stepwell.storage.derived import open_arrays
from pathlib import Path

folder = Path(sys.argv[1])
src, dst, at = (np.load(folder / f"{name}.npy") for name in ("src", "dst", "time"))


def work():
    TemporalCSR.build(folder / "index", src, dst, at, 1000)
    lake = stepwell.storage.open(folder / "lake")
    lake.events("log", {"src": src[:20_000], "dst": dst[:20_000], "time": at[:20_000]}).index


for wait_s in (0.005, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6):
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    time.sleep(wait_s)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    if (folder / "index").exists():
        open_arrays(folder / "index", verify=True)
work()
lake = stepwell.storage.open(folder / "lake")
assert len(lake.events("log")) == 20_000
for part in (folder / "lake").glob("_index/log@*/*-*/"):
    open_arrays(part, verify=True)
left = [*folder.glob(".index*"), *(folder / "lake").glob("_index/**/.*")]
assert not left, left
"""


def save_columns(folder: Path, num_events: int, num_nodes: int) -> tuple[np.ndarray, ...]:
    arrays = columns(num_events, num_nodes, seed=1)
    for name, array in zip(("src", "dst", "time"), arrays, strict=True):
        np.save(folder / f"{name}.npy", array)
    return arrays


def run(script: str, *arguments: object) -> None:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr


def test_the_kernel_enforces_the_budget_and_the_build_stays_within(tmp_path):
    arrays = save_columns(tmp_path, 1_000_000, 1000)
    run(LIMITED, tmp_path, 1000, 24 << 20)
    expected = TemporalCSR.from_events(*arrays, 1000)
    built = open_arrays(tmp_path / "index", verify=True)
    assert all(np.array_equal(built[name], getattr(expected, name)) for name in NAMES)


def test_a_build_or_an_ingest_killed_at_any_time_leaves_a_whole_version_or_none(tmp_path):
    save_columns(tmp_path, 300_000, 1000)
    run(KILLED, tmp_path)
