"""T-PPR lists of a stream as of now: the form in which they serve.

Only the newest list of each node is held, `k` places; an event costs a microsecond. The lists of the past are another
thing (`storage.tppr`).
"""

from __future__ import annotations

from typing import cast

import numpy as np
import numpy.typing as npt

from stepwell.core import Ids, Neighborhood
from stepwell.core.errors import InvalidValueError
from stepwell.core.state import StateReader, StateWriter
from stepwell.kernels.tppr import Lists, advance, check_decay, score_candidates, score_then_advance

Floats = npt.NDArray[np.float64]
Snapshot = tuple[Lists, npt.NDArray[np.int32], Ids]
"""A deep copy of a stream's state: the lists, and the ends and times of the events so far."""


class TPPRStream:
    """The lists of all nodes after the events observed so far; nodes may appear at any time.

    Guarantee: the state depends on the observed events alone, not on how they were divided among calls. A snapshot is a
    deep copy: no later event reaches it, and `restore` brings back its bits.

    Args:
        k: Places of a list.
        alpha: Chance of the walk to stop at each step, in `[0, 1)`.
        beta: Decay of the chance from one event of a node to its next older one, in `(0, 1]`.

    Raises:
        InvalidValueError: If a parameter is out of range.

    Cost:
        `16 k + 40` bytes a node, 16 an event; `observe` takes about a microsecond an event at k = 20.

    References:
        Li et al., "Zebra: When Temporal Graph Neural Networks Meet Temporal Personalized PageRank", PVLDB 16(6), 2023.
    """

    def __init__(self, k: int = 20, alpha: float = 0.1, beta: float = 0.5) -> None:
        if k < 1:
            raise InvalidValueError("k", k, "at least 1")
        check_decay(alpha, beta)
        self.k, self.alpha, self.beta = k, alpha, beta
        self.forget()

    def __len__(self) -> int:
        return self._count

    def forget(self) -> None:
        """Return to the state before the first event."""
        self._lists = Lists.empty(0, self.k)
        self._ends, self._time, self._count = np.zeros((0, 2), np.int32), np.zeros(0, np.int64), 0

    def observe(self, src: Ids, dst: Ids, time: Ids) -> None:
        """Apply events, int64 `[B]` each, in their order."""
        first = self._append(src, dst, time)
        advance(self._lists, self._ends[first : self._count], first, self.alpha, self.beta)

    def score(self, src: Ids, candidate: Ids) -> Floats:
        """Return the T-PPR of each candidate from its source, `[B]` and `[B, C]` to `[B, C]`. O(k + C) a source."""
        self._grow(src)
        out = np.empty(candidate.shape)
        score_candidates(self._lists, self._ends, src.astype(np.int32), candidate, out)
        return out

    def score_then_observe(self, src: Ids, dst: Ids, time: Ids, candidate: Ids) -> Floats:
        """Do both event by event: each is scored against the state left by the one before it."""
        first = self._append(src, dst, time)
        out = np.empty(candidate.shape)
        known = self._ends[: self._count]
        score_then_advance(self._lists, known, first, self.alpha, self.beta, candidate, out)
        return out

    def places(self, nodes: Ids, times: Ids) -> Neighborhood:
        """Return each node's list as of now, seen from `times`, int64 `[S]`: the heaviest place first.

        Raises:
            InvalidValueError: If a listed event is younger than its query.
        """
        self._grow(nodes)
        lists, shown = self._lists, np.arange(self.k) < self._lists.length[nodes][:, None]
        weight, key = np.where(shown, lists.weight[nodes], -1.0), lists.key[nodes]
        order = np.argsort(-weight, axis=1, kind="stable")
        key, weight = np.take_along_axis(key, order, 1), np.take_along_axis(weight, order, 1)
        mask = weight >= 0
        event, side = np.where(mask, key // 2, 0), np.where(mask, key % 2, 0)
        if not self._count:
            empty = np.full(mask.shape, -1)
            return Neighborhood(
                empty, empty.copy(), np.zeros(mask.shape, np.int64), mask, np.zeros(mask.shape, np.float32)
            )
        dt = np.where(mask, times[:, None] - self._time[event], 0)
        if dt.size and dt.min() < 0:
            raise InvalidValueError(
                "times", int(times[dt.min(axis=1).argmin()]), "not before an event already observed"
            )
        node = np.where(mask, self._ends[event, side].astype(np.int64), -1)
        return Neighborhood(node, np.where(mask, event, -1), dt, mask, np.where(mask, weight, 0.0).astype(np.float32))

    def certificates(self, nodes: Ids) -> tuple[Floats, Floats]:
        """Return how far each list may be off: the bound of every place, and the exact missing mass, float64 `[S]`."""
        self._grow(nodes)
        shown = np.arange(self.k) < self._lists.length[nodes][:, None]
        listed = np.where(shown, self._lists.weight[nodes], 0.0).sum(axis=1)
        return self._lists.bound[nodes], np.maximum(self._lists.mass[nodes] - listed, 0.0)

    def snapshot(self) -> Snapshot:
        """Return a deep copy of the state."""
        return self._lists.copy(), self._ends[: self._count].copy(), self._time[: self._count].copy()

    def restore(self, state: Snapshot) -> None:
        """Return to a snapshot, which stays valid."""
        lists, ends, time = state
        self._lists, self._ends, self._time, self._count = lists.copy(), ends.copy(), time.copy(), len(ends)

    def save(self, writer: StateWriter) -> None:
        """Record the settings and a snapshot."""
        lists, ends, time = self.snapshot()
        writer.value("setting", [self.k, self.alpha, self.beta])
        for name, array in zip(Lists._fields, lists, strict=True):
            writer.tensor(name, array)
        writer.tensor("ends", ends)
        writer.tensor("time", time)

    def load(self, reader: StateReader) -> None:
        """Return to a saved state.

        Raises:
            InvalidValueError: If it was kept with other parameters.
        """
        saved, here = cast("list[float]", reader.value("setting")), [self.k, self.alpha, self.beta]
        if saved != here:
            raise InvalidValueError("[k, alpha, beta]", here, f"as in the saved state, {saved}")
        arrays = [reader.tensor(name).numpy() for name in (*Lists._fields, "ends", "time")]
        self.restore((Lists(*arrays[:-2]), arrays[-2], arrays[-1]))

    def _append(self, src: Ids, dst: Ids, time: Ids) -> int:
        """Note the events' ends and times; return the position of the first."""
        self._grow(src, dst)
        first, self._count = self._count, self._count + len(src)
        if self._count > len(self._ends):
            extra = max(self._count, 2 * first) - len(self._ends)
            self._ends = np.concatenate([self._ends, np.zeros((extra, 2), np.int32)])
            self._time = np.concatenate([self._time, np.zeros(extra, np.int64)])
        self._ends[first : self._count, 0], self._ends[first : self._count, 1] = src, dst
        self._time[first : self._count] = time
        return first

    def _grow(self, *nodes: Ids) -> None:
        """Have a list for every node asked for."""
        need, have = 1 + max(int(ids.max(initial=-1)) for ids in nodes), len(self._lists.length)
        if need > have:
            more = Lists.empty(max(need, 2 * have) - have, self.k)
            parts = [np.concatenate(pair) for pair in zip(self._lists, more, strict=True)]
            self._lists = Lists(*parts)._replace(threshold=self._lists.threshold)
