"""TGAT: attention over time alone, no memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from stepwell.core.batch import Batch
from stepwell.core.errors import InvalidValueError
from stepwell.nn.attention import TemporalAttention
from stepwell.nn.decoder import MergeDecoder
from stepwell.nn.linear import take
from stepwell.nn.memory import MemoryState
from stepwell.nn.reading import column, features_of, places_of, seconds_of
from stepwell.nn.registry import models
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

    Guarantee: has no state; an embedding is a function of (node, time) and the events before it. Each distinct
    (node, time) of a level is embedded once.

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
        for attention, merge, level in zip(self.attention, self.merge, reversed(batch.levels_of()), strict=True):
            self_row = column(level.self_row)
            past = attention(h, self_row, x, places_of(level, seconds_of(batch)))
            h = merge(torch.cat([past, take(h, self_row)], 1) if h.shape[1] else past)
        return h

    def score(self, batch: Batch) -> torch.Tensor:
        """Return logits `[B, C]`: how likely each source meets each candidate at its time."""
        logits: torch.Tensor = self.decoder(self.embed(batch), batch.tensor("src_row"), batch.tensor("candidate_row"))
        return logits

    def observe(self, batch: Batch) -> None:
        """Do nothing: there is no state."""

    def forget(self) -> None:
        """Do nothing: there is no state."""

    def snapshot(self) -> MemoryState:
        """Return the empty state."""
        return ()

    def restore(self, state: MemoryState) -> None:
        """Do nothing: there is no state."""
