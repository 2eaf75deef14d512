"""Matrix products in single precision, by the faster of the two libraries that torch ships.

`torch.mm` calls MKL, which leaves the 512-bit units of AMD processors idle; oneDNN, in the same wheel, uses them (95
against 205 GFLOP/s a core on an EPYC of 2024). oneDNN compiles a routine per shape, so whoever calls with changing
numbers of rows should pad them: `padded` rounds up, and the compiled routine is found again.
"""

from __future__ import annotations

import torch

_ROWS = 64
_SMALL = 1_000_000  # multiplications below which the detour costs more than it saves


def padded(rows: int) -> int:
    """Return `rows` rounded up so that few distinct shapes are met."""
    return -(-rows // _ROWS) * _ROWS


def is_native(x: torch.Tensor) -> bool:
    """Say whether our kernels take `x`: single precision on the CPU. All else is computed by the slow twins."""
    return x.device.type == "cpu" and x.dtype == torch.float32


def product(a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Return `a @ b.T + bias`; no gradient.

    Args:
        a: float32 `[M, K]`, any strides.
        b: float32 `[N, K]`, any strides.
        bias: float32 `[N]` or None.

    Returns:
        float32 `[M, N]`, on every machine the same bits for the same thread count.
    """
    if _one_dnn and is_native(a) and a.numel() and b.numel():
        a, b = _dense(a), _dense(b)
        return torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")
    return torch.nn.functional.linear(a, b, bias)


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Return `x @ weight.T + bias`, with gradient: float32 `[M, K]`, `[N, K]` and `[N]` to `[M, N]`.

    Cost:
        `2 M K N` operations, thrice that with the gradients.
    """
    if not _worth(x, len(x) * weight.numel()):
        return torch.nn.functional.linear(x, weight, bias)
    return _Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call]


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        rows, x = len(x), _pad(x)
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)[:rows]

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        needs = ctx.needs_input_grad  # type: ignore[attr-defined]
        rows, grad = len(grad), _pad(grad)
        g_x = product(grad, weight.t())[:rows] if needs[0] else None
        return g_x, product(grad.t(), x.t()), grad.sum(0) if needs[2] else None


def _worth(x: torch.Tensor, multiplications: int) -> bool:
    return _one_dnn and is_native(x) and multiplications > _SMALL


def _pad(x: torch.Tensor) -> torch.Tensor:
    missing = padded(len(x)) - len(x)
    return torch.nn.functional.pad(x, (0, 0, 0, missing)) if missing else x


def _dense(matrix: torch.Tensor) -> torch.Tensor:
    """Return the matrix, copied if it is a part of a larger one: for those oneDNN has only a loop, 500 times slower."""
    return matrix if matrix.is_contiguous() or matrix.t().is_contiguous() else matrix.contiguous()


def _has_one_dnn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # type: ignore[no-untyped-call]


_one_dnn = _has_one_dnn()
