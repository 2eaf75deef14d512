"""The temporal adjacency (T-CSR): every node's events, oldest first, in three flat arrays.

Row `n` is `[indptr[n], indptr[n + 1])` of `neighbor`, `event` and `time`. Positions ascend within a row, so the
past of a query `(node, position)` is a prefix of the row, found by one binary search. An event stands in the rows
of both its ends (a self-loop once), or only in its source's row if the log is directed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stepwell.core.batch import Ids
from stepwell.core.errors import InvalidValueError


@dataclass(frozen=True, slots=True, eq=False)
class TemporalCSR:
    """Adjacency by node, then time. The arrays may be memory-mapped; they are never written.

    Args:
        indptr: Begin of each row, int64 `[N + 1]`.
        neighbor: The other end of the event, int32 `[M]`.
        event: The event's position in the log, ascending within a row, int32 `[M]`.
        time: The event's time in the log's unit, int64 `[M]`.

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
        return cls(*build_tcsr(sources, destinations, times, count, directed=directed))

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
