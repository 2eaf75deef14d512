"""A weighted sum of hidden units over each target's places, without a hidden row ever leaving the cache twice.

`sum_q w_q relu(P[row_q] + X[event_q] + W phi(dt_q))` is what is left of a two-layer transform of every place once its
first layer is split by its inputs (the state part computed once a distinct node, the event part once an event) and its
second layer has been commuted with the sum. Only the time part is a product a place.
`weighted_sum_reference` is the slow twin, and the computation on other devices and in other precisions.

Symbols beside the usual ones: `n` lists a target, `P` distinct places of all targets, `D` hidden width, `T` width of
the time encoding, `R` rows of states.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numba import njit, prange

from stepwell.kernels.attention import Clock, Places
from stepwell.kernels.products import is_native, padded, product
from stepwell.kernels.recurrent import clock_gradient
from stepwell.kernels.smooth import cosine
from stepwell.kernels.threads import launch


class Lists(NamedTuple):
    """The places of U targets whose weight is not 0, those that stand in several lists of a target once.

    Args:
        begin: First place of each target, int64 `[U + 1]`.
        row: Row of each place's state, int64 `[P]`.
        event_row: Row of its event, int64 `[P]`.
        dt: Age of its event in seconds, float32 `[P]`.
        weight: Its share in each list of its target, float32 `[P, n]`, 0 where it does not stand in the list.
    """

    begin: torch.Tensor
    row: torch.Tensor
    event_row: torch.Tensor
    dt: torch.Tensor
    weight: torch.Tensor


def gather_lists(places: Places, weight: torch.Tensor) -> Lists:
    """Return the distinct places of each target that have a weight; no gradient.

    Args:
        places: The sampled places `[U, K]`; place q of list r stands in column `q * n + r`.
        weight: Share of each place in its list, float32 `[U, K / n, n]`; 0 where padded.

    Returns:
        The places in order of first appearance.

    Cost:
        O(U K^2) comparisons in the worst case, one pass.
    """
    num_targets, _, num_lists = weight.shape
    size = int(torch.count_nonzero(weight))
    begin = np.zeros(num_targets + 1, np.int64)
    row, event_row = np.empty(size, np.int64), np.empty(size, np.int64)
    dt, share = np.empty(size, np.float32), np.zeros((size, num_lists), np.float32)
    given = tuple(t.detach().contiguous().numpy() for t in (*places, weight.flatten(1)))
    count = _gather(given, (begin, row, event_row, dt, share))
    found = (begin, row[:count], event_row[:count], dt[:count], share[:count])
    return Lists(*(torch.from_numpy(array) for array in found))


def weighted_sum(
    state: torch.Tensor, event: torch.Tensor, matrix: torch.Tensor, clock: Clock, places: Places, weight: torch.Tensor
) -> torch.Tensor:
    """Return each list's weighted sum of hidden rows; the same bits for any number of threads on the CPU.

    Args:
        state: State part of the hidden layer, bias included, float32 `[R, D]`.
        event: Its event part, float32 `[E, D]`, or `[0, D]` if events have no features.
        matrix: Weights of its time part, `[D, T]`.
        clock: The time encoding, `[T]` each.
        places: The sampled places, `[U, K]`; place q of list r stands in column `q * n + r`.
        weight: Share of each place in its list, float32 `[U, K / n, n]`, 0 where padded; gets no gradient.

    Returns:
        float32 `[U, n, D]`; zero for an empty list.

    Cost:
        `P D T` multiplications forward and twice that backward, P at most U K; `P (D + T)` floats of memory.
    """
    if not is_native(state):
        return weighted_sum_reference(state, event, matrix, clock, places, weight)
    lists = gather_lists(places, weight)
    return _WeightedSum.apply(state, event, matrix, *clock, *lists)  # type: ignore[no-untyped-call]


def weighted_sum_reference(
    state: torch.Tensor, event: torch.Tensor, matrix: torch.Tensor, clock: Clock, places: Places, weight: torch.Tensor
) -> torch.Tensor:
    """State in torch operations, every place by itself, what `weighted_sum` must compute."""
    phi = torch.cos(places.dt[..., None] * clock.omega + clock.phase)
    z = state[places.neighbor_row] + torch.nn.functional.linear(phi, matrix)
    if len(event):
        z = z + event[places.event_row]
    hidden = torch.relu(z) * places.mask[..., None]
    return torch.einsum("uqrd,uqr->urd", hidden.view(*weight.shape, -1), weight.to(hidden.dtype))


class _WeightedSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        state: torch.Tensor,
        event: torch.Tensor,
        matrix: torch.Tensor,
        omega: torch.Tensor,
        phase: torch.Tensor,
        begin: torch.Tensor,
        row: torch.Tensor,
        event_row: torch.Tensor,
        dt: torch.Tensor,
        weight: torch.Tensor,
    ) -> torch.Tensor:
        state, event = state.contiguous(), event.contiguous()
        rows = padded(len(dt))
        phi = state.new_zeros(rows, len(omega))
        launch(len(dt), phi.numel(), _encode, _encode_parallel, _arrays(dt, omega, phase, phi))
        hidden = product(phi, matrix)
        out = state.new_empty(len(begin) - 1, weight.shape[1], state.shape[1])
        arrays = _arrays(state, event, begin, row, event_row, weight, hidden, out)
        launch(len(out), hidden.numel(), _forward, _forward_parallel, arrays)
        ctx.save_for_backward(event, matrix, omega, phase, begin, row, event_row, dt, weight, phi, hidden)
        ctx.rows = len(state)  # type: ignore[attr-defined]
        return out

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        saved = ctx.saved_tensors  # type: ignore[attr-defined]
        event, matrix, omega, phase, begin, row, event_row, dt, weight, phi, hidden = saved
        needs = ctx.needs_input_grad  # type: ignore[attr-defined]
        g_hidden = torch.zeros_like(hidden)
        arrays = _arrays(begin, weight, hidden, grad.contiguous(), g_hidden)
        launch(len(grad), hidden.numel(), _backward, _backward_parallel, arrays)
        g_state = _sum_rows(g_hidden, row, ctx.rows) if needs[0] else None  # type: ignore[attr-defined]
        g_event = _sum_rows(g_hidden, event_row, len(event)) if needs[1] and len(event) else None
        g_matrix = product(g_hidden.t(), phi.t()) if needs[2] else None
        g_clock: tuple[torch.Tensor | None, torch.Tensor | None] = (None, None)
        if needs[3] or needs[4]:
            g_phi = product(g_hidden, matrix.t())
            g_clock = clock_gradient(g_phi[: len(dt)], dt, Clock(omega, phase))
        return g_state, g_event, g_matrix, *g_clock, None, None, None, None, None


def _sum_rows(values: torch.Tensor, row: torch.Tensor, num_rows: int) -> torch.Tensor:
    """Return the sum of the values that read each row, in the order of the places."""
    out = values.new_empty(num_rows, values.shape[1])
    owners = _by_row(row.numpy(), num_rows)
    launch(num_rows, values.numel(), _add_rows, _add_rows_parallel, (*owners, *_arrays(values, out)))
    return out


def _arrays(*tensors: torch.Tensor) -> tuple[np.ndarray, ...]:
    return tuple(t.detach().contiguous().numpy() for t in tensors)


# Jitted code is typed by Numba. Arrays come as one tuple.
# ruff: noqa: ANN001, ANN202


@njit(cache=True, nogil=True)
def _gather(given, lists):  # type: ignore[no-untyped-def]
    neighbor_row, event_rows, mask, ages, weights = given
    begin, row, event_row, dt, share = lists
    n, count = share.shape[1], 0
    for i in range(len(mask)):
        for k in range(mask.shape[1]):
            if not mask[i, k] or weights[i, k] == 0:
                continue
            at = begin[i]
            while at < count and (row[at] != neighbor_row[i, k] or event_row[at] != event_rows[i, k]):
                at += 1
            if at == count:
                row[at], event_row[at], dt[at] = neighbor_row[i, k], event_rows[i, k], ages[i, k]
                count += 1
            share[at, k % n] += weights[i, k]
        begin[i + 1] = count
    return count


@njit(cache=True, nogil=True, fastmath=True)
def _encode(first, last, arrays):  # type: ignore[no-untyped-def]
    dt, omega, phase, phi = arrays
    for i in range(first, last):
        age, out = dt[i], phi[i]
        for t in range(len(omega)):
            out[t] = cosine(age * omega[t] + phase[t])


@njit(cache=True, nogil=True, parallel=True)
def _encode_parallel(threads, size, arrays):  # type: ignore[no-untyped-def]
    for part in prange(threads):
        _encode(size * part // threads, size * (part + 1) // threads, arrays)


@njit(cache=True, nogil=True, fastmath=True)
def _forward(first, last, arrays):  # type: ignore[no-untyped-def]
    state, event, begin, row, event_row, weight, hidden, out = arrays
    width, n, featured = state.shape[1], weight.shape[1], len(event) > 0
    zero = np.float32(0.0)
    for i in range(first, last):
        out[i, :, :] = zero
        for at in range(begin[i], begin[i + 1]):
            z, s = hidden[at], state[row[at]]
            if featured:
                x = event[event_row[at]]
                for d in range(width):
                    z[d] = max(z[d] + s[d] + x[d], zero)
            else:
                for d in range(width):
                    z[d] = max(z[d] + s[d], zero)
            for r in range(n):
                w = weight[at, r]
                if w != zero:
                    target = out[i, r]
                    for d in range(width):
                        target[d] += w * z[d]


@njit(cache=True, nogil=True, parallel=True)
def _forward_parallel(threads, size, arrays):  # type: ignore[no-untyped-def]
    for part in prange(threads):
        _forward(size * part // threads, size * (part + 1) // threads, arrays)


@njit(cache=True, nogil=True, fastmath=True)
def _backward(first, last, arrays):  # type: ignore[no-untyped-def]
    begin, weight, hidden, grad, g_hidden = arrays
    width, n = hidden.shape[1], weight.shape[1]
    zero = np.float32(0.0)
    for i in range(first, last):
        for at in range(begin[i], begin[i + 1]):
            z, g = hidden[at], g_hidden[at]
            for r in range(n):
                w, source = weight[at, r], grad[i, r]
                if w != zero:
                    for d in range(width):
                        g[d] += w * source[d]
            for d in range(width):
                g[d] = g[d] if z[d] > zero else zero


@njit(cache=True, nogil=True, parallel=True)
def _backward_parallel(threads, size, arrays):  # type: ignore[no-untyped-def]
    for part in prange(threads):
        _backward(size * part // threads, size * (part + 1) // threads, arrays)


@njit(cache=True, nogil=True)
def _by_row(row, num_rows):  # type: ignore[no-untyped-def]
    """Counting sort of the places by the row they read: the race-free order of the scatter."""
    begin = np.zeros(num_rows + 1, np.int64)
    for at in range(len(row)):
        begin[row[at] + 1] += 1
    for i in range(num_rows):
        begin[i + 1] += begin[i]
    cursor, owned = begin[:-1].copy(), np.empty(len(row), np.int64)
    for at in range(len(row)):
        owned[cursor[row[at]]] = at
        cursor[row[at]] += 1
    return begin, owned


@njit(cache=True, nogil=True, fastmath=True)
def _add_rows(first, last, arrays):  # type: ignore[no-untyped-def]
    begin, owned, values, out = arrays
    for i in range(first, last):
        target = out[i]
        target[:] = np.float32(0.0)
        for place in range(begin[i], begin[i + 1]):
            source = values[owned[place]]
            for d in range(len(target)):
                target[d] += source[d]


@njit(cache=True, nogil=True, parallel=True)
def _add_rows_parallel(threads, size, arrays):  # type: ignore[no-untyped-def]
    for part in prange(threads):
        _add_rows(size * part // threads, size * (part + 1) // threads, arrays)
