"""APAN: an embedding reads the node's own mailbox; the graph is only walked afterwards, to deliver mail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import nn

from stepwell.core.batch import Batch
from stepwell.core.errors import InvalidValueError
from stepwell.kernels.attention import Places
from stepwell.nn.attention import TemporalAttention
from stepwell.nn.decoder import MergeDecoder
from stepwell.nn.linear import take
from stepwell.nn.mailbox import Mailbox, MailState, receivers
from stepwell.nn.reading import column, seconds_of
from stepwell.nn.registry import models
from stepwell.nn.stored_rows import OutOfCore
from stepwell.nn.time import TimeEncoding


@dataclass(frozen=True, slots=True)
class APANSettings:
    """Widths and reach of an APAN.

    Args:
        dim: Width of states, embeddings and mails.
        time_dim: Width of the time encoding of a mail's age.
        heads: Attention heads.
        slots: Mails that a node keeps.
        k: Newest neighbours of each end to whom an event's mail is sent.
        hops: How far it is sent, 0 (the ends alone) to 2.
        dropout: Share of attention weights dropped in training.

    Raises:
        InvalidValueError: If `hops` is outside 0 to 2.
    """

    dim: int = 100
    time_dim: int = 100
    heads: int = 2
    slots: int = 10
    k: int = 10
    hops: int = 1
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.hops <= 2:
            raise InvalidValueError("hops", self.hops, "0 to 2")


@models.register("apan")
class APAN(nn.Module):
    """`z_i = MLP(norm(attention of s_i over its mails + s_i))`, `s_i` being its embedding at its last event.

    After a batch, each event's mail `[z_u + z_v | x]` goes to both ends and to the neighbours that they had before the
    event; a receiver keeps the mean of a batch's mails.

    Guarantee: `score` and `embed` change no state and read nothing of the graph. Mail of a batch is delivered when it
    is observed, so no score sees its own event, nor another of its batch. The batch size is part of the model.

    Args:
        num_nodes: Nodes, ids `0..num_nodes-1`.
        event_dim: Width of the event features, 0 if there are none.
        node_dim: Width of the node features, 0 if there are none; they are projected and added to the state.
        settings: Widths and reach.
        store: Where states and mail go if they are larger than host memory; None for buffers. Results are the same.

    Cost:
        `4 N (dim + slots (dim + event_dim + 2))` bytes; attention over `slots` mails a target.

    References:
        Wang et al., "APAN: Asynchronous Propagation Attention Network for Real-time Temporal Graph Embedding", SIGMOD
        2021. Differs: event features stand beside the sum in a mail, so they need not be as wide; mails
        are told apart by their age.
    """

    def __init__(
        self,
        num_nodes: int,
        event_dim: int = 0,
        node_dim: int = 0,
        settings: APANSettings | None = None,
        store: OutOfCore | None = None,
    ) -> None:
        super().__init__()
        s = settings or APANSettings()
        self.settings, self.event_dim, self.node_dim = s, event_dim, node_dim
        self.mailbox = Mailbox(num_nodes, s.slots, s.dim + event_dim, s.dim, s.hops, store)
        self.node = nn.Linear(node_dim, s.dim, bias=False) if node_dim else None
        self.attention = TemporalAttention(s.dim, s.dim, event_dim, TimeEncoding(s.time_dim), s.heads, s.dropout)
        self.norm = nn.LayerNorm(s.dim)
        self.merge = nn.Sequential(nn.Linear(s.dim, s.dim), nn.ReLU(), nn.Linear(s.dim, s.dim))
        self.decoder = MergeDecoder(s.dim)
        self._kept: _Kept | None = None

    @property
    def hops(self) -> int:
        """Hops that a batch must have sampled: to where mail is sent."""
        return max(self.settings.hops, 1)

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
        level = batch.levels_of()[0]
        node, now = column(level.node), column(level.time)
        mails = self.mailbox(node)
        state = mails.state
        if self.node is not None:
            row = column(level.self_row)
            for below in batch.levels_of()[1:]:
                row = column(below.self_row)[row]
            state = state + take(self.node(batch.tensor("node_feature")), row)
        each = torch.arange(mails.mask.numel(), device=node.device).view_as(mails.mask)
        text, x = mails.mail.flatten(0, 1).split([self.settings.dim, self.event_dim], 1)
        age = (now[:, None] - mails.time).clamp(min=0).to(torch.float32) * seconds_of(batch)
        places = Places(each + len(node), each, mails.mask, age * mails.mask)
        self_row = torch.arange(len(node), device=node.device)
        read = self.attention(torch.cat([state, text]), self_row, x.contiguous(), places)
        z: torch.Tensor = self.merge(self.norm(read + state))
        self._kept = _Kept(batch["nodes"], z.detach())
        return z

    def score(self, batch: Batch) -> torch.Tensor:
        """Return logits `[B, C]`: how likely each source meets each candidate at its time."""
        logits: torch.Tensor = self.decoder(self.embed(batch), batch.tensor("src_row"), batch.tensor("candidate_row"))
        return logits

    @torch.no_grad()
    def observe(self, batch: Batch) -> None:
        """Make the ends' embeddings their states, and deliver the events' mail.

        Without a forward pass of this batch since the last change of state, it is embedded here, as of the current
        weights.

        Raises:
            UnknownBatchFieldError: If the batch has no sampled levels.
        """
        if self._kept is None or self._kept.batch is not batch["nodes"]:
            self.embed(batch)
        z, time = self._kept.z, batch.tensor("time")  # type: ignore[union-attr]
        self._kept = None
        row = torch.stack([batch.tensor("src_row"), batch.tensor("candidate_row")[:, 0]], 1)
        mail = z[row].sum(1)
        if self.event_dim:
            mail = torch.cat([mail, batch.tensor("own_feature").to(mail)], 1)
        receiver, event = receivers(batch, self.settings.hops)
        self.mailbox.push(receiver, mail[event], time[event])
        end = torch.stack([batch.tensor("src"), batch.tensor("dst")], 1).flatten()
        nodes, place = torch.unique(end, return_inverse=True)
        last = torch.zeros_like(nodes).scatter_reduce_(
            0, place, torch.arange(len(end), device=end.device), "amax", include_self=False
        )
        self.mailbox.keep(nodes, z[row.flatten()[last]])

    def forget(self) -> None:
        """Return to the state before the first event."""
        self._kept = None
        self.mailbox.forget()

    def snapshot(self) -> MailState:
        """Return a deep copy of the state; weights are not part of it."""
        return self.mailbox.snapshot()

    @torch.no_grad()
    def restore(self, state: MailState) -> None:
        """Return to a snapshot, which stays valid."""
        self._kept = None
        self.mailbox.restore(state)


class _Kept(NamedTuple):
    """The embeddings of the batch's targets, without gradient; the batch is known again by its `nodes`."""

    batch: object
    z: torch.Tensor
