"""Time as a vector: cosines of many frequencies, from seconds to years."""

from __future__ import annotations

import torch
from torch import nn

from stepwell.core.errors import InvalidValueError
from stepwell.kernels.attention import Clock


class TimeEncoding(nn.Module):
    """`phi(dt) = cos(dt * omega + phase)`.

    Learned: frequencies start as `10 ** -linspace(0, 9, dim)` and train together with the phases (TGAT, TGN).
    Fixed: frequencies are `sqrt(dim) ** -(i / sqrt(dim))`, phases 0, and nothing trains (GraphMixer).

    Args:
        dim: Number of frequencies.
        learned: Whether frequencies and phases are parameters.

    References:
        Xu et al., "Inductive Representation Learning on Temporal Graphs", 2020, arXiv:2002.07962, section 3.1.
        Cong et al., "Do We Really Need Complicated Model Architectures For Temporal Networks?", 2023,
        arXiv:2302.11636, section 3.1.
    """

    def __init__(self, dim: int, *, learned: bool = True) -> None:
        super().__init__()
        if dim < 1:
            raise InvalidValueError("dim", dim, "at least 1")
        if learned:
            self.omega = nn.Parameter(10.0 ** -torch.linspace(0, 9, dim))
            self.phase = nn.Parameter(torch.zeros(dim))
        else:
            root = dim**0.5
            self.register_buffer("omega", root ** -(torch.arange(dim, dtype=torch.float32) / root))
            self.register_buffer("phase", torch.zeros(dim))

    @property
    def clock(self) -> Clock:
        """Frequencies and phases, for kernels that encode on the fly."""
        return Clock(self.omega, self.phase)

    def forward(self, dt: torch.Tensor) -> torch.Tensor:
        """Encode ages in seconds, float32 `[...]`, as `[..., dim]`."""
        return torch.cos(dt[..., None] * self.omega + self.phase)
