"""What flows through a pipeline: slices of a source become batches, batches gain fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TypeAlias, cast

import numpy as np
import numpy.typing as npt
import torch

from stepwell.core.errors import UnknownNameError

Ids: TypeAlias = npt.NDArray[np.int64]
Array: TypeAlias = "npt.NDArray[np.generic] | torch.Tensor"


@dataclass(frozen=True, slots=True)
class Slice:
    """Which rows of a source make one batch.

    Args:
        epoch: The epoch.
        index: The batch's number in its epoch (global, not per shard).
        begin: First position of an ordered source; for shuffled rows the first place in the epoch's order.
        end: One past the last.
        rows: The rows themselves, if they are not `[begin, end)`.
    """

    epoch: int
    index: int
    begin: int
    end: int
    rows: Ids | None = None

    def __len__(self) -> int:
        return self.end - self.begin


@dataclass(frozen=True, slots=True)
class Neighborhood:
    """The sampled past of S queries, K places each, newest first, padded on the right.

    Args:
        node: Neighbours, int64 `[S, K]`, -1 where padded.
        event: Positions of the events in the log, int64 `[S, K]`, -1 where padded.
        dt: Query time minus event time in the log's unit, int64 `[S, K]`, 0 where padded.
        mask: True where an event stands, `[S, K]`.
        weight: Importance of each place, float32 `[S, K]`, or None if all count alike.
    """

    node: Array
    event: Array
    dt: Array
    mask: Array
    weight: Array | None = None


@dataclass(frozen=True, slots=True)
class Level:
    """One layer's targets: distinct (node, time) queries and their sampled past.

    Level 0 holds the queries of the batch. The rows of level `l + 1` are the distinct (node, time) pairs that
    level `l` needs: each target itself and its neighbours. Below the last level stand `Batch.nodes`.

    Args:
        node: Distinct targets' nodes, int64 `[U]`.
        time: Their times in the log's unit, int64 `[U]`.
        before: Their visible prefix: events at positions `< before` may be seen, int64 `[U]`.
        hood: Their sampled past, `[U, K]`.
        self_row: Row of each target in the level below, int64 `[U]`.
        neighbor_row: Row of each neighbour in the level below, int64 `[U, K]`; 0 where padded.
        event_row: Row of each event in `Batch.events`, int64 `[U, K]`; 0 where padded.
    """

    node: Array
    time: Array
    before: Array
    hood: Neighborhood
    self_row: Array
    neighbor_row: Array
    event_row: Array


class Batch:
    """Named fields of one batch; immutable: `give` returns a new one.

    Fields of an event batch, in the order in which the stages give them (B events, C candidates a source,
    U distinct targets, N distinct nodes, E distinct events):

    * `src`, `dst`, `time`, `event`: int64 `[B]`; `label`: `[B]` where the log has one (from the source)
    * `candidate`: int64 `[B, C]`, column 0 is the true destination (from negatives)
    * `levels`: tuple of `Level`, one a hop; `src_row` int64 `[B]`, `candidate_row` int64 `[B, C]`: rows of level 0
      (from the sampler)
    * `nodes`: int64 `[N]`, `events`: int64 `[E]` distinct ones that the levels refer to (from the dedup)
    * `event_feature`: float32 `[E, F]`, `node_feature`: float32 `[N, F]` (from the gather, if there are any),
      `own_feature`: float32 `[B, F]` of the batch's own events
    * `seconds`: float, length of the log's time unit in seconds

    A dense batch has one field a column.

    Example:
        >>> batch = Batch(Slice(0, 0, 0, 2), src=np.array([3, 4]))
        >>> batch.give(dst=np.array([5, 6])).dst
        array([5, 6])
    """

    __slots__ = ("_fields", "slice")

    def __init__(self, slice: Slice, **fields: object) -> None:
        self.slice = slice
        self._fields: dict[str, object] = fields

    def give(self, **fields: object) -> Batch:
        """Return a batch with these fields added or replaced."""
        return Batch(self.slice, **{**self._fields, **fields})

    def __getattr__(self, name: str) -> object:
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, name: str) -> object:
        try:
            return self._fields[name]
        except KeyError:
            raise UnknownBatchFieldError("batch field", name, self._fields) from None

    def __contains__(self, name: str) -> bool:
        return name in self._fields

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self.slice)

    def __repr__(self) -> str:
        parts = [f"{name}{_shape(value)}" for name, value in self._fields.items()]
        return f"Batch({self.slice.begin}:{self.slice.end}, {', '.join(parts)})"

    def array(self, name: str) -> npt.NDArray[np.generic]:
        """Return a field as a NumPy array (no copy on CPU)."""
        value = self[name]
        return value.numpy(force=True) if isinstance(value, torch.Tensor) else np.asarray(value)

    def tensor(self, name: str) -> torch.Tensor:
        """Return a field as a tensor (no copy on CPU)."""
        value = self[name]
        return value if isinstance(value, torch.Tensor) else torch.from_numpy(_owned(np.asarray(value)))

    def levels_of(self) -> tuple[Level, ...]:
        """Return `levels` with its type."""
        return cast("tuple[Level, ...]", self["levels"])

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch with every array, nested ones too, as a tensor on `device`."""
        moved = {name: move(value, torch.device(device)) for name, value in self._fields.items()}
        return Batch(self.slice, **moved)


class UnknownBatchFieldError(UnknownNameError, AttributeError):
    """A batch has no such field; the stage that gives it is missing."""


def _shape(value: object) -> str:
    shape = getattr(value, "shape", None)
    return str(list(shape)) if shape is not None else ""


def _owned(array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """Return an array that torch can hold: contiguous and writable, copied only if it is not (a read-only map)."""
    return np.require(array, requirements=("C", "W"))


def move(value: object, device: torch.device) -> object:
    """Move arrays inside tuples, mappings and dataclasses to `device` as tensors; leave the rest alone."""
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biuf":
            return value
        return torch.from_numpy(_owned(value)).to(device, non_blocking=True)
    if isinstance(value, torch.Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, tuple):
        return tuple(move(item, device) for item in value)
    if isinstance(value, Mapping):
        return {name: move(item, device) for name, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: move(getattr(value, f.name), device) for f in fields(value)})
    return value
