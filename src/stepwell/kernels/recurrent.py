"""The gates of a recurrent cell, forward and backward, after the matrix products are done.

On the CPU torch runs a GRU cell as some thirty elementwise operations; here they are one pass each way (the
transcendental functions stay torch's, which are vectorised).
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit, prange

from stepwell.kernels.threads import launch


def gru_forward(
    gi: torch.Tensor, gh: torch.Tensor, state: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the next state of a GRU cell and its gates.

    `r, z = sigmoid(gi + gh)`, `n = tanh(gi_n + r * gh_n)`, `next = n + z * (state - n)`.

    Args:
        gi: Projected input, float32 `[N, 3 D]` in the order r, z, n.
        gh: Projected state, float32 `[N, 3 D]`.
        state: The state, float32 `[N, D]`.

    Returns:
        Next state `[N, D]`, gates r and z `[N, 2 D]`, candidate n `[N, D]`.

    References:
        Cho et al., 2014, arXiv:1406.1078, as `torch.nn.GRUCell` has it.
    """
    width = state.shape[1]
    gates = (gi[:, : 2 * width] + gh[:, : 2 * width]).sigmoid_()
    candidate = torch.addcmul(gi[:, 2 * width :], gates[:, :width], gh[:, 2 * width :]).tanh_()
    return torch.lerp(candidate, state, gates[:, width:]), gates, candidate


def gru_backward(
    grad: torch.Tensor, gates: torch.Tensor, candidate: torch.Tensor, gh: torch.Tensor, state: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients of `gi` and `gh`, `[N, 3 D]` each, from that of the next state, `[N, D]`."""
    if grad.device.type != "cpu":
        return gru_backward_reference(grad, gates, candidate, gh, state)
    g_gi, g_gh = torch.empty_like(gh), torch.empty_like(gh)
    arrays = (grad.contiguous(), gates, candidate, gh, state, g_gi, g_gh)
    launch(len(grad), gh.numel(), _gru_backward, _gru_backward_parallel, *(t.detach().numpy() for t in arrays))
    return g_gi, g_gh


def gru_backward_reference(
    grad: torch.Tensor, gates: torch.Tensor, candidate: torch.Tensor, gh: torch.Tensor, state: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """State in torch operations what `gru_backward` must compute."""
    r, z = gates.chunk(2, 1)
    g_n = grad * (1 - z) * (1 - candidate * candidate)
    g_z = grad * (state - candidate) * z * (1 - z)
    g_r = g_n * gh[:, 2 * state.shape[1] :] * r * (1 - r)
    return torch.cat([g_r, g_z, g_n], 1), torch.cat([g_r, g_z, g_n * r], 1)


@njit(cache=True, nogil=True, fastmath=True)
def _gru_backward(first, last, grad, gates, candidate, gh, state, g_gi, g_gh):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    width = state.shape[1]
    one = np.float32(1.0)
    for i in range(first, last):
        for d in range(width):
            r, z, n, g = gates[i, d], gates[i, width + d], candidate[i, d], grad[i, d]
            g_n = g * (one - z) * (one - n * n)
            g_z = g * (state[i, d] - n) * z * (one - z)
            g_r = g_n * gh[i, 2 * width + d] * r * (one - r)
            g_gi[i, d] = g_r
            g_gh[i, d] = g_r
            g_gi[i, width + d] = g_z
            g_gh[i, width + d] = g_z
            g_gi[i, 2 * width + d] = g_n
            g_gh[i, 2 * width + d] = g_n * r


@njit(cache=True, nogil=True, parallel=True)
def _gru_backward_parallel(threads, rows, grad, gates, candidate, gh, state, g_gi, g_gh):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    for part in prange(threads):
        _gru_backward(rows * part // threads, rows * (part + 1) // threads, grad, gates, candidate, gh, state, g_gi, g_gh)
