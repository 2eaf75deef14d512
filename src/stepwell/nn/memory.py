"""Node memory: what a node has lived through, with the last event not yet digested.

Memory lags one batch on purpose. An event first waits as its endpoints' *pending message*; the next time one of them
is needed, the message updates the memory inside the forward pass, with gradient, which is how the updater learns. Only
when the node has a new event is the updated row written back, without gradient, and the new event takes its place.
Everything is a buffer, or in a file (`stored_rows`), so a checkpoint loses nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

import torch
from torch import nn

from stepwell.buffer.trace import Trace
from stepwell.core.batch import Batch
from stepwell.core.errors import InvalidValueError
from stepwell.core.state import StateReader, StateWriter
from stepwell.kernels.attention import Clock
from stepwell.kernels.products import padded, product
from stepwell.kernels.recurrent import Pending, clock_gradient, compose, gru_backward, gru_forward
from stepwell.nn.linear import bias, weight
from stepwell.nn.stored_memory import NodeState, gather_state, memory_columns, trace_memory
from stepwell.nn.stored_rows import OutOfCore, StoredRows
from stepwell.nn.time import TimeEncoding

MemoryState = tuple[torch.Tensor, ...]
"""A deep copy of a memory's buffers."""

_STATE = NodeState._fields
STATE_SIZE = len(_STATE)
"""Tensors of a memory's snapshot."""


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
        store: Where the state goes if it is larger than host memory; None keeps it in buffers. Results are the same.
            The buffers but `pending_partner` have no rows then.

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
        store: OutOfCore | None = None,
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
        self.stored: StoredRows | None = (
            None if store is None else store.open(num_nodes, memory_columns(dim, event_dim))
        )
        rows = num_nodes if store is None else 0
        self.register_buffer("memory", torch.zeros(rows, dim))
        self.register_buffer("last_update", torch.zeros(rows, dtype=torch.int64))
        self.register_buffer("pending_time", torch.zeros(rows, dtype=torch.int64))
        self.register_buffer("pending_partner", torch.full((num_nodes,), -1))
        self.register_buffer("pending_feature", torch.zeros(rows, event_dim))

    def forward(self, nodes: torch.Tensor, seconds: float = 1.0) -> Recalled:
        """Return the memory of distinct `nodes`, int64 `[N]`, digested; `seconds` is the length of the time unit."""
        state, at = self._state_of(nodes)
        if nodes.device.type != "cpu" and self.stored is None:
            return self._digest_all(state, at, seconds)
        partner = state.pending_partner[at]
        waiting = (partner >= 0).nonzero().squeeze(1)
        blank = self.idle == "update" and len(waiting) < len(nodes)
        busy = at[waiting]
        since = state.pending_time[busy]
        dt = (since - state.last_update[busy]).to(torch.float32) * seconds
        row = self._update(state, Pending(busy, partner[waiting], dt), len(busy) + blank)
        last_update = torch.zeros_like(nodes).index_copy_(0, waiting, since)
        if len(waiting) < len(nodes):
            place = torch.full_like(nodes, len(busy))
            place.index_copy_(0, waiting, torch.arange(len(busy), device=nodes.device))
            row = nn.functional.embedding(place, row if blank else torch.cat([row, row.new_zeros(1, self.dim)]))
        return Recalled(row, last_update)

    def _digest_all(self, state: NodeState, nodes: torch.Tensor, seconds: float) -> Recalled:
        """Compute what `forward` does by an updater step for every node, so that no device waits to count them."""
        partner, since = state.pending_partner[nodes], state.pending_time[nodes]
        busy = partner >= 0
        dt = (since - state.last_update[nodes]).to(torch.float32) * seconds
        blank = self.idle == "update"
        row = self._update(state, Pending(nodes, partner.clamp(min=0), dt), len(nodes) + blank)
        idle = row[-1] if blank else row.new_zeros(self.dim)
        return Recalled(torch.where(busy[:, None], row[: len(nodes)], idle), torch.where(busy, since, 0))

    def _state_of(self, nodes: torch.Tensor) -> tuple[NodeState, torch.Tensor]:
        """Return columns of state, and the nodes' rows in them: the buffers, or what a store has gathered."""
        if self.stored is None:
            return NodeState(*(getattr(self, name) for name in _STATE)), nodes
        return gather_state(self.stored, nodes, self.pending_partner)

    def _change(self, nodes: torch.Tensor, values: Mapping[str, torch.Tensor]) -> None:
        """Change columns of some nodes."""
        if self.stored is not None:
            self.stored.change(nodes, values)
            return
        for name, value in values.items():
            getattr(self, name)[nodes] = value

    def _update(self, state: NodeState, pending: Pending, rows: int) -> torch.Tensor:
        """Return `rows` digested rows; one beyond the pending nodes digests a zero message from zero memory."""
        clock = Clock(*(v.detach() for v in self.time.clock))
        message = compose(state.memory, state.pending_feature, pending, clock, padded(rows))
        weights = (self.input, self.state, self.input_bias, self.state_bias)
        cell = _GRUUpdate if self.updater == "gru" else _RNNUpdate
        return cell.apply(*weights, *self.time.clock, message, pending.dt)[:rows]  # type: ignore[no-any-return,no-untyped-call]

    @torch.no_grad()
    def write(self, nodes: torch.Tensor, recalled: Recalled) -> None:
        """Make digested rows the nodes' memory; a node may repeat with equal rows."""
        self._change(nodes, {"memory": recalled.row.detach(), "last_update": recalled.last_update})

    @torch.no_grad()
    def post(self, src: torch.Tensor, dst: torch.Tensor, time: torch.Tensor, feature: torch.Tensor | None) -> None:
        """Leave a batch's events `[B]`, in order of position, as pending messages: of each node its last one wins.

        Features are `[B, F]`, or `[B, 2, F]` if the message of the source has others than that of the destination.
        """
        end = torch.stack([src, dst], 1).flatten()
        partner = torch.stack([dst, src], 1).flatten()
        nodes, last = _distinct(end) if end.device.type == "cpu" else (end, last_places(end))
        self.pending_partner[nodes] = partner[last]
        values = {"pending_time": time[last // 2]}
        if feature is not None and self.event_dim:
            own = feature[last // 2] if feature.dim() == 2 else feature.flatten(0, 1)[last]
            values["pending_feature"] = own.to(self.pending_feature.dtype)
        self._change(nodes, values)

    @torch.no_grad()
    def forget(self) -> None:
        """Return to the state before the first event."""
        for name in _STATE:
            getattr(self, name).zero_()
        self.pending_partner.fill_(-1)
        if self.stored is not None:
            self.stored.forget()

    def snapshot(self) -> MemoryState:
        """Return a deep copy of the state; that of a stored memory is a file on the disk, mapped."""
        if self.stored is None:
            return tuple(getattr(self, name).clone() for name in _STATE)
        return NodeState(pending_partner=self.pending_partner.clone(), **self.stored.snapshot())

    @torch.no_grad()
    def restore(self, state: MemoryState) -> None:
        """Return to a snapshot, which stays valid."""
        if self.stored is not None:
            columns = NodeState(*state)._asdict()
            self.pending_partner.copy_(columns.pop("pending_partner"))
            self.stored.restore(columns)
            return
        for name, value in zip(_STATE, state, strict=True):
            getattr(self, name).copy_(value)

    @property
    def row_bytes(self) -> int:
        """Bytes of a node's row in a store."""
        return -(-(16 + 4 * (self.dim + self.event_dim)) // 8) * 8

    @property
    def core_bytes(self) -> int:
        """Bytes that leave host memory with the state; 0 once they have."""
        return 0 if self.stored is not None else sum(buffer.nbytes for buffer in self.buffers(recurse=False))

    def trace(self, batches: Iterable[Batch]) -> Trace:
        """Return which rows an epoch's batches will read and change, beginning with the empty state."""
        return trace_memory(batches, len(self.pending_partner), self.row_bytes)

    def move(self, store: OutOfCore) -> None:
        """Move the state out of core, as it stands; the buffers but `pending_partner` have no rows from then on.

        Raises:
            DataError: If the store cannot be opened.
        """
        state, num_nodes = self.snapshot(), len(self.pending_partner)
        self.stored = store.open(num_nodes, memory_columns(self.dim, self.event_dim))
        for name in _STATE:
            if name != "pending_partner":
                setattr(self, name, getattr(self, name)[:0].clone())
        self.restore(state)

    def save(self, writer: StateWriter) -> None:
        """Record what is in a store; buffers are the module's own."""
        if self.stored is not None:
            self.stored.save(writer)

    def load(self, reader: StateReader) -> None:
        """Return to what was recorded."""
        if self.stored is not None:
            self.stored.load(reader)


def last_places(end: torch.Tensor) -> torch.Tensor:
    """Return where in `end`, int64 `[M]`, each of its nodes stands last: int64 `[M]`, without waiting for a device."""
    ascending, order = end.sort(stable=True)
    return order[torch.searchsorted(ascending, end, right=True) - 1]


def _distinct(end: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the distinct nodes of `end`, and where each stands last: on the CPU less work than `last_places`."""
    place = torch.arange(len(end), device=end.device)
    nodes, row = torch.unique(end, return_inverse=True)
    return nodes, torch.zeros_like(nodes).scatter_reduce_(0, row, place, "amax", include_self=False)


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
