"""A mailbox a node: its newest mails, written after events, so that an embedding needs no look at the graph.

State and mails are buffers, or rows in a file (`stored_rows`); then the same kernels run on the rows of a batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from stepwell.buffer.trace import Trace
from stepwell.core.batch import Batch, Ids
from stepwell.core.errors import InvalidValueError
from stepwell.core.state import StateReader, StateWriter
from stepwell.nn.reading import column
from stepwell.nn.stored_rows import Columns, OutOfCore, StoredRows

MailState = tuple[torch.Tensor, ...]
"""A deep copy of a mailbox's buffers, or of the file that they are in."""

_STATE = ("state", "mail", "mail_time", "received")


class Mails(NamedTuple):
    """What lies in some nodes' mailboxes.

    Args:
        mail: float32 `[N, slots, dim]`.
        time: When each was sent, int64 `[N, slots]`.
        mask: Where there is one, `[N, slots]`.
        state: What the nodes keep beside them, float32 `[N, state_dim]`.
    """

    mail: torch.Tensor
    time: torch.Tensor
    mask: torch.Tensor
    state: torch.Tensor


class Mailbox(nn.Module):
    """A state and the `slots` newest mails of each node, these in a ring.

    Guarantee: deterministic; the result of `push` depends on the order of its rows up to rounding of the mean only.

    Args:
        num_nodes: Nodes, ids `0..num_nodes-1`.
        slots: Mails kept.
        dim: Width of a mail.
        state_dim: Width of the state.
        reach: Hops from an event's ends to whom mail of it is sent.
        store: Where all this goes if it is larger than host memory; None keeps it in buffers. Results are the same. The
            buffers have no rows then.

    Raises:
        InvalidValueError: If a size is below its least.

    Cost:
        `slots (4 dim + 8) + 4 state_dim + 8` bytes a node. Out of core, a batch reads the rows of whom it asks, and
        then those of who gets mail.
    """

    state: torch.Tensor
    mail: torch.Tensor
    mail_time: torch.Tensor
    received: torch.Tensor

    def __init__(
        self,
        num_nodes: int,
        slots: int,
        dim: int,
        state_dim: int = 0,
        reach: int = 0,
        store: OutOfCore | None = None,
    ) -> None:
        super().__init__()
        least = (("num_nodes", num_nodes, 1), ("slots", slots, 1), ("dim", dim, 1), ("state_dim", state_dim, 0))
        for name, value, allowed in (*least, ("reach", reach, 0)):
            if value < allowed:
                raise InvalidValueError(name, value, f"at least {allowed}")
        self.num_nodes, self.slots, self.dim, self.state_dim, self.reach = num_nodes, slots, dim, state_dim, reach
        self.stored: StoredRows | None = None if store is None else store.open(num_nodes, self._columns)
        rows = num_nodes if store is None else 0
        for name in _STATE:
            kind, shape = self._columns[name]
            kept = torch.int64 if kind is np.int64 else torch.float32
            self.register_buffer(name, torch.zeros(rows, *shape, dtype=kept))

    @property
    def _columns(self) -> Columns:
        times: Columns = {"received": (np.int64, ()), "mail_time": (np.int64, (self.slots,))}
        return {**times, "state": (np.float32, (self.state_dim,)), "mail": (np.float32, (self.slots, self.dim))}

    def forward(self, nodes: torch.Tensor) -> Mails:
        """Return the mails and states of `nodes`, int64 `[N]`, mails in the order of their slots."""
        held, at = self._held(nodes)
        filled = held["received"][at].clamp(max=self.slots)
        mask = torch.arange(self.slots, device=filled.device) < filled[:, None]
        found = (held["mail"][at], held["mail_time"][at], mask, held["state"][at])
        return Mails(*(part.to(nodes.device) for part in found))

    @torch.no_grad()
    def push(self, receiver: torch.Tensor, mail: torch.Tensor, time: torch.Tensor) -> None:
        """Deliver mails `[M, dim]` to `receiver`, int64 `[M]`.

        Each receiver gets one: the mean of its mails, with the newest of their times.
        """
        nodes, row, count = torch.unique(receiver, return_inverse=True, return_counts=True)
        mean = mail.new_zeros(len(nodes), mail.shape[1]).index_add_(0, row, mail) / count[:, None]
        newest = torch.zeros_like(nodes).scatter_reduce_(0, row, time, "amax", include_self=False)
        held, at = self._edited(nodes)
        slot = held["received"][at] % self.slots
        held["mail"][at, slot] = mean.to(held["mail"])
        held["mail_time"][at, slot] = newest.to(slot.device)
        held["received"][at] += 1

    @torch.no_grad()
    def keep(self, nodes: torch.Tensor, state: torch.Tensor) -> None:
        """Make rows `[N, state_dim]` the states of distinct `nodes`."""
        held, at = self._edited(nodes)
        held["state"][at] = state.to(held["state"])

    @torch.no_grad()
    def forget(self) -> None:
        """Empty every mailbox, and make every state zero."""
        for name in _STATE:
            getattr(self, name).zero_()
        if self.stored is not None:
            self.stored.forget()

    def snapshot(self) -> MailState:
        """Return a deep copy of the state; that of a stored one is a file on the disk, mapped."""
        if self.stored is None:
            return tuple(getattr(self, name).clone() for name in _STATE)
        copied = self.stored.snapshot()
        return tuple(copied[name] for name in _STATE)

    @torch.no_grad()
    def restore(self, state: MailState) -> None:
        """Return to a snapshot, which stays valid; one of buffers and one of a file are alike."""
        columns = dict(zip(_STATE, state, strict=True))
        if self.stored is not None:
            self.stored.restore(columns)
            return
        for name, value in columns.items():
            getattr(self, name).copy_(value)

    @property
    def row_bytes(self) -> int:
        """Bytes of a node's row in a store."""
        return -(-(8 * (self.slots + 1) + 4 * (self.state_dim + self.slots * self.dim)) // 8) * 8

    @property
    def core_bytes(self) -> int:
        """Bytes that leave host memory with the state; 0 once they have."""
        return sum(buffer.nbytes for buffer in self.buffers(recurse=False))

    def move(self, store: OutOfCore) -> None:
        """Move the state out of core, as it stands; the buffers have no rows from then on.

        Raises:
            DataError: If the store cannot be opened.
        """
        state = self.snapshot()
        self.stored = store.open(self.num_nodes, self._columns)
        for name in _STATE:
            setattr(self, name, getattr(self, name)[:0].clone())
        self.restore(state)

    def trace(self, batches: Iterable[Batch]) -> Trace:
        """Return which rows an epoch's batches will read and change: of whom they ask, then of who gets mail."""
        parts: list[Ids] = []
        writes: list[npt.NDArray[np.bool_]] = []
        for ids, changed in _touched(batches, self.reach):
            parts.append(ids)
            writes.append(changed)
        trace = Trace.of(parts, self.num_nodes, self.row_bytes)
        return Trace(
            trace.ids,
            trace.indptr,
            self.num_nodes,
            self.row_bytes,
            writes=np.concatenate([np.zeros(0, np.bool_), *writes]),
        )

    def save(self, writer: StateWriter) -> None:
        """Record what is in a store; buffers are the module's own."""
        if self.stored is not None:
            self.stored.save(writer)

    def load(self, reader: StateReader) -> None:
        """Return to what was recorded."""
        if self.stored is not None:
            self.stored.load(reader)

    def _held(self, nodes: torch.Tensor) -> tuple[Mapping[str, torch.Tensor], torch.Tensor]:
        """Return columns of state, and the nodes' rows in them: the buffers, or what a store has fetched."""
        if self.stored is None:
            return self._buffers_of(), nodes
        ids, place = np.unique(nodes.cpu().numpy(), return_inverse=True)
        self.stored.fetch(ids)
        return self._at_hand(self.stored), torch.from_numpy(place)

    def _edited(self, nodes: torch.Tensor) -> tuple[Mapping[str, torch.Tensor], torch.Tensor]:
        """Return columns that may be changed in the rows of distinct nodes, and these rows."""
        if self.stored is None:
            return self._buffers_of(), nodes
        place = self.stored.edit(nodes.cpu().numpy())
        return self._at_hand(self.stored), torch.from_numpy(place)

    def _buffers_of(self) -> Mapping[str, torch.Tensor]:
        return {name: getattr(self, name) for name in _STATE}

    def _at_hand(self, stored: StoredRows) -> Mapping[str, torch.Tensor]:
        return {name: stored.column(name) for name in _STATE}


def receivers(batch: Batch, reach: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return who gets mail, and of which event of the batch: the ends, then their neighbours, then theirs.

    Args:
        batch: A batch with its levels.
        reach: How many hops it is sent.
    """
    src, dst = batch.tensor("src"), batch.tensor("dst")
    end = torch.stack([src, dst], 1)
    row = torch.stack([batch.tensor("src_row"), batch.tensor("candidate_row")[:, 0]], 1).flatten()
    event = torch.arange(len(end), device=end.device).repeat_interleave(2)
    who, events = [end.flatten()], [event]
    for level in batch.levels_of()[:reach]:
        hood = level.hood
        mask, neighbor = column(hood.mask)[row], column(hood.node)[row]
        event = event[:, None].expand_as(mask)[mask]
        who.append(neighbor[mask])
        events.append(event)
        row = column(level.neighbor_row)[row][mask]
    return torch.cat(who), torch.cat(events)


def _touched(batches: Iterable[Batch], reach: int) -> Iterator[tuple[Ids, npt.NDArray[np.bool_]]]:
    """Yield the rows that each fetch reads, and which of them are changed while they are at hand."""
    for batch in batches:
        asked = np.unique(column(batch.levels_of()[0].node).cpu().numpy())
        served = np.unique(receivers(batch, reach)[0].cpu().numpy())
        changed = np.isin(asked, served)
        if changed.sum() == len(served):  # all of them are at hand already
            yield asked, changed
            continue
        yield asked, np.zeros(len(asked), np.bool_)
        yield served, np.ones(len(served), np.bool_)
