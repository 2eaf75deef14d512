"""Temporal attention over raw neighbour rows: no neighbour is ever projected.

A linear map commutes with a weighted sum, so `q . (W e_j) = (W^T q) . e_j` and `sum_j a_j W e_j = W sum_j a_j e_j`.
The caller projects once per target; what is left per neighbour, two dot products per head with the raw row
`e_j = [h_j | phi(dt_j) | x_j]`, is done here without writing `e_j` anywhere. `attend_reference` is the slow
twin, and the computation used on other devices than the CPU.

Symbols beside the usual ones: `R` rows of the level below, `D` their width, `T` width of the time encoding,
`H` heads, `P = D + T + F`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numba import njit, prange

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

    Same bits for any number of threads on the CPU.

    Args:
        u: Queries carried back through the key projection, float32 `[H, U, P]`.
        h: Rows of the level below, float32 `[R, D]`.
        clock: The time encoding, `[T]` each.
        x: Event features, float32 `[E, F]`; get no gradient.
        places: The sampled neighbours.
        scale: Factor of the scores, `1 / sqrt(head width)`.
        keep: Dropout factors of the weights, float32 `[U, K, H]`, or None.

    Returns:
        Sums `[H, U, P]` and total weights `[H, U]`; both are 0 for a target without neighbours.

    Cost:
        O(U K H P) multiplications, forward and twice that backward; U K (T + H) floats of memory beside the results.
    """
    if u.device.type != "cpu":
        return attend_reference(u, h, clock, x, places, scale, keep)
    return _Attend.apply(u, h, *clock, x, *places, scale, keep)  # type: ignore[no-any-return,no-untyped-call]


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
    phi = torch.cos(places.dt[..., None] * clock.omega + clock.phase)
    rows = torch.cat([h[places.neighbor_row], phi, x[places.event_row]], dim=2)
    score = torch.einsum("hup,ukp->huk", u, rows) * scale
    score = score.masked_fill(~places.mask, -torch.inf)
    weight = torch.softmax(score, dim=2).nan_to_num(0.0) if places.mask.any() else torch.zeros_like(score)
    weight = torch.where(places.mask, weight, 0.0)
    if keep is not None:
        weight = weight * keep.permute(2, 0, 1)
    return torch.einsum("huk,ukp->hup", weight, rows), weight.sum(2)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
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
        angle = torch.addcmul(phase, dt[..., None], omega)
        phi = torch.cos(angle)
        weight = u.new_empty(*mask.shape, len(u))
        out = torch.empty_like(u)
        total = u.new_empty(u.shape[:2])
        factor = keep if keep is not None else u.new_empty(0, 0, 0)
        launch(
            u.shape[1],
            out.numel() * mask.shape[1],
            _forward,
            _forward_parallel,
            *(t.detach().numpy() for t in (u, h, phi, x, neighbor_row, event_row, mask, factor)),
            np.float32(scale),
            weight.numpy(),
            out.numpy(),
            total.numpy(),
        )
        ctx.scale = scale  # type: ignore[attr-defined]
        ctx.save_for_backward(u, h, angle, phi, x, neighbor_row, event_row, mask, dt, weight, factor)
        return out, total

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: torch.autograd.function.FunctionCtx, g_out: torch.Tensor, g_total: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        u, h, angle, phi, x, neighbor_row, event_row, mask, dt, weight, factor = ctx.saved_tensors  # type: ignore[attr-defined]
        needs = ctx.needs_input_grad  # type: ignore[attr-defined]
        g_out, g_total = g_out.contiguous(), g_total.contiguous()
        g_u = torch.empty_like(u)
        g_score = torch.empty_like(weight)
        learned = needs[2] or needs[3]
        sine = torch.sin(angle) if learned else angle.new_empty(0, 0, 0)
        g_clock = u.new_zeros(_BLOCKS, 2, phi.shape[2])
        arrays = (u, h, phi, x, neighbor_row, event_row, mask, factor, weight, g_out, g_total, dt, sine)
        launch(
            _BLOCKS,
            u.numel() * mask.shape[1],
            _backward,
            _backward_parallel,
            *(t.detach().numpy() for t in arrays),
            np.float32(ctx.scale),  # type: ignore[attr-defined]
            g_u.numpy(),
            g_score.numpy(),
            g_clock.numpy(),
        )
        g_h = None
        if needs[1] and h.shape[1]:
            g_h = torch.empty_like(h)
            begin, owned = _by_row(neighbor_row.numpy(), mask.numpy(), len(h))
            arrays = (u, factor, weight, g_out, g_score)
            launch(
                len(h),
                h.numel() * 8,
                _backward_rows,
                _backward_rows_parallel,
                begin,
                owned,
                *(t.detach().numpy() for t in arrays),
                g_h.numpy(),
            )
        elif needs[1]:
            g_h = torch.zeros_like(h)
        g_omega, g_phase = g_clock.sum(0) if learned else (None, None)
        return g_u, g_h, g_omega, g_phase, None, None, None, None, None, None, None


@njit(cache=True, nogil=True, inline="always", fastmath=True)
def _dot(a, b):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    total = np.float32(0.0)
    for i in range(len(b)):
        total += a[i] * b[i]
    return total


@njit(cache=True, nogil=True, inline="always", fastmath=True)
def _add(out, factor, row):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    for i in range(len(row)):
        out[i] += factor * row[i]


@njit(cache=True, nogil=True, fastmath=True)
def _forward(first, last, u, h, phi, x, neighbor_row, event_row, mask, keep, scale, weight, out, total):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    num_heads, num_targets, _ = u.shape
    width, time_width = h.shape[1], phi.shape[2]
    for i in range(first, last):
        for head in range(num_heads):
            u_h, u_phi, u_x = (
                u[head, i, :width],
                u[head, i, width : width + time_width],
                u[head, i, width + time_width :],
            )
            top = np.float32(-np.inf)
            for k in range(mask.shape[1]):
                weight[i, k, head] = 0.0
                if mask[i, k]:
                    score = _dot(u_h, h[neighbor_row[i, k]]) + _dot(u_phi, phi[i, k])
                    if len(u_x):
                        score += _dot(u_x, x[event_row[i, k]])
                    score *= scale
                    weight[i, k, head] = score
                    top = max(top, score)
            norm = np.float32(0.0)
            for k in range(mask.shape[1]):
                if mask[i, k]:
                    weight[i, k, head] = np.exp(weight[i, k, head] - top)
                    norm += weight[i, k, head]
            o_h, o_phi, o_x = (
                out[head, i, :width],
                out[head, i, width : width + time_width],
                out[head, i, width + time_width :],
            )
            out[head, i, :] = 0.0
            summed = np.float32(0.0)
            for k in range(mask.shape[1]):
                if mask[i, k]:
                    weight[i, k, head] /= norm
                    a = weight[i, k, head]
                    if len(keep):
                        a *= keep[i, k, head]
                    summed += a
                    _add(o_h, a, h[neighbor_row[i, k]])
                    _add(o_phi, a, phi[i, k])
                    if len(u_x):
                        _add(o_x, a, x[event_row[i, k]])
            total[head, i] = summed


@njit(cache=True, nogil=True, parallel=True)
def _forward_parallel(threads, rows, u, h, phi, x, neighbor_row, event_row, mask, keep, scale, weight, out, total):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    for part in prange(threads):
        _forward(
            rows * part // threads,
            rows * (part + 1) // threads,
            u,
            h,
            phi,
            x,
            neighbor_row,
            event_row,
            mask,
            keep,
            scale,
            weight,
            out,
            total,
        )


@njit(cache=True, nogil=True, fastmath=True)
def _backward(
    first,
    last,
    u,
    h,
    phi,
    x,
    neighbor_row,
    event_row,
    mask,
    keep,
    weight,
    g_out,
    g_total,
    dt,
    sine,
    scale,
    g_u,
    g_score,
    g_clock,
):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    num_heads, num_targets, _ = u.shape
    width, time_width = h.shape[1], phi.shape[2]
    num_blocks = len(g_clock)
    for block in range(first, last):
        scratch = np.empty(time_width, np.float32)
        for i in range(num_targets * block // num_blocks, num_targets * (block + 1) // num_blocks):
            for head in range(num_heads):
                g_h, g_phi, g_x = (
                    g_out[head, i, :width],
                    g_out[head, i, width : width + time_width],
                    g_out[head, i, width + time_width :],
                )
                mean = np.float32(0.0)
                for k in range(mask.shape[1]):
                    g_score[i, k, head] = 0.0
                    if mask[i, k]:
                        g = g_total[head, i] + _dot(g_h, h[neighbor_row[i, k]]) + _dot(g_phi, phi[i, k])
                        if len(g_x):
                            g += _dot(g_x, x[event_row[i, k]])
                        if len(keep):
                            g *= keep[i, k, head]
                        g_score[i, k, head] = g
                        mean += g * weight[i, k, head]
                d_h, d_phi, d_x = (
                    g_u[head, i, :width],
                    g_u[head, i, width : width + time_width],
                    g_u[head, i, width + time_width :],
                )
                g_u[head, i, :] = 0.0
                for k in range(mask.shape[1]):
                    if mask[i, k]:
                        s = weight[i, k, head] * (g_score[i, k, head] - mean) * scale
                        g_score[i, k, head] = s
                        _add(d_h, s, h[neighbor_row[i, k]])
                        _add(d_phi, s, phi[i, k])
                        if len(d_x):
                            _add(d_x, s, x[event_row[i, k]])
            if len(sine):
                for k in range(mask.shape[1]):
                    if mask[i, k]:
                        scratch[:] = 0.0
                        for head in range(num_heads):
                            a = weight[i, k, head]
                            if len(keep):
                                a *= keep[i, k, head]
                            _add(scratch, a, g_out[head, i, width : width + time_width])
                            _add(scratch, g_score[i, k, head], u[head, i, width : width + time_width])
                        age = dt[i, k]
                        for t in range(time_width):
                            g = -sine[i, k, t] * scratch[t]
                            g_clock[block, 0, t] += g * age
                            g_clock[block, 1, t] += g


@njit(cache=True, nogil=True, parallel=True)
def _backward_parallel(
    threads,
    rows,
    u,
    h,
    phi,
    x,
    neighbor_row,
    event_row,
    mask,
    keep,
    weight,
    g_out,
    g_total,
    dt,
    sine,
    scale,
    g_u,
    g_score,
    g_clock,
):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    for part in prange(threads):
        _backward(
            rows * part // threads,
            rows * (part + 1) // threads,
            u,
            h,
            phi,
            x,
            neighbor_row,
            event_row,
            mask,
            keep,
            weight,
            g_out,
            g_total,
            dt,
            sine,
            scale,
            g_u,
            g_score,
            g_clock,
        )


@njit(cache=True, nogil=True)
def _by_row(neighbor_row, mask, num_rows):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
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


@njit(cache=True, nogil=True, fastmath=True)
def _backward_rows(first, last, begin, owned, u, keep, weight, g_out, g_score, g_h):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    num_heads = len(u)
    width, num_places = g_h.shape[1], weight.shape[1]
    for row in range(first, last):
        g_h[row, :] = 0.0
        for place in range(begin[row], begin[row + 1]):
            i, k = owned[place] // num_places, owned[place] % num_places
            for head in range(num_heads):
                a = weight[i, k, head]
                if len(keep):
                    a *= keep[i, k, head]
                _add(g_h[row], a, g_out[head, i, :width])
                _add(g_h[row], g_score[i, k, head], u[head, i, :width])


@njit(cache=True, nogil=True, parallel=True)
def _backward_rows_parallel(threads, rows, begin, owned, u, keep, weight, g_out, g_score, g_h):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    for part in prange(threads):
        _backward_rows(
            rows * part // threads, rows * (part + 1) // threads, begin, owned, u, keep, weight, g_out, g_score, g_h
        )
