"""A sweep gives the rows of its backing, whether they were foreseen or not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stepwell.buffer import Belady
from stepwell.buffer.planned import Planned
from stepwell.buffer.sweep import Sweep
from stepwell.buffer.tiers import ArrayRows, Tier, TieredStore
from stepwell.buffer.trace import Trace
from stepwell.storage.row_reads import DiskRows


def _batches(seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.permutation(200)[: rng.integers(0, 40)] for _ in range(30)]


def _read(sweep: Sweep, rows: np.ndarray) -> np.ndarray:
    places = np.arange(len(rows))[::-1].copy()
    return sweep.read(rows, np.empty((len(rows), 3)), places)[::-1]


@pytest.mark.parametrize("capacity", [0, 1, 30, 79, 150, 1000])
@pytest.mark.parametrize("foreseen", [0, 1])
def test_rows_are_those_of_the_backing_whatever_was_foreseen(capacity: int, foreseen: int) -> None:
    table = np.random.default_rng(1).random((200, 3))
    sweep = Sweep(ArrayRows(table), capacity)
    for _ in range(2):
        sweep.begin(iter(_batches(foreseen)))
        for rows in _batches(0):
            np.testing.assert_array_equal(_read(sweep, rows), table[rows])


def test_an_epoch_left_early_does_not_disturb_the_next() -> None:
    table = np.random.default_rng(1).random((200, 3))
    sweep = Sweep(ArrayRows(table), 100)
    for stop in (0, 1, 7, 30):
        sweep.begin(iter(_batches()))
        for rows in _batches()[:stop]:
            np.testing.assert_array_equal(_read(sweep, rows), table[rows])


def test_a_foreseen_file_is_asked_for_each_row_of_a_window_once(tmp_path: Path) -> None:
    table = np.random.default_rng(1).random((200, 3))
    np.save(tmp_path / "table.npy", table)
    file = DiskRows.of_npy(tmp_path / "table.npy")
    sweep = Sweep(file, 2 * 200 * 64)
    sweep.begin(iter(_batches()))
    for rows in _batches():
        np.testing.assert_array_equal(_read(sweep, rows), table[rows])
    assert file.counts.rows == len(np.unique(np.concatenate(_batches())))


def test_what_is_written_is_read() -> None:
    table = np.random.default_rng(1).random((200, 3))
    expected, sweep = table.copy(), Sweep(ArrayRows(table), 160)
    sweep.begin(iter(_batches()))
    for rows in _batches():
        np.testing.assert_array_equal(_read(sweep, rows), expected[rows])
        expected[rows] += 1
        sweep.write(rows, expected[rows])


@pytest.mark.parametrize("capacity", [0, 5, 50, 200])
def test_a_plan_says_what_its_tier_will_miss(capacity: int) -> None:
    trace = Trace.of(_batches(), 200)
    plan = Belady().begin(200, capacity, trace)
    assert isinstance(plan, Planned)
    table = np.zeros((200, 3))
    store, before = TieredStore(table, [Tier(capacity, plan)]), 0
    for rows, missed in zip(_batches(), Belady().begin(200, capacity, trace).misses(), strict=True):  # type: ignore[attr-defined]
        store.gather(rows)
        assert store.counts[0].misses - before == len(missed)
        before = store.counts[0].misses
