"""Zebra without any work reduction: the slow twin of the model, obviously right.

Every query is embedded by itself, every place of every list goes through both layers by itself, every memory row is
updated as often as it is read.
"""

from __future__ import annotations

import torch
from torch import nn

from stepwell.core.batch import Batch
from stepwell.nn.plain import plain_decode, plain_memory
from stepwell.nn.reading import column, seconds_of
from stepwell.nn.zebra import Zebra


def plain_zebra_score(model: Zebra, batch: Batch) -> torch.Tensor:
    """Return what `model.score(batch)` must return, float32 `[B, C]`.

    Without dropout only: put the model in evaluation mode, or set its dropout to 0.

    Cost:
        `B (1 + C) K` rows through both layers and the memory updater.
    """
    src, candidate = batch.tensor("src_row"), batch.tensor("candidate_row")
    z_src = _embed(model, batch, src)
    z_candidate = _embed(model, batch, candidate.flatten()).view(*candidate.shape, -1)
    return plain_decode(model.decoder, z_src[:, None].expand_as(z_candidate), z_candidate)


def _embed(model: Zebra, batch: Batch, rows: torch.Tensor) -> torch.Tensor:
    level, seconds = batch.levels_of()[0], seconds_of(batch)
    own = model.own_second(torch.relu(model.own_first(_states(model, batch, column(level.self_row)[rows]))))
    parts = [own]
    for number in range(len(model.settings.alpha)):
        lane = slice(number, None, len(model.settings.alpha))
        mask, dt = column(level.hood.mask)[rows, lane], column(level.hood.dt)[rows, lane]
        inputs = [_states(model, batch, column(level.neighbor_row)[rows, lane])]
        if model.event_dim:
            feature = batch.tensor("event_feature")
            event_row = column(level.event_row)[rows, lane]
            inputs.append(feature[event_row] if len(feature) else inputs[0].new_zeros(*mask.shape, model.event_dim))
        inputs.append(model.time(dt.to(torch.float32) * seconds))
        hidden = torch.relu(nn.functional.linear(torch.cat(inputs, 2), model.first, model.first_bias))
        weight = mask.to(torch.float32)
        if level.hood.weight is not None:
            weight = weight * column(level.hood.weight)[rows, lane]
        share = weight / weight.sum(1, keepdim=True)
        share = torch.where(mask, share, torch.zeros_like(share))
        parts.append((share[..., None] * model.second(hidden)).sum(1))
    return torch.cat(parts, 1)


def _states(model: Zebra, batch: Batch, row: torch.Tensor) -> torch.Tensor:
    h = plain_memory(model.memory, batch.tensor("nodes")[row], seconds_of(batch))
    return h if model.node is None else h + model.node(batch.tensor("node_feature")[row])
