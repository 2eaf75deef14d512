"""The same models without any work reduction: the slow twin of TGN and TGAT, obviously right.

Every query is embedded by itself, every neighbour of every query is projected by itself, every memory row is updated
as often as it is read. It takes the weights of a model and needs the same batch; scores and gradients are equal up to
float rounding.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from stepwell.core.batch import Batch, Level
from stepwell.nn.attention import TemporalAttention
from stepwell.nn.decoder import MergeDecoder
from stepwell.nn.memory import NodeMemory
from stepwell.nn.reading import column, seconds_of
from stepwell.nn.tgat import TGAT
from stepwell.nn.tgn import TGN


def plain_score(model: TGN | TGAT, batch: Batch) -> torch.Tensor:
    """Return what `model.score(batch)` must return, float32 `[B, C]`.

    Without dropout only: put the model in evaluation mode, or set its dropout to 0.

    Cost:
        `B (1 + C) K^hops` rows through every linear map and the memory updater.
    """
    src, candidate = batch.tensor("src_row"), batch.tensor("candidate_row")
    z_src = _embed(model, batch, 0, src)
    z_candidate = _embed(model, batch, 0, candidate.flatten()).view(*candidate.shape, -1)
    return plain_decode(model.decoder, z_src[:, None].expand_as(z_candidate), z_candidate)


def plain_decode(decoder: MergeDecoder, z_src: torch.Tensor, z_candidate: torch.Tensor) -> torch.Tensor:
    """Return the perceptron of each concatenated pair, `[B, C, D]` twice to `[B, C]`."""
    first = torch.cat([decoder.source.weight, decoder.target.weight], 1)
    pair = torch.cat([z_src, z_candidate], 2)
    hidden = nn.functional.linear(pair, first, decoder.source.bias + decoder.target.bias)
    logits: torch.Tensor = decoder.final(torch.relu(hidden))
    return logits.squeeze(2)


def plain_attention(
    layer: TemporalAttention, h_self: torch.Tensor, h: torch.Tensor, edge: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Attend with every neighbour projected.

    Args:
        layer: Whose weights.
        h_self: Targets' rows, `[S, D]`.
        h: Their neighbours' rows, `[S, K, D]`.
        edge: `[phi | x]` of each event, `[S, K, T + F]`.
        mask: True where an event stands, `[S, K]`.

    Returns:
        float32 `[S, out_dim]`.
    """
    heads, (num_queries, k) = layer.heads, mask.shape
    e = nn.functional.linear(edge, layer.edge)
    query = nn.functional.linear(h_self, layer.query, layer.query_bias).view(num_queries, 1, heads, -1)
    key = (nn.functional.linear(h, layer.key) + e).view(num_queries, k, heads, -1)
    value = (nn.functional.linear(h, layer.value, layer.value_bias) + e).view(num_queries, k, heads, -1)
    score = (query * key).sum(3) / math.sqrt(query.shape[3])
    score = score.masked_fill(~mask[..., None], -1e30)
    weight = torch.softmax(score, 1) * mask[..., None]
    return (weight[..., None] * value).sum(1).flatten(1)


def plain_memory(memory: NodeMemory, nodes: torch.Tensor, seconds: float) -> torch.Tensor:
    """Return the digested memory of nodes `[...]`, repeats and all, one updater step each: `[..., D]`."""
    partner = memory.pending_partner[nodes]
    has = (partner >= 0)[..., None]
    dt = (memory.pending_time[nodes] - memory.last_update[nodes]).to(torch.float32) * seconds
    state = memory.memory[nodes]
    other, x = memory.memory[partner.clamp(min=0)], memory.pending_feature[nodes]
    message = torch.cat([state, other, x, memory.time(dt)], -1) * has
    gi = nn.functional.linear(message, memory.input, memory.input_bias)
    gh = nn.functional.linear(state, memory.state, memory.state_bias)
    if memory.updater == "rnn":
        updated = torch.tanh(gi + gh)
    else:
        r_i, z_i, n_i = gi.chunk(3, -1)
        r_h, z_h, n_h = gh.chunk(3, -1)
        r, z = torch.sigmoid(r_i + r_h), torch.sigmoid(z_i + z_h)
        n = torch.tanh(n_i + r * n_h)
        updated = (1 - z) * n + z * state
    return updated if memory.idle == "update" else torch.where(has, updated, torch.zeros_like(updated))


def _embed(model: TGN | TGAT, batch: Batch, depth: int, row: torch.Tensor) -> torch.Tensor:
    """Embed rows `[S]` of level `depth`, or of `nodes` below the last level, one by one."""
    levels = batch.levels_of()
    if depth == len(levels):
        return _bottom(model, batch, row)
    level, layer = levels[depth], len(levels) - 1 - depth
    neighbor_row = column(level.neighbor_row)[row]
    h_self = _embed(model, batch, depth + 1, column(level.self_row)[row])
    h = _embed(model, batch, depth + 1, neighbor_row.flatten()).view(*neighbor_row.shape, -1)
    edge = model.time(_age(model, batch, level, row))
    if model.event_dim and len(batch.tensor("event_feature")):
        edge = torch.cat([edge, batch.tensor("event_feature")[column(level.event_row)[row]]], 2)
    elif model.event_dim:
        edge = torch.cat([edge, edge.new_zeros(*edge.shape[:2], model.event_dim)], 2)
    past = plain_attention(_attention(model, layer), h_self, h, edge, column(level.hood.mask)[row])
    if isinstance(model, TGAT):
        merged: torch.Tensor = model.merge[layer](torch.cat([past, h_self], 1))
        return merged
    out: torch.Tensor = past + model.skip[layer](h_self)
    return torch.relu(out) if depth else out


def _attention(model: TGN | TGAT, layer: int) -> TemporalAttention:
    attention = model.attention[layer]
    assert isinstance(attention, TemporalAttention)
    return attention


def _bottom(model: TGN | TGAT, batch: Batch, row: torch.Tensor) -> torch.Tensor:
    nodes = batch.tensor("nodes")[row]
    if isinstance(model, TGAT):
        return batch.tensor("node_feature")[row] if model.node_dim else model.time.omega.new_zeros(len(row), 0)
    h = plain_memory(model.memory, nodes, seconds_of(batch))
    if model.node is not None:
        h = h + model.node(batch.tensor("node_feature")[row])
    return h


def _age(model: TGN | TGAT, batch: Batch, level: Level, row: torch.Tensor) -> torch.Tensor:
    dt = column(level.hood.dt)[row]
    if isinstance(model, TGN) and model.settings.delta == "memory":
        event_time = column(level.time)[row][:, None] - dt
        neighbor = batch.tensor("nodes")[column(level.neighbor_row)[row]]
        known = model.memory.pending_partner[neighbor] >= 0
        dt = torch.where(known, model.memory.pending_time[neighbor], 0) - event_time
    return dt.to(torch.float32) * seconds_of(batch)
