"""How a model with layers reads embeddings computed before: the one hook that reuse needs in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch

from stepwell.buffer.reuse import HistoricalStore, Reused
from stepwell.core.batch import Batch
from stepwell.core.state import StateReader, StateWriter
from stepwell.nn.reading import column

StoreState = tuple[torch.Tensor, ...]
"""A deep copy of stores: values and nodes of each, in turn."""


class RowReuse:
    """The stores of a model's layers, and what the batch under way will leave in them.

    A batch without the field `reuse` passes by. Rows are pushed when the batch is observed, so that a forward pass
    changes nothing and may be repeated.
    """

    def __init__(self) -> None:
        self._stores: list[HistoricalStore] = []
        self._made: list[tuple[Reused, torch.Tensor]] = []
        self._batch: object = None
        self._watched: list[torch.Tensor] | None = None

    @property
    def stores(self) -> tuple[HistoricalStore, ...]:
        """One a layer below the last, the deepest layer's last; none before the first push."""
        return tuple(self._stores)

    def begin(self, batch: Batch) -> None:
        """Start the forward pass of a batch."""
        self._made, self._batch = [], batch["nodes"] if "reuse" in batch else None

    def below(self, batch: Batch, depth: int, h: torch.Tensor) -> torch.Tensor:
        """Return the rows that the neighbours of level `depth` read.

        Args:
            batch: The batch.
            depth: The level whose neighbours read.
            h: Computed rows of the level below, float32 `[R, D]`.

        Returns:
            float32 `[R + P, D]`: `h` with or without its gradient, then the pulled rows as constants; `h` itself if
            nothing is reused.
        """
        rows = self._read(batch, depth, h)
        if self._watched is not None:
            self._watched.append(rows)
        return rows

    def _read(self, batch: Batch, depth: int, h: torch.Tensor) -> torch.Tensor:
        levels = cast("tuple[Reused, ...]", batch["reuse"]) if "reuse" in batch else ()
        if depth >= len(levels):
            return h
        reused = levels[depth]
        self._made.append((reused, h.detach()))
        rows = h.detach() if reused.gradient == "block" else _clipped(h) if reused.gradient == "clip" else h
        slots = column(reused.pull_slot)
        if not len(slots):
            return rows
        return torch.cat([rows, self._store(depth, reused, h).pull(slots, column(reused.pull_node))])

    @contextmanager
    def watched(self) -> Iterator[list[torch.Tensor]]:
        """Collect, while the block runs, what `below` returns: the last level's first."""
        self._watched = []
        try:
            yield self._watched
        finally:
            self._watched = None

    def passed(self, batch: Batch) -> bool:
        """Say whether the latest forward pass was that of this batch, or the batch reuses nothing."""
        return "reuse" not in batch or (self._batch is not None and self._batch is batch["nodes"])

    def commit(self) -> None:
        """Push what the latest forward pass made."""
        for depth, (reused, h) in zip(reversed(range(len(self._made))), self._made, strict=True):
            if reused.first:
                self._begin(depth, reused, h)
            store = self._store(depth, reused, h)
            store.push(column(reused.push_slot), column(reused.push_node), h[column(reused.push_row)])
        self._made, self._batch = [], None

    def forget(self) -> None:
        """Return to the state before the first batch."""
        self._stores, self._made, self._batch = [], [], None

    def snapshot(self) -> StoreState:
        """Return a deep copy of the stores."""
        return tuple(tensor.clone() for store in self._stores for tensor in (store.values, store.node))

    def restore(self, state: StoreState) -> None:
        """Return to a snapshot, which stays valid."""
        self.forget()
        for values, node in zip(state[::2], state[1::2], strict=True):
            self._stores.append(HistoricalStore.of(values, node, values.device))

    def save(self, writer: StateWriter) -> None:
        """Record the stores."""
        for depth, store in enumerate(self._stores):
            store.save(writer.child(str(depth)))

    def load(self, reader: StateReader, device: torch.device) -> None:
        """Return to recorded stores, on a device."""
        self.forget()
        while reader.has(str(len(self._stores))):
            self._stores.append(HistoricalStore.saved(reader.child(str(len(self._stores))), device))

    def _begin(self, depth: int, reused: Reused, h: torch.Tensor) -> None:
        """Empty a store; one of another kind is made anew.

        A test may reuse more rows than training, layers may differ in width, and a model may move between epochs.
        """
        values = self._store(depth, reused, h).values
        if (values.shape, values.device, values.dtype) == ((reused.capacity, h.shape[1]), h.device, h.dtype):
            self._stores[depth].clear()
        else:
            self._stores[depth] = HistoricalStore(reused.capacity, h.shape[1], h.device, h.dtype)

    def _store(self, depth: int, reused: Reused, h: torch.Tensor) -> HistoricalStore:
        while len(self._stores) <= depth:
            self._stores.append(HistoricalStore(reused.capacity, h.shape[1], h.device, h.dtype))
        return self._stores[depth]


def _clipped(h: torch.Tensor) -> torch.Tensor:
    """Return `h`, whose gradient from here on has norm 1 at most."""
    if not h.requires_grad:
        return h
    view = h.view_as(h)
    view.register_hook(lambda grad: grad / grad.norm().clamp(min=1.0))  # type: ignore[no-untyped-call]
    return view
