"""Zebra's sampler: a query's past is the k places where a temporal random walk from it most likely stops.

One list takes the place of several hops: its places may lie any number of hops away, and the walk prefers recent
events. Lists of all nodes at all times are built once an index (`storage.tppr`), so any past (node, time) can be asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import ClassVar
from weakref import WeakKeyDictionary

import numpy as np

from stepwell.access.samplers import samplers
from stepwell.core import Draw, Ids, Neighborhood
from stepwell.core.errors import InvalidValueError
from stepwell.core.shapes import Accuracy, Adjacency
from stepwell.kernels.tppr import check_decay
from stepwell.storage.tppr import TPPRIndex

Decay = float | tuple[float, ...]


@samplers.register("tppr")
@dataclass(frozen=True, slots=True)
class TPPR:
    """The `k` past (node, event) places of largest temporal personalised PageRank, the heaviest first.

    `Neighborhood.weight` is the weight itself, at most the exact T-PPR (up to its rounding to float32); it does not sum
    to 1. With tuples of alpha and beta there is one list a pair, `k / n` places each, and place q of list r stands in
    column `q * n + r`: padding stays on the right, because the n lists of a node are of one length.

    Guarantee: only events at positions `< before` count. How far a list is off the exact one is told by
    `lists(index)[r].certificates`.

    Args:
        k: Places of a query, shared evenly by the lists.
        alpha: Chance of the walk to stop at each step, in `[0, 1)`; one number or one a list.
        beta: Decay of the chance from one event of a node to its next older one, in `(0, 1]`; one number or one a list.
            Small for streams that repeat themselves, large for diverse ones.

    Raises:
        InvalidValueError: If a parameter is out of range, the tuples differ in length, or `k` is no multiple of it.

    Cost:
        O(S (log D + k)) a call for S queries and largest degree D. The first call on an index builds its lists: about a
        microsecond an event and list at 20 places, and `16 k / n + 48` bytes, memory-mapped if the index is.

    References:
        Li et al., "Zebra: When Temporal Graph Neural Networks Meet Temporal Personalized PageRank", PVLDB 16(6), 2023.
        Differs: lists of the past are kept, not replayed; events at the query's own time stay hidden.
    """

    k: int = 20
    alpha: Decay = 0.1
    beta: Decay = 0.5

    newest_first: ClassVar[bool] = False
    """Places are ordered by weight, and their events need not be the queried node's own."""

    accuracy: ClassVar[Accuracy] = "bounded"
    """Lists are cut to their k largest weights."""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise InvalidValueError("k", self.k, "at least 1")
        pairs = self.pairs
        for alpha, beta in pairs:
            check_decay(alpha, beta)
        if self.k % len(pairs):
            raise InvalidValueError("k", self.k, f"a multiple of the number of lists, {len(pairs)}")

    @property
    def pairs(self) -> tuple[tuple[float, float], ...]:
        """(alpha, beta) of each list."""
        alphas, betas = (value if isinstance(value, tuple) else (value,) for value in (self.alpha, self.beta))
        number = max(len(alphas), len(betas))
        if not {len(alphas), len(betas)} <= {1, number} or not (alphas and betas):
            raise InvalidValueError("beta", self.beta, f"one number, or as many as `alpha` ({len(alphas)})")
        alphas, betas = (value * number if len(value) == 1 else value for value in (alphas, betas))
        return tuple(zip(alphas, betas, strict=True))

    def __call__(self, index: Adjacency, nodes: Ids, times: Ids, before: Ids, draw: Draw, rows: Ids) -> Neighborhood:
        """Return the places, `[S, k]`; nothing is drawn."""
        lists = self.lists(index)
        shape = (len(nodes), self.k)
        node, event, dt = np.empty(shape, np.int64), np.empty(shape, np.int64), np.empty(shape, np.int64)
        mask, weight = np.empty(shape, np.bool_), np.empty(shape, np.float32)
        version = lists[0].find(nodes, before)
        for number, versions in enumerate(lists):
            versions.read(version, times, (node, event, dt, mask, weight), (number, len(lists)))
        assert not dt.size or dt.min() >= 0, "a list holds an event of the query's future"
        return Neighborhood(node, event, dt, mask, weight)

    def lists(self, index: Adjacency) -> tuple[TPPRIndex, ...]:
        """Return the versions of each list of an index, built at first use and kept as long as the index lives."""
        width = self.k // len(self.pairs)
        return tuple(_kept(index, width, alpha, beta) for alpha, beta in self.pairs)


_versions: WeakKeyDictionary[Adjacency, dict[tuple[int, float, float], TPPRIndex]] = WeakKeyDictionary()
_lock = Lock()


def _kept(index: Adjacency, k: int, alpha: float, beta: float) -> TPPRIndex:
    with _lock:
        known = _versions.setdefault(index, {})
        if (k, alpha, beta) not in known:
            known[k, alpha, beta] = TPPRIndex.build(index, k, alpha, beta)
        return known[k, alpha, beta]
