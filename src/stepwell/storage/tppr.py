"""The T-PPR lists of every node at every time, as an index over an event log.

A node's list changes only at its own events. Writing both ends' lists after each event, once, makes a multi-version
view: the list of any (node, prefix) is read with one binary search, for negatives, for one against many, from several
threads and processes, in any order. If the adjacency is a folder of memory-mapped files, the lists stand in a folder
beside it, are built once and may be deleted; if it is in memory, so are they.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from stepwell.core.batch import Ids
from stepwell.core.shapes import Adjacency
from stepwell.core.state import Json
from stepwell.kernels.tppr import Lists, Versions, advance, check_decay
from stepwell.kernels.tppr_versions import Places, Rows, event_ends, newest_versions, read_versions
from stepwell.storage.derived import ArrayWriter, folder_of, open_or_build

_CHUNK_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, eq=False)
class TPPRIndex:
    """Every version of every node's T-PPR list.

    Guarantee: what a query reads depends on the events at positions `< before` alone.

    Args:
        rows: The adjacency's rows, to find a node's newest visible event.
        ends: Both ends of each event, int32 `[E, 2]`: the smaller node first, or the source of a directed event.
        time: Their times, int64 `[E]`.
        versions: Both ends' lists as each event left them, with their certificates.
        directed: Whether events are seen from their source only.
    """

    rows: Rows
    ends: npt.NDArray[np.int32]
    time: Ids
    versions: Versions
    directed: bool

    @classmethod
    def build(cls, index: Adjacency, k: int, alpha: float, beta: float) -> TPPRIndex:
        """Open the lists of an index, or build them in one pass over its events.

        Args:
            index: The adjacency; a memory-mapped one has its lists on disk beside it.
            k: Places of a list, at least 1.
            alpha: Chance to stop, in `[0, 1)`.
            beta: Decay from one event of a node to the next older one, in `(0, 1]`.

        Raises:
            InvalidValueError: If a parameter is out of range.
            OSError: If the disk has no room.

        Cost:
            O(E k^2) small operations (about a microsecond an event at k = 20); `16 k + 48` bytes an event of result,
            `16 k + 32` bytes a node of memory. On disk the result is written in order, chunk by chunk.
        """
        check_decay(alpha, beta)
        rows = Rows(np.asarray(index.indptr), np.asarray(index.neighbor), np.asarray(index.event))
        num_events = 1 + int(rows.event.max()) if len(rows.event) else 0
        directed = len(rows.event) == num_events
        plan = _Build(rows, np.asarray(index.time), num_events, k, alpha, beta, directed)
        home = _home(index)
        if home is None:
            ends, time = np.zeros((num_events, 2), np.int32), np.zeros(num_events, np.int64)
            versions = Versions.empty(num_events, k)
            plan.fill(ends, time, versions)
            return cls(rows, ends, time, versions, directed)
        parameters: dict[str, Json] = {"k": k, "alpha": alpha, "beta": beta, "index": home.name}
        arrays = open_or_build(folder_of(home.parent, "tppr", parameters), plan.write)
        found = Versions(*(arrays[name] for name in Versions._fields))  # type: ignore[arg-type]
        ends, time = cast("npt.NDArray[np.int32]", arrays["ends"]), cast("Ids", arrays["time"])
        return cls(rows, ends, time, found, directed)

    @property
    def k(self) -> int:
        """Places of a list."""
        return int(self.versions.key.shape[2])

    @property
    def size_bytes(self) -> int:
        """Bytes of the arrays that the adjacency does not have."""
        return int(self.ends.nbytes + self.time.nbytes + sum(array.nbytes for array in self.versions))

    def __len__(self) -> int:
        return len(self.ends)

    def find(self, nodes: Ids, before: Ids) -> Ids:
        """Return the version of each query, int64 `[S]`, -1 if its list is empty. O(S log D)."""
        return newest_versions(self.rows, nodes, before, directed=self.directed)

    def read(self, version: Ids, times: Ids, out: Places, lane: tuple[int, int] = (0, 1)) -> None:
        """Write the lists of some versions, seen from the queries' times; see `kernels.tppr_versions.read_versions`."""
        times = np.ascontiguousarray(times, np.int64)
        read_versions(version, times, self.ends, self.time, self.versions, out, lane)

    def certificates(self, nodes: Ids, before: Ids) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return how far each query's list may be off.

        Returns:
            The bound: no place's exact weight is above its listed one (0 if not listed) by more than this. The missing
            mass: by exactly how much the exact weights of all places exceed the listed ones in sum. float64 `[S]` each.

        Cost:
            O(S (log D + k)).
        """
        version = self.find(nodes, before)
        event, side = np.maximum(version, 0) // 2, np.maximum(version, 0) % 2
        empty = version < 0
        if not len(self):
            return np.zeros(len(version)), np.zeros(len(version))
        listed = self.versions.weight[event, side].astype(np.float64).sum(axis=1)
        missing = np.maximum(self.versions.mass[event, side] - listed, 0.0)
        return np.where(empty, 0.0, self.versions.bound[event, side]), np.where(empty, 0.0, missing)


@dataclass(frozen=True, slots=True)
class _Build:
    rows: Rows
    time: Ids
    num_events: int
    k: int
    alpha: float
    beta: float
    directed: bool

    def write(self, writer: ArrayWriter) -> None:
        """Fill arrays on disk."""
        shape = (self.num_events, 2)
        ends, time = writer.create("ends", shape, np.int32), writer.create("time", shape[:1], np.int64)
        versions = Versions(
            writer.create("key", (*shape, self.k), np.int32),
            writer.create("weight", (*shape, self.k), np.float32),
            writer.create("bound", shape, np.float64),
            writer.create("mass", shape, np.float64),
        )
        self.fill(ends, time, versions)

    def fill(self, ends: npt.NDArray[np.int32], time: Ids, versions: Versions) -> None:
        """Fill arrays, whole chunks of events at a time; those on disk are flushed after each."""
        event_ends(self.rows, self.time, np.asarray(ends), np.asarray(time), directed=self.directed)
        lists = Lists.empty(len(self.rows.indptr) - 1, self.k)
        step = max(1, _CHUNK_BYTES // (16 * self.k + 32))
        for begin in range(0, self.num_events, step):
            part = Versions(*(np.asarray(array[begin : begin + step]) for array in versions))  # type: ignore[arg-type]
            part.key[:, 1] = -1
            chunk = np.asarray(ends[begin : begin + step])
            advance(lists, chunk, begin, self.alpha, self.beta, directed=self.directed, versions=part)
            for array in versions:
                if isinstance(array, np.memmap):
                    array.flush()


def _home(index: Adjacency) -> Path | None:
    """Return the folder of an index that lives in files."""
    array = index.event
    return Path(array.filename).parent if isinstance(array, np.memmap) and array.filename is not None else None
