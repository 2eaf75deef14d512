"""A mailbox a node: its newest mails, written after events, so that an embedding needs no look at the graph."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from stepwell.core.errors import InvalidValueError

MailState = tuple[torch.Tensor, ...]
"""A deep copy of a mailbox's buffers."""

_STATE = ("mail", "mail_time", "received")


class Mails(NamedTuple):
    """What lies in some nodes' mailboxes.

    Args:
        mail: float32 `[N, slots, dim]`.
        time: When each was sent, int64 `[N, slots]`.
        mask: Where there is one, `[N, slots]`.
    """

    mail: torch.Tensor
    time: torch.Tensor
    mask: torch.Tensor


class Mailbox(nn.Module):
    """The `slots` newest mails of each node, in a ring.

    Guarantee: deterministic; the result of `push` depends on the order of its rows up to rounding of the mean only.

    Args:
        num_nodes: Nodes, ids `0..num_nodes-1`.
        slots: Mails kept.
        dim: Width of a mail.

    Raises:
        InvalidValueError: If a size is below its least.

    Cost:
        `slots (4 dim + 8) + 8` bytes a node.
    """

    mail: torch.Tensor
    mail_time: torch.Tensor
    received: torch.Tensor

    def __init__(self, num_nodes: int, slots: int, dim: int) -> None:
        super().__init__()
        for name, value in (("num_nodes", num_nodes), ("slots", slots), ("dim", dim)):
            if value < 1:
                raise InvalidValueError(name, value, "at least 1")
        self.slots = slots
        self.register_buffer("mail", torch.zeros(num_nodes, slots, dim))
        self.register_buffer("mail_time", torch.zeros(num_nodes, slots, dtype=torch.int64))
        self.register_buffer("received", torch.zeros(num_nodes, dtype=torch.int64))

    def forward(self, nodes: torch.Tensor) -> Mails:
        """Return the mails of `nodes`, int64 `[N]`, in the order of their slots."""
        filled = self.received[nodes].clamp(max=self.slots)
        mask = torch.arange(self.slots, device=nodes.device) < filled[:, None]
        return Mails(self.mail[nodes], self.mail_time[nodes], mask)

    @torch.no_grad()
    def push(self, receiver: torch.Tensor, mail: torch.Tensor, time: torch.Tensor) -> None:
        """Deliver mails `[M, dim]` to `receiver`, int64 `[M]`.

        Each receiver gets one: the mean of its mails, with the newest of their times.
        """
        nodes, row, count = torch.unique(receiver, return_inverse=True, return_counts=True)
        mean = mail.new_zeros(len(nodes), mail.shape[1]).index_add_(0, row, mail) / count[:, None]
        newest = torch.zeros_like(nodes).scatter_reduce_(0, row, time, "amax", include_self=False)
        slot = self.received[nodes] % self.slots
        self.mail[nodes, slot] = mean
        self.mail_time[nodes, slot] = newest
        self.received[nodes] += 1

    @torch.no_grad()
    def forget(self) -> None:
        """Empty every mailbox."""
        for name in _STATE:
            getattr(self, name).zero_()

    def snapshot(self) -> MailState:
        """Return a deep copy of the state."""
        return tuple(getattr(self, name).clone() for name in _STATE)

    @torch.no_grad()
    def restore(self, state: MailState) -> None:
        """Return to a snapshot, which stays valid."""
        for name, value in zip(_STATE, state, strict=True):
            getattr(self, name).copy_(value)
