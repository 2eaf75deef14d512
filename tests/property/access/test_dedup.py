"""The fast and the slow way to distinct rows agree."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stepwell.access import dedup

small = st.integers(0, 5)


def arrays(draw, *shape, low=0, high=5):
    flat = draw(st.lists(st.integers(low, high), min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))
    return np.array(flat, np.int64).reshape(shape)


def same(got, wanted):
    for mine, theirs in zip(got, wanted, strict=True):
        assert mine.dtype == theirs.dtype
        assert np.array_equal(mine, theirs)


@given(st.lists(small, min_size=1, max_size=40))
def test_the_first_position_of_a_time_is_that_of_a_binary_search(times):
    times = np.sort(np.array(times, np.int64))
    for position in range(len(times)):
        got = dedup.first_position(times, position)
        assert got == dedup.first_position_reference(times, position)


@given(st.data())
def test_root_targets_equal_their_reference(data):
    size, width = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 3))
    log_time = np.sort(arrays(data.draw, size + 3, high=4))
    begin = data.draw(st.integers(0, 3))
    event = np.arange(begin, begin + size)
    src, candidate = arrays(data.draw, size), arrays(data.draw, size, width, low=-1)
    key = data.draw(st.sampled_from([dedup.EVENT, dedup.BATCH, dedup.NODE]))
    query = (src, candidate, log_time[event], event, log_time, key)
    got = dedup.root_targets(*query)
    same(got, dedup.root_targets_reference(*query))
    assert len({tuple(row) for row in zip(*got[:3], strict=True)}) == len(got[0])


@given(st.data())
def test_next_targets_equal_their_reference(data):
    size, width = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 3))
    log_time = np.sort(arrays(data.draw, 10, high=4))
    triples = data.draw(st.lists(st.tuples(small, small, small), min_size=size, max_size=size, unique=True))
    node, time, before = np.array(triples, np.int64).T.copy()
    neighbor = arrays(data.draw, size, width, low=-1)
    event = np.where(neighbor < 0, -1, arrays(data.draw, size, width, high=9))
    for at_edge in (True, False):
        query = (node, time, before, neighbor, event, log_time, at_edge)
        got = dedup.next_targets(*query)
        same(got, dedup.next_targets_reference(*query))
        assert np.array_equal(got[3], np.arange(size))


@given(st.data())
def test_distinct_nodes_and_ids_equal_their_references(data):
    size, width = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 4))
    node, neighbor = arrays(data.draw, size), arrays(data.draw, size, width, low=-1)
    same(dedup.distinct_nodes(node, neighbor), dedup.distinct_nodes_reference(node, neighbor))
    same(dedup.distinct_ids(neighbor.ravel()), dedup.distinct_ids_reference(neighbor.ravel()))


@given(st.lists(st.integers(-(2**62), 2**62), min_size=0, max_size=300))
def test_wide_ids_collide_no_more_than_they_are_equal(ids):
    ids = np.array(ids, np.int64)
    same(dedup.distinct_ids(ids), dedup.distinct_ids_reference(ids))


@given(st.integers(0, 2**40), st.integers(-(2**40), 2**40))
def test_the_key_of_a_query_depends_on_its_node_and_time_alone(node, time):
    one = dedup.query_keys(np.array([node]), np.array([time]))
    two = dedup.query_keys(np.array([7, node, 9]), np.array([1, time, 2]))
    assert one[0] == two[1]
    assert one[0] >= 0
    assert one[0] != dedup.query_keys(np.array([node]), np.array([time + 1]))[0]
