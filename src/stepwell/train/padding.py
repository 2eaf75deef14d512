"""Batches padded to a fixed room, so that batches of changing sizes have the same shapes.

Padding adds rows that nobody reads: targets without a past, nodes and features to which no row number points. So what
a model computes for a batch's own rows stays the same, and the padded rows get no gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Literal, NamedTuple

import numpy as np
import torch

from stepwell.core.batch import Batch, Level, Neighborhood
from stepwell.core.errors import InvalidValueError

Outline = tuple[object, ...]
"""What two batches share that fit the same buffers: fields, types, and all sizes that no room gives."""

_TABLES: dict[str, Literal["nodes", "events"]] = {
    **{"nodes": "nodes", "node_feature": "nodes"},
    **{"events": "events", "event_feature": "events"},
}
_NOBODY = ("node", "event")
"""Fields of a neighbourhood that say -1 where it is padded."""


@dataclass(frozen=True, slots=True)
class Room:
    """How many rows the parts of a batch have whose number changes from batch to batch.

    Args:
        targets: Distinct targets of each level.
        nodes: Distinct nodes.
        events: Distinct events.
    """

    targets: tuple[int, ...] = ()
    nodes: int = 0
    events: int = 0

    @classmethod
    def of(cls, batch: Batch) -> Room:
        """Return the rows that a batch has."""
        levels = batch.levels_of() if "levels" in batch else ()
        nodes, events = (len(batch.tensor(name)) if name in batch else 0 for name in ("nodes", "events"))
        return cls(tuple(len(level.node) for level in levels), nodes, events)

    def __iter__(self) -> Iterator[int]:
        yield from (*self.targets, self.nodes, self.events)

    def holds(self, other: Room) -> bool:
        """Say whether `other` has no part with more rows."""
        return len(self.targets) == len(other.targets) and all(a >= b for a, b in zip(self, other, strict=True))

    def grown(self, other: Room) -> Room:
        """Return a room that holds `other` too: a part that is too small gets the next power of two of rows."""
        had = self if len(self.targets) == len(other.targets) else Room((0,) * len(other.targets))
        *targets, nodes, events = (
            old if old >= new else 1 << (new - 1).bit_length() for old, new in zip(had, other, strict=True)
        )
        return Room(tuple(targets), nodes, events)


class Part(NamedTuple):
    """One tensor of a batch.

    Args:
        path: Its name.
        value: The tensor.
        rows: How many rows it has, or shall have; None if no room says so.
        blank: What padded rows hold.
    """

    path: str
    value: torch.Tensor
    rows: int | None
    blank: int


def pad_batch(batch: Batch, room: Room, device: torch.device | None = None) -> Batch:
    """Return a copy of the batch with as many rows as `room` says; its events and candidates stay as they are.

    Guarantee: a model that reads rows by their numbers gives the same loss and the same gradients, up to rounding.

    Args:
        batch: A batch of events.
        room: Rows of the result.
        device: Where the result shall be; None is where the batch is.

    Raises:
        InvalidValueError: If the batch has more rows, or fields that cannot be padded.

    Cost:
        One copy.
    """
    if not room.holds(Room.of(batch)):
        raise InvalidValueError("room", tuple(room), f"at least {tuple(Room.of(batch))}")

    def empty(part: Part) -> torch.Tensor:
        shape = part.value.shape if part.rows is None else (part.rows, *part.value.shape[1:])
        return torch.empty(shape, dtype=part.value.dtype, device=device or part.value.device)

    buffers = _changed(batch, room, empty)
    refill(buffers, batch)
    return buffers


def refill(buffers: Batch, batch: Batch) -> None:
    """Make a padded batch hold another batch, in place.

    Guarantee: `buffers` then equals `pad_batch(batch, room)`.

    Args:
        buffers: What `pad_batch` gave for a batch with the same `outline`.
        batch: The other batch, which fits.

    Cost:
        One copy, without waiting for the device.
    """
    targets, sources = (_parts(one, Room.of(one)) for one in (buffers, batch))
    for (_, target, _, _), (_, source, rows, blank) in zip(targets, sources, strict=True):
        if rows is None:
            target.copy_(source, non_blocking=True)
        else:
            target[:rows].copy_(source, non_blocking=True)
            target[rows:].fill_(blank)


def outline(batch: Batch) -> Outline:
    """Return what must be equal in two batches for the same buffers to hold both.

    Raises:
        InvalidValueError: If a field cannot be padded.
    """
    parts = _parts(batch, Room.of(batch))
    shapes = [(p.path, p.value.dtype, p.value.shape if p.rows is None else p.value.shape[1:]) for p in parts]
    plain = [(name, batch[name]) for name in batch if isinstance(batch[name], bool | int | float | str)]
    return (*shapes, *plain)


def _parts(batch: Batch, room: Room) -> list[Part]:
    found: list[Part] = []

    def keep(part: Part) -> torch.Tensor:
        found.append(part)
        return part.value

    _changed(batch, room, keep)
    return found


def _changed(batch: Batch, room: Room, change: Callable[[Part], torch.Tensor]) -> Batch:
    """Return the batch with every tensor changed, always in the same order."""
    made: dict[str, object] = {}
    for name in batch:
        value = batch[name]
        number = value.dtype.kind in "biuf" if isinstance(value, np.ndarray) else isinstance(value, torch.Tensor)
        if name == "levels":
            pairs = zip(batch.levels_of(), room.targets, strict=True)
            made[name] = tuple(_changed_level(f"level {at}", *pair, change) for at, pair in enumerate(pairs))
        elif number:
            rows = getattr(room, _TABLES[name]) if name in _TABLES else None
            made[name] = change(Part(name, batch.tensor(name), rows, 0))
        elif isinstance(value, bool | int | float | str):
            made[name] = value
        else:
            raise InvalidValueError(f"batch field {name}", type(value).__name__, "a tensor or a number, to be padded")
    return Batch(batch.slice, **made)


def _changed_level(path: str, level: Level, rows: int, change: Callable[[Part], torch.Tensor]) -> Level:
    def changed(name: str, value: object, blank: int = 0) -> torch.Tensor:
        return change(Part(f"{path} {name}", torch.as_tensor(value), rows, blank))

    own = {f.name: changed(f.name, getattr(level, f.name)) for f in fields(level) if f.name != "hood"}
    hood: dict[str, torch.Tensor] = {}
    for f in fields(Neighborhood):
        value = getattr(level.hood, f.name)
        if value is not None:
            hood[f.name] = changed(f"hood {f.name}", value, -1 if f.name in _NOBODY else 0)
    return replace(level, **own, hood=replace(level.hood, **hood))
