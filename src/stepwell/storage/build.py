"""Builds the T-CSR's rows in memory-mapped files, within a byte budget, and merges late events into built ones."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from stepwell.core.batch import Ids
from stepwell.storage.derived import ArrayWriter
from stepwell.storage.index import TemporalCSR


def build_rows(
    src: npt.NDArray[np.generic],
    dst: npt.NDArray[np.generic],
    time: npt.NDArray[np.generic],
    num_nodes: int,
    writer: ArrayWriter,
    *,
    directed: bool,
    budget_bytes: int,
) -> None:
    """Write `indptr`, `neighbor`, `event` and `time` of sorted events."""
    from stepwell.kernels import count_degrees, fill_tcsr_chunk

    indptr = writer.create("indptr", (num_nodes + 1,), np.int64)
    count_degrees(src, dst, indptr[1:], directed=directed)
    np.cumsum(indptr, out=indptr)
    size = int(indptr[-1])
    neighbor, event = writer.create("neighbor", (size,), np.int32), writer.create("event", (size,), np.int32)
    row_time = writer.create("time", (size,), np.int64)
    fill_tcsr_chunk(src, dst, time, 0, np.array(indptr[:-1]), neighbor, event, row_time, directed=directed)


def update_rows(
    old: TemporalCSR,
    moved: npt.NDArray[np.int32],
    late: tuple[npt.NDArray[np.generic], npt.NDArray[np.generic], npt.NDArray[np.generic], Ids],
    num_nodes: int,
    writer: ArrayWriter,
    *,
    directed: bool,
) -> None:
    """Write the index of a newer version by merging late events into an older one's rows, row by row.

    Args:
        old: The older index.
        moved: New position of each old one, int32 `[E_old]`, -1 for a deleted event; ascending otherwise.
        late: src, dst, time and new position (ascending) of the late events.
        num_nodes: N of the newer version.
        writer: Where the arrays go.
        directed: Whether an event is seen from its source only.

    Cost: one pass over the old index and one over the late events; no sort of what was sorted.
    """
    fresh = TemporalCSR.from_events(*late[:3], num_nodes=num_nodes, directed=directed)
    place = late[3].astype(np.int32)
    indptr = writer.create("indptr", (num_nodes + 1,), np.int64)
    _count_merged(old.indptr, old.event, moved, fresh.indptr, indptr)
    size = int(indptr[-1])
    neighbor, event = writer.create("neighbor", (size,), np.int32), writer.create("event", (size,), np.int32)
    row_time = writer.create("time", (size,), np.int64)
    _merge(
        (old.indptr, old.neighbor, old.event, old.time),
        moved,
        (fresh.indptr, fresh.neighbor, fresh.event, fresh.time),
        place,
        (indptr, neighbor, event, row_time),
    )


@numba.njit(cache=True, nogil=True)
def _count_merged(indptr, event, moved, fresh, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    for node in range(len(out) - 1):
        count = fresh[node + 1] - fresh[node]
        if node < len(indptr) - 1:
            for place in range(indptr[node], indptr[node + 1]):
                if moved[event[place]] >= 0:
                    count += 1
        out[node + 1] = out[node] + count


@numba.njit(cache=True, nogil=True)
def _merge(old, moved, fresh, place, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    for node in range(len(out[0]) - 1):
        i, i_end = (old[0][node], old[0][node + 1]) if node < len(old[0]) - 1 else (0, 0)
        j, j_end = fresh[0][node], fresh[0][node + 1]
        for o in range(out[0][node], out[0][node + 1]):
            while i < i_end and moved[old[2][i]] < 0:
                i += 1
            if j == j_end or (i < i_end and moved[old[2][i]] < place[fresh[2][j]]):
                out[1][o], out[2][o], out[3][o] = old[1][i], moved[old[2][i]], old[3][i]
                i += 1
            else:
                out[1][o], out[2][o], out[3][o] = fresh[1][j], place[fresh[2][j]], fresh[3][j]
                j += 1
