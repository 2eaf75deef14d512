"""One level of a batch as a graph of PyTorch Geometric, so that any `MessagePassing` model trains on our batches.

A level says which past event each target sees; a graph says which node sends to which. The one becomes the other by an
edge from every sampled neighbour to its target. Nothing is sampled, sorted or fetched here: rows are only renamed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from stepwell.core.batch import Batch
from stepwell.core.errors import InvalidValueError, MissingExtraError

if TYPE_CHECKING:
    from torch_geometric.data import Data


def to_data(batch: Batch, level: int = 0) -> Data:
    """Return one level of a batch as a PyG graph whose first `batch_size` nodes are the level's targets.

    The nodes are the targets, in their order, and behind them the rows of the level below (after the last level
    `batch.nodes`). Targets of one node at two times are two nodes here, or the messages of one would reach the other.
    Where each target has a row of its own below, as with `keyed_by="node"`, the target is that row and nothing is
    doubled. A layer's output is `conv(...)[: data.batch_size]`.

    Args:
        batch: What a pipeline with a sampler yields.
        level: Which level; 0 has the targets of the batch itself.

    Returns:
        `Data` of M nodes and P edges (P counts the sampled events, without padding):

        * `edge_index`: int64 `[2, P]`, from neighbour to target, grouped by target, newest event first
        * `edge_attr`: float32 `[P, F]` event features, if the log has any
        * `e_id`: int64 `[P]`, global positions of the events; `edge_time`, `edge_dt`: int64 `[P]`, time of the event,
          and time of the target minus it, in the log's unit
        * `edge_weight`: float32 `[P]`, if the sampler weighs its draws
        * `n_id`: int64 `[M]`, nodes of the log; `x`: float32 `[M, F]` node features, if the log has any
        * `below_row`: int64 `[M]`, row in the level below: place an output of that level, or a memory that was read
          for `batch.nodes`, by `z[data.below_row]`
        * `time`: int64 `[batch_size]`, times of the targets
        * `src_row` `[B]`, `candidate_row` `[B, C]`: nodes of the batch's queries; level 0 alone has them

    Raises:
        UnknownBatchFieldError: If the batch has no levels.
        InvalidValueError: If it has no such level.
        MissingExtraError: If PyTorch Geometric is not installed.

    Cost:
        O(P F + M) copies, on the device of the batch.
    """
    try:
        from torch_geometric.data import Data
    except ImportError as error:
        raise MissingExtraError("stepwell.access.pyg.to_data", "torch-geometric", "pyg") from error
    levels = batch.levels_of()
    if not 0 <= level < len(levels):
        raise InvalidValueError("level", level, f"0 to {len(levels) - 1}, the levels of this batch")
    here, nodes = levels[level], batch.tensor("nodes")
    num_below = len(levels[level + 1].node) if level + 1 < len(levels) else len(nodes)
    mask, self_row = torch.as_tensor(here.hood.mask), torch.as_tensor(here.self_row)
    target = torch.arange(len(self_row), device=self_row.device)
    neighbor, below_row = torch.as_tensor(here.neighbor_row)[mask], torch.arange(num_below, device=self_row.device)
    if not torch.equal(self_row, target):
        neighbor, below_row = neighbor + len(target), torch.cat([self_row, below_row])
    bottom = below_row
    for other in levels[level + 1 :]:
        bottom = torch.as_tensor(other.self_row)[bottom]
    time, dt = torch.as_tensor(here.time), torch.as_tensor(here.hood.dt)
    data = Data(
        edge_index=torch.stack([neighbor, target[:, None].expand(mask.shape)[mask]]),
        e_id=torch.as_tensor(here.hood.event)[mask],
        edge_time=(time[:, None] - dt)[mask],
        edge_dt=dt[mask],
        n_id=nodes[bottom],
        below_row=below_row,
        time=time,
        batch_size=len(target),
        num_nodes=len(below_row),
    )
    if "event_feature" in batch:
        data.edge_attr = batch.tensor("event_feature")[torch.as_tensor(here.event_row)[mask]]
    if "node_feature" in batch:
        data.x = batch.tensor("node_feature")[bottom]
    if here.hood.weight is not None:
        data.edge_weight = torch.as_tensor(here.hood.weight)[mask]
    if level == 0:
        data.src_row, data.candidate_row = batch.tensor("src_row"), batch.tensor("candidate_row")
    return data
