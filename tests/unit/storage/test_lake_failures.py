"""Whatever goes wrong in a write, the last good version stays and the error says what happened."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from stepwell.core.errors import DataError
from stepwell.storage.files import Rows
from stepwell.storage.lake import ConflictError, open

LONG = """
import sys
import numpy as np, pyarrow as pa
from stepwell.storage.files import Rows
from stepwell.storage.lake import open

def start(columns):
    rng = np.random.default_rng(0)
    for _ in range(int(sys.argv[2])):
        yield pa.record_batch({"x": rng.integers(0, 2**62, 60_000)})

rows = Rows("long", pa.schema([("x", pa.int64())]), start)
"""
KILLED = LONG + "open(sys.argv[1]).write('a', rows)"
FULL = (
    LONG
    + """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    open(sys.argv[1]).write("a", rows)
except OSError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""
)


def files(folder: Path) -> set[Path]:
    return {path for path in folder.glob("a/*") if path.is_file()}


@pytest.mark.parametrize("existing", [True, False])
def test_a_killed_write_leaves_the_last_version_and_can_be_done_again(existing, tmp_path):
    lake = open(tmp_path)
    if existing:
        lake.write("a", {"x": np.arange(3)})
    before = files(tmp_path)
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path), "1000000"], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not files(tmp_path) - before and time.monotonic() < deadline:
            time.sleep(0.05)
        assert files(tmp_path) - before, "the writer never began"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert open(tmp_path).names() == (["a"] if existing else [])
    if existing:
        assert lake.table("a").to_arrow()["x"].to_pylist() == [0, 1, 2]
    assert len(lake.write("a", {"x": np.arange(5)})) == 5


def test_a_full_disk_is_named_and_the_last_version_stays(tmp_path):
    lake = open(tmp_path)
    lake.write("a", {"x": np.arange(3)})
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path), "40"], capture_output=True, text=True, timeout=60)
    assert "DiskFullError: a: the disk is full or a file-size limit was met" in done.stderr
    assert "stays at its last version" in done.stderr
    assert lake.table("a").version == 0
    assert lake.table("a").to_arrow()["x"].to_pylist() == [0, 1, 2]


def test_a_source_that_fails_midway_shows_its_own_error(tmp_path):
    def start(columns):
        yield pa.record_batch({"x": [1]})
        raise DataError("file.csv, line 8", "is torn", "whole lines", "repair it")

    lake = open(tmp_path)
    lake.write("a", {"x": np.arange(3)})
    with pytest.raises(DataError, match=r"^file\.csv, line 8: is torn"):
        lake.write("a", Rows("file.csv", pa.schema([("x", pa.int64())]), start))
    assert lake.table("a").version == 0


@pytest.mark.parametrize("existing", [True, False])
def test_of_two_replacing_writers_at_once_one_wins_and_the_other_is_told(existing, tmp_path):
    lake = open(tmp_path)
    if existing:
        lake.write("a", {"x": np.arange(3)})
    both_reading = threading.Barrier(2)
    told: list[Exception] = []

    def work(value: int) -> None:
        def start(columns):
            both_reading.wait(timeout=30)
            yield pa.record_batch({"x": [value]})

        try:
            lake.write("a", Rows("rows", pa.schema([("x", pa.int64())]), start))
        except ConflictError as error:
            told.append(error)

    threads = [threading.Thread(target=work, args=(value,)) for value in (7, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(told) == 1
    assert lake.table("a").to_arrow()["x"].to_pylist() in ([7], [8])
    assert len(lake.versions("a")) == 1 + existing


def test_two_appending_writers_at_once_both_land(tmp_path):
    lake = open(tmp_path)
    lake.write("a", {"x": np.arange(3)})
    both_reading = threading.Barrier(2)

    def work(value: int) -> None:
        def start(columns):
            both_reading.wait(timeout=30)
            yield pa.record_batch({"x": [value]})

        lake.write("a", Rows("rows", pa.schema([("x", pa.int64())]), start), mode="append")

    threads = [threading.Thread(target=work, args=(value,)) for value in (7, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(lake.table("a").to_arrow()["x"].to_pylist()) == [0, 1, 2, 7, 8]
    assert len(lake.lineage("a")) == 3


def test_a_torn_log_is_named(tmp_path):
    lake = open(tmp_path)
    lake.write("a", {"x": np.arange(3)})
    (tmp_path / "a" / "_delta_log" / "00000000000000000000.json").write_text("{torn")
    with pytest.raises(DataError, match=r"^a: the table refused it"):
        lake.table("a")
