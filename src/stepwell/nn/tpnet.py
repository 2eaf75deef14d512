"""TPNet: a pair is described by the walks that lead from one node to the other, and by both nodes' newest links.

The walks are time-decayed, up to three steps back, and kept as random projections (`kernels.walks`): inner products of
two nodes' rows say how much their pasts overlap. Each of the newest links of either node is told apart by where its
other end stands to both of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

from stepwell.core.batch import Batch, Ids, Level
from stepwell.core.errors import InvalidValueError
from stepwell.kernels.pair_history import NUM_FEATURES
from stepwell.nn.linear import bias, take, weight
from stepwell.nn.memory import MemoryState
from stepwell.nn.mixer import MixerBlock
from stepwell.nn.reading import column, places_of, seconds_of
from stepwell.nn.registry import models
from stepwell.nn.time import TimeEncoding
from stepwell.nn.walk_stream import Queries, WalkStream

_SCALE = 0.25
"""Brings logarithms of counts and seconds near 1."""


@dataclass(frozen=True, slots=True)
class TPNetSettings:
    """Widths and walks of a TPNet.

    Args:
        projection_dim: Columns of the projection; the paper takes `10 log(2 E)` for E events.
        levels: Steps of the longest walk.
        decay: Decays of a step, one a second; each has rows of its own.
        time_dim: Width of the fixed time encoding of links.
        dim: Width of tokens, encodings and embeddings.
        k: Newest links of either node; 0 describes pairs by walks alone.
        layers: Mixer blocks.
        dropout: Share of the pair's description dropped in training.
        extras: Whether the pair's own history counts too: seconds and events since they last met, how often they did.
        seed: Of the projection.

    Raises:
        InvalidValueError: If a value is outside its range.
    """

    projection_dim: int = 128
    levels: int = 3
    decay: tuple[float, ...] = (1e-6,)
    time_dim: int = 100
    dim: int = 100
    k: int = 20
    layers: int = 1
    dropout: float = 0.1
    extras: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("projection_dim", 1), ("levels", 1), ("time_dim", 1), ("dim", 1), ("k", 0)):
            if getattr(self, name) < least:
                raise InvalidValueError(name, getattr(self, name), f"at least {least}")
        if not self.decay or not all(0 <= decay < np.inf for decay in self.decay):
            raise InvalidValueError("decay", self.decay, "at least one number, none negative")
        if not 0 <= self.dropout < 1:
            raise InvalidValueError("dropout", self.dropout, "in [0, 1)")


@models.register("tpnet")
class TPNet(nn.Module):
    """`score(u, v) = MLP([walks(u, v) | z_u given v | z_v given u])`.

    `z_u given v` is an encoding of u's own walks, plus the mixed tokens `[x | phi(dt) | walks(w, u) | walks(w, v)]` of
    its newest links to nodes w, averaged.

    Guarantee: `score` and `embed` change no state. A query sees the events before its level's `before`, in walks as in
    links, those of its own batch included; so how a stream is cut into batches changes no score. While a
    call runs, nothing else may read the state.

    Args:
        num_nodes: Nodes, ids `0..num_nodes-1`.
        event_dim: Width of the event features, 0 if there are none.
        node_dim: Width of the node features, 0 if there are none.
        settings: Widths and walks.

    Cost:
        `3 k + 3` inner products of rows a candidate, about 0.4 us each; the state takes
        `4 N len(decay) (levels + 1) projection_dim` bytes.

    References:
        Lu et al., "Improving Temporal Link Prediction via Temporal Walk Matrix Projection", NeurIPS 2024,
        arXiv:2410.04013. Differs: walks are as of each query instead of as of the batch; a link's description has the
        products of its end with both nodes, without those of each with itself; several decays and `extras` are ours.
    """

    def __init__(
        self, num_nodes: int, event_dim: int = 0, node_dim: int = 0, settings: TPNetSettings | None = None
    ) -> None:
        super().__init__()
        s = settings or TPNetSettings()
        self.settings, self.event_dim, self.node_dim = s, event_dim, node_dim
        self.walks = WalkStream(num_nodes, s.projection_dim, s.levels, s.decay, s.seed)
        num_products = len(s.decay) * (s.levels + 1) ** 2
        self.pair = _encoder(num_products + NUM_FEATURES * s.extras, s.dim)
        self.alone = _encoder(num_products, s.dim)
        self.node = nn.Linear(node_dim, s.dim, bias=False) if node_dim else None
        if s.k:
            self.time = TimeEncoding(s.time_dim, learned=False)
            self.link_time = weight(s.dim, s.time_dim)
            self.link_feature = weight(s.dim, event_dim)
            self.link_bias = bias(s.dim, s.time_dim + event_dim)
            self.link_own = _encoder(num_products, s.dim)
            self.link_other = _encoder(num_products, s.dim)
            self.mixers = nn.Sequential(*(MixerBlock(s.k, s.dim, channel_expansion=2.0) for _ in range(s.layers)))
            self.norm = nn.LayerNorm(s.dim)
        self.final = nn.Sequential(nn.Dropout(s.dropout), nn.Linear(3 * s.dim, s.dim), nn.ReLU(), nn.Linear(s.dim, 1))

    @property
    def hops(self) -> int:
        """Hops that a batch must have sampled."""
        return 1

    @property
    def k(self) -> int:
        """Links that a target must have sampled; with `k = 0` they are not read."""
        return max(self.settings.k, 1)

    @property
    def keyed_by(self) -> Literal["node", "node_time"]:
        """What an embedding is a function of, besides the batch."""
        return "node_time"

    def embed(self, batch: Batch) -> torch.Tensor:
        """Return the embeddings of level 0's targets, each by itself, given no other: float32 `[U, dim]`."""
        level = batch.levels_of()[0]
        node, now = _ids(level.node), _ids(level.time)
        order = np.argsort(_ids(level.before), kind="stable")
        queries = self.walks.queries(batch, _ids(level.before)[order])._replace(now=now[order])
        back = np.argsort(order)
        own = self._products(queries, node[order, None], node[order, None])[back, 0]
        z: torch.Tensor = self.alone(own) + self._features(batch, level)
        if self.settings.k:
            near = _ids(level.hood.node)[order]
            token = self._tokens(batch, level) + self.link_own(self._products(queries, near, node[order, None])[back])
            z = z + self._mix(token, column(level.hood.mask))
        return z

    def score(self, batch: Batch) -> torch.Tensor:
        """Return logits `[B, C]`: how likely each source meets each candidate at its time."""
        queries, level = self.walks.queries(batch), batch.levels_of()[0]
        src, candidate = _ids(batch["src"])[:, None], _ids(column(level.node)[batch.tensor("candidate_row")])
        pair = self._products(queries, src, candidate)
        if self.settings.extras:
            history = torch.from_numpy(self.walks.histories(queries, src[:, 0], candidate)).to(pair)
            pair = torch.cat([pair, _SCALE * history], 2)
        z_src, z_candidate = (
            self.alone(self._products(queries, src, src)),
            self.alone(self._products(queries, candidate, candidate)),
        )
        if self.node is not None:
            x = self._features(batch, level)
            z_src = z_src + take(x, batch.tensor("src_row"))[:, None]
            z_candidate = z_candidate + take(x, batch.tensor("candidate_row"))
        if self.settings.k:
            from_src, from_candidate = self._links(batch, queries, src, candidate)
            z_src, z_candidate = z_src + from_src, z_candidate + from_candidate
        z_src = z_src.expand_as(z_candidate)
        logits: torch.Tensor = self.final(torch.cat([self.pair(pair), z_src, z_candidate], 2)).squeeze(2)
        return logits

    def stream(self, batch: Batch) -> torch.Tensor:
        """Return scores against the state left by the events before each, then learn the batch's events.

        The same as `score` and `observe`, because no batch freezes the state, if levels are sampled as of each event.
        """
        scores = self.score(batch)
        self.observe(batch)
        return scores

    def observe(self, batch: Batch) -> None:
        """Apply the batch's events to the walks of both ends."""
        self.walks.observe(batch)

    def forget(self) -> None:
        """Return to the state before the first event."""
        self.walks.forget()

    def snapshot(self) -> MemoryState:
        """Return a deep copy of the state; weights are not part of it."""
        return self.walks.snapshot()

    def restore(self, state: MemoryState) -> None:
        """Return to a snapshot, which stays valid."""
        self.walks.restore(state)

    @property
    def _device(self) -> torch.device:
        return next(self.parameters()).device

    def _links(self, batch: Batch, queries: Queries, src: Ids, candidate: Ids) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what the links of sources and of candidates give for each pair, `[B, C, dim]` twice."""
        level, (num, width), k = batch.levels_of()[0], candidate.shape, self.settings.k
        src_row, candidate_row = batch.tensor("src_row"), batch.tensor("candidate_row")
        token, near, mask = self._tokens(batch, level), column(level.hood.node), column(level.hood.mask)
        of_src, of_candidate = _ids(near[src_row]), _ids(near[candidate_row])
        own_src = self.link_own(self._products(queries, of_src, src))
        crossed = [
            (np.broadcast_to(of_src[:, None], (num, width, k)), candidate[:, :, None]),
            (of_candidate, candidate[:, :, None]),
            (of_candidate, src[:, :, None]),
        ]
        left = np.stack([pair[0] for pair in crossed], 1).reshape(num, -1)
        right = np.stack([np.broadcast_to(pair[1], (num, width, k)) for pair in crossed], 1).reshape(num, -1)
        found = self._products(queries, left, right).view(num, 3, width, k, -1)
        flat = token.flatten(1)
        src_token = take(flat, src_row).view_as(own_src) + own_src
        src_token = src_token[:, None] + self.link_other(found[:, 0])
        candidate_token = self.link_own(found[:, 1]) + self.link_other(found[:, 2])
        candidate_token = candidate_token + take(flat, candidate_row).view_as(candidate_token)
        both = torch.cat([src_token.flatten(0, 1), candidate_token.flatten(0, 1)])
        seen = torch.cat([mask[src_row].repeat_interleave(width, 0), mask[candidate_row].flatten(0, 1)])
        mixed = self._mix(both, seen).view(2, num, width, -1)
        return mixed[0], mixed[1]

    def _tokens(self, batch: Batch, level: Level) -> torch.Tensor:
        """Return what each link says by itself, `[U, K, dim]`."""
        places = places_of(level, seconds_of(batch))
        token = nn.functional.linear(self.time(places.dt), self.link_time, self.link_bias)
        if self.event_dim and len(x := batch.tensor("event_feature")):
            token = token + take(nn.functional.linear(x, self.link_feature), places.event_row)
        return token

    def _mix(self, token: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the mean of the mixed tokens, `[U, dim]`."""
        mixed: torch.Tensor = self.norm(self.mixers(token * mask[..., None])).mean(1)
        return mixed

    def _features(self, batch: Batch, level: Level) -> torch.Tensor:
        """Return the targets' projected node features, `[U, dim]`, or a zero."""
        if self.node is None:
            return torch.zeros((), device=self._device)
        projected: torch.Tensor = take(self.node(batch.tensor("node_feature")), column(level.self_row))
        return projected

    def _products(self, queries: Queries, left: Ids, right: Ids) -> torch.Tensor:
        """Return `log(1 + relu(<H_i[left], H_j[right]>))`, scaled, for pairs of broadcast shapes `[B, M]`."""
        left, right = np.broadcast_arrays(left, right)
        found = torch.from_numpy(self.walks.products(queries, left, right)).to(self._device)
        return found.clamp_(min=0).log1p_().mul_(_SCALE)


def _encoder(num_in: int, dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(num_in, dim), nn.ReLU(), nn.Linear(dim, dim))


def _ids(value: object) -> Ids:
    return np.ascontiguousarray(value.numpy(force=True) if isinstance(value, torch.Tensor) else value, dtype=np.int64)
