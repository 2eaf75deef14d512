"""TGAT: attention over time alone, no memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import nn

from stepwell.core.batch import Batch, Level
from stepwell.core.errors import InvalidValueError
from stepwell.core.state import StateReader, StateWriter
from stepwell.nn.attention import TemporalAttention
from stepwell.nn.decoder import MergeDecoder
from stepwell.nn.linear import take
from stepwell.nn.lipschitz import Constants, Rows, attention_constants, edges_of, spectral
from stepwell.nn.memory import MemoryState
from stepwell.nn.reading import column, features_of, places_of, seconds_of
from stepwell.nn.registry import models
from stepwell.nn.reuse import RowReuse
from stepwell.nn.time import TimeEncoding


@dataclass(frozen=True, slots=True)
class TGATSettings:
    """Widths of a TGAT.

    Args:
        time_dim: Width of the time encoding.
        dim: Width of the embeddings.
        heads: Attention heads.
        hops: Attention layers, 1 to 3.
        k: Events a target attends to.
        dropout: Share of attention weights dropped in training.
    """

    time_dim: int = 100
    dim: int = 100
    heads: int = 2
    hops: int = 2
    k: int = 20
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if not 1 <= self.hops <= 3:
            raise InvalidValueError("hops", self.hops, "1 to 3")


@models.register("tgat")
class TGAT(nn.Module):
    """Temporal graph attention: `h_i = MLP([attention | h_i])` a layer, from the raw node features up.

    Guarantee: has no state but embeddings kept for reuse, if a pipeline reuses any; without, an embedding is a function
    of (node, time) and the events before it. Each distinct (node, time) of a level is embedded once.

    Args:
        num_nodes: Nodes; takes no part, so that all models are built alike.
        event_dim: Width of the event features, 0 if there are none.
        node_dim: Width of the node features, 0 if there are none.
        settings: Widths.

    References:
        Xu et al., "Inductive Representation Learning on Temporal Graphs", 2020, arXiv:2002.07962.
        Differs: the most recent events are as good as the paper's uniform draw or better; the sampler decides.
    """

    def __init__(
        self, num_nodes: int, event_dim: int = 0, node_dim: int = 0, settings: TGATSettings | None = None
    ) -> None:
        super().__init__()
        s = settings or TGATSettings()
        self.settings, self.event_dim, self.node_dim = s, event_dim, node_dim
        self.time = TimeEncoding(s.time_dim)
        widths = [node_dim] + [s.dim] * (s.hops - 1)
        self.attention = nn.ModuleList(
            TemporalAttention(width, s.dim, event_dim, self.time, s.heads, s.dropout) for width in widths
        )
        self.merge = nn.ModuleList(
            nn.Sequential(nn.Linear(s.dim + width, s.dim), nn.ReLU(), nn.Linear(s.dim, s.dim)) for width in widths
        )
        self.decoder = MergeDecoder(s.dim)
        self.reuse = RowReuse()

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
        return "node_time"

    def embed(self, batch: Batch) -> torch.Tensor:
        """Return the embeddings of level 0's targets, float32 `[U, dim]`."""
        x = features_of(batch, "event_feature", self.event_dim, self.time.omega)
        h = batch.tensor("node_feature") if self.node_dim else self.time.omega.new_zeros(len(batch.tensor("nodes")), 0)
        levels = batch.levels_of()
        self.reuse.begin(batch)
        for depth, (attention, merge) in enumerate(zip(self.attention, self.merge, strict=True)):
            place = self.hops - 1 - depth
            level, below = levels[place], self.reuse.below(batch, place, h)
            self_row = column(level.self_row)
            past = attention(h, self_row, x, places_of(level, seconds_of(batch)), below)
            h = merge(torch.cat([past, take(h, self_row)], 1) if h.shape[1] else past)
        return h

    def constants(self, layer: int, batch: Batch, level: Level, at: torch.Tensor, rows: Rows) -> Constants:
        """Return how far the layer above `layer` carries differences, see `staleness.Bounded`."""
        edge = edges_of(self.time, self.event_dim, batch, level, at)
        near, own = attention_constants(cast("TemporalAttention", self.attention[layer]), rows, edge)
        first, _, second = cast("tuple[nn.Linear, nn.Module, nn.Linear]", tuple(self.merge[layer].children()))
        width, after = self.settings.dim, spectral(second.weight)
        past, self_row = spectral(first.weight[:, :width]), spectral(first.weight[:, width:])
        return Constants(after * torch.maximum(past, self_row + past * own), near)

    def score(self, batch: Batch) -> torch.Tensor:
        """Return logits `[B, C]`: how likely each source meets each candidate at its time."""
        logits: torch.Tensor = self.decoder(self.embed(batch), batch.tensor("src_row"), batch.tensor("candidate_row"))
        return logits

    def observe(self, batch: Batch) -> None:
        """Keep the embeddings that the batch's reuse wants kept."""
        if not self.reuse.passed(batch):
            with torch.no_grad():
                self.embed(batch)
        self.reuse.commit()

    def forget(self) -> None:
        """Drop kept embeddings."""
        self.reuse.forget()

    def snapshot(self) -> MemoryState:
        """Return a deep copy of the kept embeddings."""
        return self.reuse.snapshot()

    def restore(self, state: MemoryState) -> None:
        """Return to a snapshot, which stays valid."""
        self.reuse.restore(state)

    def save(self, writer: StateWriter) -> None:
        """Record the kept embeddings."""
        self.reuse.save(writer.child("reuse"))

    def load(self, reader: StateReader) -> None:
        """Return to the recorded embeddings."""
        self.reuse.load(reader.child("reuse"), self.time.omega.device)
