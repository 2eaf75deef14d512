"""A snapshot: all columns of one version of an event log, and what is derived from all of it.

Positions of events are global to it, so an index, a feature matrix and a visible prefix mean the same in every view.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from stepwell.core.batch import Ids
from stepwell.storage.index import TemporalCSR

_SAMPLE = 200_000
"""Events that the repeat rate is estimated from."""


@dataclass(frozen=True, eq=False)
class Snapshot:
    """All columns of one version of a log, sorted by (time, order of arrival).

    Args:
        src: Source nodes, int32 `[E]`.
        dst: Destination nodes, int32 `[E]`.
        time: Times in units of `seconds`, int64 `[E]`, ascending.
        num_nodes: N; ids are below it.
        seconds: Length of the time unit in seconds.
        directed: Whether an event is seen from its source only.
        event_id: Permanent ids of the events, int64 `[E]`; the positions themselves if None.
        label: One label an event `[E]`, or None.
        event_type: Types of the events, int16 `[E]`, or None.
        node_type: Types of the nodes (key spaces), int16 `[N]`, or None.
        event_feature: float32 `[E, F]`, or None.
        node_feature: float32 `[N, F]`, or None.
        name: The log's name in its lake, empty in memory.
        version: Its version there.
        notes: What happened on the way in that the user should know.
        open_index: Opens the stored index, building it if need be; None builds it in memory.
        has_index: Says whether the stored index is built.
        find_keys: Returns the user's own keys of some nodes; None if the ids are the keys.
        find_nodes: Returns the nodes of some keys of a space, -1 where there is none; None if the ids are the keys.
    """

    src: npt.NDArray[np.int32]
    dst: npt.NDArray[np.int32]
    time: npt.NDArray[np.int64]
    num_nodes: int
    seconds: float = 1.0
    directed: bool = False
    event_id: npt.NDArray[np.int64] | None = None
    label: npt.NDArray[np.generic] | None = None
    event_type: npt.NDArray[np.int16] | None = None
    node_type: npt.NDArray[np.int16] | None = None
    event_feature: npt.NDArray[np.float32] | None = None
    node_feature: npt.NDArray[np.float32] | None = None
    name: str = ""
    version: int = 0
    notes: tuple[str, ...] = ()
    open_index: Callable[[], TemporalCSR] | None = None
    has_index: Callable[[], bool] | None = None
    find_keys: Callable[[Ids], npt.NDArray[np.generic]] | None = None
    find_nodes: Callable[[npt.ArrayLike, str], Ids] | None = None

    def __len__(self) -> int:
        return len(self.src)

    @cached_property
    def index(self) -> TemporalCSR:
        """The temporal adjacency over all events, opened or built at first use."""
        if self.open_index is not None:
            return self.open_index()
        return TemporalCSR.from_events(self.src, self.dst, self.time, self.num_nodes, directed=self.directed)

    @cached_property
    def destinations(self) -> Ids:
        """Sorted distinct destination nodes, int64."""
        seen = np.zeros(self.num_nodes, dtype=bool)
        seen[self.dst] = True
        return np.flatnonzero(seen)

    @cached_property
    def repeat_rate(self) -> float:
        """Share of events whose (src, dst) pair was seen before, over the first events."""
        src, dst = self.src[:_SAMPLE].astype(np.int64), self.dst[:_SAMPLE].astype(np.int64)
        return 1.0 - len(np.unique(src * self.num_nodes + dst)) / len(src) if len(src) else 0.0
