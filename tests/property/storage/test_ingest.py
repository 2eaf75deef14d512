"""Ingest, append and delete against their slow twins in memory, for generated logs."""

from __future__ import annotations

import tempfile
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.storage import EventLog, TemporalCSR, open

EVENTS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(-4, 6)), min_size=1, max_size=25)
FEW = settings(max_examples=12, deadline=None)


def rows_of(events: list[tuple[int, int, int]]) -> dict[str, np.ndarray]:
    src, dst, time = (np.array(column) for column in zip(*events, strict=True))
    return {"src": src, "dst": dst, "time": time, "x": np.arange(len(src), dtype=np.float32) + 10 * time}


def in_memory(events: list[tuple[int, int, int]], log: EventLog) -> EventLog:
    """State what a log must be: its events by time, ties as they came, keys by the log's own numbering."""
    rows = rows_of(events)
    node = {key: node for node, key in enumerate(log.keys(np.arange(log.num_nodes)).tolist())}
    ends = [[node[key] for key in rows[end].tolist()] for end in ("src", "dst")]
    return EventLog.from_arrays(*ends, rows["time"], features=rows["x"][:, None], num_nodes=log.num_nodes)


def assert_equal(log: EventLog, expected: EventLog) -> None:
    for name in ("src", "dst", "time"):
        assert getattr(log, name).tolist() == getattr(expected, name).tolist(), name
    assert_equal_index(log.index, expected.index)


def assert_equal_index(index: TemporalCSR, expected: TemporalCSR) -> None:
    for name in ("indptr", "neighbor", "event", "time"):
        assert getattr(index, name).tolist() == getattr(expected, name).tolist(), name


@FEW
@given(events=EVENTS)
def test_an_ingested_log_is_the_sorted_one_in_memory(events):
    with tempfile.TemporaryDirectory() as folder:
        log = open(folder).events("log", rows_of(events), features=["x"])
        expected = in_memory(events, log)
        assert_equal(log, expected)
        assert log.event_id.tolist() == expected.event_id.tolist()
        assert log.event_feature.tolist() == expected.event_feature.tolist()
        assert log.keys(np.arange(log.num_nodes)).tolist() == sorted({key for event in events for key in event[:2]})


@FEW
@given(events=EVENTS, late=EVENTS, dropped=st.sets(st.integers(0, 49)))
def test_an_updated_index_is_the_rebuilt_one(events, late, dropped):
    with tempfile.TemporaryDirectory() as folder:
        lake = open(folder)
        _ = lake.events("log", rows_of(events), features=["x"]).index
        log = lake.append("log", rows_of(late), budget="1MiB")
        expected = in_memory(events + late, log)
        assert_equal(log, expected)
        assert log.event_id.tolist() == expected.event_id.tolist()
        gone = [event for event in dropped if event < len(log)]
        left = lake.delete("log", gone)
        kept = ~np.isin(log.event_id, gone)
        assert left.event_id.tolist() == log.event_id[kept].tolist()
        position = np.cumsum(kept) - 1
        assert left.event_feature[position[kept]].tolist() == log.event_feature[kept].tolist() or not kept.any()
        rebuilt = TemporalCSR.from_events(left.src, left.dst, left.time, left.num_nodes)
        assert_equal_index(left.index, rebuilt)


@settings(max_examples=50, deadline=None)
@given(events=EVENTS, cut=st.integers(0, 25))
def test_views_see_what_slices_of_the_columns_see(events, cut):
    rows = rows_of(events)
    log = EventLog.from_arrays(rows["src"], rows["dst"], rows["time"])
    first, second = log[:cut], log[cut:]
    assert np.concatenate([first.time, second.time]).tolist() == log.time.tolist()
    parts = log.split()
    assert sum(len(part) for part in parts) == len(log)
    assert all(a.time[-1] < b.time[0] for a, b in pairwise(parts) if len(a) and len(b))
