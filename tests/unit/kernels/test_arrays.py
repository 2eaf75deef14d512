"""The index build, distinct keys, reduction, gather, and how kernels share threads."""

import subprocess
import sys
import threading

import numba
import numpy as np
import pytest
import torch

from stepwell import kernels
from stepwell.core.errors import InvalidValueError
from stepwell.kernels import threads
from stepwell.kernels.tcsr import narrowest


def test_a_self_loop_stands_once_and_an_event_stands_at_both_ends():
    indptr, neighbor, event, time = kernels.build_tcsr(np.array([1, 0]), np.array([1, 2]), np.array([3, 4]), 4)

    assert indptr.tolist() == [0, 1, 2, 3, 3]
    assert neighbor.tolist() == [2, 1, 0]
    assert event.tolist() == [1, 0, 1]
    assert time.tolist() == [4, 3, 4]
    assert (neighbor.dtype, event.dtype) == (np.int32, np.int32)


def test_a_directed_index_shows_an_event_to_its_source_alone():
    indptr, neighbor, _, _ = kernels.build_tcsr(np.array([0]), np.array([1]), np.array([3]), 2, directed=True)

    assert indptr.tolist() == [0, 1, 1]
    assert neighbor.tolist() == [1]


def test_unsorted_events_are_placed_by_time_and_ties_keep_their_order():
    _, neighbor, event, time = kernels.build_tcsr(
        np.array([0, 0, 0]), np.array([1, 2, 3]), np.array([9, 5, 9]), 4, directed=True
    )

    assert neighbor.tolist() == [2, 1, 3]
    assert event.tolist() == [0, 1, 2]
    assert time.tolist() == [5, 9, 9]


def test_an_empty_log_gives_an_empty_index():
    none = np.array([], np.int64)

    indptr, *rows = kernels.build_tcsr(none, none, none, 2)

    assert indptr.tolist() == [0, 0, 0]
    assert [len(row) for row in rows] == [0, 0, 0]


@pytest.mark.parametrize("bad", [-1, 3])
def test_a_node_outside_the_range_is_named(bad):
    with pytest.raises(InvalidValueError, match=rf"event 1.*in \[0, 3\), got \(0, {bad}\)"):
        kernels.build_tcsr(np.array([0, 0]), np.array([1, bad]), np.array([1, 2]), 3)


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(InvalidValueError, match="of one length"):
        kernels.build_tcsr(np.array([0]), np.array([1, 2]), np.array([1, 2]), 3)
    with pytest.raises(InvalidValueError, match="of one length"):
        kernels.unique_pairs(np.array([0]), np.array([1, 2]))
    with pytest.raises(InvalidValueError, match="as long as ids"):
        kernels.last_wins(np.array([0]), np.array([1, 2]))


def test_index_types_widen_where_they_must():
    assert narrowest(2**31) is np.int32
    assert narrowest(2**31 + 1) is np.int64


def test_distinct_keys_keep_the_order_of_first_appearance():
    unique, inverse = kernels.unique_inverse(np.array([7, -1, 7, 3]))
    a, b, pair_inverse = kernels.unique_pairs(np.array([1, 1, 1]), np.array([2, 3, 2]))

    assert (unique.tolist(), inverse.tolist()) == ([7, -1, 3], [0, 1, 0, 2])
    assert (a.tolist(), b.tolist(), pair_inverse.tolist()) == ([1, 1], [2, 3], [0, 1, 0])


def test_the_last_row_wins_and_the_largest_order_before_it():
    ids = np.array([5, 6, 5, 5])

    assert [part.tolist() for part in kernels.last_wins(ids)] == [[5, 6], [3, 1]]
    assert [part.tolist() for part in kernels.last_wins(ids, np.array([2, 0, 2, 1]))] == [[5, 6], [2, 1]]


def test_gather_repeats_rows_and_gives_zeros_for_minus_one():
    table = np.arange(6, dtype=np.float32).reshape(3, 2)
    out = np.full((3, 2), 9, np.float32)

    assert kernels.gather_rows(table, np.array([2, -1, 2]), out) is out
    assert out.tolist() == [[4, 5], [0, 0], [4, 5]]


def test_gather_refuses_rows_outside_and_outputs_that_do_not_fit():
    table = np.ones((3, 2), np.float32)

    for bad in (-2, 3):
        with pytest.raises(InvalidValueError, match=r"in \[-1, 3\)"):
            kernels.gather_rows(table, np.array([0, bad]))
    with pytest.raises(InvalidValueError, match="`out` must be C-ordered"):
        kernels.gather_rows(table, np.array([0]), np.ones((1, 2), np.float64))
    with pytest.raises(InvalidValueError, match="fixed-size dtype"):
        kernels.gather_rows(np.array([None, None]), np.array([0]))


@pytest.fixture
def eager_threads(monkeypatch):
    monkeypatch.setattr(threads, "CELLS_PER_THREAD", 1)


def who_ran(rows=8):
    ran = []
    threads.launch(rows, rows, lambda *args: ran.append("serial"), lambda *args: ran.append("parallel"))
    return ran


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two threads")
def test_kernels_use_as_many_threads_as_torch(eager_threads):
    before, mask = torch.get_num_threads(), numba.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert (threads.num_threads(), who_ran()) == (1, ["serial"])
        torch.set_num_threads(2)
        assert (threads.num_threads(), who_ran()) == (2, ["parallel"])
        assert who_ran(rows=1) == ["serial"]
    finally:
        torch.set_num_threads(before)
    assert numba.get_num_threads() == mask


def test_whoever_finds_the_parallel_region_taken_runs_serially(eager_threads):
    with threads._region:
        assert who_ran() == ["serial"]


def test_threads_that_search_at_once_get_the_same_answers(eager_threads):
    index = kernels.build_tcsr(np.zeros(50, int), np.arange(1, 51), np.arange(50), 51)
    nodes, before = np.zeros(300, int), np.arange(300) % 51
    cursor = np.zeros(51, np.int64)
    wanted = kernels.recent_neighbors(*index, nodes, before, before, 5)
    wrong = []

    def search():
        for _ in range(30):
            found = kernels.recent_neighbors(*index, nodes, before, before, 5, cursor=cursor)
            wrong.extend(i for i in range(4) if not np.array_equal(found[i], wanted[i]))

    searchers = [threading.Thread(target=search) for _ in range(4)]
    for searcher in searchers:
        searcher.start()
    for searcher in searchers:
        searcher.join()
    assert wrong == []


FORK = """
import os
import numpy as np
from stepwell import kernels
from stepwell.kernels import threads
threads.CELLS_PER_THREAD = 1
table, rows = np.ones((4, 2)), np.zeros(100, int)
kernels.gather_rows(table, rows)
child = os.fork()
if child == 0:
    os._exit(0 if kernels.gather_rows(table, rows).all() else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_a_forked_child_searches_without_the_parents_threads():
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", FORK], timeout=100).returncode == 0
