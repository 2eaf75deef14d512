"""Scores of one source against many candidates, without the `[B, C, D]` hidden layer ever in memory."""

from __future__ import annotations

import numpy as np
import torch
from numba import njit, prange

from stepwell.kernels.products import is_native
from stepwell.kernels.threads import launch


def score_pairs(a: torch.Tensor, b: torch.Tensor, candidate_row: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """Return `w . relu(a_i + b_j)` for each source and candidate; for inference, no gradient.

    Args:
        a: Projected sources, float32 `[B, D]`.
        b: Projected candidates, float32 `[R, D]`.
        candidate_row: Rows of `b`, int64 `[B, C]`.
        w: The last layer, float32 `[D]`.

    Returns:
        float32 `[B, C]`.

    Cost:
        `3 B C D` operations; allocates only the result on the CPU.
    """
    if not is_native(a):
        return score_pairs_reference(a, b, candidate_row, w)
    out = a.new_empty(candidate_row.shape)
    arrays = (a.contiguous(), b.contiguous(), candidate_row, w.contiguous())
    launch(
        len(a),
        out.numel() * a.shape[1] // 8,
        _score,
        _score_parallel,
        *(t.detach().numpy() for t in arrays),
        out.numpy(),
    )
    return out


def score_pairs_reference(
    a: torch.Tensor, b: torch.Tensor, candidate_row: torch.Tensor, w: torch.Tensor
) -> torch.Tensor:
    """State, one source at a time, what `score_pairs` must compute."""
    return torch.stack([torch.relu(a[i] + b[rows]) @ w for i, rows in enumerate(candidate_row)])


@njit(cache=True, nogil=True, fastmath=True)
def _score(first, last, a, b, candidate_row, w, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    for i in range(first, last):
        left = a[i]
        for j in range(candidate_row.shape[1]):
            right = b[candidate_row[i, j]]
            total = np.float32(0.0)
            for d in range(len(w)):
                total += max(left[d] + right[d], np.float32(0.0)) * w[d]
            out[i, j] = total


@njit(cache=True, nogil=True, parallel=True)
def _score_parallel(threads, rows, a, b, candidate_row, w, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    for part in prange(threads):
        _score(rows * part // threads, rows * (part + 1) // threads, a, b, candidate_row, w, out)
