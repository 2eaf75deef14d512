"""A plan: what was chosen, what it is expected to take, and what the next best would have taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple, Protocol

from stepwell.access import Pipeline
from stepwell.buffer.policy import Policy
from stepwell.buffer.reuse import EmbeddingReuse
from stepwell.core import Cost, PlanNode
from stepwell.core.shapes import Accuracy, Batcher, Sampler
from stepwell.plan.options import Asked
from stepwell.plan.page import plan_page
from stepwell.plan.predict import Miss, largest_miss
from stepwell.plan.reuse import measured

TOLERANCE = 0.20
"""A prediction this far off, as a share of it, is a miss of the cost model that the plan reports."""


@dataclass(frozen=True, slots=True)
class Alternative:
    """One valid combination, costed.

    Args:
        names: The name of each place's option, in the order of the plan's choices.
        cost: Predicted for one epoch.
        chosen: Whether it is the plan's.
    """

    names: tuple[str, ...]
    cost: Cost
    chosen: bool = False

    @property
    def seconds(self) -> float:
        """Predicted seconds of an epoch."""
        return self.cost.seconds or 0.0


@dataclass(frozen=True, slots=True)
class Chosen:
    """One place of the plan.

    Args:
        place: What is chosen here: `batches`, `sampler`, `reuse`, `placement`, `prefetch`, `state`, `steps`;
            `cache` for tables.
        name: What was chosen.
        why: Why.
        accuracy: What it does to the training's values.
        next_best: The best other option, all else equal; empty if there was none.
        next_s: Seconds of an epoch with that one.
    """

    place: str
    name: str
    why: str
    accuracy: Accuracy = "same"
    next_best: str = ""
    next_s: float | None = None

    def __str__(self) -> str:
        other = f"; next best {self.next_best}, {self.next_s:.3g} s" if self.next_best else ""
        exact = "" if self.accuracy == "same" else f"; values {self.accuracy}"
        return f"{self.name} ({self.why}{exact}{other})"


@dataclass(frozen=True, slots=True)
class Question:
    """What a plan may be asked anew; None keeps what was asked before.

    Args:
        memory: Memory for rows, state and index.
        accuracy: How exact training must stay.
        batches: The batcher, an object or a name.
        sampler: The sampler, an object or a name.
        reuse: Which embeddings serve again, an object or a policy's name, `"none"` for none.
        placement: The policy, an object or a name, `"none"` for none.
        prefetch: Batches ahead.
        price_per_core_hour: What a core costs.
        state: Where node state lies: `"host"`, or a policy of what stays there when it is out of core.
        steps: `"eager"`, or `"graphed"` for CUDA graphs.
    """

    memory: str | int | None = None
    accuracy: Asked | None = None
    batches: Batcher | str | None = None
    sampler: Sampler | str | None = None
    reuse: EmbeddingReuse | str | None = None
    placement: Policy | str | None = None
    prefetch: int | None = None
    price_per_core_hour: float | None = None
    state: Policy | str | None = None
    steps: Literal["eager", "graphed"] | None = None

    def but(self, other: Question) -> Question:
        """Return this question with what another one says in its place."""
        said = {name: getattr(other, name) for name in self.__slots__}
        return replace(self, **{name: value for name, value in said.items() if value is not None})


class Trained(NamedTuple):
    """What one epoch took and showed.

    Args:
        costs: By the name of the plan's node.
        more: Lines that stand below a node only after a run, by its name.
    """

    costs: Mapping[str, Cost]
    more: Mapping[str, tuple[PlanNode, ...]] = MappingProxyType({})


class Planner(Protocol):
    """Who made a plan: builds its pipeline and answers other questions about the same data."""

    @property
    def room_bytes(self) -> int | None:
        """Bytes left for rows that do not all fit; None if they do."""

    @property
    def state_room_bytes(self) -> int | None:
        """Bytes left for node state that lies out of core; None if it does not."""

    def pipeline(self, names: Mapping[str, str]) -> Pipeline:
        """Build the pipeline of a combination, by the names of its options."""

    def ask(self, question: Question) -> Plan:
        """Plan anew under other conditions."""

    def train(self, pipeline: Pipeline, names: Mapping[str, str]) -> Trained:
        """Run one epoch over a pipeline and say what it took."""


@dataclass(frozen=True, eq=False)
class Plan:
    """EXPLAIN of one epoch; after `analyze`, EXPLAIN ANALYZE. Print it.

    Args:
        title: What was asked.
        tree: The stages, predicted, and measured after a run.
        choices: What stands at each place and why.
        alternatives: All combinations that were costed, fastest first.
        planner: Who made it.
        price_per_core_hour: What a core costs; None says nothing of money.
        about: What the data are like, as far as it matters here.
    """

    title: str
    tree: PlanNode
    choices: tuple[Chosen, ...]
    alternatives: tuple[Alternative, ...]
    planner: Planner
    price_per_core_hour: float | None = None
    about: str = ""

    @property
    def plan(self) -> PlanNode:
        """The tree, for whatever prints plans."""
        return self.tree

    @property
    def seconds(self) -> float:
        """Predicted seconds of one epoch."""
        return self.tree.predicted.seconds or 0.0

    @property
    def core_hours(self) -> float:
        """Predicted core-hours of one epoch."""
        return (self.tree.predicted.core_s or self.seconds) / 3600

    @property
    def money(self) -> float | None:
        """What one epoch is predicted to cost, in the unit of the price."""
        return None if self.price_per_core_hour is None else self.core_hours * self.price_per_core_hour

    @property
    def names(self) -> dict[str, str]:
        """What was chosen, by place."""
        return {choice.place: choice.name for choice in self.choices}

    def pipeline(self) -> Pipeline:
        """Build the pipeline that was planned."""
        return self.planner.pipeline(self.names)

    def what_if(
        self,
        *,
        memory: str | int | None = None,
        accuracy: Asked | None = None,
        batches: Batcher | str | None = None,
        sampler: Sampler | str | None = None,
        reuse: EmbeddingReuse | str | None = None,
        placement: Policy | str | None = None,
        prefetch: int | None = None,
        price_per_core_hour: float | None = None,
        state: Policy | str | None = None,
        steps: Literal["eager", "graphed"] | None = None,
    ) -> Plan:
        """Plan the same training under other conditions; what is not given stays as it was asked.

        Batches that were probed for this plan are not probed again. `Question` says what each argument may be.

        Raises:
            InvalidValueError: If a value is none of those.
            UnknownNameError: If there is no policy of a name.
        """
        return self.planner.ask(
            Question(memory, accuracy, batches, sampler, reuse, placement, prefetch, price_per_core_hour, state, steps)
        )

    def analyze(self) -> Plan:
        """Train one epoch on a copy of the model (of a table: load one), and return the plan with what it took."""
        pipeline = self.pipeline()
        taken = self.planner.train(pipeline, self.names)
        done = self.measured({**measured(pipeline), **taken.costs})
        return replace(done, tree=done.tree.with_below(taken.more))

    def measured(self, costs: Mapping[str, Cost]) -> Plan:
        """Return the plan with what a run measured, by the name of the node."""
        return replace(self, tree=self.tree.with_measured(dict(costs)))

    @property
    def miss(self) -> Miss | None:
        """The stage that was furthest off, if the epoch was off by more than a fifth; None before a run."""
        found = largest_miss(self.tree)
        return found if found is not None and abs(found.share) > TOLERANCE else None

    @property
    def table(self) -> str:
        """All combinations, fastest first, as text."""
        places = [choice.place for choice in self.choices]
        rows = [
            (*one.names, f"{one.seconds:.3g}", _core_s(one.cost), "<-" if one.chosen else "")
            for one in self.alternatives
        ]
        return _grid([(*places, "seconds", "core-s", ""), *rows])

    def __str__(self) -> str:
        lines = [f"{self.title}: {_total(self)}", *([self.about] if self.about else []), "", str(self.tree), ""]
        width = max(len(choice.place) for choice in self.choices)
        lines += [f"{choice.place:<{width}}  {choice}" for choice in self.choices]
        found = largest_miss(self.tree)
        if found is not None:
            lines += ["", str(found)]
        return "\n".join(lines)

    def to_html(self, path: str | Path | None = None) -> str:
        """Return the plan as a page with a bar a stage, written to `path` if one is given."""
        lead = f"{_total(self)}. {self.about}".strip()
        page = plan_page(self.title, lead, self.tree, [_row(c) for c in self.choices], _cells(self))
        return page.html() if path is None else page.write(path).read_text()


def _total(plan: Plan) -> str:
    text = f"{plan.seconds:.3g} s an epoch, {plan.core_hours:.2g} core-hours"
    return text if plan.money is None else f"{text}, {plan.money:.2g} at {plan.price_per_core_hour:g} a core-hour"


def _core_s(cost: Cost) -> str:
    return "-" if cost.core_s is None else f"{cost.core_s:.3g}"


def _grid(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _row(choice: Chosen) -> tuple[str, str, str, str]:
    other = f"{choice.next_best}, {choice.next_s:.3g} s" if choice.next_best else "none"
    return choice.place, choice.name, choice.why, other


def _cells(plan: Plan) -> list[tuple[str, ...]]:
    head = (*(choice.place for choice in plan.choices), "seconds", "core-seconds")
    return [head, *((*one.names, f"{one.seconds:.3g}", _core_s(one.cost)) for one in plan.alternatives)]
