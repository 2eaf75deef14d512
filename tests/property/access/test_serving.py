"""Who serves a neighbour: the fast kernel is the slow one."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.access.serving import Asked, Kept, serve, serve_reference

NODES, WIDTH = 5, 3


@st.composite
def cases(draw):
    """Return targets that ask, whom, and what is kept."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    log_time = np.sort(rng.integers(0, 9, 12))
    first = np.searchsorted(log_time, log_time, side="left")
    event = rng.integers(0, len(log_time), draw(st.integers(0, 9)))
    distinct = {
        (int(node), int(log_time[e]), int(first[e]))
        for node, e in zip(rng.integers(0, NODES, len(event)), event, strict=True)
    }
    targets = np.array(list(distinct), np.int64).reshape(-1, 3).T
    asking = targets.shape[1]
    neighbor = rng.integers(-1, NODES, (asking, WIDTH))
    at = np.array([rng.integers(0, max(1, before), WIDTH) for before in targets[2]], np.int64).reshape(asking, WIDTH)
    at[neighbor < 0] = -1
    slot_of = np.full(NODES, -1, np.int32)
    slot_of[rng.permutation(NODES)[:2]] = [0, 1]
    kept = Kept(slot_of, rng.integers(0, 4, 2), draw(st.integers(0, 3)))
    asked = Asked(neighbor, at, log_time, draw(st.booleans()), draw(st.booleans()))
    return np.ascontiguousarray(targets), asked, kept


@settings(max_examples=150, deadline=None)
@given(case=cases())
def test_each_place_is_served_as_the_slow_twin_says(case):
    for one, other in zip(serve(*case), serve_reference(*case), strict=True):
        assert np.array_equal(one, other)
