"""Linear maps that may have no input at all: a node without features still needs a query."""

from __future__ import annotations

import math

import torch
from torch import nn

from stepwell.kernels.products import linear


def weight(num_out: int, num_in: int) -> nn.Parameter:
    """Return a weight `[num_out, num_in]`, uniform within `1 / sqrt(num_in)`; `num_in` may be 0."""
    bound = 1 / math.sqrt(max(num_in, 1))
    return nn.Parameter(torch.empty(num_out, num_in).uniform_(-bound, bound))


def bias(num_out: int, num_in: int) -> nn.Parameter:
    """Return a bias `[num_out]`, uniform within `1 / sqrt(num_in)`."""
    bound = 1 / math.sqrt(max(num_in, 1))
    return nn.Parameter(torch.empty(num_out).uniform_(-bound, bound))


def project_rows(table: torch.Tensor, rows: torch.Tensor, matrix: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """Return `linear(table[rows])`, computed on the fewer of table rows and asked rows.

    Args:
        table: float32 `[R, D]`.
        rows: int64 of any shape `[...]`.
        matrix: `[O, D]`.
        offset: `[O]`.

    Returns:
        `[..., O]`.

    Cost:
        `min(R, rows) * D * O` multiplications.
    """
    if rows.numel() > len(table):
        return take(linear(table, matrix, offset), rows)
    asked = linear(take(table, rows.flatten()), matrix, offset)
    return asked.view(*rows.shape, len(offset))


def take(table: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return `table[rows]`, with a gradient that is summed in a fixed order."""
    return nn.functional.embedding(rows, table)
