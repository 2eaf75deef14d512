"""How far layers carry a difference between two inputs of the same targets, and what that bounds at the output.

Attention has no Lipschitz constant over all inputs. Between two given inputs it has one: values and scores are affine
in the neighbours, so along the segment their diameters are largest at an end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from stepwell.core.batch import Batch, Level
from stepwell.nn.attention import TemporalAttention
from stepwell.nn.reading import column, seconds_of


class Rows(NamedTuple):
    """What S targets of one layer read of the layer below, twice.

    Args:
        mask: Where a neighbour stands, `[S, K]`.
        read: The neighbours' rows as they were read, float32 `[S, K, D]`.
        read_own: The targets' own, float32 `[S, D]`.
        fresh: The neighbours' rows computed anew, float32 `[S, K, D]`.
        fresh_own: The targets' own, float32 `[S, D]`.
    """

    mask: torch.Tensor
    read: torch.Tensor
    read_own: torch.Tensor
    fresh: torch.Tensor
    fresh_own: torch.Tensor


class Constants(NamedTuple):
    """Lipschitz constants of one layer between the two inputs of each of S targets.

    Args:
        combine: Of what the layer makes of a target's own row and its past, in the sum of both norms, `[S]`.
        aggregate: Of the past, in the sum of its neighbours' differences, `[S]`.
    """

    combine: torch.Tensor
    aggregate: torch.Tensor


def attention_constants(layer: TemporalAttention, rows: Rows, edge: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return how far attention carries differences of neighbours, and of the own row through the query: `[S]` each.

    With weights `a` and values `v`, the derivative of a head by neighbour m is
    `a_m (W_v + (v_m - mean of v) (W_k^T q)^T / sqrt(d))`, whose norm is at most `a_m` times
    `|W_v| + diameter(v) |W_k^T q| / sqrt(d)`; by the query it is at most `diameter(v) diameter(k) / sqrt(d)`.

    Args:
        layer: The attention.
        rows: The two inputs.
        edge: What both have besides, `[phi(dt) | x]`, float32 `[S, K, P]`.

    Cost:
        `O(S K^2 D)`.
    """
    heads, width = layer.heads, len(layer.query) // layer.heads
    query = torch.nn.functional.linear(rows.fresh_own, layer.query, layer.query_bias).view(-1, heads, width)
    carried = torch.einsum("shd,hdi->shi", query, layer.key.view(heads, width, -1)).norm(dim=2)
    besides = torch.nn.functional.linear(edge, layer.edge)

    def diameter(weight: torch.Tensor, neighbor: torch.Tensor) -> torch.Tensor:
        made = torch.nn.functional.linear(neighbor, weight) + besides
        made = made.view(*made.shape[:2], heads, width).transpose(1, 2)
        apart = (made[..., :, None, :] - made[..., None, :, :]).norm(dim=4)
        both = rows.mask[:, None, :, None] & rows.mask[:, None, None, :]
        widest: torch.Tensor = apart.masked_fill(~both, 0).amax((2, 3))
        return widest

    values = torch.maximum(diameter(layer.value, rows.read), diameter(layer.value, rows.fresh))
    scale = width**-0.5
    near = (_norms(layer.value, heads) + values * carried * scale).norm(dim=1)
    own = (values * diameter(layer.key, rows.read) * _norms(layer.query, heads) * scale).norm(dim=1)
    return near, own


def edges_of(clock: torch.nn.Module, event_dim: int, batch: Batch, level: Level, at: torch.Tensor) -> torch.Tensor:
    """Return `[phi(dt) | x]` of the sampled events of some targets of a level, float32 `[S, K, P]`."""
    age = column(level.hood.dt)[at].to(torch.float32) * seconds_of(batch)
    phi: torch.Tensor = clock(age)
    if not event_dim:
        return phi
    return torch.cat([phi, batch.tensor("event_feature")[column(level.event_row)[at]]], 2)


def output_bound(errors: Sequence[torch.Tensor], constants: Sequence[Constants], k: torch.Tensor) -> torch.Tensor:
    """Return the bound of Theorem 5 on the difference of each target's output, `[S]`; infinite without constants.

    Args:
        errors: Largest difference of what a target's neighbours were, `[S]` each, from layer L-1 down to 1.
        constants: Those of the layers that read them, L to 2.
        k: Neighbours of each target, `[S]`; ones where the weights of an attention are known to sum to 1.

    References:
        Li et al., SIGMOD 2023, Theorem 5: sum over l of `k (1 + k b)^(L-l-1) a^(L-l) b e_l`, with `a` the constant of
        COMBINE, `b` that of AGGREGATE, `e_l` the largest error of a row of layer l.
    """
    total = torch.zeros_like(errors[0])
    if not constants:
        return torch.full_like(total, torch.inf)
    combine = torch.stack([one.combine for one in constants]).max(0).values
    aggregate = torch.stack([one.aggregate for one in constants]).max(0).values
    for depth, error in enumerate(errors):
        total = total + k * (1 + k * aggregate) ** depth * combine ** (depth + 1) * aggregate * error
    return total


def spectral(weight: torch.Tensor) -> torch.Tensor:
    """Return the largest singular value of each matrix `[..., O, I]`."""
    norm: torch.Tensor = torch.linalg.matrix_norm(weight, 2)
    return norm


def _norms(weight: torch.Tensor, heads: int) -> torch.Tensor:
    return spectral(weight.view(heads, len(weight) // heads, -1))
