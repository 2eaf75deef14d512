"""TGN: node memory, and attention over the newest events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import nn

from stepwell.core.batch import Batch, Level
from stepwell.core.errors import InvalidValueError
from stepwell.core.state import StateReader, StateWriter
from stepwell.kernels.products import linear
from stepwell.nn.attention import TemporalAttention
from stepwell.nn.decoder import MergeDecoder
from stepwell.nn.digest import Digest, bottom_rows, digest, write_back
from stepwell.nn.linear import take
from stepwell.nn.lipschitz import Constants, Rows, attention_constants, edges_of, spectral
from stepwell.nn.memory import STATE_SIZE, MemoryState, NodeMemory
from stepwell.nn.reading import column, features_of, places_of, seconds_of
from stepwell.nn.registry import models
from stepwell.nn.reuse import RowReuse
from stepwell.nn.stored_rows import OutOfCore
from stepwell.nn.time import TimeEncoding


@dataclass(frozen=True, slots=True)
class TGNSettings:
    """Widths and semantics of a TGN.

    Args:
        memory_dim: Width of the memory.
        time_dim: Width of the time encoding.
        dim: Width of the embeddings.
        heads: Attention heads.
        hops: Attention layers, 1 to 3.
        k: Newest events a target attends to.
        dropout: Share of attention weights dropped in training.
        delta: Age of an event: `"query"` is query time minus event time (the paper); `"memory"` is the neighbour's last
            update minus event time, which makes an embedding a function of the node alone (one hop only).
        idle: What a node without any event has, see `NodeMemory`.
    """

    memory_dim: int = 100
    time_dim: int = 100
    dim: int = 100
    heads: int = 2
    hops: int = 1
    k: int = 10
    dropout: float = 0.1
    delta: Literal["query", "memory"] = "query"
    idle: Literal["keep", "update"] = "keep"

    def __post_init__(self) -> None:
        if not 1 <= self.hops <= 3:
            raise InvalidValueError("hops", self.hops, "1 to 3")
        if self.delta not in ("query", "memory"):
            raise InvalidValueError("delta", self.delta, "'query' or 'memory'")
        if self.delta == "memory" and self.hops > 1:
            raise InvalidValueError("hops", self.hops, "1 with delta='memory'")


@models.register("tgn")
class TGN(nn.Module):
    """Temporal graph network: memory digested on the way, then one attention layer a hop, then the pair decoder.

    Guarantee: `score` and `embed` change no state; `observe` changes that of the batch's own endpoints only.

    Args:
        num_nodes: Nodes, ids `0..num_nodes-1`.
        event_dim: Width of the event features, 0 if there are none.
        node_dim: Width of the node features, 0 if there are none; they are projected and added to the memory.
        settings: Widths and semantics.
        store: Where the node memory goes if it is larger than host memory.

    References:
        Rossi et al., "Temporal Graph Networks for Deep Learning on Dynamic Graphs", 2020, arXiv:2006.10637.
        Differs: a layer ends in `attention + W h_i + b` instead of a perceptron on `[attention | h_i]`.
    """

    def __init__(
        self,
        num_nodes: int,
        event_dim: int = 0,
        node_dim: int = 0,
        settings: TGNSettings | None = None,
        store: OutOfCore | None = None,
    ) -> None:
        super().__init__()
        s = settings or TGNSettings()
        self.settings, self.event_dim, self.node_dim = s, event_dim, node_dim
        self.time = TimeEncoding(s.time_dim)
        self.memory = NodeMemory(num_nodes, s.memory_dim, event_dim, self.time, idle=s.idle, store=store)
        self.node = nn.Linear(node_dim, s.memory_dim, bias=False) if node_dim else None
        widths = [s.memory_dim] + [s.dim] * s.hops
        self.attention = nn.ModuleList(
            TemporalAttention(width, s.dim, event_dim, self.time, s.heads, s.dropout) for width in widths[:-1]
        )
        self.skip = nn.ModuleList(nn.Linear(width, s.dim) for width in widths[:-1])
        self.decoder = MergeDecoder(s.dim)
        self.reuse = RowReuse()
        self._digest: Digest | None = None

    @property
    def hops(self) -> int:
        """Hops that a batch must have sampled."""
        return self.settings.hops

    @property
    def k(self) -> int:
        """Events a target attends to."""
        return self.settings.k

    @property
    def keyed_by(self) -> Literal["node", "node_time"]:
        """What an embedding is a function of, besides the batch."""
        return "node" if self.settings.delta == "memory" else "node_time"

    def embed(self, batch: Batch) -> torch.Tensor:
        """Return the embeddings of level 0's targets, float32 `[U, dim]`."""
        seconds = seconds_of(batch)
        recalled = self.memory(batch.tensor("nodes"), seconds)
        self._digest = digest(batch, bottom_rows(batch), recalled)
        h: torch.Tensor = recalled.row
        if self.node is not None:
            h = h + self.node(batch.tensor("node_feature"))
        x = features_of(batch, "event_feature", self.event_dim, h)
        levels = batch.levels_of()
        self.reuse.begin(batch)
        for depth, (attention, skip) in enumerate(zip(self.attention, self.skip, strict=True)):
            place = self.hops - 1 - depth
            level, below = levels[place], self.reuse.below(batch, place, h)
            dt = None
            if self.settings.delta == "memory":
                event_time = column(level.time)[:, None] - column(level.hood.dt)
                dt = recalled.last_update[column(level.neighbor_row)] - event_time
            self_row = column(level.self_row)
            out = attention(h, self_row, x, places_of(level, seconds, dt), below)
            out = out + linear(take(h, self_row), *skip.parameters())
            h = torch.relu(out) if depth < self.hops - 1 else out
        return h

    def constants(self, layer: int, batch: Batch, level: Level, at: torch.Tensor, rows: Rows) -> Constants:
        """Return how far the layer above `layer` carries differences, see `staleness.Bounded`."""
        edge = edges_of(self.time, self.event_dim, batch, level, at)
        near, own = attention_constants(cast("TemporalAttention", self.attention[layer]), rows, edge)
        skip = spectral(cast("nn.Linear", self.skip[layer]).weight)
        return Constants((skip + own).clamp(min=1), near)

    def score(self, batch: Batch) -> torch.Tensor:
        """Return logits `[B, C]`: how likely each source meets each candidate at its time."""
        logits: torch.Tensor = self.decoder(self.embed(batch), batch.tensor("src_row"), batch.tensor("candidate_row"))
        return logits

    def observe(self, batch: Batch) -> None:
        """Write back the endpoints' memory as this batch's forward pass had it; leave its events pending.

        Without such a pass since the last change of state, the memory is digested here, as of the current weights.
        Embeddings to be reused are kept then.
        """
        if not self.reuse.passed(batch):
            with torch.no_grad():
                self.embed(batch)
        self.reuse.commit()
        write_back(self.memory, batch, self._digest)
        self._digest = None

    def forget(self) -> None:
        """Return to the state before the first event."""
        self._digest = None
        self.memory.forget()
        self.reuse.forget()

    def snapshot(self) -> MemoryState:
        """Return a deep copy of the state, kept embeddings included; weights are not part of it."""
        return (*self.memory.snapshot(), *self.reuse.snapshot())

    def restore(self, state: MemoryState) -> None:
        """Return to a snapshot, which stays valid."""
        self._digest = None
        self.memory.restore(state[:STATE_SIZE])
        self.reuse.restore(state[STATE_SIZE:])

    def save(self, writer: StateWriter) -> None:
        """Record the kept embeddings; parameters and memory are the module's own."""
        self.reuse.save(writer.child("reuse"))

    def load(self, reader: StateReader) -> None:
        """Return to the recorded embeddings."""
        self._digest = None
        self.reuse.load(reader.child("reuse"), self.memory.memory.device)
