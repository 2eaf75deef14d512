"""GraphMixer: the newest links as tokens of one mixer block; no memory, no attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from stepwell.core.batch import Batch
from stepwell.nn.decoder import MergeDecoder
from stepwell.nn.linear import bias, take, weight
from stepwell.nn.memory import MemoryState
from stepwell.nn.mixer import MixerBlock
from stepwell.nn.reading import column, places_of, seconds_of
from stepwell.nn.registry import models
from stepwell.nn.time import TimeEncoding


@dataclass(frozen=True, slots=True)
class GraphMixerSettings:
    """Widths of a GraphMixer.

    Args:
        time_dim: Width of the fixed time encoding.
        dim: Width of tokens and embeddings.
        k: Newest links of a target.
    """

    time_dim: int = 100
    dim: int = 100
    k: int = 20


@models.register("graphmixer")
class GraphMixer(nn.Module):
    """Link tokens `[x | phi(dt)]` through a mixer block, their mean, and the mean of the neighbours' features.

    Guarantee: has no state. Event features are projected once per distinct event, targets mixed once per
    distinct (node, time).

    Args:
        num_nodes: Nodes; takes no part, so that all models are built alike.
        event_dim: Width of the event features, 0 if there are none.
        node_dim: Width of the node features, 0 if there are none.
        settings: Widths.

    References:
        Cong et al., "Do We Really Need Complicated Model Architectures For Temporal Networks?", 2023,
        arXiv:2302.11636. Differs: the node part averages over the k newest links instead of a time window.
    """

    def __init__(
        self, num_nodes: int, event_dim: int = 0, node_dim: int = 0, settings: GraphMixerSettings | None = None
    ) -> None:
        super().__init__()
        s = settings or GraphMixerSettings()
        self.settings, self.event_dim, self.node_dim = s, event_dim, node_dim
        self.time = TimeEncoding(s.time_dim, learned=False)
        self.link_time = weight(s.dim, s.time_dim)
        self.link_feature = weight(s.dim, event_dim)
        self.link_bias = bias(s.dim, s.time_dim + event_dim)
        self.mixer = MixerBlock(s.k, s.dim)
        self.norm = nn.LayerNorm(s.dim)
        self.final = nn.Linear(s.dim + node_dim, s.dim)
        self.decoder = MergeDecoder(s.dim)

    @property
    def hops(self) -> int:
        """Hops that a batch must have sampled."""
        return 1

    @property
    def k(self) -> int:
        """Links of a target."""
        return self.settings.k

    @property
    def keyed_by(self) -> Literal["node", "node_time"]:
        """What an embedding is a function of, besides the batch."""
        return "node_time"

    def embed(self, batch: Batch) -> torch.Tensor:
        """Return the embeddings of level 0's targets, float32 `[U, dim]`."""
        level = batch.levels_of()[0]
        places = places_of(level, seconds_of(batch))
        token = nn.functional.linear(self.time(places.dt), self.link_time, self.link_bias)
        if self.event_dim:
            x = batch.tensor("event_feature")
            if len(x):
                token = token + take(nn.functional.linear(x, self.link_feature), places.event_row)
        token = token * places.mask[..., None]
        parts = [self.norm(self.mixer(token)).mean(1)]
        if self.node_dim:
            v = batch.tensor("node_feature")
            count = places.mask.sum(1, keepdim=True).clamp(min=1)
            around = (v[places.neighbor_row] * places.mask[..., None]).sum(1) / count
            parts.append(v[column(level.self_row)] + around)
        embedded: torch.Tensor = self.final(torch.cat(parts, 1))
        return embedded

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
