"""The temporal adjacency (T-CSR): every node's events, oldest first, in three flat arrays.

Row `n` is `[indptr[n], indptr[n + 1])` of `neighbor`, `event` and `time`. Positions ascend within a row, so the
past of a query `(node, position)` is a prefix of the row, found by one binary search. An event stands in the rows
of both its ends (a self-loop once), or only in its source's row if the log is directed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stepwell.core.batch import Ids
from stepwell.core.errors import InvalidValueError


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class TemporalCSR:
    """Adjacency by node, then time. The arrays may be memory-mapped; all but `cursor` are never written.

    Args:
        indptr: Begin of each row, int64 `[N + 1]`.
        neighbor: The other end of the event, int32 `[M]`.
        event: The event's position in the log, ascending within a row, int32 `[M]`.
        time: The event's time in the log's unit, int64 `[M]`.
        cursor: Where each node's last query ended, int64 `[N]`: a hint that makes queries in time order faster and
            changes no result, whatever it holds.

    Example:
        >>> graph = TemporalCSR.from_events(src=[0, 0], dst=[1, 2], time=[10, 20])
        >>> graph.indptr
        array([0, 2, 3, 4])
        >>> graph.neighbor
        array([1, 2, 0, 0], dtype=int32)
    """

    indptr: npt.NDArray[np.int64]
    neighbor: npt.NDArray[np.int32]
    event: npt.NDArray[np.int32]
    time: npt.NDArray[np.int64]
    cursor: Ids = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cursor", np.zeros(len(self.indptr) - 1, np.int64))

    @classmethod
    def from_events(
        cls,
        src: npt.ArrayLike,
        dst: npt.ArrayLike,
        time: npt.ArrayLike,
        num_nodes: int | None = None,
        *,
        directed: bool = False,
    ) -> TemporalCSR:
        """Build the index in memory.

        Args:
            src: Source nodes `[E]`, at least 0.
            dst: Destination nodes `[E]`, at least 0.
            time: Times `[E]`; unsorted ones are sorted, ties keep their order.
            num_nodes: How many nodes there are; by default one more than the largest id.
            directed: Whether an event stands in its source's row only.

        Raises:
            InvalidValueError: If lengths differ or an id is outside `[0, num_nodes)`.

        Cost:
            O(N + E) time, 16 bytes an entry (two entries an event).
        """
        from stepwell.kernels import build_tcsr

        sources, destinations = check_ids("src", src), check_ids("dst", dst)
        times = np.asarray(time, dtype=np.int64)
        if not len(sources) == len(destinations) == len(times):
            raise InvalidValueError(
                "time", len(times), f"as long as `src` ({len(sources)}) and `dst` ({len(destinations)})"
            )
        count = check_num_nodes(sources, destinations, num_nodes)
        indptr, neighbor, event, row_time = build_tcsr(sources, destinations, times, count, directed=directed)
        return cls(indptr, neighbor.astype(np.int32, copy=False), event.astype(np.int32, copy=False), row_time)

    @classmethod
    def build(
        cls,
        folder: str | Path,
        src: npt.NDArray[np.int32],
        dst: npt.NDArray[np.int32],
        time: Ids,
        num_nodes: int,
        *,
        directed: bool = False,
        budget: str | int = "1GiB",
    ) -> TemporalCSR:
        """Build the index of sorted events into a folder of memory-mapped files, out of memory.

        The folder appears whole or not at all, with a manifest of checksums; one that is there already is opened.

        Args:
            folder: Where the index goes.
            src: Source nodes, int32 `[E]`, within `[0, N)`; may be memory-mapped like the two below.
            dst: Destination nodes, int32 `[E]`.
            time: Times, int64 `[E]`, ascending.
            num_nodes: N.
            directed: Whether an event stands in its source's row only.
            budget: Private memory to use; mapped pages of files do not count.

        Raises:
            InvalidValueError: If an id is out of range.
            OSError: If the disk has no room.

        Cost: `1 + 16 M / budget` passes over the events, for M entries; the index is written once and read once for
        its checksums.
        """
        from stepwell.storage.build import SortedEvents, build_rows
        from stepwell.storage.derived import open_or_build
        from stepwell.storage.units import to_bytes

        events = SortedEvents(src, dst, time, num_nodes, directed)
        arrays = open_or_build(Path(folder), lambda writer: build_rows(events, writer, budget_bytes=to_bytes(budget)))
        return cls(**arrays)  # type: ignore[arg-type]

    @property
    def num_nodes(self) -> int:
        """How many rows there are."""
        return len(self.indptr) - 1

    @property
    def size_bytes(self) -> int:
        """Bytes of the four arrays."""
        return int(self.indptr.nbytes + self.neighbor.nbytes + self.event.nbytes + self.time.nbytes)

    def __len__(self) -> int:
        return len(self.neighbor)

    def degree(self, nodes: Ids | None = None) -> Ids:
        """Return how many entries the rows of `nodes` have, int64; of all nodes by default."""
        if nodes is None:
            return np.diff(self.indptr)
        return self.indptr[nodes + 1] - self.indptr[nodes]


def check_ids(name: str, ids: npt.ArrayLike) -> npt.NDArray[np.integer]:
    """Return node ids as a flat integer array of at least 0, or raise `InvalidValueError`."""
    array = np.asarray(ids)
    if array.size == 0:
        array = array.astype(np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InvalidValueError(name, f"{array.dtype} {list(array.shape)}", "a flat array of integers")
    if array.size and int(array.min()) < 0:
        row = int(array.argmin())
        raise InvalidValueError(name, int(array[row]), f"at least 0 everywhere (see row {row})")
    return array


def check_num_nodes(src: npt.NDArray[np.integer], dst: npt.NDArray[np.integer], num_nodes: int | None) -> int:
    """Return the number of nodes, and raise `InvalidValueError` if an id is not below it or it exceeds int32."""
    least = 1 + max(int(src.max()) if src.size else -1, int(dst.max()) if dst.size else -1)
    count = least if num_nodes is None else num_nodes
    if not least <= count <= np.iinfo(np.int32).max:
        raise InvalidValueError(
            "num_nodes", count, f"from {least} (one more than the largest id) to {np.iinfo(np.int32).max}"
        )
    return count
