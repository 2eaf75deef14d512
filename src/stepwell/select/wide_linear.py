"""Linear layers of many models over one input: one wide product instead of one a model.

Under `vmap` over stacked weights, `n` models that read the same batch multiply it `n` times. Side by side their weights
are one matrix, so the shared input is read once and one product fills the core. From the second layer on inputs
differ, and the products of all models are one batched product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as functional


class _Linear(torch.autograd.Function):
    """`x W^T + b` with a batching rule of its own; without `vmap` it is torch's."""

    @staticmethod
    def forward(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        """Nothing is kept: gradients go through the operations of the batching rule."""

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, ...]:
        raise NotImplementedError("only batched calls come here, whose gradients are those of `vmap`")

    @staticmethod
    def vmap(
        info: object, in_dims: tuple[int | None, ...], x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
    ) -> tuple[torch.Tensor, int]:
        weight, bias = weight.movedim(in_dims[1] or 0, 0), bias.movedim(in_dims[2] or 0, 0)
        models, wide, deep = weight.shape
        if in_dims[0] is None:
            flat = torch.addmm(bias.reshape(-1), x.reshape(-1, deep), weight.reshape(models * wide, deep).T)
            return flat.view(*x.shape[:-1], models, wide), x.ndim - 1
        x = x.movedim(in_dims[0], 0)
        out = torch.baddbmm(bias[:, None], x.reshape(models, -1, deep), weight.mT)
        return out.view(*x.shape[:-1], wide), 0


@contextmanager
def wide_linears(model: torch.nn.Module) -> Iterator[None]:
    """Let a model's linear layers with a bias multiply side by side while the block runs."""
    changed = []
    for module in model.modules():
        if type(module) is torch.nn.Linear and module.bias is not None and "forward" not in vars(module):
            module.forward = _forward(module)  # type: ignore[method-assign,assignment]
            changed.append(module)
    try:
        yield
    finally:
        for module in changed:
            del module.forward


def _forward(module: torch.nn.Linear) -> Callable[[torch.Tensor], torch.Tensor]:
    def forward(x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = _Linear.apply(x, module.weight, module.bias)  # type: ignore[no-untyped-call]
        return out

    return forward
