"""Temporal attention over raw neighbour rows: no neighbour is ever projected.

A linear map commutes with a weighted sum, so `q . (W e_j) = (W^T q) . e_j` and `sum_j a_j W e_j = W sum_j a_j e_j`.
The caller projects once per target; what is left per neighbour, two dot products per head with the raw row
`e_j = [h_j | phi(dt_j) | x_j]`, is done here without writing `e_j` anywhere. `attend_reference` is the slow
twin, and the computation on other devices and in other precisions.

Symbols beside the usual ones: `R` rows of the level below, `D` their width, `T` width of the time encoding,
`H` heads, `P = D + T + F`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numba import njit, prange

from stepwell.kernels.gpu import has_triton
from stepwell.kernels.products import is_native
from stepwell.kernels.smooth import cosine, sine
from stepwell.kernels.threads import launch

_BLOCKS = 16


class Places(NamedTuple):
    """Where the neighbours of U targets stand.

    Args:
        neighbor_row: Row of each neighbour in the level below, int64 `[U, K]`; 0 where padded.
        event_row: Row of each event's feature, int64 `[U, K]`; 0 where padded.
        mask: True where an event stands, `[U, K]`.
        dt: Age of each event in seconds, float32 `[U, K]`.
    """

    neighbor_row: torch.Tensor
    event_row: torch.Tensor
    mask: torch.Tensor
    dt: torch.Tensor


class Clock(NamedTuple):
    """The time encoding `cos(dt * omega + phase)`: two float32 vectors `[T]`."""

    omega: torch.Tensor
    phase: torch.Tensor


def attend(
    u: torch.Tensor,
    h: torch.Tensor,
    clock: Clock,
    x: torch.Tensor,
    places: Places,
    scale: float,
    keep: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the attention-weighted sums of raw rows, and the sums of the weights.

    Same bits for any number of threads on the CPU; on a device with Triton one kernel each way (`kernels.gpu`).

    Args:
        u: Queries carried back through the key projection, float32 `[U, H, P]`.
        h: Rows of the level below, float32 `[R, D]`.
        clock: The time encoding, `[T]` each.
        x: Event features, float32 `[E, F]`; get no gradient.
        places: The sampled neighbours.
        scale: Factor of the scores, `1 / sqrt(head width)`.
        keep: Dropout factors of the weights, float32 `[U, K, H]`, or None.

    Returns:
        Sums `[U, H, P]` and total weights `[U, H]`; both are 0 for a target without neighbours.

    Cost:
        O(U K H P) multiplications, forward and twice that backward; 2 U K H floats of memory beside
        the results; the time encoding is never stored.
    """
    if u.is_cuda and has_triton():
        from stepwell.kernels.gpu import attention as fused

        if fused.fits(u, h, clock, x, places):
            return fused.attend(u, h, clock, x, places, scale, keep)
    if not is_native(u):
        return attend_reference(u, h, clock, x, places, scale, keep)
    return _Attend.apply(u, h, *clock, x, *places, scale, keep)  # type: ignore[no-untyped-call]


def attend_reference(
    u: torch.Tensor,
    h: torch.Tensor,
    clock: Clock,
    x: torch.Tensor,
    places: Places,
    scale: float,
    keep: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """State in torch operations what `attend` must compute; differentiated by autograd."""
    if not (len(h) and len(x) and places.mask.numel()):
        return u * 0, u[..., 0] * 0
    phi = torch.cos(places.dt[..., None] * clock.omega + clock.phase)
    rows = torch.cat([h[places.neighbor_row], phi, x[places.event_row]], dim=2)
    score = torch.einsum("uhp,ukp->uhk", u, rows) * scale
    score = score.masked_fill(~places.mask[:, None], -1e30)
    weight = torch.softmax(score, dim=2)
    weight = torch.where(places.mask[:, None], weight, 0.0)
    if keep is not None:
        weight = weight * keep.transpose(1, 2)
    return torch.einsum("uhk,ukp->uhp", weight, rows), weight.sum(2)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        u: torch.Tensor,
        h: torch.Tensor,
        omega: torch.Tensor,
        phase: torch.Tensor,
        x: torch.Tensor,
        neighbor_row: torch.Tensor,
        event_row: torch.Tensor,
        mask: torch.Tensor,
        dt: torch.Tensor,
        scale: float,
        keep: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        u, h = u.contiguous(), h.contiguous()
        weight = u.new_empty(*mask.shape, u.shape[1])
        out, total = torch.empty_like(u), u.new_empty(u.shape[:2])
        factor = keep if keep is not None else u.new_empty(0, 0, 0)
        saved = (u, h, omega, phase, x, neighbor_row, event_row, mask, dt, factor, weight)
        work = out.numel() * mask.shape[1]
        launch(len(u), work, _forward, _forward_parallel, _arrays(*saved, out, total), np.float32(scale))
        ctx.scale = scale  # type: ignore[attr-defined]
        ctx.save_for_backward(*saved)
        return out, total

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, g_out: torch.Tensor, g_total: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        saved = ctx.saved_tensors  # type: ignore[attr-defined]
        u, h, omega, _, _, neighbor_row, _, mask, _, factor, weight = saved
        needs = ctx.needs_input_grad  # type: ignore[attr-defined]
        g_out, g_total = g_out.contiguous(), g_total.contiguous()
        g_u, g_score = torch.empty_like(u), torch.empty_like(weight)
        g_clock = u.new_zeros(_BLOCKS if needs[2] or needs[3] else 0, 2, len(omega))
        arrays = _arrays(*saved, g_out, g_total, g_u, g_score, g_clock)
        scale = np.float32(ctx.scale)  # type: ignore[attr-defined]
        launch(_BLOCKS, u.numel() * mask.shape[1], _backward, _backward_parallel, arrays, scale)
        g_h = None
        if needs[1]:
            g_h = torch.zeros_like(h)
            owners = _by_row(neighbor_row.numpy(), mask.numpy(), len(h))
            arrays = (*owners, *_arrays(u, factor, weight, g_out, g_score, g_h))
            launch(len(h), mask.numel() * h.shape[1], _backward_rows, _backward_rows_parallel, arrays)
        g_omega, g_phase = g_clock.sum(0) if len(g_clock) else (None, None)
        return g_u, g_h, g_omega, g_phase, None, None, None, None, None, None, None


def _arrays(*tensors: torch.Tensor) -> tuple[np.ndarray, ...]:
    return tuple(t.detach().contiguous().numpy() for t in tensors)


# Jitted code is typed by Numba. Arrays come as one tuple.
# ruff: noqa: ANN001, ANN202


@njit(inline="always", fastmath=True)
def _dot(a, b):  # type: ignore[no-untyped-def]
    total = np.float32(0.0)
    for i in range(len(b)):
        total += a[i] * b[i]
    return total


@njit(inline="always", fastmath=True)
def _add(out, factor, row):  # type: ignore[no-untyped-def]
    for i in range(len(row)):
        out[i] += factor * row[i]


@njit(inline="always", fastmath=True)
def _pack(i, h, omega, phase, x, neighbor_row, event_row, mask, dt, place, rows):  # type: ignore[no-untyped-def]
    """Write the raw rows `[h | phi | x]` of a target's events beside each other; return how many there are."""
    width, time_width = h.shape[1], len(omega)
    count = 0
    for k in range(mask.shape[1]):
        if mask[i, k]:
            place[count] = k
            row, source = rows[count], h[neighbor_row[i, k]]
            for d in range(width):
                row[d] = source[d]
            row, age = row[width:], dt[i, k]
            for t in range(time_width):
                row[t] = cosine(age * omega[t] + phase[t])
            if x.shape[1]:
                row, source = row[time_width:], x[event_row[i, k]]
                for f in range(x.shape[1]):
                    row[f] = source[f]
            count += 1
    return count


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _forward(first, last, arrays, scale):  # type: ignore[no-untyped-def]
    u, h, omega, phase, x, neighbor_row, event_row, mask, dt, keep, weight, out, total = arrays
    place = np.empty(mask.shape[1], np.int64)
    rows = np.empty((mask.shape[1], u.shape[2]), np.float32)
    for i in range(first, last):
        count = _pack(i, h, omega, phase, x, neighbor_row, event_row, mask, dt, place, rows)
        for head in range(u.shape[1]):
            top = np.float32(-np.inf)
            for j in range(count):
                score = _dot(u[i, head], rows[j]) * scale
                weight[i, place[j], head] = score
                top = max(top, score)
            norm = np.float32(0.0)
            for j in range(count):
                raised = np.exp(weight[i, place[j], head] - top)
                weight[i, place[j], head] = raised
                norm += raised
            out[i, head, :] = np.float32(0.0)
            summed = np.float32(0.0)
            for j in range(count):
                k = place[j]
                weight[i, k, head] /= norm
                a = weight[i, k, head]
                if len(keep):
                    a *= keep[i, k, head]
                summed += a
                _add(out[i, head], a, rows[j])
            total[i, head] = summed


@njit(cache=True, nogil=True, parallel=True)
def _forward_parallel(threads, size, arrays, scale):  # type: ignore[no-untyped-def]
    for part in prange(threads):
        _forward(size * part // threads, size * (part + 1) // threads, arrays, scale)


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _backward(first, last, arrays, scale):  # type: ignore[no-untyped-def]
    u, h, omega, phase, x, neighbor_row, event_row, mask, dt, keep, weight = arrays[:11]
    g_out, g_total, g_u, g_score, g_clock = arrays[11:]
    width, end = h.shape[1], h.shape[1] + len(omega)
    place = np.empty(mask.shape[1], np.int64)
    rows = np.empty((mask.shape[1], u.shape[2]), np.float32)
    g_phi = np.empty(len(omega), np.float32)
    for block in range(first, last):
        for i in range(len(mask) * block // _BLOCKS, len(mask) * (block + 1) // _BLOCKS):
            count = _pack(i, h, omega, phase, x, neighbor_row, event_row, mask, dt, place, rows)
            for head in range(u.shape[1]):
                mean = np.float32(0.0)
                for j in range(count):
                    g = g_total[i, head] + _dot(g_out[i, head], rows[j])
                    if len(keep):
                        g *= keep[i, place[j], head]
                    g_score[i, place[j], head] = g
                    mean += g * weight[i, place[j], head]
                g_u[i, head, :] = np.float32(0.0)
                for j in range(count):
                    k = place[j]
                    g = weight[i, k, head] * (g_score[i, k, head] - mean) * scale
                    g_score[i, k, head] = g
                    _add(g_u[i, head], g, rows[j])
            if len(g_clock):
                for j in range(count):
                    k = place[j]
                    g_phi[:] = np.float32(0.0)
                    for head in range(u.shape[1]):
                        a = weight[i, k, head]
                        if len(keep):
                            a *= keep[i, k, head]
                        _add(g_phi, a, g_out[i, head, width:end])
                        _add(g_phi, g_score[i, k, head], u[i, head, width:end])
                    age = dt[i, k]
                    for t in range(len(omega)):
                        g = g_phi[t] * -sine(age * omega[t] + phase[t])
                        g_clock[block, 0, t] += g * age
                        g_clock[block, 1, t] += g


@njit(cache=True, nogil=True, parallel=True)
def _backward_parallel(threads, size, arrays, scale):  # type: ignore[no-untyped-def]
    for part in prange(threads):
        _backward(size * part // threads, size * (part + 1) // threads, arrays, scale)


@njit(cache=True, nogil=True)
def _by_row(neighbor_row, mask, num_rows):  # type: ignore[no-untyped-def]
    """Counting sort of the places by the row they read: the race-free order of the scatter."""
    begin = np.zeros(num_rows + 1, np.int64)
    width = mask.shape[1]
    for i in range(len(mask)):
        for k in range(width):
            if mask[i, k]:
                begin[neighbor_row[i, k] + 1] += 1
    for row in range(num_rows):
        begin[row + 1] += begin[row]
    cursor = begin[:-1].copy()
    owned = np.empty(begin[-1], np.int64)
    for i in range(len(mask)):
        for k in range(width):
            if mask[i, k]:
                row = neighbor_row[i, k]
                owned[cursor[row]] = i * width + k
                cursor[row] += 1
    return begin, owned


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _backward_rows(first, last, arrays):  # type: ignore[no-untyped-def]
    begin, owned, u, keep, weight, g_out, g_score, g_h = arrays
    width, num_places = g_h.shape[1], weight.shape[1]
    for row in range(first, last):
        for at in range(begin[row], begin[row + 1]):
            i, k = owned[at] // num_places, owned[at] % num_places
            for head in range(u.shape[1]):
                a, b = weight[i, k, head], g_score[i, k, head]
                if len(keep):
                    a *= keep[i, k, head]
                out, one, two = g_h[row], g_out[i, head], u[i, head]
                for d in range(width):
                    out[d] += a * one[d] + b * two[d]


@njit(cache=True, nogil=True, parallel=True)
def _backward_rows_parallel(threads, size, arrays):  # type: ignore[no-untyped-def]
    for part in prange(threads):
        _backward_rows(size * part // threads, size * (part + 1) // threads, arrays)
