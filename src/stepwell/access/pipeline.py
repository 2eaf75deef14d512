"""The pipeline: stages, ordered by the fields they need and give, turn slices of a source into batches.

It knows neither graphs nor tables: a source is read slice by slice, every stage adds fields, the last step moves the
batch to the device. Stages that touch no state run ahead of the model on background threads, those whose state is
written by stages alone too, but batch after batch on one thread; those that read the model's state run when the batch
is asked for. A stage that wants to know an epoch beforehand is told it before the first batch. Every call is counted,
and the plan shows the figures beside what the stages had predicted.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch

from stepwell.access.ahead import Workers, map_ahead, serially
from stepwell.access.batches import FixedBatches
from stepwell.access.early import Early
from stepwell.access.foresight import Foresight
from stepwell.access.gather import Gather
from stepwell.access.groups import ByRow, is_resident, make_in_groups
from stepwell.access.meter import Meter
from stepwell.access.negatives import Candidates, Negatives
from stepwell.access.neighbors import AsOf, HopTime, KeyedBy, Neighbors
from stepwell.access.order import is_pure, order_stages, stale_stages, waiting
from stepwell.access.reuse import ReusedNeighbors
from stepwell.access.transfer import to_tensors
from stepwell.buffer.policy import Policy
from stepwell.buffer.reuse import EmbeddingReuse
from stepwell.core import Batch, Cost, Machine, PlanNode, Slice, Statistics
from stepwell.core.errors import CheckpointError, InvalidValueError, PlanError
from stepwell.core.shapes import Batcher, Sampler, Source, Stage, Stateful
from stepwell.core.state import Json, StateReader, StateWriter
from stepwell.storage import EventLog


@dataclass(frozen=True, slots=True)
class Position:
    """Where an epoch stands.

    Args:
        epoch: The epoch.
        batch: How many of this rank's batches have been handed out.
    """

    epoch: int = 0
    batch: int = 0


class Pipeline:
    """Batches of a source, ready for a model.

    Guarantee: the batches of an epoch depend on the source, the stages, `seed`, the epoch and `shard` alone; never on
    `prefetch`, the device, or where a run was resumed.

    `batches`, `negatives`, `sampler` and the options of neighbours build the usual stages of an event log; a stage in
    `stages` is added, or takes the place of the built one that gives the same field.

    Args:
        source: An event log, a table, or anything that reads slices.
        batches: Where it is cut; 200 consecutive rows by default.
        negatives: Who stands beside the true destination in `candidate`; None: nobody.
        sampler: Which past events are looked at; None: no neighbours.
        hops: Levels of neighbours.
        as_of: What a query sees: events strictly before its time (`"event"`) or before its batch (`"batch"`).
        hop_time: When a neighbour is asked in turn: at its edge's time or at the root's.
        keyed_by: What is a distinct target: a node at a time, or (batch-frozen) a node.
        reuse: Embeddings below the last layer serve again instead of being computed anew, for models of two hops or
            more; best with `hop_time="root"`. None: all are exact.
        placement: Which feature rows stay in a faster tier; None: all are read from where the log has them.
        stages: More stages, in any order.
        prefetch: Batches made ahead on background threads; 0 for none. Where the source and all stages compute each
            row from that row alone (tables), groups of batches of about 8 MiB are made at once, so many groups ahead;
            none ahead if all rows are cached, when making a batch costs less than passing it between threads.
        staleness: How many batches early the stages that read the model's state run. What they read is then so many
            updates old, which makes their values `bounded`; a checkpoint holds it. 0: never. What a model reads of its
            own state while it scores (node memory, mail) is never old.
        seed: Keys negatives and random samplers.
        device: Where the tensors go; the CPU by default.
        shard: (rank, world): this process takes every `world`-th batch, starting at `rank`.

    Raises:
        PlanError: If the stages do not fit together: a field that nothing gives, or that two give; or if `staleness` is
            asked for, and no stage reads the model's state.
        InvalidValueError: If an option is outside its range.

    Example:
        >>> log = EventLog.from_arrays(src=[0, 1, 0], dst=[2, 2, 3], time=[1, 2, 3])
        >>> [batch.candidate.tolist() for batch in Pipeline(log, FixedBatches(2), sampler=Recent(k=1))]
        [[[2], [2]], [[3]]]
    """

    def __init__(
        self,
        source: Source,
        batches: Batcher | None = None,
        *,
        negatives: Negatives | None = None,
        sampler: Sampler | None = None,
        hops: int = 1,
        as_of: AsOf = "event",
        hop_time: HopTime = "edge",
        keyed_by: KeyedBy = "node_time",
        reuse: EmbeddingReuse | None = None,
        placement: Policy | None = None,
        stages: Sequence[Stage] = (),
        prefetch: int = 2,
        staleness: int = 0,
        seed: int = 0,
        device: torch.device | str | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        for name, depth in (("prefetch", prefetch), ("staleness", staleness)):
            if depth < 0:
                raise InvalidValueError(name, depth, "at least 0")
        if not 0 <= shard[0] < shard[1]:
            raise InvalidValueError("shard", shard, "(rank, world) with 0 <= rank < world")
        self.source = source
        self.batches: Batcher = FixedBatches() if batches is None else batches
        self.prefetch, self.staleness, self.seed, self.shard = prefetch, staleness, seed, shard
        self.device = torch.device("cpu" if device is None else device)
        built: list[Stage] = []
        if negatives is not None or sampler is not None:
            if not isinstance(source, EventLog):
                raise PlanError(
                    f"negatives and sampler need an event log as the source, got {type(source).__name__}. "
                    "Leave them out, or open the data with lake.events(...)."
                )
            built.append(Candidates(source, negatives, seed))
            if sampler is not None:
                gather = Gather(source) if placement is None else Gather(source, placement=placement)
                find = Neighbors(source, sampler, hops, as_of, hop_time, keyed_by, seed)
                built += [find if reuse is None else ReusedNeighbors(find, reuse), gather]
        self.stages = order_stages(_replaced(built, stages), self._given(), type(source).__name__)
        self._pure = next((i for i, stage in enumerate(self.stages) if not is_pure(stage)), len(self.stages))
        late = waiting(self.stages)
        self._ordered = late.index(True) if True in late else len(self.stages)
        self._stale = stale_stages(self.stages, staleness)
        self._names = _names(self.stages)
        self._meter, self.workers = Meter(), Workers(prefetch)
        self._foresight = Foresight(self.stages, self._names[1:-1], self._ordered)
        self._early = Early(self.stages[self._ordered :], staleness)
        self._position = Position()
        self._resume: Position | None = None

    def __len__(self) -> int:
        """Count this rank's batches of epoch 0."""
        return sum(1 for _ in self.batches.cuts(self.source, 0, self.shard))

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of epoch 0, or after `load` what is left of the saved epoch."""
        return self.epoch(0 if self._resume is None else self._resume.epoch)

    def epoch(self, epoch: int, start: int | None = None) -> Iterator[Batch]:
        """Yield the batches of one epoch, with tensors on the device.

        Args:
            epoch: The epoch; it keys everything random.
            start: How many batches to leave out. None: as many as had been handed out when the loaded position was
                saved, if that was in this epoch, else 0.
        """
        resume, self._resume = self._resume, None
        if start is None:
            start = resume.batch if resume is not None and resume.epoch == epoch else 0
        if start < 0:
            raise InvalidValueError("start", start, "at least 0")
        return self._run(epoch, start)

    def _run(self, epoch: int, start: int) -> Iterator[Batch]:
        self._meter.clear()
        if Position(epoch, start) != self._position:
            self._early.drop()
        self._position = Position(epoch, start)
        self._foresight.tell(self, epoch, start, self._early.loaded, self._meter)
        pure, ordered, last = self._pure, self._ordered, len(self.stages)

        def make(cut: Slice, calls: int = 1) -> Batch:
            batch = self._counted(self._names[0], None, lambda: self.source.read(cut), calls)
            batch = self._apply(batch, 0, pure, calls)
            return self._move(batch, calls) if pure == last else batch

        def then(batch: Batch) -> Batch:
            batch = self._apply(batch, pure, ordered)
            return self._move(batch) if ordered == last else batch

        if self.prefetch and all(isinstance(part, ByRow) for part in (self.source, *self.stages)):
            place = (epoch, self.shard, start)
            depth = 0 if is_resident(self.source) and not self.stages else self.prefetch
            made = make_in_groups(make, self.batches, self.source, place, depth, self.workers)
        else:
            cuts = islice(self.batches.cuts(self.source, epoch, self.shard), start, None)
            lane = serially(then) if ordered > pure else None
            made = map_ahead(serially(make), cuts, self.prefetch, self.workers, lane)
        try:
            for index, ready in enumerate(self._finished(made), start + 1):
                self._position = Position(epoch, index)
                yield ready
        finally:
            made.close()  # type: ignore[attr-defined]

    def _finished(self, made: Iterator[Batch]) -> Iterator[Batch]:
        """Run what waits for the model, `staleness` batches before it is asked for."""
        if self._ordered == len(self.stages):
            return made
        return self._early.run(made, lambda batch: self._apply(batch, self._ordered, len(self.stages)), self._move)

    def _apply(self, batch: Batch, begin: int, end: int, calls: int = 1) -> Batch:
        for name, stage in zip(self._names[begin + 1 : end + 1], self.stages[begin:end], strict=True):
            before = batch
            batch = self._counted(name, before, lambda stage=stage, before=before: stage(before), calls)  # type: ignore[misc]
        return batch

    def _move(self, batch: Batch, calls: int = 1) -> Batch:
        return self._counted(self._names[-1], batch, lambda: to_tensors(batch, self.device), calls)

    def _counted(self, name: str, before: Batch | None, work: Callable[[], Batch], calls: int = 1) -> Batch:
        begin = time.perf_counter()
        after = work()
        self._meter.add(name, before, after, time.perf_counter() - begin, calls)
        return after

    def _given(self) -> frozenset[str]:
        """Return the fields that the source gives, as its first rows show."""
        cut = next(iter(self.batches.cuts(self.source, 0)), Slice(0, 0, 0, 0))
        return frozenset(self.source.read(cut))

    @property
    def position(self) -> Position:
        """Where the running epoch stands."""
        return self._position

    @property
    def measured(self) -> dict[str, Cost]:
        """What the latest epoch has taken so far, by the name of the plan's node."""
        return self._meter.costs()

    @property
    def plan(self) -> PlanNode:
        """The stages as a tree, each above what feeds it: predicted for one epoch, measured in the latest one."""
        return self.predict(Machine())

    def predict(self, machine: Machine) -> PlanNode:
        """Return the plan for a machine, the measured column filled in as far as an epoch has run."""
        num_batches = max(1, len(self))
        stats = self.source.statistics()
        stats = replace(stats, num_rows=-(-len(self.source) // self.shard[1]))
        width = next((stage.width for stage in self.stages if isinstance(stage, Candidates)), 0)
        stats = replace(stats, batch_size=max(1, round(stats.num_rows / num_batches)), candidates=width)
        costs = [_read_cost(stats, machine, num_batches)]
        costs += [stage.cost(stats, machine) for stage in self.stages]
        costs.append(_move_cost(costs, machine, num_batches, self.device))
        reasons = [_reason(self.batches), *self._reasons(), self._threads()]
        node: tuple[PlanNode, ...] = ()
        for place, (name, cost, why) in enumerate(zip(self._names, costs, reasons, strict=True)):
            plans = self._foresight.rows(place - 1, costs)
            node = (PlanNode(name, why, replace(cost, calls=num_batches), children=(*plans, *node)),)
        return node[0].with_measured(self.measured)

    def _threads(self) -> str:
        return f"{self.prefetch} batches ahead on background threads" if self.prefetch else "no prefetch"

    def _reasons(self) -> list[str]:
        old = f"; values bounded: up to {self.staleness} batches old"
        return [_reason(stage) + old * stale for stage, stale in zip(self.stages, self._stale, strict=True)]

    def __str__(self) -> str:
        return str(self.plan)

    def __repr__(self) -> str:
        return f"Pipeline({self.source!r}, {', '.join(map(str, [self.batches, *self.stages]))})"

    def save(self, writer: StateWriter) -> None:
        """Record the position and what must be equal for the rest of the epoch to be the same."""
        writer.value("epoch", self._position.epoch)
        writer.value("batch", self._position.batch)
        writer.value("setting", self._setting())
        for name, stage in zip(self._names[1:-1], self.stages, strict=True):
            if isinstance(stage, Stateful):
                stage.save(writer.child(name))
        if self.staleness:
            self._early.save(writer.child("early"))

    def load(self, reader: StateReader) -> None:
        """Continue, at the next `epoch` or `for`, behind the last batch that had been handed out.

        Raises:
            CheckpointError: If the pipeline that was saved had other batches.
        """
        saved, here = reader.value("setting"), self._setting()
        if saved != here:
            raise CheckpointError(
                f"The saved pipeline gave other batches: saved {saved}, here {here}. Build it as it was, or start anew."
            )
        epoch, batch = reader.value("epoch"), reader.value("batch")
        if not isinstance(epoch, int) or not isinstance(batch, int):
            raise CheckpointError(
                f"The saved position ({epoch!r}, {batch!r}) is no pair of integers. Use an older one."
            )
        for name, stage in zip(self._names[1:-1], self.stages, strict=True):
            if isinstance(stage, Stateful):
                stage.load(reader.child(name))
        if self.staleness:
            self._early.load(reader.child("early"))
        self._position = self._resume = Position(epoch, batch)

    def _setting(self) -> Json:
        stages: list[Json] = [_named(stage) for stage in self.stages]
        shard: list[Json] = list(self.shard)
        batches, rows = _named(self.batches), len(self.source)
        setting: dict[str, Json] = {
            "batches": batches,
            "stages": stages,
            "rows": rows,
            "seed": self.seed,
            "shard": shard,
        }
        return setting | ({"staleness": self.staleness} if self.staleness else {})


def _named(part: object) -> str:
    """Return a part's text without the address that a class without a text of its own has in it."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", str(part))


def _replaced(built: Sequence[Stage], stages: Sequence[Stage]) -> list[Stage]:
    """Return all stages without the built ones whose fields an explicit stage gives afresh."""
    fresh: frozenset[str] = frozenset().union(*(stage.gives - stage.needs for stage in stages))
    return [*(stage for stage in built if not stage.gives & fresh), *stages]


def _names(stages: Sequence[Stage]) -> list[str]:
    names = ["Read", *(type(stage).__name__ for stage in stages), "Transfer"]
    counts = [names[: i + 1].count(name) for i, name in enumerate(names)]
    return [name if count == 1 else f"{name} ({count})" for name, count in zip(names, counts, strict=True)]


def _reason(part: Stage | Batcher) -> str:
    text, accuracy = str(part), getattr(part, "accuracy", "same")
    about = text if len(text) <= 80 else text[:77] + "..."
    return about if accuracy == "same" else f"{about}; values {accuracy}"


def _read_cost(stats: Statistics, machine: Machine, num_batches: int) -> Cost:
    size_bytes = float(stats.num_rows * (stats.row_bytes + stats.feature_bytes))
    seconds = size_bytes / machine.gather_bytes_per_s + num_batches * 2e-5
    return Cost(rows=stats.num_rows, size_bytes=size_bytes, seconds=seconds)


def _move_cost(costs: Sequence[Cost], machine: Machine, num_batches: int, device: torch.device) -> Cost:
    size_bytes = sum(cost.size_bytes or 0.0 for cost in costs)
    seconds = num_batches * 4e-5 + (size_bytes / machine.gather_bytes_per_s if device.type != "cpu" else 0.0)
    rows = max((cost.rows or 0.0) for cost in costs)
    return Cost(rows=rows, size_bytes=size_bytes, seconds=seconds)
