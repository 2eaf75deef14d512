"""Windows laid out anew hold the rows of the file, whatever the sizes of rows, chunks, buffers and windows."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.buffer.partition import Partition, aligned_rows, open_scratch
from stepwell.buffer.sweep import Sweep
from stepwell.core.errors import DataError
from stepwell.storage.row_reads import DiskRows

Windows = list[np.ndarray]


def _file(folder: Path, rows: int, width: int) -> tuple[np.ndarray, DiskRows]:
    table = np.random.default_rng(rows).integers(0, 255, (rows, width), np.uint8)
    np.save(folder / "table.npy", table)
    return table, DiskRows.of_npy(folder / "table.npy")


def _partition(below: DiskRows, windows: Windows, chunk_bytes: int = 1 << 16, buffer_bytes: int = 4096) -> Partition:
    with tempfile.TemporaryFile() as scratch:
        return Partition(below, windows, os.dup(scratch.fileno()), chunk_bytes=chunk_bytes, buffer_bytes=buffer_bytes)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 300),
    width=st.sampled_from([1, 7, 688, 5000]),
    chunk=st.sampled_from([1, 3000, 1 << 20]),
    buffer=st.sampled_from([4096, 16384]),
    data=st.data(),
)
def test_a_window_holds_the_rows_that_it_wants(
    rows: int, width: int, chunk: int, buffer: int, data: st.DataObject
) -> None:
    wanted = data.draw(st.lists(st.sets(st.integers(0, rows - 1)), max_size=6))
    windows = [np.array(sorted(window), np.int32) for window in wanted]
    with tempfile.TemporaryDirectory() as folder:
        table, below = _file(Path(folder), rows, width)
        made = _partition(below, windows, chunk, buffer)
        room = aligned_rows(rows, (width,), table.dtype)
        for number in data.draw(st.permutations(range(len(windows)))):
            np.testing.assert_array_equal(made.read(number, room), table[windows[number]])
        made.close()


def test_a_file_cut_short_is_told_to_whoever_waits(tmp_path: Path) -> None:
    _, below = _file(tmp_path, 1000, 688)
    os.truncate(tmp_path / "table.npy", 1000)
    made = _partition(below, [np.arange(1000, dtype=np.int32)])
    with pytest.raises(DataError, match="could not be read"):
        made.read(0, aligned_rows(1000, (688,), below.dtype))
    made.close()


def test_a_full_disk_leaves_the_rows_where_they_are(tmp_path: Path) -> None:
    assert open_scratch(tmp_path / "table.npy", 1 << 60) is None


def test_no_file_is_left_behind(tmp_path: Path) -> None:
    scratch = open_scratch(tmp_path / "table.npy", 1 << 20)
    assert not list(tmp_path.iterdir())
    if scratch is not None:  # else: no direct writes here
        os.close(scratch)


def _direct(folder: Path) -> DiskRows:
    np.save(folder / "table.npy", np.random.default_rng(0).random((20_000, 100), np.float32))
    below = DiskRows.of_npy(folder / "table.npy", direct=True)
    if not below.direct:
        pytest.skip("the temporary folder lies on a file system without direct reads")
    return below


def _read_all(sweep: Sweep, batches: Windows, table: np.ndarray) -> None:
    for rows in batches:
        out = np.empty((len(rows), 100), np.float32)
        np.testing.assert_array_equal(sweep.read(rows, out, np.arange(len(rows))), table[rows])


def test_scattered_rows_are_laid_out_and_those_in_order_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    below, rng = _direct(tmp_path), np.random.default_rng(1)
    table = np.load(tmp_path / "table.npy")
    scattered = [rng.choice(20_000, 400, replace=False) for _ in range(80)]
    sweep = Sweep(below, 2000)
    sweep.begin(iter(scattered))
    assert sweep.laid_out_bytes > 80 * 300 * 400
    _read_all(sweep, scattered, table)
    in_order = [np.arange(start, start + 400) for start in range(0, 20_000, 400)]
    sweep.begin(iter(in_order))
    assert sweep.laid_out_bytes == 0
    _read_all(sweep, in_order, table)
    monkeypatch.setenv("STEPWELL_SCRATCH", "off")
    sweep.begin(iter(scattered))
    assert sweep.laid_out_bytes == 0
    _read_all(sweep, scattered, table)


def _open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_an_epoch_left_early_gives_its_scratch_file_back(tmp_path: Path) -> None:
    below, rng = _direct(tmp_path), np.random.default_rng(1)
    table = np.load(tmp_path / "table.npy")
    batches = [rng.choice(20_000, 400, replace=False) for _ in range(80)]
    sweep, before = Sweep(below, 2000), _open_files()
    for stop in (0, 1, 30, 80):
        sweep.begin(iter(batches))
        _read_all(sweep, batches[:stop], table)
    sweep.begin(iter(()))
    assert _open_files() == before
