"""Orca: embeddings below the last layer are reused or recomputed, never recursed for.

Takes the place of `Neighbors` in a training pipeline of a model with two or more layers. The level below a level
holds its targets themselves and those neighbours alone that nothing computed serves: a *miss*. Every level is thus
a prefix of one list of targets: those of the batch, then the misses of each layer in turn, each sampled once.

Evaluation builds pipelines of its own, without this stage, and is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple, cast

import numpy as np
import torch

from stepwell.access.dedup import distinct_ids, distinct_nodes, query_keys
from stepwell.access.gather import Gather
from stepwell.access.neighbors import AsOf, HopTime, Neighbors
from stepwell.access.serving import Asked, Kept, Served, serve
from stepwell.buffer.mrd import reuse_trace
from stepwell.buffer.policy import Policy, Replacement, policies
from stepwell.buffer.reuse import EmbeddingReuse, ReuseCounts, Reused, Slots
from stepwell.buffer.trace import Trace
from stepwell.core import Batch, Cost, Draw, Ids, Level, Machine, Neighborhood, Statistics
from stepwell.core.batch import Array
from stepwell.core.errors import InvalidValueError, PlanError
from stepwell.core.shapes import Accuracy, Sampler
from stepwell.storage import EventLog


def reuse_stage(
    log: EventLog,
    reuse: EmbeddingReuse,
    sampler: Sampler,
    hops: int = 2,
    as_of: AsOf = "event",
    hop_time: HopTime = "root",
    seed: int = 0,
) -> ReusedNeighbors:
    """Return the stage that finds neighbours and reuses embeddings, in the place of `Neighbors`.

    A kept embedding is a node's newest, so `hop_time="root"` is what it stands for best, and the default here; with
    `"edge"` a neighbour is served in the batch only by an embedding no younger than the edge, and so more rarely.

    Args:
        log: The log.
        reuse: What is kept, and how.
        sampler: Who is picked among the visible events.
        hops: The model's layers; with one there is nothing to reuse.
        as_of: What a query sees.
        hop_time: When a neighbour is asked in turn.
        seed: Keys the draws of random samplers.
    """
    return ReusedNeighbors(Neighbors(log, sampler, hops, as_of, hop_time, seed=seed), reuse)


class ReusedNeighbors:
    """Sample the past of a batch's targets, and say for each neighbour which embedding serves it.

    Guarantee: level 0 is that of `find`. With `causal` no target is served by an embedding of a later time than it
    asks at. At most `reuse.rows` embeddings a layer are kept; a row pulled in a batch was pushed in an earlier one of
    the same epoch. Batches must come in their order, from the one that `foresee` was told.

    Args:
        find: Finds neighbours exactly, one level a layer of the model.
        reuse: What is kept, and how.

    Raises:
        InvalidValueError: If `find` keys its targets by node alone, whose embeddings have no time of their own.

    Cost:
        `O(U K)` a layer for U targets and misses, instead of `O(U K^hops)`. Planning makes the epoch's queries and
        samples once a layer below the last.

    References:
        Li et al., SIGMOD 2023, sections 3 and 4. Differs: the plan knows the negatives; each deeper layer has a plan of
        its own, made under the plans above it.
    """

    def __init__(self, find: Neighbors, reuse: EmbeddingReuse) -> None:
        if find.keyed_by != "node_time":
            raise InvalidValueError("keyed_by", find.keyed_by, "'node_time' with reuse")
        self.find, self.reuse = find, reuse
        self._top = Neighbors(find.log, find.sampler, 1, find.as_of, find.hop_time, find.keyed_by, find.seed)
        self._run: _Run | None = None

    @property
    def needs(self) -> frozenset[str]:
        """The queries."""
        return self.find.needs

    @property
    def gives(self) -> frozenset[str]:
        """What `Neighbors` gives, and what is reused."""
        return self.find.gives | {"reuse"}

    @property
    def reads(self) -> frozenset[str]:
        """Who is kept."""
        return frozenset({"reuse"})

    @property
    def writes(self) -> frozenset[str]:
        """Who is kept."""
        return frozenset({"reuse"})

    @property
    def accuracy(self) -> Accuracy:
        """Exact with one layer; else embeddings are stale, or with `causal=False` even see the future."""
        if self.find.hops == 1:
            return self.find.accuracy
        return "bounded" if self.reuse.causal else "changed"

    @property
    def counts(self) -> tuple[ReuseCounts, ...]:
        """What has been served so far in the latest epoch, by layer from the one below the last."""
        return () if self._run is None else tuple(layer.counts for layer in self._run.layers)

    def __str__(self) -> str:
        return f"ReusedNeighbors({str(self.find)[10:-1]}, {self.reuse})"

    def foresee(self, epoch: int, upstream: Callable[[], Iterator[Batch]], start: int = 0) -> None:
        """Plan one epoch, layer by layer, and go through the batches before `start` without the model."""
        policy = _policy(self.reuse)
        traces: list[Trace | None] = []
        for _ in range(self.find.hops - 1):
            traces.append(self._foreseen(traces, upstream()) if policy.foresight else None)
        self._run = self._begin(traces)
        for batch in islice(upstream(), start) if start else ():
            self._serve(batch, self._run)

    def __call__(self, batch: Batch) -> Batch:
        """Return the batch with its levels and what they reuse."""
        if self._run is None:
            if _policy(self.reuse).foresight and self.find.hops > 1:
                raise PlanError(
                    f"{self} plans an epoch before its first batch. Allowed: as a stage of a Pipeline, or after "
                    "foresee(epoch, upstream)."
                )
            self._run = self._begin([None] * (self.find.hops - 1))
        return self._serve(batch, self._run)

    def exact(self, batch: Batch, rows: Ids) -> Batch:
        """Return what some of a batch's targets need if nothing is reused, with features: a batch of no events.

        Args:
            batch: A batch of this stage.
            rows: Rows of its level 0, int64 `[S]`.

        Cost:
            `O(S K^hops)`; features are read where the log has them.
        """
        level = batch.levels_of()[0]
        node, time, before = (_on_host(part)[rows] for part in (level.node, level.time, level.before))
        levels, nodes, events = self.find.below(node, time, before, batch.slice.epoch)
        seconds = {"seconds": batch["seconds"]} if "seconds" in batch else {}
        return Gather(self.find.log)(Batch(batch.slice, levels=levels, nodes=nodes, events=events, **seconds))

    def cost(self, stats: Statistics, machine: Machine) -> Cost:
        """Predict one epoch: that of one hop, and a pass over its places a layer below."""
        one = self._top.cost(stats, machine)
        return Cost(rows=one.rows, size_bytes=one.size_bytes, seconds=(one.seconds or 0.0) * self.find.hops)

    def _begin(self, traces: list[Trace | None]) -> _Run:
        policy, rows, num = _policy(self.reuse), self.reuse.rows, self.find.log.num_nodes
        return _Run([_Layer(policy.begin(num, rows, trace), Slots(num, rows)) for trace in traces])

    def _foreseen(self, above: list[Trace | None], batches: Iterator[Batch]) -> Trace:
        """Return what the epoch makes and needs of the layer below those that are planned."""
        run, num = self._begin(above), self.find.log.num_nodes
        nobody = Kept(np.full(num, -1, np.int32), np.zeros(0, np.int64), 0)
        made: list[Ids] = []
        needed: list[Ids] = []
        for batch in batches:
            walk = self._walk(batch, run)
            made.append(distinct_ids(walk.targets[0])[0])
            needed.append(serve(walk.targets, self._asked(walk.hood), nobody).miss[0])
        return reuse_trace(Trace.of(made, num), Trace.of(needed, num))

    def _asked(self, hood: Neighborhood) -> Asked:
        log_time, at_edge = np.asarray(self.find.log.snapshot.time), self.find.hop_time == "edge"
        return Asked(cast("Ids", hood.node), cast("Ids", hood.event), log_time, at_edge, self.reuse.causal)

    def _walk(self, batch: Batch, run: _Run) -> _Walk:
        """Go down the layers that reuse, moving on what they keep."""
        top = self._top(batch)
        level = top.levels_of()[0]
        targets = np.stack([cast("Ids", part) for part in (level.node, level.time, level.before)])
        walk = _Walk(top, targets, level.hood, [], [], [])
        for layer in run.layers:
            kept = layer.kept(run.batch, self.reuse.max_age)
            served = serve(walk.targets, self._asked(walk.hood), kept)
            computed = np.concatenate([walk.targets, served.miss], axis=1)
            walk.sizes.append(walk.targets.shape[1])
            walk.rows.append(served.row)
            walk.reused.append(layer.step(served, computed, run.batch, self.reuse))
            walk = walk._replace(targets=computed, hood=self._with(walk.hood, served.miss, batch))
        run.batch += 1
        return walk

    def _with(self, hood: Neighborhood, miss: np.ndarray, batch: Batch) -> Neighborhood:
        """Return the past of all targets, when that of the misses is sampled."""
        if not miss.shape[1]:
            return hood
        draw, find = Draw(self.find.seed, "neighbors", batch.slice.epoch), self.find
        node, time, before = (np.ascontiguousarray(part) for part in miss)
        more = find.sampler(find.log.index, node, time, before, draw, query_keys(node, time))
        return Neighborhood(*map(_joined, _parts(hood), _parts(more)))

    def _serve(self, batch: Batch, run: _Run) -> Batch:
        walk = self._walk(batch, run)
        node, hood = walk.targets[0], walk.hood
        nodes, self_row, bottom = distinct_nodes(node, cast("Ids", hood.node))
        events, event_row = distinct_ids(cast("Ids", hood.event).ravel())
        placed, own = event_row.reshape(bottom.shape), np.arange(len(node))
        levels = []
        for size, row in zip([*walk.sizes, len(node)], [*walk.rows, bottom], strict=True):
            last = row is bottom
            past = Neighborhood(*(None if part is None else part[:size] for part in _parts(hood)))  # type: ignore[arg-type]
            own_row = self_row if last else own[:size]
            asked_node, at, before = walk.targets[:, :size]
            levels.append(Level(asked_node, at, before, past, own_row, row, placed[:size]))
        fields = {"levels": tuple(levels), "nodes": nodes, "events": events, "reuse": tuple(walk.reused)}
        return walk.top.give(**fields)


class _Walk(NamedTuple):
    """A batch's levels on the way down.

    Args:
        top: The batch with its level 0.
        targets: node, time, before of all targets so far, int64 `[3, R]`.
        hood: Their past.
        sizes: How many of them each level above has.
        rows: Who serves each neighbour of the levels above.
        reused: What these reuse.
    """

    top: Batch
    targets: np.ndarray
    hood: Neighborhood
    sizes: list[int]
    rows: list[np.ndarray]
    reused: list[Reused]


class _Layer:
    """Who is kept of one layer."""

    def __init__(self, tier: Replacement, slots: Slots) -> None:
        self._tier, self._slots, self.counts = tier, slots, ReuseCounts()

    def kept(self, batch: int, max_age: int | None) -> Kept:
        """Say who may serve batch number `batch`."""
        return Kept(self._slots.slot_of, self._slots.made_in, 0 if max_age is None else batch - max_age)

    def step(self, served: Served, computed: np.ndarray, batch: int, reuse: EmbeddingReuse) -> Reused:
        """Move on: note what is pulled, let the policy decide, note what is pushed."""
        pull = self._slots.slot_of[served.pulled].astype(np.int64)
        age = batch - self._slots.made_in[pull]
        touched, _ = distinct_ids(np.concatenate([served.pulled, served.miss[0], computed[0]]))
        rows, slots = self._slots.apply(self._tier.step(touched), computed[0], computed[1], batch)
        in_batch, shared, hit, missed = served.places.tolist()
        counts = ReuseCounts(in_batch, len(pull), served.miss.shape[1], shared, hit, missed, int(age.sum()))
        self.counts += counts
        first, node = batch == 0, computed[0][rows]
        return Reused(pull, served.pulled, age, rows, slots, node, first, reuse.rows, reuse.gradient, counts)


class _Run:
    """Where an epoch stands: its layers, from the one below the last down, and the batch that comes next."""

    def __init__(self, layers: list[_Layer]) -> None:
        self.layers, self.batch = layers, 0


def _on_host(part: Array) -> Ids:
    return cast("Ids", part.numpy(force=True) if isinstance(part, torch.Tensor) else part)


def _policy(reuse: EmbeddingReuse) -> Policy:
    make = cast("Callable[..., Policy]", policies[reuse.policy])
    return make()


def _parts(hood: Neighborhood) -> tuple[np.ndarray | None, ...]:
    found = (hood.node, hood.event, hood.dt, hood.mask, hood.weight)
    return tuple(None if part is None else np.asarray(part) for part in found)


def _joined(one: np.ndarray | None, other: np.ndarray | None) -> np.ndarray:
    return None if one is None or other is None else np.concatenate([one, other])  # type: ignore[return-value]
