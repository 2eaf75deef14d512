"""The online lists: the same as the versions of the past, growing with the stream, with snapshots that are copies."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from stepwell.access.tppr import TPPR
from stepwell.access.tppr_stream import TPPRStream
from stepwell.core import Draw
from stepwell.core.errors import InvalidValueError
from stepwell.core.state import StateReader, StateWriter
from stepwell.storage import TemporalCSR

FIELDS = ("node", "event", "dt", "mask", "weight")


def events(num_events: int, num_nodes: int = 9, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    src, dst = random.integers(0, num_nodes, (2, num_events))
    return src, dst, np.sort(random.integers(0, num_events, num_events))


def bits(stream: TPPRStream) -> list[bytes]:
    lists, ends, time = stream.snapshot()
    return [array.tobytes() for array in (*lists, ends, time)]


def cut(columns, begin, end):
    return tuple(column[begin:end] for column in columns)


def test_the_places_of_now_are_those_of_the_versions_after_the_last_event():
    src, dst, time = events(120)
    stream = TPPRStream(5, 0.2, 0.8)
    nodes, times = np.arange(9), np.full(9, 200)
    for end in (0, 1, 50, 120):
        stream.observe(*cut((src, dst, time), len(stream), end))
        index = TemporalCSR.from_events(src, dst, time, 9)
        past = TPPR(5, 0.2, 0.8)(index, nodes, times, np.full(9, end), Draw(0, "x"), nodes)
        now = stream.places(nodes, times)
        for name in FIELDS:
            assert_array_equal(getattr(now, name), getattr(past, name), err_msg=f"{name} after {end} events")
        bound, missing = TPPR(5, 0.2, 0.8).lists(index)[0].certificates(nodes, np.full(9, end))
        assert_array_equal(stream.certificates(nodes)[0], bound)
        assert stream.certificates(nodes)[1] == pytest.approx(missing, abs=1e-6)


def test_restoring_a_snapshot_is_bit_identical_after_any_number_of_updates():
    columns = events(300)
    stream = TPPRStream(4)
    stream.observe(*cut(columns, 0, 100))
    state, before = stream.snapshot(), bits(stream)
    for end in (101, 150, 300):
        stream.observe(*cut(columns, 100, end))
        assert bits(stream) != before
        stream.restore(state)
        assert bits(stream) == before
    stream.observe(*cut(columns, 100, 300))
    whole = TPPRStream(4)
    whole.observe(*columns)
    assert bits(stream) == bits(whole)


def test_two_identical_epochs_are_identical():
    columns, stream = events(200), TPPRStream(4)
    stream.observe(*columns)
    first = bits(stream)
    stream.forget()
    assert len(stream) == 0
    stream.observe(*columns)
    assert bits(stream) == first


def test_a_saved_stream_goes_on_where_it_was():
    columns, stream, other = events(200), TPPRStream(4), TPPRStream(4)
    stream.observe(*cut(columns, 0, 120))
    writer = StateWriter()
    stream.save(writer)
    other.load(StateReader(writer.tensors, writer.values))
    for one in (stream, other):
        one.observe(*cut(columns, 120, 200))
    assert bits(other) == bits(stream)
    with pytest.raises(InvalidValueError, match="as in the saved state"):
        TPPRStream(5).load(StateReader(writer.tensors, writer.values))


def test_scoring_then_observing_is_scoring_event_by_event():
    columns = events(150)
    candidate = np.random.default_rng(1).integers(-1, 15, (150, 6))
    whole, single = TPPRStream(4), TPPRStream(4)
    scores = whole.score_then_observe(*columns, candidate)
    for row in range(150):
        assert_array_equal(single.score(columns[0][row : row + 1], candidate[row : row + 1])[0], scores[row])
        single.observe(*cut(columns, row, row + 1))
    assert scores.any()


def test_a_score_is_the_sum_of_the_candidates_places():
    columns, stream = events(150), TPPRStream(6)
    stream.observe(*columns)
    hood = stream.places(np.arange(9), np.full(9, 1000))
    scores = stream.score(np.arange(9), np.tile(np.arange(9), (9, 1)))
    for node in range(9):
        for other in range(9):
            wanted = hood.weight[node][hood.node[node] == other].sum()
            assert scores[node, other] == pytest.approx(wanted, abs=1e-6)


def test_a_query_before_an_observed_event_is_refused():
    stream = TPPRStream(4)
    stream.observe(*events(50))
    with pytest.raises(InvalidValueError, match="not before an event already observed"):
        stream.places(np.arange(9), np.full(9, -1))
