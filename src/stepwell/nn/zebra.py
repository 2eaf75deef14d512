"""Zebra: node memory, and one weighted sum over the places of largest temporal PageRank instead of many hops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from stepwell.access.tppr import TPPR
from stepwell.core.batch import Batch, Level
from stepwell.core.errors import InvalidValueError
from stepwell.kernels.products import linear
from stepwell.kernels.weighted import weighted_sum
from stepwell.nn.decoder import MergeDecoder
from stepwell.nn.digest import Digest, bottom_rows, digest, write_back
from stepwell.nn.linear import bias, project_rows, weight
from stepwell.nn.memory import MemoryState, NodeMemory
from stepwell.nn.reading import column, features_of, places_of, seconds_of
from stepwell.nn.registry import models
from stepwell.nn.stored_rows import OutOfCore
from stepwell.nn.time import TimeEncoding


@dataclass(frozen=True, slots=True)
class ZebraSettings:
    """Widths and metrics of a Zebra.

    Args:
        memory_dim: Width of the memory.
        time_dim: Width of the time encoding.
        dim: Width of the hidden layer and of each part of an embedding.
        k: Places of each metric's list.
        alpha: Chance of the walk to stop, one a metric.
        beta: Decay of the walk, one a metric.
        dropout: Share of hidden units dropped in training, of the own state's and of each list's.

    Raises:
        InvalidValueError: If alpha and beta differ in length.
    """

    memory_dim: int = 100
    time_dim: int = 100
    dim: int = 100
    k: int = 20
    alpha: tuple[float, ...] = (0.3, 0.1)
    beta: tuple[float, ...] = (0.5, 0.95)
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if len(self.alpha) != len(self.beta) or not self.alpha:
            raise InvalidValueError("beta", self.beta, f"as long as `alpha` ({len(self.alpha)}), at least one")
        if not 0 <= self.dropout < 1:
            raise InvalidValueError("dropout", self.dropout, "in [0, 1)")

    @property
    def sampler(self) -> TPPR:
        """The sampler that this model is meant for."""
        return TPPR(self.k * len(self.alpha), self.alpha, self.beta)


@models.register("zebra")
class Zebra(nn.Module):
    """`[W_own2 relu(W_own1 s_i) | h_1 | ... | h_n]`, with `h_r = sum_q w_q W_2 relu(W_1 [s_q | x_q | phi(dt_q)])`.

    The places q are those of the target's r-th T-PPR list, the weights w their T-PPR, scaled to sum to 1. All lists
    share the transform. Another sampler may stand in (its places are dealt to the lists in turn, and without weights
    all count alike).

    Guarantee: `score` and `embed` change no state; `observe` changes that of the batch's own endpoints only. The
    result is that of transforming every place by itself, up to float rounding (`plain_zebra_score` is that twin).

    Args:
        num_nodes: Nodes, ids `0..num_nodes-1`.
        event_dim: Width of the event features, 0 if there are none.
        node_dim: Width of the node features, 0 if there are none; they are projected and added to the memory.
        settings: Widths and metrics.
        store: Where the node memory goes if it is larger than host memory.

    Cost:
        One product a distinct node, event and target, and one of `time_dim x dim` a distinct place.

    References:
        Li et al., "Zebra: When Temporal Graph Neural Networks Meet Temporal Personalized PageRank", PVLDB 16(6), 2023,
        section 5. Differs: the own state takes part, as in the authors' code; dropout drops a hidden unit of a whole
        list; the memory of a target is up to date whether or not it stands in a list.

    Example:
        >>> model = Zebra(num_nodes=10, settings=ZebraSettings(k=5))
        >>> model.settings.sampler
        TPPR(k=10, alpha=(0.3, 0.1), beta=(0.5, 0.95))
    """

    def __init__(
        self,
        num_nodes: int,
        event_dim: int = 0,
        node_dim: int = 0,
        settings: ZebraSettings | None = None,
        store: OutOfCore | None = None,
    ) -> None:
        super().__init__()
        s = settings or ZebraSettings()
        self.settings, self.event_dim, self.node_dim = s, event_dim, node_dim
        self.time = TimeEncoding(s.time_dim)
        self.memory = NodeMemory(num_nodes, s.memory_dim, event_dim, self.time, store=store)
        self.node = nn.Linear(node_dim, s.memory_dim, bias=False) if node_dim else None
        num_in = s.memory_dim + event_dim + s.time_dim
        self.first = weight(s.dim, num_in)
        self.first_bias = bias(s.dim, num_in)
        self.second = nn.Linear(s.dim, s.dim)
        self.own_first = nn.Linear(s.memory_dim, s.dim)
        self.own_second = nn.Linear(s.dim, s.dim)
        self.decoder = MergeDecoder((len(s.alpha) + 1) * s.dim)
        self._digest: Digest | None = None

    @property
    def hops(self) -> int:
        """Hops that a batch must have sampled."""
        return 1

    @property
    def k(self) -> int:
        """Places of a target, those of all lists together."""
        return self.settings.k * len(self.settings.alpha)

    @property
    def keyed_by(self) -> Literal["node", "node_time"]:
        """What an embedding is a function of, besides the batch."""
        return "node_time"

    def embed(self, batch: Batch) -> torch.Tensor:
        """Return the embeddings of level 0's targets, float32 `[U, (n + 1) dim]`."""
        level, seconds, s = batch.levels_of()[0], seconds_of(batch), self.settings
        recalled = self.memory(batch.tensor("nodes"), seconds)
        self._digest = digest(batch, bottom_rows(batch), recalled)
        h: torch.Tensor = recalled.row
        if self.node is not None:
            h = h + self.node(batch.tensor("node_feature"))
        own = torch.relu(project_rows(h, column(level.self_row), self.own_first.weight, self.own_first.bias))
        own = self.own_second(nn.functional.dropout(own, s.dropout, self.training))
        by_state, by_event, by_time = torch.split(self.first, [s.memory_dim, self.event_dim, s.time_dim], 1)
        state = linear(h, by_state.contiguous(), self.first_bias)
        event = state.new_zeros(0, s.dim)
        if self.event_dim:
            event = linear(features_of(batch, "event_feature", self.event_dim, h), by_event.contiguous())
        share = shares(level, len(s.alpha))
        clock, places = self.time.clock, places_of(level, seconds)
        sums = weighted_sum(state, event, by_time.contiguous(), clock, places, share)
        sums = nn.functional.dropout(sums, s.dropout, self.training)
        past = linear(sums.flatten(0, 1), self.second.weight).view_as(sums)
        past = past + (share.sum(1) > 0)[..., None] * self.second.bias
        return torch.cat([own, past.flatten(1)], 1)

    def score(self, batch: Batch) -> torch.Tensor:
        """Return logits `[B, C]`: how likely each source meets each candidate at its time."""
        logits: torch.Tensor = self.decoder(self.embed(batch), batch.tensor("src_row"), batch.tensor("candidate_row"))
        return logits

    def observe(self, batch: Batch) -> None:
        """Write back the endpoints' memory as this batch's forward pass had it; leave its events pending.

        Without such a pass since the last change of state, the memory is digested here, as of the current weights.
        """
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


def shares(level: Level, num_lists: int) -> torch.Tensor:
    """Return each place's share in its list, float32 `[U, K / n, n]`: list r has every n-th column from the r-th on.

    Raises:
        InvalidValueError: If the sampler gave a number of places that the lists cannot share.
    """
    mask = column(level.hood.mask)
    if mask.shape[1] % num_lists:
        raise InvalidValueError("k of the sampler", mask.shape[1], f"a multiple of the number of lists, {num_lists}")
    given = mask.to(torch.float32) if level.hood.weight is None else column(level.hood.weight)
    lists = (given * mask).view(len(mask), -1, num_lists)
    return lists / lists.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
