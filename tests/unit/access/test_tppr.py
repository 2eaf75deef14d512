"""The T-PPR sampler: when its lists are built, where they stand, and how weights reach a model."""

from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from stepwell import storage
from stepwell.access import FixedBatches, Pipeline
from stepwell.access.tppr import TPPR
from stepwell.core import Draw
from stepwell.core.errors import InvalidValueError
from stepwell.storage import EventLog, TemporalCSR


def make_log(num_events: int) -> EventLog:
    random = np.random.default_rng(1)
    src, dst = random.integers(0, 8, (2, num_events))
    return EventLog.from_arrays(src, dst, np.sort(random.integers(0, num_events // 2, num_events)), num_nodes=8)


def ask(sampler: TPPR, index: TemporalCSR, nodes, times, before):
    return sampler(index, nodes, times, before, Draw(0, "test"), np.arange(len(nodes)))


def built(index: TemporalCSR) -> weakref.ref:
    """Return a weak reference to an array of the lists, after threads have asked for them together."""
    sampler = TPPR(4)
    with ThreadPoolExecutor(4) as pool:
        lists = list(pool.map(lambda _: sampler.lists(index)[0], range(8)))
    assert all(one is lists[0] for one in lists)
    assert TPPR(4, beta=0.9).lists(index)[0] is not lists[0]
    return weakref.ref(lists[0].versions.key)


def test_lists_are_built_once_an_index_from_any_thread_and_go_with_it():
    log = make_log(300)
    index = TemporalCSR.from_events(log.src, log.dst, log.time)
    lists = built(index)
    gc.collect()
    assert lists() is not None
    del index
    gc.collect()
    assert lists() is None


def test_lists_of_a_log_in_a_lake_stand_beside_its_index_and_are_opened_again(tmp_path):
    log = make_log(300)
    lake = storage.open(tmp_path / "lake")
    pq.write_table(pa.table({"a": log.src, "b": log.dst, "t": log.time}), tmp_path / "e.parquet")
    stored = lake.events("e", str(tmp_path / "e.parquet"), src="a", dst="b", time="t")
    query = (np.arange(8), np.full(8, int(stored.time[-1]) + 1), np.full(8, 300))
    memory = TemporalCSR.from_events(stored.src, stored.dst, stored.time, stored.num_nodes)
    first = ask(TPPR(4), stored.index, *query)
    folders = list((tmp_path / "lake" / "_index").glob("*/tppr-*"))
    assert len(folders) == 1
    written = folders[0].stat().st_mtime_ns
    again = storage.open(tmp_path / "lake").events("e")
    second = ask(TPPR(4), again.index, *query)
    assert folders[0].stat().st_mtime_ns == written
    ask(TPPR(4, beta=0.9), again.index, *query)
    assert len(list((tmp_path / "lake" / "_index").glob("*/tppr-*"))) == 2
    for name in ("node", "event", "dt", "mask", "weight"):
        assert_array_equal(getattr(first, name), getattr(ask(TPPR(4), memory, *query), name))
        assert_array_equal(getattr(first, name), getattr(second, name))


def test_weights_flow_through_the_levels_of_a_pipeline():
    log = make_log(200)
    pipeline = Pipeline(log, FixedBatches(50), sampler=TPPR(4), hops=2)
    for batch in pipeline:
        for level in batch.levels_of():
            hood = level.hood
            wanted = ask(TPPR(4), log.index, *(np.asarray(c) for c in (level.node, level.time, level.before)))
            assert_array_equal(np.asarray(hood.weight), wanted.weight)
            assert_array_equal(np.asarray(hood.event), wanted.event)
    assert "values bounded" in str(pipeline.plan)


def test_weights_are_at_most_what_a_walk_can_carry():
    log = make_log(200)
    hood = ask(TPPR(100, 0.3, 0.9), log.index, np.arange(8), np.full(8, int(log.time[-1]) + 1), np.full(8, 200))
    assert (hood.weight.sum(1) <= 0.7 + 1e-6).all()
    _, missing = TPPR(100, 0.3, 0.9).lists(log.index)[0].certificates(np.arange(8), np.full(8, 200))
    mass = TPPR(100, 0.3, 0.9).lists(log.index)[0].versions.mass
    assert_allclose(hood.weight.sum(1) + missing, [mass.reshape(-1)[v] for v in _last(log)], atol=1e-6)


def _last(log: EventLog) -> list[int]:
    """Return `2 * event + side` of each node's last event, sides in order of node."""
    found = []
    for node in range(8):
        event = max(e for e in range(len(log)) if node in (log.src[e], log.dst[e]))
        found.append(2 * event + int(node != min(log.src[event], log.dst[event])))
    return found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 5, "alpha": (0.1, 0.2)}, "a multiple of the number of lists, 2"),
        ({"k": 6, "alpha": (0.1, 0.2), "beta": (0.5, 0.6, 0.7)}, "as many as `alpha`"),
        ({"alpha": 1.0}, "`alpha` must be"),
        ({"beta": 1.5}, "`beta` must be"),
    ],
)
def test_options_that_make_no_list_are_refused(arguments, message):
    with pytest.raises(InvalidValueError, match=message):
        TPPR(**arguments)
