"""The pair decoder: a two-layer perceptron on two embeddings, one source against one or a thousand candidates."""

from __future__ import annotations

import torch
from torch import nn

from stepwell.kernels.pairs import score_pairs
from stepwell.kernels.products import linear
from stepwell.nn.linear import project_rows


class MergeDecoder(nn.Module):
    """`w . relu(W_s z_src + W_d z_dst + b) + c`, the perceptron on `[z_src | z_dst]` with its first layer split.

    Each side is projected once per distinct row and gathered afterwards.

    Args:
        dim: Width of the embeddings and of the hidden layer.

    Cost:
        At most `2 U dim^2` multiplications for U embeddings and `B C dim` for the scores; without gradients nothing
        of size `B C dim` is ever stored.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.source = nn.Linear(dim, dim)
        self.target = nn.Linear(dim, dim)
        self.final = nn.Linear(dim, 1)

    def forward(self, z: torch.Tensor, src_row: torch.Tensor, candidate_row: torch.Tensor) -> torch.Tensor:
        """Score candidates.

        Args:
            z: Embeddings, float32 `[U, dim]`.
            src_row: Row of each source, int64 `[B]`.
            candidate_row: Rows of its candidates, int64 `[B, C]`.

        Returns:
            Logits, float32 `[B, C]`.
        """
        a = project_rows(z, src_row, self.source.weight, self.source.bias)
        if candidate_row.numel() > len(z) and not torch.is_grad_enabled():
            b = linear(z, self.target.weight, self.target.bias)
            return score_pairs(a, b, candidate_row, self.final.weight[0]) + self.final.bias
        b = project_rows(z, candidate_row, self.target.weight, self.target.bias)
        return nn.functional.linear(torch.relu(a[:, None] + b), self.final.weight, self.final.bias).squeeze(2)
