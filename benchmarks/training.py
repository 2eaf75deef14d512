"""What the training claims share: our TGN as PyG means it, carried weights, given negatives, one epoch."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.peers.pyg_tgn import PyGTGN
from stepwell.access import FixedBatches, Pipeline, Recent
from stepwell.core import Batch, Draw, Ids
from stepwell.core.shapes import Model
from stepwell.nn import TGN, TGNSettings
from stepwell.storage import EventLog
from stepwell.train import link_loss


class Given:
    """Negatives looked up by event position, so that all contestants see the same ones.

    Args:
        negative: int64 `[E]` or `[E, C - 1]`, one row an event.
        begin: Position of the first row's event.
    """

    def __init__(self, negative: torch.Tensor, begin: int = 0) -> None:
        self.begin = begin
        self.negative = (negative if negative.ndim == 2 else negative[:, None]).numpy()

    @property
    def width(self) -> int:
        """Negatives an event."""
        return int(self.negative.shape[1])

    def draw(self, log: EventLog, batch: Batch, draw: Draw) -> Ids:
        """Return the negatives of the batch's events."""
        found: Ids = self.negative[batch.array("event") - self.begin]
        return found


def pyg_like(log: EventLog, dropout: float = 0.1) -> TGN:
    """Return our TGN as PyG's example means it: ages from the neighbour's last update, idle nodes updated too."""
    width = 0 if log.event_feature is None else int(log.event_feature.shape[1])
    return TGN(log.num_nodes, width, 0, TGNSettings(delta="memory", idle="update", dropout=dropout))


def pyg_batches(log: EventLog, negative: torch.Tensor, size: int) -> Pipeline:
    """Return our batches as PyG's example sees them: earlier batches visible, each distinct node embedded once."""
    return Pipeline(
        log, FixedBatches(size), negatives=Given(negative), sampler=Recent(10), as_of="batch", keyed_by="node"
    )


def adam(model: torch.nn.Module, learning_rate: float = 1e-4) -> torch.optim.Optimizer:
    """Return the optimiser that every contestant uses."""
    return torch.optim.Adam(list(model.parameters()), lr=learning_rate, fused=True)


def epoch(
    model: Model,
    pipeline: Pipeline,
    optimizer: torch.optim.Optimizer,
    *,
    limit: int = 0,
    loss_of: Callable[[Model, Batch], torch.Tensor] = link_loss,
) -> list[torch.Tensor]:
    """Train one epoch from a fresh state; return the losses, not synchronised.

    Args:
        model: The model.
        pipeline: Its batches.
        optimizer: Its optimiser.
        limit: Batches at most; 0 for all.
        loss_of: The loss of one batch.
    """
    model.forget()
    losses = []
    for number, batch in enumerate(pipeline):
        if limit and number >= limit:
            break
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(model, batch)
        loss.backward()
        with torch.no_grad():
            model.observe(batch)
        optimizer.step()
        losses.append(loss.detach())
    return losses


@torch.no_grad()
def carry_weights(peer: PyGTGN, model: TGN) -> None:
    """Make our TGN start from PyG's weights; its key bias cancels in the softmax and has no counterpart."""
    memory, attention, conv, gru = model.memory, model.attention[0], peer.gnn.conv, peer.memory.gru
    pairs = [
        (model.time.omega, peer.memory.time_enc.lin.weight.view(-1)),
        (model.time.phase, peer.memory.time_enc.lin.bias),
        (memory.input, gru.weight_ih),
        (memory.input_bias, gru.bias_ih),
        (memory.state, gru.weight_hh),
        (memory.state_bias, gru.bias_hh),
        (attention.query, conv.lin_query.weight),
        (attention.query_bias, conv.lin_query.bias),
        (attention.key, conv.lin_key.weight),
        (attention.value, conv.lin_value.weight),
        (attention.value_bias, conv.lin_value.bias),
        (attention.edge, conv.lin_edge.weight),
    ]
    for ours, theirs in pairs:
        ours.copy_(theirs)
    model.skip[0].load_state_dict(conv.lin_skip.state_dict())
    for ours, theirs in (("source", "lin_src"), ("target", "lin_dst"), ("final", "lin_final")):
        getattr(model.decoder, ours).load_state_dict(getattr(peer.decoder, theirs).state_dict())


def keep_order(peer: PyGTGN) -> None:
    """Make PyG's parts keep the order of events, and forget all; why is said in `claims/tgn_training`."""
    insert = peer.loader.insert

    def few(src: torch.Tensor, dst: torch.Tensor) -> None:
        for begin in range(0, len(src), 10):
            insert(src[begin : begin + 10], dst[begin : begin + 10])

    def store(ends: torch.Tensor, *columns: object) -> None:
        *rest, kept = columns
        nodes, order = torch.sort(ends, stable=True)
        nodes, count = nodes.unique_consecutive(return_counts=True)
        for node, rows in zip(nodes.tolist(), order.split(count.tolist()), strict=True):
            kept[node] = (ends[rows], *(column[rows] for column in rest))  # type: ignore[index]

    peer.loader.insert = few
    peer.memory._update_msg_store = store
    peer.memory.aggr_module = _LastMessage()
    peer.train_mode(on=True)
    peer.forget()


class _LastMessage(torch.nn.Module):
    """The newest message of each node, the later of two equally new ones, zero if there is none."""

    def forward(self, message: torch.Tensor, index: torch.Tensor, when: torch.Tensor, size: int) -> torch.Tensor:
        order = torch.argsort(when, stable=True)
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order))
        newest = torch.full((size,), -1).scatter_reduce(0, index, rank, "amax")
        out = message.new_zeros(size, message.shape[1])
        out[newest >= 0] = message[order[newest[newest >= 0]]]
        return out
