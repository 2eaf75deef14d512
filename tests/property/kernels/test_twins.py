"""Every fast kernel equals its slow twin on generated inputs, serially and in parallel."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell import kernels
from stepwell.kernels import reference, threads
from stepwell.testing import event_logs

NUM_NODES = 6
seeds = st.integers(0, 2**32 - 1)
small = st.lists(st.integers(-3, 3), max_size=40)
large = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=40)
keys = st.one_of(small, large)


@pytest.fixture(params=["serial", "parallel"], autouse=True, scope="module")
def cells_per_thread(request):
    saved, threads.CELLS_PER_THREAD = threads.CELLS_PER_THREAD, 1 if request.param == "parallel" else 10**9
    yield
    threads.CELLS_PER_THREAD = saved


def assert_equal(got, wanted):
    for mine, theirs in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@st.composite
def questions(draw):
    """Return an index and queries: nodes also outside it, prefixes also longer than the log."""
    log = draw(event_logs(max_nodes=NUM_NODES))
    index = kernels.build_tcsr(log.src, log.dst, log.time, NUM_NODES)
    rng = np.random.default_rng(draw(seeds))
    size = draw(st.integers(0, 140))
    return (
        index,
        rng.integers(-1, NUM_NODES + 1, size),
        rng.integers(0, 15, size),
        rng.integers(0, len(log.time) + 3, size),
        draw(st.integers(1, 7)),
        rng,
    )


@given(log=event_logs(max_nodes=NUM_NODES), seed=seeds, directed=st.booleans(), narrow=st.booleans())
def test_build_tcsr_equals_its_twin_for_sorted_and_unsorted_events(log, seed, directed, narrow):
    order = np.random.default_rng(seed).permutation(len(log.time)) if seed % 2 else np.arange(len(log.time))
    src, dst, time = (column[order] for column in log)
    nodes = np.int32 if narrow else np.int64

    got = kernels.build_tcsr(src.astype(nodes), dst.astype(nodes), time, NUM_NODES, directed=directed)

    assert_equal(got, reference.build_tcsr(src, dst, time, NUM_NODES, directed=directed))


@given(log=event_logs(max_nodes=NUM_NODES), chunk=st.integers(1, 9), directed=st.booleans())
def test_two_passes_over_chunks_give_the_index_of_the_whole_log(log, chunk, directed):
    degree = np.zeros(NUM_NODES, np.int64)
    starts = range(0, len(log.time), chunk)
    for start in starts:
        part = slice(start, start + chunk)
        kernels.count_degrees(log.src[part], log.dst[part], degree, directed=directed)
    indptr = np.concatenate([[0], np.cumsum(degree)])
    cursor, rows = indptr[:-1].copy(), [np.empty(indptr[-1], kind) for kind in (np.int32, np.int32, np.int64)]
    for start in starts:
        part = slice(start, start + chunk)
        kernels.fill_tcsr_chunk(log.src[part], log.dst[part], log.time[part], start, cursor, *rows, directed=directed)

    assert_equal((indptr, *rows), kernels.build_tcsr(*log, NUM_NODES, directed=directed))
    np.testing.assert_array_equal(cursor, indptr[1:])


@given(questions())
def test_newest_before_equals_its_twin(question):
    (indptr, _, event, _), nodes, _, before, k, _ = question

    got = kernels.newest_before(indptr, event, nodes, before, k)

    np.testing.assert_array_equal(got, reference.newest_before(indptr, event, nodes, before, k))


@given(questions(), st.booleans())
def test_recent_neighbors_equals_its_twin_whatever_stands_in_the_cursor(question, narrow):
    index, nodes, times, before, k, rng = question
    wanted = reference.recent_neighbors(*index, nodes, times, before, k)
    kind = np.int32 if narrow else np.int64
    out = tuple(np.empty((len(nodes), k), dtype) for dtype in (kind, kind, kind, np.bool_))

    assert_equal(kernels.recent_neighbors(*index, nodes, times, before, k), wanted)
    cursor = rng.integers(-9, 99, NUM_NODES)
    for _ in range(2):
        assert_equal(kernels.recent_neighbors(*index, nodes, times, before, k, cursor=cursor, out=out), wanted)


@given(questions(), st.integers(0, 2**64 - 1), st.integers(0, 2**60))
def test_uniform_before_equals_its_twin(question, key, lane):
    (indptr, _, event, _), nodes, _, before, k, rng = question
    rows = rng.integers(0, 2**40, len(nodes))

    got = kernels.uniform_before(indptr, event, nodes, before, k, key, lane, rows)

    np.testing.assert_array_equal(got, reference.uniform_before(indptr, event, nodes, before, k, key, lane, rows))


@given(questions(), st.integers(0, 15))
def test_window_before_equals_its_twin(question, width):
    (indptr, _, event, time), nodes, times, before, k, _ = question

    got = kernels.window_before(indptr, event, time, nodes, times, before, k, width)

    np.testing.assert_array_equal(got, reference.window_before(indptr, event, time, nodes, times, before, k, width))


@given(questions())
def test_read_slots_equals_its_twin(question):
    (_, neighbor, event, time), _, times, _, k, rng = question
    slots = rng.integers(-1, len(event), (len(times), k))

    assert_equal(
        kernels.read_slots(neighbor, event, time, times, slots),
        reference.read_slots(neighbor, event, time, times, slots),
    )


@given(keys)
def test_unique_inverse_equals_its_twin(values):
    array = np.array(values, np.int64)

    assert_equal(kernels.unique_inverse(array), reference.unique_inverse(array))


@given(st.lists(st.tuples(st.integers(-3, 3), st.one_of(st.integers(-3, 3), st.integers(-(2**63), 2**63 - 1)))))
def test_unique_pairs_equals_its_twin(pairs):
    a, b = np.array(pairs, np.int64).reshape(-1, 2).T

    assert_equal(kernels.unique_pairs(a, b), reference.unique_pairs(a, b))


@given(small, seeds, st.sampled_from([None, np.int64, np.float64]))
def test_last_wins_equals_its_twin(ids, seed, kind):
    array = np.array(ids, np.int64)
    order = None if kind is None else np.random.default_rng(seed).integers(0, 5, len(ids)).astype(kind)

    assert_equal(kernels.last_wins(array, order), reference.last_wins(array, order))


@given(
    seeds,
    st.integers(1, 9),
    st.sampled_from([(), (0,), (1,), (3,), (2, 4)]),
    st.sampled_from(["f4", "f2", "i8", "u1", "?", "S3", "M8[s]", "c16"]),
    st.integers(0, 30),
)
def test_gather_rows_equals_its_twin_for_any_shape_and_dtype(seed, num_rows, shape, dtype, size):
    rng = np.random.default_rng(seed)
    kind = np.dtype(dtype)
    count = num_rows * int(np.prod(shape, dtype=int))
    values = rng.integers(0, 2 if dtype == "?" else 256, count * kind.itemsize, np.uint8)
    table = values.view(kind).reshape(num_rows, *shape)
    rows = rng.integers(-1, num_rows, size)

    got = kernels.gather_rows(table, rows)

    assert got.dtype == table.dtype
    assert got.shape == (size, *shape)
    assert got.tobytes() == reference.gather_rows(table, rows).tobytes()
