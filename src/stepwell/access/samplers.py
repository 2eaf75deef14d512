"""Samplers: which of the visible events of a query are looked at.

A sampler is exact and stateless: an index, queries, their visible prefixes and a key for draws go in, the sampled
past comes out. None sees a time it could overstep: the caller has turned time into a prefix of positions.
"""

from __future__ import annotations

from dataclasses import dataclass

from stepwell.core import Draw, Ids, Neighborhood
from stepwell.core.errors import InvalidValueError
from stepwell.core.registry import Registry
from stepwell.core.shapes import Adjacency, Sampler
from stepwell.kernels import read_slots, recent_neighbors, uniform_before, window_before

samplers: Registry[type[Sampler]] = Registry("sampler")
"""Samplers by name; third parties join by the entry point `stepwell.sampler`."""


@samplers.register("recent")
@dataclass(frozen=True, slots=True)
class Recent:
    """The `k` newest visible events of each query, newest first.

    Args:
        k: Events a query. Shorter histories are padded.

    Raises:
        InvalidValueError: If `k < 1`.

    Cost:
        O(S (log D + k)) for S queries and largest degree D. Allocates only the result.

    References:
        Rossi et al., "Temporal graph networks for deep learning on dynamic graphs", 2020, arXiv:2006.10637.
    """

    k: int = 10

    def __post_init__(self) -> None:
        _check_k(self.k)

    def __call__(self, index: Adjacency, nodes: Ids, times: Ids, before: Ids, draw: Draw, rows: Ids) -> Neighborhood:
        """Return the sampled past, `[S, k]`; nothing is drawn."""
        flat = (index.indptr, index.neighbor, index.event, index.time)
        return Neighborhood(*recent_neighbors(*flat, nodes, times, before, self.k, cursor=index.cursor))


@samplers.register("uniform")
@dataclass(frozen=True, slots=True)
class Uniform:
    """`k` distinct visible events of each query, every subset being equally likely, newest first.

    Guarantee: the draw depends on (seed, epoch, node, time) alone, so a query is answered alike in any batch.

    Args:
        k: Events a query; all of them if fewer are visible.

    Raises:
        InvalidValueError: If `k < 1`.

    Cost:
        O(S (log D + k^2)) for S queries and largest degree D.

    References:
        Xu et al., "Inductive representation learning on temporal graphs" (TGAT), ICLR 2020, section 4.
    """

    k: int = 10

    def __post_init__(self) -> None:
        _check_k(self.k)

    def __call__(self, index: Adjacency, nodes: Ids, times: Ids, before: Ids, draw: Draw, rows: Ids) -> Neighborhood:
        """Return the sampled past, `[S, k]`."""
        slots = uniform_before(index.indptr, index.event, nodes, before, self.k, draw.key, draw.lane(0), rows)
        return Neighborhood(*read_slots(index.neighbor, index.event, index.time, times, slots))


@samplers.register("window")
@dataclass(frozen=True, slots=True)
class Window:
    """The visible events of each query not older than `width`, at most the `k` newest, newest first.

    Args:
        k: Most events a query.
        width: The window in the log's unit: an event counts if its time is at least the query's minus `width`.

    Raises:
        InvalidValueError: If `k < 1` or `width < 0`.

    Cost:
        O(S (log D + k)) for S queries and largest degree D.

    References:
        Cong et al., "Do we really need complicated model architectures for temporal networks?" (GraphMixer), ICLR
        2023, section 3.2: the node encoder's neighbours. Differs: at most `k` of them.
    """

    k: int = 10
    width: int = 86_400

    def __post_init__(self) -> None:
        _check_k(self.k)
        if self.width < 0:
            raise InvalidValueError("width", self.width, "at least 0 units of the log's time")

    def __call__(self, index: Adjacency, nodes: Ids, times: Ids, before: Ids, draw: Draw, rows: Ids) -> Neighborhood:
        """Return the sampled past, `[S, k]`; nothing is drawn."""
        graph = (index.indptr, index.event, index.time)
        slots = window_before(*graph, nodes, times, before, self.k, self.width)
        return Neighborhood(*read_slots(index.neighbor, index.event, index.time, times, slots))


def _check_k(k: int) -> None:
    if k < 1:
        raise InvalidValueError("k", k, "at least 1")
