"""Rows of a file: any order, merged runs, past the page cache, and clear errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stepwell.core.errors import DataError, InvalidValueError
from stepwell.storage.row_reads import DiskRows


def _file(tmp_path: Path, rows: int = 5_000, width: int = 43) -> tuple[Path, np.ndarray]:
    table = np.random.default_rng(0).standard_normal((rows, width)).astype(np.float32)
    np.save(tmp_path / "table.npy", table)
    return tmp_path / "table.npy", table


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("depth", [1, 7])
def test_rows_come_in_the_order_asked_with_repeats(tmp_path: Path, *, direct: bool, depth: int) -> None:
    path, table = _file(tmp_path)
    disk = DiskRows.of_npy(path, direct=direct, depth=depth)
    rows = np.random.default_rng(1).integers(0, len(table), 3_000)
    rows[-1] = len(table) - 1
    np.testing.assert_array_equal(disk.read(rows), table[rows])
    assert disk.read(rows[:0]).shape == (0, 43)


def test_rows_go_to_their_places_and_touch_no_other(tmp_path: Path) -> None:
    path, table = _file(tmp_path)
    out = np.full((10, 43), 7, np.float32)
    DiskRows.of_npy(path).read(np.array([4, 2]), out, np.array([9, 0]))
    np.testing.assert_array_equal(out[[9, 0]], table[[4, 2]])
    assert (out[1:9] == 7).all()


def test_adjacent_rows_are_one_request(tmp_path: Path) -> None:
    path, _ = _file(tmp_path)
    disk = DiskRows.of_npy(path)
    disk.read(np.arange(500)[::-1])
    assert disk.counts.requests == 1
    assert disk.counts.size_bytes == 500 * 43 * 4


def test_a_row_wider_than_a_buffer_is_read_whole(tmp_path: Path) -> None:
    table = np.arange(3 * 100_000, dtype=np.float64).reshape(3, 100_000)
    np.save(tmp_path / "wide.npy", table)
    disk = DiskRows.of_npy(tmp_path / "wide.npy", direct=True)
    np.testing.assert_array_equal(disk.read(np.array([2, 0])), table[[2, 0]])


def test_written_rows_are_read_and_the_last_of_equal_ones_wins(tmp_path: Path) -> None:
    path, table = _file(tmp_path)
    disk = DiskRows.of_npy(path, writable=True)
    new = np.ones((3, 43), np.float32) * np.array([[1], [2], [3]], np.float32)
    disk.write(np.array([8, 7, 8]), new)
    disk.flush()
    np.testing.assert_array_equal(disk.read(np.array([7, 8, 9])), np.stack([new[1], new[2], table[9]]))
    np.testing.assert_array_equal(np.load(path)[[7, 8, 9]], np.stack([new[1], new[2], table[9]]))


def test_a_short_file_is_refused_with_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"x" * 100)
    with pytest.raises(DataError, match="100 bytes"):
        DiskRows(tmp_path / "short", np.float32, (10, 4))


def test_a_file_cut_while_open_is_an_error_and_no_zeros(tmp_path: Path) -> None:
    path, _ = _file(tmp_path)
    disk = DiskRows.of_npy(path)
    with path.open("r+b") as file:
        file.truncate(10_000)
    with pytest.raises(DataError, match="could not be read"):
        disk.read(np.array([0, 4_000]))


def test_a_file_that_is_no_array_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.npy").write_text("no array")
    with pytest.raises(DataError, match=r"text\.npy"):
        DiskRows.of_npy(tmp_path / "text.npy")


@pytest.mark.parametrize("rows", [[-1], [5_000]])
def test_rows_outside_are_refused(tmp_path: Path, rows: list[int]) -> None:
    path, _ = _file(tmp_path)
    with pytest.raises(InvalidValueError, match="rows"):
        DiskRows.of_npy(path).read(np.array(rows))


def test_writing_to_a_file_opened_for_reading_is_an_error(tmp_path: Path) -> None:
    path, table = _file(tmp_path)
    with pytest.raises(DataError, match="could not be written"):
        DiskRows.of_npy(path).write(np.array([1]), table[:1])
