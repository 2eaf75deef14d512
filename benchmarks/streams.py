"""The real streams of the claims, as our logs and as the peers' tensors, read once a process."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from benchmarks.peers.pyg_tgn import Events
from stepwell.datasets import datasets
from stepwell.storage import EventLog


@cache
def stream(name: str, width: int = 0, events: int = 0) -> EventLog:
    """Return a registered stream in memory, nodes numbered as in its file.

    Args:
        name: The data set.
        width: Width of seeded random event features; the real ones of jodie-wikipedia may not be here, and timing does
            not depend on their values.
        events: Only the first so many, or 0 for all.
    """
    schema, batches = datasets[name].batches()
    table = [batch for batch in batches]
    ends = ("user", "item") if "user" in schema.names else ("src", "dst")
    src, dst, time = (np.concatenate([b[c].to_numpy() for b in table]).astype(np.int64) for c in (*ends, "ts"))
    order = np.argsort(time, kind="stable")[: events or None]
    nodes, dense = np.unique(np.stack([src, dst]), return_inverse=True)
    src, dst = dense.reshape(2, -1)
    features = np.random.default_rng(0).standard_normal((len(order), width), dtype=np.float32) if width else None
    return EventLog.from_arrays(src[order], dst[order], time[order], features=features, num_nodes=len(nodes))


def tensors(log: EventLog) -> Events:
    """Return a log as the peers take it."""
    feature = log.event_feature if log.event_feature is not None else np.zeros((len(log), 0), np.float32)
    columns = (torch.from_numpy(np.asarray(c).astype(np.int64)) for c in (log.src, log.dst, log.time))
    return Events(*columns, torch.from_numpy(np.asarray(feature)), log.num_nodes)


def negatives(log: EventLog, seed: int = 0) -> torch.Tensor:
    """Return one uniform destination an event, int64 `[E]`."""
    drawn = np.random.default_rng(seed).integers(0, len(log.destinations), len(log))
    return torch.from_numpy(log.destinations[drawn])
