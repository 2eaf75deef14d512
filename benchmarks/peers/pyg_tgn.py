"""PyG's TGN: `TGNMemory`, `LastNeighborLoader` and `TransformerConv`, as its users assemble them.

Tuned in ways that leave the arithmetic alone: features and times are looked up once as contiguous tensors, the
loss is not synchronised every step, the optimiser is the fused Adam, and evaluation comes in two forms (one
positive at a time, as the TGB example does it, and every distinct node once per batch).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch_geometric.nn import TGNMemory, TransformerConv
from torch_geometric.nn.models.tgn import IdentityMessage, LastAggregator, LastNeighborLoader


@dataclass
class Events:
    """A stream as tensors: `src`, `dst`, `time` int64 `[E]` and `feature` float32 `[E, F]`."""

    src: Tensor
    dst: Tensor
    time: Tensor
    feature: Tensor
    num_nodes: int


class Attention(nn.Module):
    """One `TransformerConv` over the sampled events, relative times encoded with the memory's encoder."""

    def __init__(self, dim: int, width: int, encoder: nn.Module, dropout: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.conv = TransformerConv(dim, dim // 2, heads=2, dropout=dropout, edge_dim=width + dim)

    def forward(self, z: Tensor, last_update: Tensor, edges: Tensor, time: Tensor, feature: Tensor) -> Tensor:
        encoded = self.encoder((last_update[edges[0]] - time).to(z.dtype))
        return self.conv(z, edges, torch.cat([encoded, feature], dim=-1))


class Decoder(nn.Module):
    """Two linears on the pair, a ReLU, one output."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.lin_src = nn.Linear(dim, dim)
        self.lin_dst = nn.Linear(dim, dim)
        self.lin_final = nn.Linear(dim, 1)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return self.lin_final((self.lin_src(source) + self.lin_dst(target)).relu())


class PyGTGN:
    """Train and evaluate PyG's TGN on given events, batches and negatives.

    Args:
        events: The whole stream.
        dim: Width of memory, time encoding and embedding.
        k: Neighbours a node.
        dropout: Attention dropout.
        lr: Adam's rate.
    """

    def __init__(self, events: Events, dim: int = 100, k: int = 10, dropout: float = 0.1, lr: float = 1e-4) -> None:
        width = events.feature.shape[1]
        self.events = events
        message = IdentityMessage(width, dim, dim)
        self.memory = TGNMemory(
            events.num_nodes, width, dim, dim, message_module=message, aggregator_module=LastAggregator()
        )
        self.gnn = Attention(dim, width, self.memory.time_enc, dropout)
        self.decoder = Decoder(dim)
        self.loader = LastNeighborLoader(events.num_nodes, size=k)
        self.assoc = torch.empty(events.num_nodes, dtype=torch.long)
        parameters = {*self.memory.parameters(), *self.gnn.parameters(), *self.decoder.parameters()}
        self.optimizer = torch.optim.Adam(list(parameters), lr=lr, fused=True)
        self.criterion = nn.BCEWithLogitsLoss()

    def train_mode(self, *, on: bool) -> None:
        """Switch all parts between training and evaluation."""
        for part in (self.memory, self.gnn, self.decoder):
            part.train(on)

    def forget(self) -> None:
        """Return memory and neighbours to the state before the first event."""
        self.memory.reset_state()
        self.loader.reset_state()

    def state(self) -> tuple[Tensor | dict[int, tuple[Tensor, ...]], ...]:
        """Return a copy of memory, message stores and neighbours."""
        m, n = self.memory, self.loader
        stores = (dict(m.msg_s_store), dict(m.msg_d_store))
        return (m.memory.clone(), m.last_update.clone(), *stores, n.neighbors.clone(), n.e_id.clone(), n.cur_e_id)

    def restore(self, state: tuple[Tensor | dict[int, tuple[Tensor, ...]], ...]) -> None:
        """Return to a copied state, which stays valid."""
        m, n = self.memory, self.loader
        m.memory.copy_(state[0])
        m.last_update.copy_(state[1])
        m.msg_s_store, m.msg_d_store = dict(state[2]), dict(state[3])
        n.neighbors.copy_(state[4])
        n.e_id.copy_(state[5])
        n.cur_e_id = state[6]

    def embed(self, nodes: Tensor) -> Tensor:
        """Embed distinct nodes; `assoc` then maps a node to its row."""
        n_id, edges, e_id = self.loader(nodes)
        self.assoc[n_id] = torch.arange(n_id.size(0))
        z, last_update = self.memory(n_id)
        return self.gnn(z, last_update, edges, self.events.time[e_id], self.events.feature[e_id])

    def insert(self, begin: int, end: int) -> None:
        """Tell memory and loader what happened in `[begin, end)`."""
        e = self.events
        self.memory.update_state(e.src[begin:end], e.dst[begin:end], e.time[begin:end], e.feature[begin:end])
        self.loader.insert(e.src[begin:end], e.dst[begin:end])

    def step(self, begin: int, end: int, negative: Tensor) -> Tensor:
        """Train on the events `[begin, end)` with one negative each; return the loss (not synchronised)."""
        e = self.events
        self.optimizer.zero_grad()
        src, dst = e.src[begin:end], e.dst[begin:end]
        z = self.embed(torch.cat([src, dst, negative]).unique())
        positive = self.decoder(z[self.assoc[src]], z[self.assoc[dst]])
        other = self.decoder(z[self.assoc[src]], z[self.assoc[negative]])
        loss = self.criterion(positive, torch.ones_like(positive)) + self.criterion(other, torch.zeros_like(other))
        self.insert(begin, end)
        loss.backward()
        self.optimizer.step()
        self.memory.detach()
        return loss.detach()

    @torch.no_grad()
    def scores(self, begin: int, end: int, candidate: Tensor) -> Tensor:
        """Score `[B, C]` candidates, every distinct node embedded once for the whole batch; then insert."""
        src = self.events.src[begin:end]
        z = self.embed(torch.cat([src, candidate.flatten()]).unique())
        source = self.decoder.lin_src(z[self.assoc[src]])
        nodes, inverse = candidate.flatten().unique(return_inverse=True)
        target = self.decoder.lin_dst(z[self.assoc[nodes]])
        hidden = source[:, None] + target[inverse.view_as(candidate)]
        out = self.decoder.lin_final(hidden.relu_())[..., 0]
        self.insert(begin, end)
        return out

    @torch.no_grad()
    def scores_one_by_one(self, begin: int, end: int, candidate: Tensor) -> Tensor:
        """Score `[B, C]` candidates one positive at a time, as the TGB example does; then insert."""
        rows = []
        for row, source in enumerate(self.events.src[begin:end]):
            z = self.embed(torch.cat([source[None], candidate[row]]).unique())
            targets = z[self.assoc[candidate[row]]]
            rows.append(self.decoder(z[self.assoc[source]].expand_as(targets), targets)[:, 0])
        self.insert(begin, end)
        return torch.stack(rows)


def batches(begin: int, end: int, size: int) -> list[tuple[int, int]]:
    """Cut `[begin, end)` into batches of `size`."""
    cuts = np.arange(begin, end, size)
    return [(int(a), int(min(a + size, end))) for a in cuts]
