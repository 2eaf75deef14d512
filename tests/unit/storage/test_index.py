"""The temporal adjacency in memory."""

from __future__ import annotations

import pytest

from stepwell.core.errors import InvalidValueError
from stepwell.storage import EventLog, TemporalCSR


def test_each_event_stands_in_the_rows_of_both_ends_oldest_first():
    graph = TemporalCSR.from_events(src=[0, 0, 1], dst=[1, 2, 0], time=[10, 20, 30])
    assert graph.indptr.tolist() == [0, 3, 5, 6]
    assert graph.neighbor.tolist() == [1, 2, 1, 0, 0, 0]
    assert graph.event.tolist() == [0, 1, 2, 0, 2, 1]
    assert graph.time.tolist() == [10, 20, 30, 10, 30, 20]


def test_a_self_loop_stands_once():
    assert TemporalCSR.from_events(src=[0], dst=[0], time=[1]).event.tolist() == [0]


def test_a_directed_log_is_seen_from_its_sources_only():
    graph = EventLog.from_arrays([0, 1], [1, 0], [1, 2], directed=True).index
    assert graph.neighbor.tolist() == [1, 0] and graph.degree().tolist() == [1, 1]
    assert len(graph) == 2 and graph.num_nodes == 2


def test_an_id_beyond_the_nodes_is_refused():
    with pytest.raises(InvalidValueError, match="num_nodes"):
        TemporalCSR.from_events([0], [5], [1], num_nodes=3)
