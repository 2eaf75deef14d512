"""The node memory of a batch, out of core: columns of the asked nodes and of the partners of their pending messages.

A node's memory, its times and its pending feature are one stored row. Only *whom* its pending message names stays in
host memory, 8 bytes a node, so that one read finds all that a forward pass needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from stepwell.buffer.trace import Trace
from stepwell.core.batch import Batch, Ids
from stepwell.nn.stored_rows import Columns, StoredRows


class NodeState(NamedTuple):
    """Columns of node state, of all nodes or of some; `pending_partner` counts rows of the same columns.

    Args:
        memory: float32 `[S, D]`.
        last_update: int64 `[S]`.
        pending_time: int64 `[S]`.
        pending_partner: int64 `[S]`, -1 without a pending message.
        pending_feature: float32 `[S, F]`.
    """

    memory: torch.Tensor
    last_update: torch.Tensor
    pending_time: torch.Tensor
    pending_partner: torch.Tensor
    pending_feature: torch.Tensor


def memory_columns(dim: int, event_dim: int) -> Columns:
    """Return what a node's row has: all of `NodeState` but the partner."""
    times: Columns = {"last_update": (np.int64, ()), "pending_time": (np.int64, ())}
    return {**times, "memory": (np.float32, (dim,)), "pending_feature": (np.float32, (event_dim,))}


def gather_state(
    stored: StoredRows, nodes: torch.Tensor, pending_partner: torch.Tensor
) -> tuple[NodeState, torch.Tensor]:
    """Return the columns of some rows, and each node's place among them.

    Args:
        stored: All rows, with `memory_columns`.
        nodes: Distinct nodes, int64 `[N]`.
        pending_partner: Of all nodes, int64.

    Returns:
        The columns of the nodes and their partners; the nodes' rows, int64 `[N]`.
    """
    near = pending_partner[nodes].cpu().numpy()
    busy = near >= 0
    ids, place = np.unique(np.concatenate([nodes.cpu().numpy(), near[busy]]), return_inverse=True)
    stored.fetch(ids)
    row, partner = place[: len(nodes)], np.full(len(ids), -1)
    partner[row[busy]] = place[len(nodes) :]
    there = nodes.device
    held = {name: stored.column(name).to(there) for name in NodeState._fields if name != "pending_partner"}
    on = (torch.from_numpy(part).to(there) for part in (partner, row))
    return NodeState(pending_partner=next(on), **held), next(on)


def trace_memory(batches: Iterable[Batch], num_nodes: int, row_bytes: int, pending_partner: Ids | None = None) -> Trace:
    """Return which rows of a stored memory each batch will touch and rewrite.

    A batch reads its `nodes` and the partners of their pending messages, which follow from the batches before.

    Args:
        batches: An epoch's batches with `nodes`, `src` and `dst`, in order.
        num_nodes: Nodes.
        row_bytes: `NodeMemory.row_bytes`.
        pending_partner: Whom each node's message names before the first batch, int64 `[N]`; nobody if None.
    """
    parts: list[Ids] = []
    writes: list[npt.NDArray[np.bool_]] = []
    partner = np.full(num_nodes, -1) if pending_partner is None else pending_partner.copy()
    for ids, ends in _touched(batches, partner):
        parts.append(ids)
        writes.append(np.isin(ids, ends))
    trace = Trace.of(parts, num_nodes, row_bytes)
    written = np.concatenate([np.zeros(0, np.bool_), *writes])
    return Trace(trace.ids, trace.indptr, num_nodes, row_bytes, writes=written)


def _touched(batches: Iterable[Batch], partner: Ids) -> Iterator[tuple[Ids, Ids]]:
    for batch in batches:
        nodes, src, dst = (np.asarray(batch.array(name), np.int64) for name in ("nodes", "src", "dst"))
        near = partner[nodes]
        ends = np.stack([src, dst], 1).ravel()
        yield np.unique(np.concatenate([nodes, near[near >= 0]])), ends
        # Of equal indices the last assignment wins, as in `NodeMemory.post`.
        partner[ends] = np.stack([dst, src], 1).ravel()
