"""Generators of test data: event logs with everything that breaks samplers.

Ties in time, self-loops, repeated events, nodes without events and empty logs all come up often, because nodes and
times are drawn from a few values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from stepwell.core import Ids
from stepwell.core.errors import MissingExtraError

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn, SearchStrategy


class EventArrays(NamedTuple):
    """An event log as plain arrays, sorted by time.

    Args:
        src: Source nodes, int64 `[E]`.
        dst: Destination nodes, int64 `[E]`.
        time: Times, int64 `[E]`, ascending, with ties.
    """

    src: Ids
    dst: Ids
    time: Ids


def event_logs(
    *, max_nodes: int = 6, min_events: int = 0, max_events: int = 24, max_time: int = 12
) -> SearchStrategy[EventArrays]:
    """Return a hypothesis strategy of small event logs.

    Args:
        max_nodes: Nodes are `0` to `max_nodes - 1`; some may have no event.
        min_events: Fewest events.
        max_events: Most events.
        max_time: Times lie in `[0, max_time]`; fewer times than events mean ties.

    Raises:
        MissingExtraError: If hypothesis is not installed.
    """
    try:
        from hypothesis import strategies as st
    except ImportError:
        raise MissingExtraError("Generating event logs", "hypothesis", "test") from None

    @st.composite
    def logs(draw: DrawFn) -> EventArrays:
        node, time = st.integers(0, max_nodes - 1), st.integers(0, max_time)
        events = draw(st.lists(st.tuples(time, node, node), min_size=min_events, max_size=max_events))
        columns = np.array(sorted(events, key=lambda event: event[0]), np.int64).reshape(-1, 3)
        return EventArrays(columns[:, 1].copy(), columns[:, 2].copy(), columns[:, 0].copy())

    return logs()
