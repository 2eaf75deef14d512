"""The elementwise work of a recurrent memory: composing messages, and the gates of a GRU forward and backward.

On the CPU torch runs a GRU cell as some thirty elementwise operations; here they are one pass each way. Each function
is followed by its slow twin, which is also the computation on other devices and in other precisions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numba import njit, prange

from stepwell.kernels.attention import Clock
from stepwell.kernels.products import is_native
from stepwell.kernels.smooth import cosine, sigmoid, sine, tangent
from stepwell.kernels.threads import launch

_BLOCKS = 16


class Pending(NamedTuple):
    """The nodes whose message is to be digested.

    Args:
        nodes: int64 `[N]`.
        partner: The other end of each one's last event, int64 `[N]`.
        dt: Seconds between that event and the one before it, float32 `[N]`.
    """

    nodes: torch.Tensor
    partner: torch.Tensor
    dt: torch.Tensor


def compose(memory: torch.Tensor, feature: torch.Tensor, pending: Pending, clock: Clock, rows: int) -> torch.Tensor:
    """Return the messages `[s_i | s_j | x | phi(dt)]`, float32 `[rows, 2 D + F + T]`, zero beyond the nodes.

    Args:
        memory: All nodes' memory, float32 `[all, D]`.
        feature: All nodes' pending event features, float32 `[all, F]`.
        pending: Which rows.
        clock: The time encoding, `[T]` each.
        rows: Rows of the result, at least N.
    """
    if not is_native(memory):
        return compose_reference(memory, feature, pending, clock, rows)
    width = 2 * memory.shape[1] + feature.shape[1] + len(clock.omega)
    out = memory.new_empty(rows, width)
    launch(rows, out.numel(), _compose, _compose_parallel, _arrays(memory, feature, *pending, *clock, out))
    return out


def compose_reference(
    memory: torch.Tensor, feature: torch.Tensor, pending: Pending, clock: Clock, rows: int
) -> torch.Tensor:
    """State in torch operations what `compose` must compute."""
    phi = torch.cos(pending.dt[:, None] * clock.omega + clock.phase)
    message = torch.cat([memory[pending.nodes], memory[pending.partner], feature[pending.nodes], phi], 1)
    return torch.cat([message, message.new_zeros(rows - len(message), message.shape[1])])


def clock_gradient(g_phi: torch.Tensor, dt: torch.Tensor, clock: Clock) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients of frequencies and phases `[T]` from that of `cos(dt * omega + phase)`, `[N, T]`."""
    if not is_native(g_phi):
        return clock_gradient_reference(g_phi, dt, clock)
    out = g_phi.new_zeros(_BLOCKS, 2, g_phi.shape[1])
    launch(_BLOCKS, g_phi.numel(), _clock, _clock_parallel, _arrays(g_phi, dt, *clock, out))
    g_omega, g_phase = out.sum(0)
    return g_omega, g_phase


def clock_gradient_reference(g_phi: torch.Tensor, dt: torch.Tensor, clock: Clock) -> tuple[torch.Tensor, torch.Tensor]:
    """State in torch operations what `clock_gradient` must compute."""
    g_angle = -torch.sin(dt[:, None] * clock.omega + clock.phase) * g_phi
    return dt.to(g_angle.dtype) @ g_angle, g_angle.sum(0)


def gru_forward(g: torch.Tensor, hn: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the next state of a GRU cell, and its gates.

    `r, z = sigmoid(g_rz)`, `n = tanh(g_n + r * hn)`, `next = n + z * (state - n)`.

    Args:
        g: Projected input, for r and z with the projected state added, float32 `[N, 3 D]` in the order r, z, n.
        hn: Projected state for n, float32 `[N, D]`.
        state: The state, float32 `[N, >= D]`; its first D columns count.

    Returns:
        Next state `[N, D]`; gates r, z, n `[N, 3 D]`.

    References:
        Cho et al., 2014, arXiv:1406.1078, as `torch.nn.GRUCell` has it.
    """
    if not is_native(g):
        return gru_forward_reference(g, hn, state)
    row, gates = torch.empty_like(hn), torch.empty_like(g)
    launch(len(g), g.numel() * 4, _gru, _gru_parallel, _arrays(g, hn, state, row, gates))
    return row, gates


def gru_forward_reference(g: torch.Tensor, hn: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """State in torch operations what `gru_forward` must compute."""
    width = hn.shape[1]
    r, z = torch.sigmoid(g[:, :width]), torch.sigmoid(g[:, width : 2 * width])
    n = torch.tanh(g[:, 2 * width :] + r * hn)
    return n + z * (state[:, :width] - n), torch.cat([r, z, n], 1)


def gru_backward(
    grad: torch.Tensor, gates: torch.Tensor, hn: torch.Tensor, state: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients of `g`, `[N, 3 D]`, and `hn`, `[N, D]`, from that of the next state, `[M, D]`, `M <= N`.

    Rows beyond M are padding and get zeros.
    """
    if not is_native(grad):
        return gru_backward_reference(grad, gates, hn, state)
    g_g, g_hn = torch.empty_like(gates), torch.empty_like(hn)
    launch(len(gates), gates.numel(), _gru_back, _gru_back_parallel, _arrays(grad, gates, hn, state, g_g, g_hn))
    return g_g, g_hn


def gru_backward_reference(
    grad: torch.Tensor, gates: torch.Tensor, hn: torch.Tensor, state: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """State in torch operations what `gru_backward` must compute."""
    r, z, n = gates.chunk(3, 1)
    grad = torch.cat([grad, grad.new_zeros(len(gates) - len(grad), grad.shape[1])])
    g_n = grad * (1 - z) * (1 - n * n)
    g_z = grad * (state[:, : n.shape[1]] - n) * z * (1 - z)
    return torch.cat([g_n * hn * r * (1 - r), g_z, g_n], 1), g_n * r


def _arrays(*tensors: torch.Tensor) -> tuple[np.ndarray, ...]:
    return tuple(t.detach().contiguous().numpy() for t in tensors)


# Jitted code is typed by Numba. Arrays come as one tuple.
# ruff: noqa: ANN001, ANN202


@njit(cache=True, nogil=True, fastmath=True)
def _compose(first, last, arrays):  # type: ignore[no-untyped-def]
    memory, feature, nodes, partner, dt, omega, phase, out = arrays
    width, features = memory.shape[1], feature.shape[1]
    for i in range(first, last):
        row = out[i]
        if i >= len(nodes):
            row[:] = np.float32(0.0)
            continue
        own, other, x, age = memory[nodes[i]], memory[partner[i]], feature[nodes[i]], dt[i]
        for d in range(width):
            row[d] = own[d]
        row = row[width:]
        for d in range(width):
            row[d] = other[d]
        row = row[width:]
        for f in range(features):
            row[f] = x[f]
        row = row[features:]
        for t in range(len(omega)):
            row[t] = cosine(age * omega[t] + phase[t])


@njit(cache=True, nogil=True, parallel=True)
def _compose_parallel(threads, size, arrays):  # type: ignore[no-untyped-def]
    for part in prange(threads):
        _compose(size * part // threads, size * (part + 1) // threads, arrays)


@njit(cache=True, nogil=True, fastmath=True)
def _clock(first, last, arrays):  # type: ignore[no-untyped-def]
    g_phi, dt, omega, phase, out = arrays
    for block in range(first, last):
        for i in range(len(dt) * block // _BLOCKS, len(dt) * (block + 1) // _BLOCKS):
            age = dt[i]
            for t in range(len(omega)):
                g = g_phi[i, t] * -sine(age * omega[t] + phase[t])
                out[block, 0, t] += g * age
                out[block, 1, t] += g


@njit(cache=True, nogil=True, parallel=True)
def _clock_parallel(threads, size, arrays):  # type: ignore[no-untyped-def]
    for part in prange(threads):
        _clock(size * part // threads, size * (part + 1) // threads, arrays)


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _gru(first, last, arrays):  # type: ignore[no-untyped-def]
    g, hn, state, out, gates = arrays
    width = hn.shape[1]
    for i in range(first, last):
        for d in range(2 * width):
            gates[i, d] = sigmoid(g[i, d])
        for d in range(width):
            n = tangent(g[i, 2 * width + d] + gates[i, d] * hn[i, d])
            gates[i, 2 * width + d] = n
            out[i, d] = n + gates[i, width + d] * (state[i, d] - n)


@njit(cache=True, nogil=True, parallel=True)
def _gru_parallel(threads, size, arrays):  # type: ignore[no-untyped-def]
    for part in prange(threads):
        _gru(size * part // threads, size * (part + 1) // threads, arrays)


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _gru_back(first, last, arrays):  # type: ignore[no-untyped-def]
    grad, gates, hn, state, g_g, g_hn = arrays
    width = hn.shape[1]
    one = np.float32(1.0)
    for i in range(first, last):
        if i >= len(grad):
            g_g[i, :] = np.float32(0.0)
            g_hn[i, :] = np.float32(0.0)
            continue
        for d in range(width):
            r, z, n, g = gates[i, d], gates[i, width + d], gates[i, 2 * width + d], grad[i, d]
            g_n = g * (one - z) * (one - n * n)
            g_g[i, d] = g_n * hn[i, d] * r * (one - r)
            g_g[i, width + d] = g * (state[i, d] - n) * z * (one - z)
            g_g[i, 2 * width + d] = g_n
            g_hn[i, d] = g_n * r


@njit(cache=True, nogil=True, parallel=True)
def _gru_back_parallel(threads, size, arrays):  # type: ignore[no-untyped-def]
    for part in prange(threads):
        _gru_back(size * part // threads, size * (part + 1) // threads, arrays)
