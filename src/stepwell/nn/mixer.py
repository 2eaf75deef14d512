"""The MLP-mixer block: perceptrons across places and across channels in turn."""

from __future__ import annotations

import torch
from torch import nn


class MixerBlock(nn.Module):
    """`t = x + MLP_places(norm(x)^T)^T`, `y = t + MLP_channels(norm(t))`.

    Args:
        places: Tokens a target, K.
        dim: Width of a token.
        place_expansion: Hidden width of the first perceptron over K.
        channel_expansion: Hidden width of the second over `dim`.

    Cost:
        `2 U K dim (dim channel_expansion + K place_expansion)` multiplications.

    References:
        Tolstikhin et al., "MLP-Mixer", 2021, arXiv:2105.01601.
    """

    def __init__(self, places: int, dim: int, place_expansion: float = 0.5, channel_expansion: float = 4.0) -> None:
        super().__init__()
        hidden = max(int(places * place_expansion), 1)
        self.place_norm = nn.LayerNorm(dim)
        self.place = nn.Sequential(nn.Linear(places, hidden), nn.GELU(), nn.Linear(hidden, places))
        self.channel_norm = nn.LayerNorm(dim)
        wide = int(dim * channel_expansion)
        self.channel = nn.Sequential(nn.Linear(dim, wide), nn.GELU(), nn.Linear(wide, dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Mix tokens, `[U, K, dim]` to the same shape."""
        x = x + self.place(self.place_norm(x).transpose(1, 2)).transpose(1, 2)
        mixed: torch.Tensor = x + self.channel(self.channel_norm(x))
        return mixed
