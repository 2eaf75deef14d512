"""What a store in tiers counts, refuses and survives."""

from __future__ import annotations

from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from stepwell.buffer import LRU
from stepwell.buffer.tiers import Tier, TieredStore
from stepwell.core.errors import DataError, InvalidValueError
from stepwell.storage.row_reads import DiskRows


def _store(capacity: int) -> tuple[TieredStore, np.ndarray]:
    table = np.arange(20, dtype=np.float64).reshape(10, 2)
    return TieredStore(table, [Tier(capacity, LRU().begin(10, capacity))]), table


def test_each_distinct_row_is_counted_once() -> None:
    store, table = _store(10)
    np.testing.assert_array_equal(store.rows(np.array([1, 2, 1, 1])), table[[1, 2, 1, 1]])
    np.testing.assert_array_equal(store.rows(np.array([2, 3])), table[[2, 3]])
    (count,) = store.counts
    assert (count.rows, count.hits, count.misses, count.size_bytes) == (3, 1, 3, 160)
    assert count.hit_rate == 0.25


def test_no_room_lets_every_row_pass() -> None:
    store, table = _store(0)
    for _ in range(2):
        np.testing.assert_array_equal(store.rows(np.arange(10)), table)
    assert store.counts[0].hits == 0


def test_a_written_resident_stays_out_of_the_backing_until_flush() -> None:
    store, table = _store(10)
    store.gather(np.array([4]))
    store.write(np.array([4]), np.array([[7.0, 7.0]]))
    assert table[4, 0] == 8.0
    np.testing.assert_array_equal(store.rows(np.array([4])), [[7.0, 7.0]])
    store.flush()
    assert table[4, 0] == 7.0
    assert store.counts[0].written_back == 1


@pytest.mark.parametrize("ids", [[-1], [10]])
def test_ids_outside_are_refused(ids: list[int]) -> None:
    store, _ = _store(2)
    with pytest.raises(InvalidValueError, match="ids"):
        store.gather(np.array(ids))


def test_rows_of_another_type_are_refused() -> None:
    store, _ = _store(2)
    with pytest.raises(InvalidValueError, match="rows"):
        store.write(np.array([0]), np.zeros((1, 2), np.float32))


def test_after_a_disk_error_the_store_still_gives_right_rows(tmp_path: Path) -> None:
    table = np.arange(4_000.0).reshape(1_000, 4)
    np.save(tmp_path / "rows.npy", table)
    store = TieredStore(DiskRows.of_npy(tmp_path / "rows.npy"), [Tier(10, LRU().begin(1_000, 10))])
    store.gather(np.arange(5))
    whole = (tmp_path / "rows.npy").read_bytes()
    with (tmp_path / "rows.npy").open("r+b") as file:
        file.truncate(1_000)
    with pytest.raises(DataError):
        store.gather(np.array([3, 999]))
    with (tmp_path / "rows.npy").open("r+b") as file:
        file.write(whole)
    np.testing.assert_array_equal(store.rows(np.array([3, 999])), table[[3, 999]])


def test_writes_from_another_thread_lose_nothing() -> None:
    table = np.zeros((50, 1))
    store = TieredStore(table, [Tier(7, LRU().begin(50, 7))])

    def write() -> None:
        for value in range(1, 201):
            store.write(np.arange(50), np.full((50, 1), float(value)))

    thread = Thread(target=write)
    thread.start()
    while thread.is_alive():
        found = store.rows(np.arange(50))
        assert (found == found[0]).all()
    thread.join()
    store.flush()
    assert (table == 200).all()
