"""Temporal attention of one level's targets over their sampled past."""

from __future__ import annotations

import math

import torch
from torch import nn

from stepwell.core.errors import InvalidValueError
from stepwell.kernels.attention import Places, attend
from stepwell.kernels.products import linear
from stepwell.nn.linear import bias, take, weight
from stepwell.nn.time import TimeEncoding


class TemporalAttention(nn.Module):
    """Multi-head attention with `key_j = W_k h_j + W_e [phi(dt_j) | x_j]` and `value_j = W_v h_j + b_v + W_e [...]`.

    Guarantee: the result is that of projecting every neighbour, up to float rounding. But every matrix product
    runs once per distinct target (`kernels.attention`), query and key maps as their product, the heads' value maps as
    one block-diagonal matrix: twice the operations for two heads, but in one large product. A key bias would cancel
    in the softmax, so there is none.

    Args:
        in_dim: Width of the rows of the level below; may be 0.
        out_dim: Width of the result, a multiple of `heads`.
        event_dim: Width of the event features; may be 0.
        time: The time encoding.
        heads: Number of heads.
        dropout: Share of attention weights dropped in training.

    Cost:
        `O(U P heads (in_dim + out_dim))` in matrix products, `P = in_dim + time dim + event_dim`; `O(U K P heads)`
        beside.

    References:
        Xu et al., 2020, arXiv:2002.07962; Rossi et al., 2020, arXiv:2006.10637, section 3.1.
        Differs: the query is `W_q h_i + b_q`; the constant `phi(0)` of the papers is the bias. Keys and values share
        `W_e`, as in the graph transformer of Shi et al., 2021, arXiv:2009.03509.
    """

    def __init__(
        self, in_dim: int, out_dim: int, event_dim: int, time: TimeEncoding, heads: int = 2, dropout: float = 0.1
    ) -> None:
        super().__init__()
        if heads < 1 or out_dim % heads:
            raise InvalidValueError("heads", heads, f"a divisor of the width {out_dim}")
        if not 0 <= dropout < 1:
            raise InvalidValueError("dropout", dropout, "in [0, 1)")
        self.heads = heads
        self.dropout = dropout
        self.time = time
        edge_dim = len(time.omega) + event_dim
        self.query = weight(out_dim, in_dim)
        self.query_bias = bias(out_dim, in_dim)
        self.key = weight(out_dim, in_dim)
        self.value = weight(out_dim, in_dim)
        self.value_bias = bias(out_dim, in_dim)
        self.edge = weight(out_dim, edge_dim)

    def forward(
        self,
        h: torch.Tensor,
        self_row: torch.Tensor,
        x: torch.Tensor,
        places: Places,
        below: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attend.

        Args:
            h: Rows of the level below, float32 `[R, in_dim]`.
            self_row: Row of each target in `h`, int64 `[U]`.
            x: Event features, float32 `[E, event_dim]`.
            places: The sampled past of the targets.
            below: Rows that neighbours read in the place of `h`, float32 `[S, in_dim]`.

        Returns:
            float32 `[U, out_dim]`; zero for a target without a past.
        """
        width, num_heads = len(self.value_bias), self.heads
        keys = torch.cat([self.key, self.edge], 1).view(num_heads, width // num_heads, -1)
        back = keys.transpose(1, 2)
        carried = torch.bmm(back, self.query.view(num_heads, width // num_heads, -1)).flatten(0, 1)
        offset = torch.bmm(back, self.query_bias.view(num_heads, -1, 1)).flatten()
        u = linear(take(h, self_row), carried, offset)
        scale = 1 / math.sqrt(width // num_heads)
        u = u.view(len(u), num_heads, -1)
        sums, total = attend(u, h if below is None else below, self.time.clock, x, places, scale, self._keep(places))
        values = torch.cat([self.value, self.edge], 1).view(num_heads, width // num_heads, -1)
        out = linear(sums.flatten(1), torch.block_diag(*values))  # type: ignore[no-untyped-call]
        return out + (total[..., None] * self.value_bias.view(num_heads, -1)).flatten(1)

    def _keep(self, places: Places) -> torch.Tensor | None:
        if not self.training or self.dropout == 0:
            return None
        ones = torch.ones(*places.mask.shape, self.heads, device=places.mask.device)
        return nn.functional.dropout(ones, self.dropout)
