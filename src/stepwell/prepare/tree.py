"""The plan of a preparation as a tree: each step over the one before it, with why it runs so and what it takes."""

from __future__ import annotations

from collections.abc import Sequence

from stepwell.core import Cost, PlanNode
from stepwell.prepare.cache import Stored
from stepwell.prepare.joining import Link
from stepwell.prepare.split import Split
from stepwell.prepare.step import INPUT, Keyed, SqlStep, Step

Steps = Sequence[Step | SqlStep]


def as_they_run(steps: Steps) -> tuple[Step | SqlStep, ...]:
    """Return steps as they run: a split stands before the first step that is fitted."""
    cut = next((place for place, step in enumerate(steps) if isinstance(step, Split)), -1)
    first = next((place for place, step in enumerate(steps) if getattr(step, "fits", False)), len(steps))
    if cut < first:
        return tuple(steps)
    rest = [step for place, step in enumerate(steps) if place != cut]
    return (*rest[:first], steps[cut], *rest[first:])


def plan_tree(
    source: Keyed,
    steps: Steps,
    costs: Sequence[Cost],
    measured: Sequence[Cost | None],
    known: Sequence[Stored | None],
) -> PlanNode:
    """Return the tree.

    Args:
        source: What is read.
        steps: The steps as they were asked for.
        costs: What reading and each step, as they run, are predicted to take.
        measured: What they took, as far as they ran.
        known: What is cached of them.
    """
    table, key = source.table, ", ".join(source.key) or "the whole row"
    why = f"cached; ids by {key}" if known[0] is not None else f"ids by {key}"
    node = PlanNode(f"read {table.name}@{table.version}", why, costs[0], measured[0])
    ordered = as_they_run(steps)
    for place, step in enumerate(ordered, start=1):
        others = tuple(
            PlanNode(f"read {keyed.table.name}@{keyed.table.version}", f"as {name}")
            for name, keyed in step.others.items()
        )
        parts = ["cached"] * (known[place] is not None) + [_why(step, steps, ordered)]
        if isinstance(step, Link):
            parts += _pairs(step, source, place, known[place - 1])
        node = PlanNode(step.name, "; ".join(parts), costs[place], measured[place], (node, *others))
    return node


def _why(step: Step | SqlStep, steps: Steps, ordered: Steps) -> str:
    if isinstance(step, Split):
        moved = ordered.index(step) != steps.index(step)
        return "SQL" + (", moved before the first fitted step" if moved else "")
    if isinstance(step, SqlStep):
        return "SQL"
    how = {"row": "batch by batch", "past": "the whole table, up to each row", "all": "the whole table"}[step.sees]
    split = any(isinstance(other, Split) for other in steps)
    if step.fits:
        how = f"fitted on {'training' if split else 'all'} rows"
    elif split and step.sees == "all":
        how += ", test rows too"
    return how


def _pairs(step: Link, source: Keyed, place: int, given: Stored | None) -> list[str]:
    """Return how many pairs a linkage will compare, if what it links is there."""
    if given is None and place > 1:
        return []
    table = source.table.to_arrow() if given is None else given.read()
    return [step.because({INPUT: table, **{name: other.table.to_arrow() for name, other in step.others.items()}})]
