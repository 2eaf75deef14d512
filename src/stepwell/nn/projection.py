"""Where a node's state drifts to while nothing happens (JODIE)."""

from __future__ import annotations

import torch
from torch import nn


class TimeProjection(nn.Module):
    """`(1 + log(1 + dt) * w) * s`: the state, stretched by the time since its last update.

    Args:
        dim: Width of the state.

    References:
        Kumar et al., "Predicting Dynamic Embedding Trajectory in Temporal Interaction Networks", 2019,
        arXiv:1908.01207, equation 3. Differs: the logarithm, so that no statistics of the data are needed to scale
        seconds and years alike.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.drift = nn.Parameter(torch.randn(dim) / dim**0.5)

    def forward(self, state: torch.Tensor, dt: torch.Tensor) -> torch.Tensor:
        """Project states `[U, D]` over `dt` seconds, float32 `[U]`, not negative."""
        return torch.addcmul(state, state, torch.log1p(dt)[:, None] * self.drift)
