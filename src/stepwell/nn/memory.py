"""Node memory: what a node has lived through, with the last event not yet digested.

Memory lags one batch on purpose. An event first waits as its endpoints' *pending message*; the next time one of them
is needed, the message updates the memory inside the forward pass, with gradient, which is how the updater learns. Only
when the node has a new event is the updated row written back, without gradient, and the new event takes its place.
Everything is a buffer, so a checkpoint loses nothing.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import nn

from stepwell.core.errors import InvalidValueError
from stepwell.kernels.attention import Clock
from stepwell.kernels.products import padded, product
from stepwell.kernels.recurrent import Pending, clock_gradient, compose, gru_backward, gru_forward
from stepwell.nn.linear import bias, weight
from stepwell.nn.time import TimeEncoding

MemoryState = tuple[torch.Tensor, ...]
"""A deep copy of a memory's buffers."""

_STATE = ("memory", "last_update", "pending_time", "pending_partner", "pending_feature")


class Recalled(NamedTuple):
    """The memory of some nodes, pending messages digested.

    Args:
        row: float32 `[N, D]`, with gradient to the updater.
        last_update: Time of each node's newest event that is in `row`, int64 `[N]`; 0 if there is none.
    """

    row: torch.Tensor
    last_update: torch.Tensor


class NodeMemory(nn.Module):
    """One state vector and at most one pending message a node.

    The message of node i from its last event with partner j at time t is
    `[s_i | s_j | x | phi(t - last_update_i)]`.

    Guarantee: `forward` changes nothing; `write` and `post` are the only changes, and neither depends on the order in
    which equal rows are given, only on event positions.

    Args:
        num_nodes: Nodes, ids `0..num_nodes-1`.
        dim: Width of the memory.
        event_dim: Width of the event features, 0 if there are none.
        time: The time encoding; may be shared with other parts.
        updater: `"gru"` (TGN) or `"rnn"` (JODIE, DyRep).
        idle: What a node without any event has: `"keep"` its zeros, or `"update"`: one step of the updater
            on a zero message.

    Cost:
        A forward pass is one updater step per asked node that has a pending message. `4 (D + F) + 24` bytes a node.

    References:
        Rossi et al., 2020, arXiv:2006.10637, section 3.1, equations 1 to 3, with the last message kept.
        Differs: the message is made when it is digested, with the partner's memory of that moment; the paper
        stores the raw message.
    """

    memory: torch.Tensor
    last_update: torch.Tensor
    pending_time: torch.Tensor
    pending_partner: torch.Tensor
    pending_feature: torch.Tensor

    def __init__(
        self,
        num_nodes: int,
        dim: int,
        event_dim: int,
        time: TimeEncoding,
        updater: Literal["gru", "rnn"] = "gru",
        idle: Literal["keep", "update"] = "keep",
    ) -> None:
        super().__init__()
        for name, value, least in (("num_nodes", num_nodes, 1), ("dim", dim, 1), ("event_dim", event_dim, 0)):
            if value < least:
                raise InvalidValueError(name, value, f"at least {least}")
        if updater not in ("gru", "rnn"):
            raise InvalidValueError("updater", updater, "'gru' or 'rnn'")
        if idle not in ("keep", "update"):
            raise InvalidValueError("idle", idle, "'keep' or 'update'")
        self.dim, self.event_dim, self.time, self.updater, self.idle = dim, event_dim, time, updater, idle
        gates = 3 if updater == "gru" else 1
        self.input = weight(gates * dim, 2 * dim + event_dim + len(time.omega))
        self.input_bias = bias(gates * dim, dim)
        self.state = weight(gates * dim, dim)
        self.state_bias = bias(gates * dim, dim)
        self.register_buffer("memory", torch.zeros(num_nodes, dim))
        self.register_buffer("last_update", torch.zeros(num_nodes, dtype=torch.int64))
        self.register_buffer("pending_time", torch.zeros(num_nodes, dtype=torch.int64))
        self.register_buffer("pending_partner", torch.full((num_nodes,), -1))
        self.register_buffer("pending_feature", torch.zeros(num_nodes, event_dim))

    def forward(self, nodes: torch.Tensor, seconds: float = 1.0) -> Recalled:
        """Return the memory of distinct `nodes`, int64 `[N]`, digested; `seconds` is the length of the time unit."""
        partner = self.pending_partner[nodes]
        waiting = (partner >= 0).nonzero().squeeze(1)
        blank = self.idle == "update" and len(waiting) < len(nodes)
        busy = nodes[waiting]
        since = self.pending_time[busy]
        dt = (since - self.last_update[busy]).to(torch.float32) * seconds
        row = self._update(Pending(busy, partner[waiting], dt), len(busy) + blank)
        last_update = torch.zeros_like(nodes).index_copy_(0, waiting, since)
        if len(waiting) < len(nodes):
            place = torch.full_like(nodes, len(busy))
            place.index_copy_(0, waiting, torch.arange(len(busy), device=nodes.device))
            row = nn.functional.embedding(place, row if blank else torch.cat([row, row.new_zeros(1, self.dim)]))
        return Recalled(row, last_update)

    def _update(self, pending: Pending, rows: int) -> torch.Tensor:
        """Return `rows` digested rows; one beyond the pending nodes digests a zero message from zero memory."""
        message = compose(
            self.memory, self.pending_feature, pending, Clock(*(v.detach() for v in self.time.clock)), padded(rows)
        )
        weights = (self.input, self.state, self.input_bias, self.state_bias)
        cell = _GRUUpdate if self.updater == "gru" else _RNNUpdate
        return cell.apply(*weights, *self.time.clock, message, pending.dt)[:rows]  # type: ignore[no-any-return,no-untyped-call]

    @torch.no_grad()
    def write(self, nodes: torch.Tensor, recalled: Recalled) -> None:
        """Make digested rows the nodes' memory; a node may repeat with equal rows."""
        self.memory[nodes] = recalled.row.detach()
        self.last_update[nodes] = recalled.last_update

    @torch.no_grad()
    def post(self, src: torch.Tensor, dst: torch.Tensor, time: torch.Tensor, feature: torch.Tensor | None) -> None:
        """Leave a batch's events `[B]`, in order of position, as pending messages: of each node its last one wins."""
        end = torch.stack([src, dst], 1).flatten()
        partner = torch.stack([dst, src], 1).flatten()
        place = torch.arange(len(end), device=end.device)
        nodes, row = torch.unique(end, return_inverse=True)
        last = torch.zeros_like(nodes).scatter_reduce_(0, row, place, "amax", include_self=False)
        self.pending_partner[nodes] = partner[last]
        self.pending_time[nodes] = time[last // 2]
        if feature is not None and self.event_dim:
            self.pending_feature[nodes] = feature[last // 2].to(self.pending_feature.dtype)

    @torch.no_grad()
    def forget(self) -> None:
        """Return to the state before the first event."""
        for name in _STATE:
            getattr(self, name).zero_()
        self.pending_partner.fill_(-1)

    def snapshot(self) -> MemoryState:
        """Return a deep copy of the state."""
        return tuple(getattr(self, name).clone() for name in _STATE)

    @torch.no_grad()
    def restore(self, state: MemoryState) -> None:
        """Return to a snapshot, which stays valid."""
        for name, value in zip(_STATE, state, strict=True):
            getattr(self, name).copy_(value)


class _GRUUpdate(torch.autograd.Function):
    """A GRU cell whose input and state are data: gradients go to the weights and the clock only.

    The message begins with the state, so for the gates r and z the weights of input and state are added and one product
    does for both; their gradients are the same columns.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        w_input: torch.Tensor,
        w_state: torch.Tensor,
        b_input: torch.Tensor,
        b_state: torch.Tensor,
        omega: torch.Tensor,
        phase: torch.Tensor,
        message: torch.Tensor,
        dt: torch.Tensor,
    ) -> torch.Tensor:
        width = w_state.shape[1]
        merged, offset = w_input.clone(), b_input.clone()
        merged[: 2 * width, :width] += w_state[: 2 * width]
        offset[: 2 * width] += b_state[: 2 * width]
        g = product(message, merged, offset)
        hn = product(message[:, :width], w_state[2 * width :], b_state[2 * width :])
        row, gates = gru_forward(g, hn, message)
        ctx.save_for_backward(w_input, omega, phase, message, dt, gates, hn)
        return row

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        w_input, omega, phase, message, dt, gates, hn = ctx.saved_tensors  # type: ignore[attr-defined]
        width = hn.shape[1]
        g_g, g_hn = gru_backward(grad, gates, hn, message)
        g_input, g_offset = product(g_g.t(), message.t()), g_g.sum(0)
        g_state = torch.cat([g_input[: 2 * width, :width], product(g_hn.t(), message[:, :width].t())])
        g_b_state = torch.cat([g_offset[: 2 * width], g_hn.sum(0)])
        needs_clock = ctx.needs_input_grad[4]  # type: ignore[attr-defined]
        g_clock = _clock_of(g_g, w_input, dt, Clock(omega, phase)) if needs_clock else (None, None)
        return g_input, g_state, g_offset, g_b_state, *g_clock, None, None


class _RNNUpdate(torch.autograd.Function):
    """`tanh(W_i message + W_s state + b)`, with the state at the head of the message: one product."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        w_input: torch.Tensor,
        w_state: torch.Tensor,
        b_input: torch.Tensor,
        b_state: torch.Tensor,
        omega: torch.Tensor,
        phase: torch.Tensor,
        message: torch.Tensor,
        dt: torch.Tensor,
    ) -> torch.Tensor:
        merged = w_input.clone()
        merged[:, : w_state.shape[1]] += w_state
        row = product(message, merged, b_input + b_state).tanh_()
        ctx.save_for_backward(w_input, omega, phase, message, dt, row)
        return row

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        w_input, omega, phase, message, dt, row = ctx.saved_tensors  # type: ignore[attr-defined]
        g = grad * (1 - row * row)
        g_input, g_offset = product(g.t(), message.t()), g.sum(0)
        needs_clock = ctx.needs_input_grad[4]  # type: ignore[attr-defined]
        g_clock = _clock_of(g, w_input, dt, Clock(omega, phase)) if needs_clock else (None, None)
        return g_input, g_input[:, : row.shape[1]], g_offset, g_offset, *g_clock, None, None


def _clock_of(
    g: torch.Tensor, w_input: torch.Tensor, dt: torch.Tensor, clock: Clock
) -> tuple[torch.Tensor, torch.Tensor]:
    """Carry the gradient of a projected message back to the clock, whose encoding is its tail."""
    g_phi = product(g, w_input[:, -len(clock.omega) :].t())
    return clock_gradient(g_phi[: len(dt)], dt, clock)
