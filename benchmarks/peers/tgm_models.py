"""TGM's TGN and TGAT, as its examples assemble them; runs where the package `tgm-lib` is installed.

TGM's loader, recency hook and modules are used as they are. Negatives are given (so that both sides see the
same), the loss is not synchronised every step and the optimiser is the fused Adam.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.peers.pyg_tgn import Events


def graph(events: Events, begin: int, end: int, node_width: int) -> Any:
    """Return the events `[begin, end)` as TGM's graph, with zero node features of the given width."""
    from tgm import DGraph
    from tgm.data import DGData

    data = DGData.from_raw(
        edge_time=events.time[begin:end],
        edge_index=torch.stack([events.src[begin:end], events.dst[begin:end]], dim=1).int(),
        edge_x=events.feature[begin:end],
        static_node_x=torch.zeros(events.num_nodes, node_width) if node_width else None,
    )
    return DGraph(data)


class GivenNegatives:
    """A hook that hands out given negatives in stream order, at the time of their positives."""

    def __init__(self, negative: Tensor) -> None:
        from tgm.hooks import StatefulHook
        from tgm.hooks.registry import hook

        @hook
        class Given(StatefulHook):
            _cls_requires: ClassVar = {"edge_src", "edge_dst", "edge_time"}
            _cls_produces: ClassVar = {"neg", "neg_time", "neg_batch_list"}

            def __init__(self) -> None:
                super().__init__()
                self.at = 0
                self._id = None
                self.__post_init__()

            def reset_state(self) -> None:
                self.at = 0

            def __call__(self, dg: Any, batch: Any) -> Any:
                size = len(batch.edge_src)
                rows = negative[self.at : self.at + size]
                self.at += size
                neg, times = rows.flatten(), batch.edge_time.repeat_interleave(rows.shape[1])
                if rows.shape[1] > 1:
                    neg = neg.unique()
                    times = batch.edge_time.max().expand(len(neg)).contiguous()
                self.add_batch_attribute(batch, "neg", neg.to(batch.edge_src.dtype))
                self.add_batch_attribute(batch, "neg_time", times)
                self.add_batch_attribute(batch, "neg_batch_list", list(rows))
                return batch

        self.hook = Given()


class _TGM:
    def __init__(
        self, events: Events, begin: int, end: int, negative: Tensor, size: int, k: list[int], node_width: int
    ) -> None:
        from tgm.data import DGDataLoader
        from tgm.hooks import DeduplicationHook, HookManager, RecencyNeighborHook

        self.events = events
        manager = HookManager(keys=["run"])
        manager.register("run", GivenNegatives(negative).hook)
        recency = RecencyNeighborHook(
            num_nbrs=k,
            num_nodes=events.num_nodes,
            seed_nodes_keys=["edge_src", "edge_dst", "neg"],
            seed_times_keys=["edge_time", "edge_time", "neg_time"],
        )
        manager.register("run", recency)
        self.recency = recency
        self.warm: list[Tensor] = []
        manager.register("run", DeduplicationHook(seed_nodes_keys=["neg", "nbr_nids"]))
        self.graph = graph(events, begin, end, node_width)
        self.manager = manager
        self.loader = DGDataLoader(self.graph, size, hook_manager=manager)

    def warm_up(self, begin: int, end: int) -> None:
        """Fill the recency buffers with the events `[begin, end)`; each later pass starts from there."""
        from tgm import DGBatch

        e = self.events
        for at in range(begin, end, 200):
            rows = slice(at, min(at + 200, end))
            batch = DGBatch(e.src[rows].int(), e.dst[rows].int(), e.time[rows], edge_x=e.feature[rows])
            batch.neg, batch.neg_time = batch.edge_dst, batch.edge_time
            self.recency(self.graph, batch)
        self.warm = [buffer.clone() for buffer in self._buffers()]

    def _buffers(self) -> list[Tensor]:
        hook = self.recency
        return [hook._nbr_ids, hook._nbr_times, hook._write_pos, hook._nbr_feats]

    def batches(self) -> Any:
        """Yield TGM's own batches, its hooks active, from the warm buffers if there are any."""
        self.manager.reset_state()
        for buffer, value in zip(self._buffers(), self.warm, strict=False):
            buffer.copy_(value)
        with self.manager.activate("run"):
            yield from self.loader


class TGMTGN(_TGM):
    """TGM's TGN example: one hop, its own memory, encoder and decoder."""

    def __init__(
        self, events: Events, begin: int, end: int, negative: Tensor, size: int, dim: int = 100, k: int = 10
    ) -> None:
        from tgm.nn import LinkPredictor, TGNMemory
        from tgm.nn.encoder.tgn import GraphAttentionEmbedding, IdentityMessage, LastAggregator

        super().__init__(events, begin, end, negative, size, [k], 0)
        width = events.feature.shape[1]
        self.memory = TGNMemory(
            events.num_nodes,
            width,
            dim,
            dim,
            message_module=IdentityMessage(width, dim, dim),
            aggregator_module=LastAggregator(),
        )
        self.encoder = GraphAttentionEmbedding(dim, dim, width, self.memory.time_enc)
        self.decoder = LinkPredictor(node_dim=dim, hidden_dim=dim)
        parameters = {*self.memory.parameters(), *self.encoder.parameters(), *self.decoder.parameters()}
        self.optimizer = torch.optim.Adam(list(parameters), lr=1e-4, fused=True)

    def _embed(self, batch: Any) -> Tensor:
        neighbors = batch.nbr_nids[0].flatten()
        mask = neighbors >= 0
        width = batch.nbr_nids[0].shape[-1]
        seeds = torch.cat([batch.edge_src, batch.edge_dst, batch.neg]).repeat_interleave(width)
        edges = torch.stack([batch.global_to_local(seeds[mask]), batch.global_to_local(neighbors[mask])]).long()
        z, last_update = self.memory(batch.unique_nids)
        time = batch.nbr_edge_time[0].flatten()[mask]
        return self.encoder(z, last_update, edges, time, batch.nbr_edge_x[0].flatten(0, -2).float()[mask])

    def train(self, limit: int = 0) -> list[Tensor]:
        """Train one pass; return the losses."""
        losses = []
        for part in (self.memory, self.encoder, self.decoder):
            part.train()
        self.memory.reset_state()
        for number, batch in enumerate(self.batches()):
            if limit and number >= limit:
                break
            self.optimizer.zero_grad()
            z = self._embed(batch)
            src, dst, neg = (batch.global_to_local(x).long() for x in (batch.edge_src, batch.edge_dst, batch.neg))
            losses.append(_step(self.decoder, z[src], z[dst], z[neg], self._observe, batch, self.optimizer))
            self.memory.detach()
        return losses

    def _observe(self, batch: Any) -> None:
        self.memory.update_state(batch.edge_src, batch.edge_dst, batch.edge_time, batch.edge_x.float())

    @torch.no_grad()
    def evaluate(self, limit: int = 0) -> np.ndarray:
        """Return the reciprocal rank of each positive against its negatives, one decoder call a positive."""
        found = []
        for part in (self.memory, self.encoder, self.decoder):
            part.eval()
        for number, batch in enumerate(self.batches()):
            if limit and number >= limit:
                break
            z = self._embed(batch)
            for row, negatives in enumerate(batch.neg_batch_list):
                targets = torch.cat([batch.edge_dst[row][None], negatives.to(batch.edge_dst.dtype)])
                sources = batch.edge_src[row].repeat(len(targets))
                score = self.decoder(z[batch.global_to_local(sources).long()], z[batch.global_to_local(targets).long()])
                above, ties = (score[1:] > score[0]).sum(), (score[1:] >= score[0]).sum()
                found.append(1 / (1 + 0.5 * (above + ties).item()))
            self._observe(batch)
        return np.asarray(found)


class TGMTGAT(_TGM):
    """TGM's TGAT example: two hops over its recency buffers."""

    def __init__(
        self, events: Events, begin: int, end: int, negative: Tensor, size: int, dim: int = 100, k: int = 10
    ) -> None:
        from tgm.nn import LinkPredictor
        from tgm.nn.encoder.tgat import TGAT

        super().__init__(events, begin, end, negative, size, [k, k], dim)
        self.encoder = TGAT(dim, events.feature.shape[1], dim, dim, 2)
        self.decoder = LinkPredictor(node_dim=dim, hidden_dim=dim)
        self.optimizer = torch.optim.Adam([*self.encoder.parameters(), *self.decoder.parameters()], lr=1e-4, fused=True)

    def train(self, limit: int = 0) -> list[Tensor]:
        """Train one pass; return the losses."""
        losses = []
        for number, batch in enumerate(self.batches()):
            if limit and number >= limit:
                break
            self.optimizer.zero_grad()
            z = self.encoder(
                self.graph.static_node_x,
                batch.seed_nids,
                batch.seed_times,
                batch.nbr_nids,
                batch.nbr_edge_x,
                batch.nbr_edge_time,
            )
            src, dst, neg = z.chunk(3)
            losses.append(_step(self.decoder, src, dst, neg, lambda _: None, batch, self.optimizer))
        return losses


def _step(
    decoder: nn.Module, src: Tensor, dst: Tensor, neg: Tensor, observe: Any, batch: Any, optimizer: Any
) -> Tensor:
    positive, other = decoder(src, dst), decoder(src, neg)
    entropy = nn.functional.binary_cross_entropy_with_logits
    loss = entropy(positive, torch.ones_like(positive)) + entropy(other, torch.zeros_like(other))
    observe(batch)
    loss.backward()
    optimizer.step()
    return loss.detach()
