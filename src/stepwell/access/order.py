"""The order of stages follows from the fields they need and give; what does not fit is said before the first batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from stepwell.core.errors import PlanError
from stepwell.core.shapes import Stage, Stateful

_GIVERS = {
    "candidate": "Candidates(log, negatives), or negatives=... of the pipeline",
    "levels": "Neighbors(log, sampler), or sampler=... of the pipeline",
    "src_row": "Neighbors(log, sampler), or sampler=... of the pipeline",
    "candidate_row": "Neighbors(log, sampler), or sampler=... of the pipeline",
    "nodes": "Neighbors(log, sampler), or sampler=... of the pipeline",
    "events": "Neighbors(log, sampler), or sampler=... of the pipeline",
    "event_feature": "Gather(log), if the log has event features",
    "node_feature": "Gather(log), if the log has node features",
    "label": "a log or table with a label",
}


def order_stages(stages: Sequence[Stage], given: Iterable[str], source: str = "the source") -> tuple[Stage, ...]:
    """Order stages so that each finds what it needs: those without state first, those that wait for the model last.

    A stage that needs and gives the same field changes it: it stands after the field's giver, before the others that
    need it, and after earlier-listed stages that change it too. Otherwise the listed order is kept where it may be.

    Args:
        stages: The stages, in any order.
        given: Fields that come with every batch.
        source: What gives them, for messages.

    Raises:
        PlanError: If a field has two givers or none, or stages wait for each other in a circle.
    """
    fields = frozenset(given)
    _check_givers(stages, fields, source)
    _check_gaps(stages, fields, source)
    waits, waits_for_model = [_before(stages, i) for i in range(len(stages))], waiting(stages)
    ordered: list[int] = []
    while len(ordered) < len(stages):
        ready = [i for i in range(len(stages)) if i not in ordered and waits[i] <= set(ordered)]
        if not ready:
            names = ", ".join(_name(stages[i]) for i in range(len(stages)) if i not in ordered)
            raise PlanError(f"These stages wait for each other in a circle: {names}. Take one out or split it.")
        ordered.append(min(ready, key=lambda i: (waits_for_model[i], not is_pure(stages[i]), i)))
    return tuple(stages[i] for i in ordered)


def is_pure(stage: Stage) -> bool:
    """Say whether a stage touches no state, so that it may run ahead of the model and on any thread."""
    return not stage.reads and not stage.writes


def waiting(stages: Sequence[Stage]) -> list[bool]:
    """Say for each stage whether it must wait until its batch is asked for.

    A stage waits if it reads what no stage writes (the model's state), or is itself to be saved (then its state must
    be that of the last batch handed out). So does one that shares state with it, or needs or changes a field of its.
    """
    return _hanging_on(
        stages, [reads or isinstance(s, Stateful) for s, reads in zip(stages, _model_readers(stages), strict=True)]
    )


def stale_stages(stages: Sequence[Stage], staleness: int) -> list[bool]:
    """Say for each stage whether its values become older by running before its batch is asked for.

    Raises:
        PlanError: If `staleness` is not 0, and there is no such stage.
    """
    readers = _model_readers(stages)
    if not staleness:
        return [False] * len(stages)
    if not any(readers):
        raise PlanError(
            f"staleness={staleness} lets stages that read the model's state run early, but none of "
            f"{', '.join(map(_name, stages)) or 'no stages'} does. Allowed: a stage whose `reads` names state that no "
            "stage writes. Leave staleness at 0: prefetch already makes these batches ahead, with the same values, and "
            "what a model reads of its own node state is never old."
        )
    return _hanging_on(stages, readers)


def _model_readers(stages: Sequence[Stage]) -> list[bool]:
    """Say for each stage whether it reads what no stage writes."""
    written: frozenset[str] = frozenset().union(*(stage.writes for stage in stages))
    return [bool(stage.reads - written) for stage in stages]


def _hanging_on(stages: Sequence[Stage], waits: list[bool]) -> list[bool]:
    """Return these stages and those that share state with them, or need or change a field of theirs."""
    before = [_before(stages, i) for i in range(len(stages))]
    while True:
        held: frozenset[str] = frozenset().union(
            *(stage.reads | stage.writes for stage, late in zip(stages, waits, strict=True) if late)
        )
        found = [
            late or bool((stage.reads | stage.writes) & held) or any(waits[j] for j in before[i])
            for i, (stage, late) in enumerate(zip(stages, waits, strict=True))
        ]
        if found == waits:
            return waits
        waits = found


def needed_by(stages: Sequence[Stage], index: int) -> list[int]:
    """Return the places of the earlier stages without which stage `index` cannot be called, in their order."""
    places: set[int] = set()
    todo = [index]
    while todo:
        place = todo.pop()
        shared = {i for i, stage in enumerate(stages[:index]) if stage.writes & stages[place].reads}
        new = {i for i in _before(stages, place) | shared if i < index} - places
        places |= new
        todo += new
    return sorted(places)


def _changes(stage: Stage) -> frozenset[str]:
    return stage.needs & stage.gives


def _before(stages: Sequence[Stage], i: int) -> set[int]:
    """Return the stages that must run before stage `i`."""
    before: set[int] = set()
    for j, other in enumerate(stages):
        if j == i:
            continue
        fresh, changed = other.gives - other.needs, _changes(other)
        shared = changed & stages[i].needs
        if fresh & stages[i].needs or any(field not in _changes(stages[i]) or j < i for field in shared):
            before.add(j)
    return before


def _check_givers(stages: Sequence[Stage], given: frozenset[str], source: str) -> None:
    giver = dict.fromkeys(given, source)
    for stage in stages:
        for field in sorted(stage.gives - stage.needs):
            if field in giver:
                raise PlanError(
                    f"Both {giver[field]} and {_name(stage)} give the field {field!r}. Allowed: one giver a field. "
                    "Take one of them out, or let the second also need the field to change it."
                )
            giver[field] = _name(stage)


def _check_gaps(stages: Sequence[Stage], given: frozenset[str], source: str) -> None:
    known = given.union(*(stage.gives - stage.needs for stage in stages))
    for stage in stages:
        for field in sorted(stage.needs - known):
            near = get_close_matches(field, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            giver = _GIVERS.get(field, f"a stage with {field!r} in its `gives`, or a source with such a column")
            raise PlanError(
                f"{_name(stage)} needs the field {field!r}, which nothing gives.{hint} It could come from {giver}. "
                f"Known fields: {', '.join(sorted(known)) or f'none, {source} is empty'}."
            )


def _name(stage: Stage) -> str:
    return type(stage).__name__
