"""What reuse of embeddings asks for on a stream: the targets of each batch and their out-of-batch neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np

from stepwell.access import FixedBatches, Pipeline, Recent
from stepwell.buffer import Trace
from stepwell.core import Ids
from stepwell.storage import EventLog


@dataclass(frozen=True, slots=True)
class Reuse:
    """Targets and needs of an epoch whose targets are the endpoints of each batch.

    Args:
        targets: Nodes whose embedding each batch makes.
        needs: Their neighbours that are no targets of the batch, each once.
        slots: How often the samples name each need, int64, as long as `needs.ids`.
        in_batch: Share of the neighbour slots that targets of the batch serve.
    """

    targets: Trace
    needs: Trace
    slots: Ids
    in_batch: float


def reuse_of(log: EventLog, batch_size: int = 200, k: int = 10) -> Reuse:
    """Sample the `k` newest neighbours of both endpoints of each event and sort them out."""
    targets: list[Ids] = []
    needs: list[Ids] = []
    slots: list[Ids] = []
    served = asked = 0
    for batch in Pipeline(log, FixedBatches(batch_size), sampler=Recent(k), prefetch=0):
        level = batch.levels_of()[0]
        made = np.unique(np.concatenate([batch.array("src"), batch.array("dst")]))
        times = np.bincount(
            np.concatenate([batch.array("src_row"), batch.array("candidate_row").ravel()]),
            minlength=len(np.asarray(level.node)),
        )
        named = np.repeat(np.asarray(level.hood.node), times, axis=0)
        asked_of, count = np.unique(named[named >= 0], return_counts=True)
        away = ~np.isin(asked_of, made)
        served += int(count[~away].sum())
        asked += int(count.sum())
        targets.append(cast("Ids", made))
        needs.append(asked_of[away])
        slots.append(count[away])
    made_in, needed_in = Trace.of(targets, log.num_nodes), Trace.of(needs, log.num_nodes)
    return Reuse(made_in, needed_in, np.concatenate(slots), served / max(1, asked))


def training_part(log: EventLog, seed: int = 0) -> EventLog:
    """Return the first 70 % of the time without the events of a tenth of all nodes, drawn from the later ones."""
    time = np.asarray(log.time)
    until = np.quantile(time, 0.7)
    src, dst = np.asarray(log.src), np.asarray(log.dst)
    late = np.unique(np.concatenate([src[time > until], dst[time > until]]))
    held_out = np.random.default_rng(seed).choice(late, len(np.unique([src, dst])) // 10, replace=False)
    stays = (time <= until) & ~np.isin(src, held_out) & ~np.isin(dst, held_out)
    return EventLog.from_arrays(src[stays], dst[stays], time[stays], num_nodes=log.num_nodes)
