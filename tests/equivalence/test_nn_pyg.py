"""TGN against the example of PyTorch Geometric: equal weights, batches and negatives give equal losses.

Two faults of the example's parts are stepped around, not copied. `LastNeighborLoader.insert` sorts without
`stable`, and may drop the newest events of a node that has more than `size` in one batch: here events are inserted a
few at a time. `LastAggregator` without torch-scatter hands a node that has no message the message of another: here
it is stated anew.
"""

import numpy as np
import pytest
import torch
from torch import nn

from stepwell.access import FixedBatches, Pipeline, Recent, UniformNegatives
from stepwell.nn import TGN, TGNSettings
from stepwell.storage import EventLog

BATCH, STEPS, NODES, USERS, FEATURES, WIDTH = 40, 50, 70, 40, 8, 32


class LastMessage(nn.Module):
    """The newest message of each node, zero if there is none."""

    def forward(self, message, index, time, dim_size):
        order = torch.argsort(time, stable=True)
        newest = torch.full((dim_size,), -1)
        for place in order.tolist():
            newest[index[place]] = place
        has = newest >= 0
        out = message.new_zeros(dim_size, message.shape[1])
        out[has] = message[newest[has]]
        return out


class PygTGN(nn.Module):
    """The modules of the example and its training step."""

    def __init__(self):
        from torch_geometric.nn import TGNMemory, TransformerConv
        from torch_geometric.nn.models.tgn import IdentityMessage, LastNeighborLoader

        super().__init__()
        message = IdentityMessage(FEATURES, WIDTH, WIDTH)
        self.memory = TGNMemory(NODES, FEATURES, WIDTH, WIDTH, message, LastMessage())
        self.conv = TransformerConv(WIDTH, WIDTH // 2, heads=2, dropout=0.0, edge_dim=FEATURES + WIDTH)
        self.source, self.target, self.final = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 1)
        self.loader = LastNeighborLoader(NODES, size=10)
        self.place = torch.empty(NODES, dtype=torch.long)

    def score(self, batch, log):
        time, x = torch.as_tensor(np.array(log.time)), torch.as_tensor(np.array(log.event_feature))
        nodes, edge, event = self.loader(torch.cat([batch.src, batch.candidate.flatten()]).unique())
        self.place[nodes] = torch.arange(len(nodes))
        z, last_update = self.memory(nodes)
        age = (last_update[edge[0]] - time[event]).to(z.dtype)
        z = self.conv(z, edge, torch.cat([self.memory.time_enc(age), x[event]], 1))
        pair = self.source(z[self.place[batch.src]])[:, None] + self.target(z[self.place[batch.candidate]])
        return self.final(pair.relu()).squeeze(2)

    def observe(self, batch):
        self.memory.update_state(batch.src, batch.dst, batch.time, batch.own_feature)
        for begin in range(0, BATCH, 5):
            self.loader.insert(batch.src[begin : begin + 5], batch.dst[begin : begin + 5])


@torch.no_grad()
def copy_weights(model: TGN, peer: PygTGN) -> None:
    memory, attention, conv, gru = model.memory, model.attention[0], peer.conv, peer.memory.gru
    pairs = [
        (peer.memory.time_enc.lin.weight.view(-1), model.time.omega),
        (peer.memory.time_enc.lin.bias, model.time.phase),
        (gru.weight_ih, memory.input),
        (gru.bias_ih, memory.input_bias),
        (gru.weight_hh, memory.state),
        (gru.bias_hh, memory.state_bias),
        (conv.lin_query.weight, attention.query),
        (conv.lin_query.bias, attention.query_bias),
        (conv.lin_key.weight, attention.key),
        (conv.lin_value.weight, attention.value),
        (conv.lin_value.bias, attention.value_bias),
        (conv.lin_edge.weight, attention.edge),
    ]
    for theirs, ours in pairs:
        theirs.copy_(ours)
    conv.lin_skip.load_state_dict(model.skip[0].state_dict())
    for name in ("source", "target", "final"):
        getattr(peer, name).load_state_dict(getattr(model.decoder, name).state_dict())


def small_log() -> EventLog:
    rng = np.random.default_rng(3)
    events = BATCH * STEPS
    return EventLog.from_arrays(
        rng.integers(0, USERS, events),
        USERS + (rng.random(events) ** 2 * (NODES - USERS)).astype(np.int64),
        np.cumsum(rng.integers(1, 4, events)),
        features=rng.standard_normal((events, FEATURES)).astype(np.float32),
    )


def loss_of(logits: torch.Tensor) -> torch.Tensor:
    bce = nn.functional.binary_cross_entropy_with_logits
    return bce(logits[:, 0], torch.ones(len(logits))) + bce(logits[:, 1], torch.zeros(len(logits)))


def test_first_fifty_losses_are_those_of_pytorch_geometric():
    pytest.importorskip("torch_geometric")
    torch.manual_seed(1)
    log = small_log()
    wanted = TGNSettings(WIDTH, WIDTH, WIDTH, k=10, dropout=0.0, delta="memory", idle="update")
    model, peer = TGN(NODES, FEATURES, settings=wanted), PygTGN()
    copy_weights(model, peer)
    pipeline = Pipeline(
        log,
        FixedBatches(BATCH),
        negatives=UniformNegatives(1),
        sampler=Recent(10),
        as_of="batch",
        keyed_by=model.keyed_by,
        prefetch=0,
    )
    optimizers = [torch.optim.Adam(m.parameters(), lr=1e-4) for m in (model, peer)]
    difference = []
    for batch in pipeline:
        losses = loss_of(model.score(batch)), loss_of(peer.score(batch, log))
        peer.observe(batch)
        for loss, optimizer in zip(losses, optimizers, strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.observe(batch)
        peer.memory.detach()
        difference.append(abs(losses[0].item() - losses[1].item()))
    assert len(difference) == STEPS
    assert max(difference) < 1e-4, max(difference)
