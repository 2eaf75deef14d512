"""What a forward pass digested of the memory, kept until the batch is observed: no updater step is made twice."""

from __future__ import annotations

from typing import NamedTuple

import torch

from stepwell.core.batch import Batch
from stepwell.nn.memory import NodeMemory, Recalled
from stepwell.nn.reading import column, seconds_of


class Digest(NamedTuple):
    """Digested rows of one batch.

    Args:
        batch: The batch's `nodes`, by which it is known again.
        place: Row of each level-0 target in `recalled`, int64 `[U]`.
        recalled: The rows, without gradient.
    """

    batch: object
    place: torch.Tensor
    recalled: Recalled


def digest(batch: Batch, place: torch.Tensor, recalled: Recalled) -> Digest:
    """Keep the rows of a forward pass for `write_back`."""
    return Digest(batch["nodes"], place, Recalled(recalled.row.detach(), recalled.last_update))


def bottom_rows(batch: Batch) -> torch.Tensor:
    """Follow each level-0 target down to its row of `batch.nodes`, int64 `[U]`."""
    levels = batch.levels_of()
    row = column(levels[0].self_row)
    for level in levels[1:]:
        row = column(level.self_row)[row]
    return row


@torch.no_grad()
def write_back(memory: NodeMemory, batch: Batch, kept: Digest | None) -> None:
    """Write the endpoints' digested memory and leave the batch's events pending.

    Args:
        memory: The memory.
        batch: The batch whose events are now known.
        kept: What the forward pass kept. If it is of another batch, or None, the memory is digested now.
    """
    src, dst = batch.tensor("src"), batch.tensor("dst")
    if kept is not None and "nodes" in batch and kept.batch is batch["nodes"]:
        row = kept.place[torch.cat([batch.tensor("src_row"), batch.tensor("candidate_row")[:, 0]])]
        memory.write(torch.cat([src, dst]), Recalled(kept.recalled.row[row], kept.recalled.last_update[row]))
    else:
        nodes: torch.Tensor = torch.cat([src, dst]).unique()  # type: ignore[no-untyped-call]
        memory.write(nodes, memory(nodes, seconds_of(batch)))
    feature = batch.tensor("own_feature") if memory.event_dim else None
    memory.post(src, dst, batch.tensor("time"), feature)
