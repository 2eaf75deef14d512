"""DyRep: a recurrent memory whose messages tell of the partner's neighbourhood as well; the embedding is the memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import nn

from stepwell.core.batch import Batch
from stepwell.nn.decoder import MergeDecoder
from stepwell.nn.digest import bottom_rows
from stepwell.nn.linear import take
from stepwell.nn.memory import MemoryState, NodeMemory, Recalled
from stepwell.nn.reading import column, seconds_of
from stepwell.nn.registry import models
from stepwell.nn.stored_rows import OutOfCore
from stepwell.nn.time import TimeEncoding


@dataclass(frozen=True, slots=True)
class DyRepSettings:
    """Widths of a DyRep.

    Args:
        dim: Width of memory and embeddings.
        time_dim: Width of the time encoding in messages.
        k: Newest neighbours that a message tells of.
    """

    dim: int = 100
    time_dim: int = 100
    k: int = 10


@models.register("dyrep")
class DyRep(nn.Module):
    """The message of u from its event with v is `[s_u | s_v | x | q_v | phi(dt)]`, with `q_v` the attention of `s_v`
    over the memory of v's neighbours before the event.

    The attention is a softmax of scaled products of memories. It is taken when the event happens and waits in the
    pending message; the updater learns what to make of it.

    Guarantee: `score` and `embed` change no state; `observe` changes that of the batch's own endpoints only.

    Args:
        num_nodes: Nodes, ids `0..num_nodes-1`.
        event_dim: Width of the event features, 0 if there are none.
        node_dim: Width of the node features, 0 if there are none; they are projected and added to the memory.
        settings: Widths.
        store: Where the node memory goes if it is larger than host memory.

    References:
        Trivedi et al., "DyRep: Learning Representations over Dynamic Graphs", ICLR 2019, in the form of Rossi et al.,
        2020, arXiv:2006.10637: link prediction with a pair decoder in place of the point process. Differs: the
        attention itself has no parameters, because no gradient would cross to the next batch to reach them.
    """

    def __init__(
        self,
        num_nodes: int,
        event_dim: int = 0,
        node_dim: int = 0,
        settings: DyRepSettings | None = None,
        store: OutOfCore | None = None,
    ) -> None:
        super().__init__()
        s = settings or DyRepSettings()
        self.settings, self.event_dim, self.node_dim = s, event_dim, node_dim
        self.memory = NodeMemory(num_nodes, s.dim, event_dim + s.dim, TimeEncoding(s.time_dim), "rnn", store=store)
        self.node = nn.Linear(node_dim, s.dim, bias=False) if node_dim else None
        self.decoder = MergeDecoder(s.dim)
        self._kept: _Kept | None = None

    @property
    def hops(self) -> int:
        """Hops that a batch must have sampled."""
        return 1

    @property
    def k(self) -> int:
        """Neighbours of a target."""
        return self.settings.k

    @property
    def keyed_by(self) -> Literal["node", "node_time"]:
        """What an embedding is a function of, besides the batch."""
        return "node_time"

    def embed(self, batch: Batch) -> torch.Tensor:
        """Return the embeddings of level 0's targets, float32 `[U, dim]`."""
        recalled = self.memory(batch.tensor("nodes"), seconds_of(batch))
        self._kept = _Kept(batch["nodes"], Recalled(recalled.row.detach(), recalled.last_update))
        h: torch.Tensor = recalled.row
        if self.node is not None:
            h = h + self.node(batch.tensor("node_feature"))
        return take(h, bottom_rows(batch))

    def score(self, batch: Batch) -> torch.Tensor:
        """Return logits `[B, C]`: how likely each source meets each candidate at its time."""
        logits: torch.Tensor = self.decoder(self.embed(batch), batch.tensor("src_row"), batch.tensor("candidate_row"))
        return logits

    @torch.no_grad()
    def observe(self, batch: Batch) -> None:
        """Write back the endpoints' memory; leave the events pending, with what the ends' neighbourhoods were.

        Without a forward pass of this batch since the last change of state, the memory is digested here, as of the
        current weights.
        """
        if self._kept is None or self._kept.batch is not batch["nodes"]:
            recalled = self.memory(batch.tensor("nodes"), seconds_of(batch))
        else:
            recalled = self._kept.recalled
        self._kept = None
        src, dst = batch.tensor("src"), batch.tensor("dst")
        target = torch.stack([batch.tensor("src_row"), batch.tensor("candidate_row")[:, 0]], 1)
        row = bottom_rows(batch)[target.flatten()]
        end = torch.stack([src, dst], 1).flatten()
        self.memory.write(end, Recalled(recalled.row[row], recalled.last_update[row]))
        around = self._around(batch, recalled.row, target)
        own = batch.tensor("own_feature") if self.event_dim else around.new_zeros(len(src), 0)
        both = own.to(around)[:, None].expand(-1, 2, -1)
        self.memory.post(src, dst, batch.tensor("time"), torch.cat([both, around.flip(1)], 2))

    def forget(self) -> None:
        """Return to the state before the first event."""
        self._kept = None
        self.memory.forget()

    def snapshot(self) -> MemoryState:
        """Return a deep copy of the state; weights are not part of it."""
        return self.memory.snapshot()

    def restore(self, state: MemoryState) -> None:
        """Return to a snapshot, which stays valid."""
        self._kept = None
        self.memory.restore(state)

    def _around(self, batch: Batch, memory: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the attention of each end over its neighbours' memory, `[B, 2, dim]`; 0 without neighbours."""
        level = batch.levels_of()[0]
        near = take(memory, column(level.neighbor_row)[target])
        mask = column(level.hood.mask)[target]
        own = take(memory, column(level.self_row)[target])
        weight = torch.einsum("bed,bekd->bek", own, near) / math.sqrt(self.settings.dim)
        share = torch.softmax(weight.masked_fill(~mask, -torch.inf), 2).nan_to_num(0.0)
        return torch.einsum("bek,bekd->bed", share, near)


class _Kept(NamedTuple):
    """The digested memory of the batch's nodes, without gradient; the batch is known again by its `nodes`."""

    batch: object
    recalled: Recalled
