"""One budget for several column families: who gets how many bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stepwell.buffer.belady import soonest
from stepwell.buffer.interval import saved_rows
from stepwell.buffer.trace import Trace
from stepwell.core.errors import InvalidValueError


def split_budget(traces: Mapping[str, Trace], budget_bytes: int, parts: int = 10) -> dict[str, int]:
    """Split by exact hit curves: of all splits into tenths, the one that saves most bytes.

    Args:
        traces: Each family's epoch.
        budget_bytes: Bytes over all families.
        parts: Into how many equal parts the budget is cut; each family gets a whole number of them.

    Returns:
        Bytes of each family; they add up to the budget at most.

    Cost:
        One pass of Belady's rule a family and part, as far as a family still gains; none where all rows fit.
    """
    if budget_bytes < 0 or parts < 1:
        name, got = ("budget_bytes", budget_bytes) if budget_bytes < 0 else ("parts", parts)
        raise InvalidValueError(name, got, "at least 0" if budget_bytes < 0 else "at least 1")
    if len(traces) < 2 or sum(trace.num_rows * trace.row_bytes for trace in traces.values()) <= budget_bytes:
        return {name: min(budget_bytes, t.num_rows * t.row_bytes) for name, t in traces.items()}
    best: list[tuple[int, tuple[int, ...]]] = [(0, ())] * (parts + 1)
    for trace in traces.values():
        curve = _savings(trace, budget_bytes, parts)
        best = [max(_extended(best, curve, room), key=lambda choice: choice[0]) for room in range(parts + 1)]
    return {name: budget_bytes * part // parts for name, part in zip(traces, best[parts][1], strict=True)}


def split_by_volume(traces: Mapping[str, Trace], budget_bytes: int) -> dict[str, int]:
    """Split in proportion to the bytes that batches name before deduplication, as SIMPLE was published.

    A family that would get more than all its rows gets just these, and the others the remainder.

    References:
        Gao et al., SIGMOD 2024; the two-type guarantee of its Theorem 2 needs this split.
    """
    volume = {name: max(1, _named(trace)) * trace.row_bytes for name, trace in traces.items()}
    found: dict[str, int] = {}
    while volume:
        left = budget_bytes - sum(found.values())
        shares = {name: left * size // sum(volume.values()) for name, size in volume.items()}
        whole = {name: traces[name].num_rows * traces[name].row_bytes for name in volume}
        full = [name for name in volume if shares[name] >= whole[name]]
        if not full:
            return {name: {**found, **shares}[name] for name in traces}
        found.update({name: whole[name] for name in full})
        volume = {name: size for name, size in volume.items() if name not in full}
    return {name: found[name] for name in traces}


def _named(trace: Trace) -> int:
    return len(trace.ids) if trace.count is None else int(trace.count.sum())


def _savings(trace: Trace, budget_bytes: int, parts: int) -> list[int]:
    """Return the bytes saved with 0, 1, ... parts of the budget."""
    saved = [0]
    for part in range(1, parts + 1):
        capacity = budget_bytes * part // parts // max(1, trace.row_bytes)
        saved.append(saved_rows(trace, soonest(trace, capacity)) * trace.row_bytes)
        if saved[-1] == saved[-2] and capacity >= trace.num_rows:
            saved += [saved[-1]] * (parts - part)
            break
    return saved


def _extended(
    best: Sequence[tuple[int, tuple[int, ...]]], curve: Sequence[int], room: int
) -> list[tuple[int, tuple[int, ...]]]:
    return [(best[room - part][0] + curve[part], (*best[room - part][1], part)) for part in range(room + 1)]
