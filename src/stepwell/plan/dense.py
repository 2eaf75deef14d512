"""Plan the loading of dense data: which prepared rows to keep, and how far ahead to prepare the others.

A shuffled epoch visits every row once, so what matters is whether a row that was prepared in the epoch before is still
there: with room for C of N rows, C / N are. Preparing and reading back are both timed on real batches. How many batches
are made in one call is the pipeline's own affair: it follows from the size of a row.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice, product

from stepwell.access import Pipeline
from stepwell.access.dense import CachedRows
from stepwell.access.dense.stage import RowStage
from stepwell.core import Cost, Machine, PlanNode
from stepwell.core.errors import PlanError
from stepwell.core.shapes import Batcher, Source
from stepwell.plan.answer import Alternative, Chosen, Plan, Question, Trained
from stepwell.plan.options import PREFETCH
from stepwell.storage.units import to_bytes

LOAD = "Load one epoch"
PLACES = ("cache", "prefetch")
_SLOT_BYTES = 4
_PROBE_S = 0.4


@dataclass(eq=False)
class DensePlanner:
    """Plans one epoch of loading a table.

    Args:
        source: The rows.
        stages: What prepares them, row by row.
        batches: How they are cut.
        question: What was asked, and pinned; without `memory` all prepared rows may be kept.
        machine: Where.
    """

    source: Source
    stages: Sequence[RowStage]
    batches: Batcher
    question: Question
    machine: Machine

    @property
    def room_bytes(self) -> int | None:
        """Bytes that prepared rows may take, or None for all that they need."""
        return None if self.question.memory is None else to_bytes(self.question.memory, "memory")

    @property
    def state_room_bytes(self) -> int | None:
        """None: rows have no state."""
        return None

    def _pipeline(self, cache: str, prefetch: int, *, room: bool = True) -> Pipeline:
        if cache == "rows":
            budget = self.room_bytes if room else None
            if budget is None:
                budget = len(self.source) * (self._row_bytes + _SLOT_BYTES)
            return Pipeline(CachedRows(self.source, self.stages, budget_bytes=budget), self.batches, prefetch=prefetch)
        return Pipeline(self.source, self.batches, stages=self.stages, prefetch=prefetch)

    def pipeline(self, names: Mapping[str, str]) -> Pipeline:
        """Build the pipeline of a combination."""
        return self._pipeline(names["cache"], int(names["prefetch"]))

    @cached_property
    def _prepared(self) -> tuple[dict[str, Cost], int]:
        """What the probed batches took stage by stage, and their rows."""
        return _timed(self._pipeline("none", 1))

    @cached_property
    def _row_bytes(self) -> int:
        costs, rows = self._prepared
        sizes = [cost.size_bytes or 0.0 for cost in costs.values()]
        return max(1, round(sizes[-1] / rows))

    @cached_property
    def _kept(self) -> tuple[dict[str, Cost], int] | None:
        """The same for rows that are all kept, or None if these cannot be (a field is left that is no array)."""
        pipeline = self._pipeline("rows", 1, room=False)
        try:
            _timed(pipeline)
            return _timed(pipeline)
        except PlanError:
            return None

    @property
    def hit_rate(self) -> float:
        """Share of rows that are still there from the epoch before."""
        room = self.room_bytes
        if room is None:
            return 1.0
        kept = (room - _SLOT_BYTES * len(self.source)) // self._row_bytes
        return min(1.0, max(0, kept) / max(1, len(self.source)))

    def _tree(self, cache: str, prefetch: int) -> PlanNode:
        num_rows = len(self.source)
        num_batches = max(1, sum(1 for _ in self.batches.cuts(self.source, 0)))
        costs, rows = self._prepared
        stages = {name: cost * (num_rows / rows) for name, cost in costs.items()}
        hit = self.hit_rate if cache == "rows" else 0.0
        if cache == "rows":
            assert self._kept is not None
            back, back_rows = self._kept
            found = {name: cost * (num_rows / back_rows) for name, cost in back.items()}
            anew = sum((cost.seconds or 0.0) for cost in list(stages.values())[:-1])
            read, last = next(iter(found)), list(found)[-1]
            seconds = hit * (found[read].seconds or 0.0) + (1 - hit) * (anew + (found[read].seconds or 0.0))
            stages = {read: replace(found[read], seconds=seconds, hit_rate=hit), last: found[last]}
        pipeline = self._pipeline(cache, prefetch)
        reasons = {node.name: node.why for _, node in pipeline.plan.rows()}
        node: tuple[PlanNode, ...] = ()
        for name, cost in stages.items():
            node = (PlanNode(name, reasons.get(name, ""), replace(cost, calls=num_batches), children=node),)
        made = sum(cost.seconds or 0.0 for cost in stages.values())
        whole = made / max(1, min(prefetch, self.machine.cores)) if hit < 1 else made
        size = sum(cost.size_bytes or 0.0 for cost in stages.values())
        why = f"{num_batches} batches" + ("; the first epoch prepares every row" if cache == "rows" else "")
        return PlanNode(LOAD, why, Cost(num_rows, size, whole, calls=num_batches, core_s=made), children=node)

    def _options(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        caches: tuple[str, ...] = ("none", "rows") if self._kept is not None and self.hit_rate else ("none",)
        pin, asked = self.question.prefetch, self.question.placement
        if isinstance(asked, str) and asked in caches:
            caches = (asked,)
        return caches, tuple(str(depth) for depth in PREFETCH) if pin is None else (str(pin),)

    def plan(self) -> Plan:
        """Cost all combinations and choose the fastest."""
        options = self._options()
        trees = {(cache, depth): self._tree(cache, int(depth)) for cache, depth in product(*options)}
        seconds = {names: tree.predicted.seconds or 0.0 for names, tree in trees.items()}
        best = min(seconds, key=lambda names: seconds[names])
        ranked = sorted(seconds, key=lambda names: seconds[names])
        alternatives = tuple(Alternative(names, trees[names].predicted, names == best) for names in ranked)
        choices = tuple(self._chosen(i, best, ranked, seconds) for i in range(len(PLACES)))
        memory = "" if self.question.memory is None else f", memory {self.question.memory}"
        title = f"loading {len(self.source):,} rows{memory}"
        return Plan(title, trees[best], choices, alternatives, self, self.question.price_per_core_hour)

    def _chosen(
        self, i: int, best: tuple[str, str], ranked: list[tuple[str, str]], seconds: dict[tuple[str, str], float]
    ) -> Chosen:
        others = [names for names in ranked if names[i] != best[i] and names[1 - i] == best[1 - i]]
        pinned = self.question.prefetch if i else self.question.placement
        if pinned is not None:
            why = "you chose it"
        elif i == 0 and best[0] == "rows":
            why = f"{self.hit_rate:.0%} of the rows fit, {self._row_bytes} bytes each"
        elif i == 0:
            why = "preparing a row costs no more than keeping it" if self._kept else "these rows cannot be kept"
        else:
            why = "makes batches on as many threads as there are cores" if best[0] == "none" else "the usual one"
        nearest = others[0] if others else None
        return Chosen(
            PLACES[i], best[i], why, "same", nearest[i] if nearest else "", seconds[nearest] if nearest else None
        )

    def ask(self, question: Question) -> Plan:
        """Plan anew under other conditions; what was timed is timed again, since it takes a second."""
        return replace(self, question=self.question.but(question)).plan()

    def train(self, pipeline: Pipeline, names: Mapping[str, str]) -> Trained:
        """Load two epochs and return what the second took."""
        for _ in pipeline.epoch(0):
            pass
        begin, core, rows = time.perf_counter(), time.process_time(), 0
        for batch in pipeline.epoch(1):
            rows += len(batch)
        seconds, core_s = time.perf_counter() - begin, time.process_time() - core
        return Trained({LOAD: Cost(float(rows), None, seconds, core_s=core_s)})


def _timed(pipeline: Pipeline) -> tuple[dict[str, Cost], int]:
    """Load batches for a moment and return their stages' costs, first to last, and how many rows they stood for."""
    begin, count = time.perf_counter(), 0
    batches: Iterator[object] = pipeline.epoch(0)
    for _ in batches:
        count += 1
        if count >= 4 and time.perf_counter() - begin > _PROBE_S:
            break
    batches.close()  # type: ignore[attr-defined]
    names = [node.name for _, node in reversed(pipeline.plan.rows())]
    measured = pipeline.measured
    found = {name: measured[name] for name in names if name in measured}
    sizes = [len(cut) for cut in islice(pipeline.batches.cuts(pipeline.source, 0), max(1, found[names[-1]].calls))]
    each = sum(sizes) / len(sizes)
    rows = round(each * found[names[-1]].calls)
    return {name: cost * (found[names[-1]].calls / max(1, cost.calls)) for name, cost in found.items()}, max(1, rows)
