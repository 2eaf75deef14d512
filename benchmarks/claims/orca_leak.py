"""What sharing embeddings in a batch lets a target read: counted, for the paper's rule and for the causal one."""

from __future__ import annotations

import numpy as np

from benchmarks.harness import Claim, Result
from benchmarks.reuse import training_part
from benchmarks.streams import stream
from stepwell.access import FixedBatches, Pipeline, Recent
from stepwell.access.reuse import reuse_stage
from stepwell.buffer.reuse import EmbeddingReuse
from stepwell.core import Batch
from stepwell.storage import EventLog

_SETTING = "jodie-wikipedia, 70 % of the time without a tenth of the nodes, batch 200, ten neighbours, positives"
EXPECTED = {"orca_leak_future": 70.8, "orca_leak_own_event": 55.7}
CLAIMS = [
    Claim(
        "orca_leak_future",
        f"Training positives of which an end reads an embedding of the same batch of a later time when a node's latest "
        f"serves all, as in the paper: distance from 70.8 % ({_SETTING})",
        2.0,
        "points",
        "<=",
    ),
    Claim(
        "orca_leak_own_event",
        f"Those of which that embedding has aggregated the event under prediction: distance from 55.7 % ({_SETTING})",
        2.0,
        "points",
        "<=",
    ),
    Claim("orca_leak_causal", f"The first share with causal sharing ({_SETTING})", 0.0, "%", "<="),
]


def measure(quick: bool) -> list[Result]:  # noqa: FBT001
    """Look up, place by place, which embedding serves it."""
    log = training_part(stream("jodie-wikipedia"))
    if quick:
        log = log[: len(log) // 4]
    shares = {name: _shares(log, causal=name == "causal") for name in ("paper", "causal")}
    figures: dict[str, dict[str, float | str]] = {
        name: {"reads the future %": a, "reads its own event %": b, "places served in the batch %": c}
        for name, (a, b, c) in shares.items()
    }
    why = "A quarter of the events." if quick else ""
    future, own, _ = shares["paper"]
    return [
        Result("orca_leak_future", abs(future - EXPECTED["orca_leak_future"]), figures, why=why),
        Result("orca_leak_own_event", abs(own - EXPECTED["orca_leak_own_event"]), figures, why=why),
        Result("orca_leak_causal", shares["causal"][0], figures),
    ]


def _shares(log: EventLog, *, causal: bool) -> tuple[float, float, float]:
    """Return the percentages of events that read the future and themselves, and of places served in the batch."""
    stage = reuse_stage(log, EmbeddingReuse(causal=causal), Recent(10), 2)
    future = own = 0
    for batch in Pipeline(log, FixedBatches(200), stages=[stage], prefetch=0, sampler=Recent(10)):
        reads, itself = _reads(batch)
        future += int(reads.sum())
        own += int(itself.sum())
    return 100 * future / len(log), 100 * own / len(log), 100 * stage.counts[0].in_batch_share


def _reads(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Say of each event whether an end of it reads an embedding of a later time, and one that has seen the event."""
    top, below = batch.levels_of()
    row, mask = np.asarray(top.neighbor_row), np.asarray(top.hood.mask)
    targets, time = len(np.asarray(top.node)), np.asarray(below.time)
    shared = mask & (row < targets)
    served = np.where(shared, row, 0)
    later = shared & (time[served] > np.asarray(top.time)[:, None])
    seen = np.asarray(below.hood.event)[served]  # [U, K, K]
    ends = np.stack([batch.array("src_row"), batch.array("candidate_row")[:, 0]], 1)
    event = batch.array("event")
    reads = np.asarray(later[ends].any((1, 2)))
    itself = np.asarray(((seen[ends] == event[:, None, None, None]).any(3) & later[ends]).any((1, 2)))
    return reads, itself
