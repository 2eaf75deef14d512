"""The event log: views, splits, reading, checks."""

from __future__ import annotations

import numpy as np
import pytest

from stepwell.core import Slice
from stepwell.core.errors import InvalidValueError, UnknownNameError
from stepwell.storage import EventLog
from stepwell.storage.units import LostTimeError, to_ticks


def small(**extra: object) -> EventLog:
    return EventLog.from_arrays(src=[0, 1, 0, 2], dst=[3, 3, 4, 3], time=[10, 20, 20, 30], **extra)


def test_unsorted_events_are_sorted_and_ties_keep_their_order():
    log = EventLog.from_arrays(src=[0, 1, 2], dst=[3, 4, 5], time=[5, 1, 5], features=[[0], [1], [2]], label=[7, 8, 9])
    assert log.src.tolist() == [1, 0, 2]
    assert log.event_id.tolist() == [1, 0, 2]
    assert log.event_feature[:, 0].tolist() == [1, 0, 2]
    assert log.label.tolist() == [8, 7, 9]
    assert "sorted" in log.notes[0]


def test_sorted_columns_are_not_copied():
    src = np.array([0, 1], dtype=np.int32)
    time = np.array([1, 2])
    log = EventLog.from_arrays(src, src, time)
    assert np.shares_memory(log.src, src) and np.shares_memory(log.time, time)


def test_views_nest_and_keep_global_positions():
    view = small()[1:][1:3]
    assert (view.begin, view.end, len(view)) == (2, 4, 2)
    assert view.src.tolist() == [0, 2]
    assert view.event_id.tolist() == [2, 3]
    assert len(view.base) == 4


def test_a_window_of_time_is_half_open():
    assert small().between(20, 30).src.tolist() == [1, 0]
    assert len(small().between(31, 99)) == 0


def test_a_split_is_numpys_quantile_with_ties_kept_whole():
    rng = np.random.default_rng(0)
    for size in (1, 2, 7, 200):
        time = np.sort(rng.integers(-5, 40, size))
        log = EventLog.from_arrays(np.zeros(size, int), np.ones(size, int), time)
        parts = log.split(train=0.7, validation=0.15)
        low, high = np.quantile(time, [0.7, 0.85])
        assert [len(part) for part in parts] == [
            (time <= low).sum(),
            ((time > low) & (time <= high)).sum(),
            (time > high).sum(),
        ]
        assert parts.train.begin == 0 and parts.test.end == size


def test_a_batch_has_int64_columns_and_global_positions():
    log = small(features=np.arange(8.0).reshape(4, 2), label=[0, 1, 0, 1], unit="ms")[1:]
    batch = log.read(Slice(0, 0, 0, 2))
    assert batch.array("src").dtype == np.int64
    assert batch.array("event").tolist() == [1, 2]
    assert batch.array("own_feature").tolist() == [[2, 3], [4, 5]]
    assert batch.array("label").tolist() == [1, 0]
    assert batch["seconds"] == 1e-3
    rows = log.read(Slice(0, 0, 0, 2, rows=np.array([2, 0])))
    assert rows.array("event").tolist() == [3, 1]
    with pytest.raises(InvalidValueError, match="within 0 and 3"):
        log.read(Slice(0, 0, 2, 4))


def test_destinations_and_statistics_are_those_of_the_data():
    log = small()
    assert log[:1].destinations.tolist() == [3, 4]
    stats = log.statistics()
    assert (stats.num_rows, stats.num_nodes, stats.span) == (4, 5, 20)
    assert stats.repeat_rate == 0


def test_an_empty_log_works():
    log = EventLog.from_arrays([], [], [], num_nodes=3)
    assert len(log) == 0 and [len(part) for part in log.split()] == [0, 0, 0]
    assert len(log.destinations) == 0 and log.statistics().span == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"src": [-1, 0]}, "at least 0 everywhere .see row 0"),
        ({"src": [0.5, 1]}, "flat array of integers"),
        ({"dst": [1]}, "as long as `src`"),
        ({"time": [1, np.nan]}, "finite number .row 1"),
        ({"features": [[1], [np.inf]]}, "finite everywhere .see row 1"),
        ({"features": [[1], [1, 2]]}, "every row of the same length"),
        ({"label": [1]}, "as long as `src`"),
        ({"num_nodes": 2}, "from 3"),
        ({"node_features": [[1.0]]}, "one row a node"),
    ],
)
def test_bad_input_is_named_with_its_row(change, message):
    good = {"src": [0, 1], "dst": [1, 2], "time": [1, 2]}
    with pytest.raises(InvalidValueError, match=message):
        EventLog.from_arrays(**{**good, **change})


def test_a_step_or_a_position_is_no_view():
    with pytest.raises(InvalidValueError, match="consecutive"):
        small()[::2]
    with pytest.raises(InvalidValueError, match="at most"):
        small().split(train=0.9, validation=0.2)


def test_a_fractional_time_asks_for_the_coarsest_unit_that_keeps_it():
    with pytest.raises(LostTimeError, match='"ms"'):
        to_ticks(np.array([1.0, 1.5]), "s")
    assert to_ticks(np.array([-0.25, 1.5]), ("s", "ms")).tolist() == [-250, 1500]
    assert to_ticks(np.array([1600000000.123456]), ("s", "us")).tolist() == [1600000000123456]


def test_datetimes_bring_their_own_unit():
    days = np.array(["2020-01-01", "2020-01-02T00:00:01"], dtype="datetime64[us]")
    assert np.diff(to_ticks(days, "s")).tolist() == [86401]
    with pytest.raises(LostTimeError):
        to_ticks(days, "d")
    with pytest.raises(InvalidValueError, match="row 1"):
        to_ticks(np.array(["2020", "NaT"], dtype="datetime64[s]"), "s")
    with pytest.raises(UnknownNameError, match="Did you mean 'ms'"):
        to_ticks(np.array([1]), "mss")


def test_a_frame_has_the_permanent_ids_and_the_features():
    frame = small(features=np.eye(4))[1:3].to_pandas()
    assert frame["event_id"].tolist() == [1, 2]
    assert frame["f1"].tolist() == [1, 0]


def test_pyg_gets_the_same_events():
    pytest.importorskip("torch_geometric")
    data = small(features=np.eye(4), label=[0, 1, 0, 1]).to_pyg()
    assert data.t.tolist() == [10, 20, 20, 30]
    assert data.msg.shape == (4, 4) and data.y.tolist() == [0, 1, 0, 1]
