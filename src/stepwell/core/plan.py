"""What a plan says: a tree of nodes, each with its predicted and its measured cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Cost:
    """What one node of a plan takes; None where nothing can be said.

    Args:
        rows: Rows that leave the node in one epoch.
        size_bytes: Bytes it moves in one epoch.
        seconds: Wall seconds it takes in one epoch (its own, not its children's).
        hit_rate: Share of rows found in the fastest tier, 0 to 1.
        calls: How many batches these figures cover.
        core_s: Seconds that all cores together are busy with it, or None where that was not told apart.
    """

    rows: float | None = None
    size_bytes: float | None = None
    seconds: float | None = None
    hit_rate: float | None = None
    calls: int = 0
    core_s: float | None = None

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            rows=_sum(self.rows, other.rows),
            size_bytes=_sum(self.size_bytes, other.size_bytes),
            seconds=_sum(self.seconds, other.seconds),
            hit_rate=other.hit_rate if other.hit_rate is not None else self.hit_rate,
            calls=self.calls + other.calls,
            core_s=_sum(self.core_s, other.core_s),
        )

    def __mul__(self, times: float) -> Cost:
        """Return the cost of doing it so many times; the hit rate stays."""

        def scaled(value: float | None) -> float | None:
            return None if value is None else value * times

        return Cost(
            rows=scaled(self.rows),
            size_bytes=scaled(self.size_bytes),
            seconds=scaled(self.seconds),
            hit_rate=self.hit_rate,
            calls=round(self.calls * times),
            core_s=scaled(self.core_s),
        )


def _sum(a: float | None, b: float | None) -> float | None:
    return b if a is None else a if b is None else a + b


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a source knows about itself, for cost models.

    Args:
        num_rows: Rows or events.
        num_nodes: Nodes of a graph, 0 for tables.
        mean_degree: Mean events a node, 0 for tables.
        repeat_rate: Share of events whose (src, dst) pair was seen before, 0 to 1.
        row_bytes: Bytes of one row's own columns.
        feature_bytes: Bytes of one row's features.
        span: Largest minus smallest time, in the source's unit.
        batch_size: Rows a batch, when a pipeline asks.
        candidates: Candidates an event, when a pipeline asks; 0 for tables.
        degrees: Median, 90 %, 99 % and largest number of events a node, over the nodes that have any; empty for tables
            and where nobody counted.
        top_share: Share of all event ends that the busiest 1 % of the nodes hold, 0 to 1.
        update_distance: Mean events between two updates of a node (ETC's Theta), 0 where nobody counted.
    """

    num_rows: int
    num_nodes: int = 0
    mean_degree: float = 0.0
    repeat_rate: float = 0.0
    row_bytes: int = 0
    feature_bytes: int = 0
    span: int = 0
    batch_size: int = 1
    candidates: int = 0
    degrees: tuple[float, ...] = ()
    top_share: float = 0.0
    update_distance: float = 0.0


@dataclass(frozen=True, slots=True)
class Machine:
    """What this machine can do; measured by `stepwell.plan.calibrate`, or these modest guesses.

    Args:
        gather_bytes_per_s: Random row gather from host memory.
        read_bytes_per_s: Sequential read from disk.
        flops_per_s: Single-precision matrix products.
        queries_per_s: Neighbour queries of the recent sampler.
        step_overhead_s: Fixed cost of one model step.
        threads: Compute threads.
        cores: Cores that this process may use.
        random_reads_per_s: Reads of 4 KiB at random places of a file, sixteen at once, past the page cache.
        lone_reads_per_s: The same, one after the other.
        narrow_flops_per_s: The same as `flops_per_s` for a few rows, where fixed costs count.
        slots_per_s: Neighbours that an attention layer of width 100 reads forward and back.
        wake_up_s: How long a waiting thread takes to begin.
        device_gather_bytes_per_s: Random row gather on the device, 0 without one.
        transfer_bytes_per_s: From pinned host memory to the device, 0 without one.
        device_step_s: Fixed cost of one model step on the device, kernel by kernel; 0 without one.
        replay_s: The same step replayed as one CUDA graph; what it takes less is launches. 0 without a device.
    """

    gather_bytes_per_s: float = 4e9
    read_bytes_per_s: float = 5e8
    flops_per_s: float = 5e10
    queries_per_s: float = 5e6
    step_overhead_s: float = 1e-3
    threads: int = 2
    cores: int = 2
    random_reads_per_s: float = 2e4
    lone_reads_per_s: float = 5e3
    narrow_flops_per_s: float = 1e10
    slots_per_s: float = 2e6
    wake_up_s: float = 5e-5
    device_gather_bytes_per_s: float = 0.0
    transfer_bytes_per_s: float = 0.0
    device_step_s: float = 0.0
    replay_s: float = 0.0

    @property
    def launch_s(self) -> float:
        """Seconds of a step's fixed cost that a CUDA graph saves, as measured; 0 without a device."""
        return max(0.0, self.device_step_s - self.replay_s)


@dataclass(frozen=True, slots=True)
class PlanNode:
    """One node of a plan; printing the root prints the tree.

    Args:
        name: What is done.
        why: Why this way, in a few words.
        predicted: The cost expected beforehand.
        measured: The cost found in a run, or None before it.
        children: What feeds this node.
    """

    name: str
    why: str = ""
    predicted: Cost = field(default_factory=Cost)
    measured: Cost | None = None
    children: tuple[PlanNode, ...] = ()

    def with_measured(self, costs: dict[str, Cost]) -> PlanNode:
        """Return the tree with the measured cost of each node looked up by its name."""
        return replace(
            self,
            measured=costs.get(self.name, self.measured),
            children=tuple(child.with_measured(costs) for child in self.children),
        )

    def with_below(self, nodes: Mapping[str, tuple[PlanNode, ...]]) -> PlanNode:
        """Return the tree with more nodes below some, by name, above what feeds these."""
        children = tuple(child.with_below(nodes) for child in self.children)
        return replace(self, children=(*nodes.get(self.name, ()), *children))

    def rows(self, depth: int = 0) -> list[tuple[int, PlanNode]]:
        """Return (depth, node) pairs, root first."""
        found = [(depth, self)]
        for child in self.children:
            found += child.rows(depth + 1)
        return found

    def __str__(self) -> str:
        lines = self.rows()
        labels = ["  " * depth + ("-> " if depth else "") + node.name for depth, node in lines]
        width = max(len(label) for label in [*labels, "plan"])
        costs = [cost for _, node in lines for cost in (node.predicted, node.measured) if cost is not None]
        analysed = any(node.measured is not None for _, node in lines)
        hits = any(cost.hit_rate is not None for cost in costs)
        names = ["rows", "bytes", *(["hit"] if hits else []), "seconds"]
        block = " ".join(f"{name:>{_WIDTHS[name]}}" for name in names)
        top, head = f"{'':<{width}}  {'predicted':>{len(block)}}", f"{'plan':<{width}}  {block}"
        if analysed:
            top, head = f"{top} | {'measured':>{len(block)}}", f"{head} | {block}"
        out = [top, f"{head}   why"]
        for label, (_, node) in zip(labels, lines, strict=True):
            text = f"{label:<{width}}  {_columns(node.predicted, names)}"
            if analysed:
                text += f" | {_columns(node.measured or Cost(), names)}"
            out.append(f"{text}   {node.why}".rstrip())
        return "\n".join(out)


_WIDTHS = {"rows": 8, "bytes": 9, "hit": 5, "seconds": 9}


def _columns(cost: Cost, names: list[str]) -> str:
    cells = {
        "rows": "-" if cost.rows is None else _short(cost.rows),
        "bytes": "-" if cost.size_bytes is None else _short(cost.size_bytes, 1024) + "B",
        "hit": "-" if cost.hit_rate is None else f"{cost.hit_rate:.0%}",
        "seconds": "-" if cost.seconds is None else f"{cost.seconds:.3g}",
    }
    return " ".join(f"{cells[name]:>{_WIDTHS[name]}}" for name in names)


def _short(value: float, step: int = 1000) -> str:
    for suffix in ("", "k", "M", "G", "T") if step == 1000 else ("", "Ki", "Mi", "Gi", "Ti"):
        if abs(value) < step or suffix.startswith("T"):
            return f"{value:.3g}{suffix}" if suffix else f"{value:.0f}"
        value /= step
    return f"{value:.3g}"


@runtime_checkable
class Planned(Protocol):
    """Anything that can print its plan: a pipeline, a preparation, a study, a rewritten graph."""

    @property
    def plan(self) -> PlanNode:
        """The tree as it stands; after a run with the measured column."""
