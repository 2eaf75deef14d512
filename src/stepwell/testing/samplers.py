"""The rules of a sampler: no future, newest first, and one answer to one query in whatever company it comes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stepwell.core import Draw, Ids, Neighborhood
from stepwell.core.errors import MissingExtraError
from stepwell.core.shapes import Sampler
from stepwell.kernels import build_tcsr
from stepwell.storage import TemporalCSR
from stepwell.testing.compare import assert_same_bits
from stepwell.testing.strategies import EventArrays, event_logs

NUM_NODES = 6
_ORDER_SEED = 5


@dataclass(frozen=True, slots=True)
class _Queries:
    nodes: Ids
    times: Ids
    before: Ids
    rows: Ids

    def __getitem__(self, which: Ids) -> _Queries:
        return _Queries(self.nodes[which], self.times[which], self.before[which], self.rows[which])


def check_sampler(sampler_factory: Callable[[], Sampler], *, newest_first: bool = True, max_examples: int = 25) -> None:
    """Fail unless a sampler keeps the rules on generated logs.

    The rules: a query sees only real events of its own node at positions `< before`, each at most once; places are
    padded on the right with -1, -1, 0 and False; places are ordered from newest to oldest; a query's answer is the
    same alone, in any batch and in any order; the same arguments give the same bits, also from a new sampler.

    Args:
        sampler_factory: Returns a new sampler, the same one each time.
        newest_first: Whether places are ordered by time; False for samplers that rank by weight or that follow
            several hops, whose events need not be the node's own.
        max_examples: Generated logs to try.

    Raises:
        AssertionError: If a rule is broken; hypothesis reports the smallest log that does so.
        MissingExtraError: If hypothesis is not installed.
    """
    try:
        from hypothesis import given, settings
    except ImportError:
        raise MissingExtraError("Checking a sampler", "hypothesis", "test") from None

    @settings(max_examples=max_examples, deadline=None, database=None)
    @given(log=event_logs(max_nodes=NUM_NODES))
    def check(log: EventArrays) -> None:
        _check_log(sampler_factory, log, newest_first)

    check()


def _check_log(factory: Callable[[], Sampler], log: EventArrays, newest_first: bool) -> None:  # noqa: FBT001
    indptr, neighbor, event, time = build_tcsr(log.src, log.dst, log.time, NUM_NODES)
    index = TemporalCSR(indptr, neighbor.astype(np.int32), event.astype(np.int32), time)
    queries, draw, sampler = _queries(log), Draw(seed=3, purpose="sampler check"), factory()
    whole = _ask(sampler, index, queries, draw)
    _check_shapes(whole, len(queries.nodes), sampler.k)
    _check_past(whole, log, queries, own=newest_first)
    if newest_first:
        _check_order(whole)
    assert_same_bits(_ask(sampler, index, queries, draw), whole, "the same call again")
    assert_same_bits(_ask(factory(), index, queries, draw), whole, "the same call of a new sampler")
    order = np.random.default_rng(_ORDER_SEED).permutation(len(queries.nodes))
    shuffled = _ask(sampler, index, queries[order], draw)
    assert_same_bits(shuffled, _rows(whole, order), "the queries in another order")
    fullest = np.argsort(-np.asarray(whole.mask).sum(axis=1), kind="stable")[:2]
    for part in (*np.array_split(order, 4), fullest[:1], fullest[1:]):
        assert_same_bits(_ask(sampler, index, queries[part], draw), _rows(whole, part), f"{len(part)} queries alone")


def _queries(log: EventArrays) -> _Queries:
    """Return every node at every distinct time of the log, just before it and after its end."""
    times = np.unique(np.concatenate([log.time, [-1], log.time[-1:] + 1]))
    nodes, when = np.repeat(np.arange(NUM_NODES), len(times)), np.tile(times, NUM_NODES)
    before = np.searchsorted(log.time, when, side="left").astype(np.int64)
    return _Queries(nodes, when, before, np.arange(len(nodes)))


def _ask(sampler: Sampler, index: TemporalCSR, queries: _Queries, draw: Draw) -> Neighborhood:
    hood = sampler(index, queries.nodes, queries.times, queries.before, draw, queries.rows)
    weight = None if hood.weight is None else np.array(hood.weight)
    return Neighborhood(np.array(hood.node), np.array(hood.event), np.array(hood.dt), np.array(hood.mask), weight)


def _rows(hood: Neighborhood, which: Ids) -> Neighborhood:
    node, event, dt, mask, weight = _arrays(hood)
    return Neighborhood(node[which], event[which], dt[which], mask[which], None if weight is None else weight[which])


def _arrays(hood: Neighborhood) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    weight = None if hood.weight is None else np.asarray(hood.weight)
    return np.asarray(hood.node), np.asarray(hood.event), np.asarray(hood.dt), np.asarray(hood.mask), weight


def _check_shapes(hood: Neighborhood, num_queries: int, k: int) -> None:
    node, event, dt, mask, _ = _arrays(hood)
    for name, array in (("node", node), ("event", event), ("dt", dt), ("mask", mask)):
        assert array.shape == (num_queries, k), f"{name}: shape {array.shape} is not {(num_queries, k)}"
        wanted = np.bool_ if name == "mask" else np.int64
        assert array.dtype == wanted, f"{name}: dtype {array.dtype} is not {np.dtype(wanted)}"
    padding = ~mask
    assert (node[padding] == -1).all() and (event[padding] == -1).all(), "padded places must hold node and event -1"
    assert (dt[padding] == 0).all(), "padded places must hold dt 0"
    assert (mask[:, :-1] >= mask[:, 1:]).all(), "padding must stand on the right"


def _check_past(hood: Neighborhood, log: EventArrays, queries: _Queries, *, own: bool) -> None:
    node, event, dt, mask, _ = _arrays(hood)
    for row, column in zip(*np.nonzero(mask), strict=True):
        position, query = event[row, column], f"query (node {queries.nodes[row]}, time {queries.times[row]})"
        assert 0 <= position < queries.before[row], (
            f"{query} sees event {position}, hidden from {queries.before[row]} on"
        )
        assert dt[row, column] == queries.times[row] - log.time[position], f"{query}: wrong dt of event {position}"
        ends = (log.src[position], log.dst[position])
        assert node[row, column] in ends, f"{query}: node {node[row, column]} is no end of event {position} {ends}"
        if own:
            other = ends[1] if ends[0] == queries.nodes[row] else ends[0]
            assert queries.nodes[row] in ends, f"{query} sees event {position} of other nodes {ends}"
            assert node[row, column] == other, f"{query}: the other end of event {position} is {other}"
    if own:
        for row, seen in enumerate(mask):
            assert len(set(event[row][seen].tolist())) == seen.sum(), f"query {row} sees an event twice"


def _check_order(hood: Neighborhood) -> None:
    _, event, _, mask, _ = _arrays(hood)
    both = mask[:, 1:]
    assert (event[:, :-1][both] > event[:, 1:][both]).all(), "places must be ordered from newest to oldest"
