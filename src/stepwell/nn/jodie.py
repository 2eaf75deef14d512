"""JODIE: a recurrent memory a node, projected to the time of the query; no neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from stepwell.core.batch import Batch
from stepwell.nn.decoder import MergeDecoder
from stepwell.nn.digest import Digest, bottom_rows, digest, write_back
from stepwell.nn.linear import take
from stepwell.nn.memory import MemoryState, NodeMemory
from stepwell.nn.projection import TimeProjection
from stepwell.nn.reading import column, seconds_of
from stepwell.nn.registry import models
from stepwell.nn.stored_rows import OutOfCore
from stepwell.nn.time import TimeEncoding


@dataclass(frozen=True, slots=True)
class JODIESettings:
    """Widths of a JODIE.

    Args:
        dim: Width of memory and embeddings.
        time_dim: Width of the time encoding in messages.
    """

    dim: int = 100
    time_dim: int = 100


@models.register("jodie")
class JODIE(nn.Module):
    """Recurrent memory and time projection.

    Guarantee: `score` and `embed` change no state; `observe` changes that of the batch's own endpoints only. Only
    targets are read, so a batch may be sampled with one neighbour or many: the scores are the same.

    Args:
        num_nodes: Nodes, ids `0..num_nodes-1`.
        event_dim: Width of the event features, 0 if there are none.
        node_dim: Width of the node features, 0 if there are none; they are projected and added to the memory.
        settings: Widths.
        store: Where the node memory goes if it is larger than host memory.

    References:
        Kumar et al., 2019, arXiv:1908.01207. Differs: one recurrent cell for both sides, and link prediction with a
        pair decoder in place of the regression of the next item's embedding (as in Rossi et al., 2020).
    """

    def __init__(
        self,
        num_nodes: int,
        event_dim: int = 0,
        node_dim: int = 0,
        settings: JODIESettings | None = None,
        store: OutOfCore | None = None,
    ) -> None:
        super().__init__()
        s = settings or JODIESettings()
        self.settings, self.event_dim, self.node_dim = s, event_dim, node_dim
        self.memory = NodeMemory(num_nodes, s.dim, event_dim, TimeEncoding(s.time_dim), "rnn", store=store)
        self.node = nn.Linear(node_dim, s.dim, bias=False) if node_dim else None
        self.projection = TimeProjection(s.dim)
        self.decoder = MergeDecoder(s.dim)
        self._digest: Digest | None = None

    @property
    def hops(self) -> int:
        """Hops that a batch must have sampled; the neighbours themselves are not read."""
        return 1

    @property
    def k(self) -> int:
        """Events a target must have sampled; they are not read."""
        return 1

    @property
    def keyed_by(self) -> Literal["node", "node_time"]:
        """What an embedding is a function of, besides the batch."""
        return "node_time"

    def embed(self, batch: Batch) -> torch.Tensor:
        """Return the embeddings of level 0's targets, float32 `[U, dim]`."""
        seconds, level = seconds_of(batch), batch.levels_of()[0]
        row, place = torch.unique(bottom_rows(batch), return_inverse=True)
        recalled = self.memory(batch.tensor("nodes")[row], seconds)
        self._digest = digest(batch, place, recalled)
        state = recalled.row
        if self.node is not None:
            state = state + self.node(batch.tensor("node_feature")[row])
        age = (column(level.time) - recalled.last_update[place]).clamp(min=0).to(torch.float32) * seconds
        projected: torch.Tensor = self.projection(take(state, place), age)
        return projected

    def score(self, batch: Batch) -> torch.Tensor:
        """Return logits `[B, C]`: how likely each source meets each candidate at its time."""
        logits: torch.Tensor = self.decoder(self.embed(batch), batch.tensor("src_row"), batch.tensor("candidate_row"))
        return logits

    def observe(self, batch: Batch) -> None:
        """Write back the endpoints' memory as this batch's forward pass had it; leave its events pending."""
        write_back(self.memory, batch, self._digest)
        self._digest = None

    def forget(self) -> None:
        """Return to the state before the first event."""
        self._digest = None
        self.memory.forget()

    def snapshot(self) -> MemoryState:
        """Return a deep copy of the state; weights are not part of it."""
        return self.memory.snapshot()

    def restore(self, state: MemoryState) -> None:
        """Return to a snapshot, which stays valid."""
        self._digest = None
        self.memory.restore(state)
