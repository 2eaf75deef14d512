"""What a policy would move over a trace: counted without moving anything."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stepwell.buffer.policy import Policy
from stepwell.buffer.trace import Trace


@dataclass(frozen=True, slots=True)
class Traffic:
    """Rows found and rows moved between a tier and what lies below it.

    Args:
        hits: Distinct rows that batches read and found resident.
        misses: Distinct rows that batches read and had to fetch.
        written: Rows written back or through; rewritten residents count when they leave, or at the end.
        row_bytes: Bytes of a row.
    """

    hits: int
    misses: int
    written: int
    row_bytes: int

    @property
    def hit_rate(self) -> float:
        """Share of the rows read that were resident, 0 to 1."""
        return self.hits / max(1, self.hits + self.misses)

    @property
    def fetched_bytes(self) -> int:
        """Bytes read from below."""
        return self.misses * self.row_bytes

    @property
    def written_bytes(self) -> int:
        """Bytes written below."""
        return self.written * self.row_bytes

    @property
    def moved_bytes(self) -> int:
        """Bytes both ways."""
        return self.fetched_bytes + self.written_bytes


def simulate(policy: Policy, trace: Trace, capacity: int, plan: Trace | None = None) -> Traffic:
    """Follow a policy over a trace and count.

    Args:
        policy: The policy.
        trace: What the batches really touch.
        capacity: Rows of the tier.
        plan: The trace that a planned policy is shown; the true one by default.

    Cost:
        O(A) for A accesses, beside the policy's own.
    """
    tier = policy.begin(trace.num_rows, capacity, trace if plan is None else plan)
    resident, dirty = np.zeros(trace.num_rows, np.bool_), np.zeros(trace.num_rows, np.bool_)
    hits = reads = written = 0
    for batch in range(len(trace)):
        span = slice(trace.indptr[batch], trace.indptr[batch + 1])
        ids = trace.ids[span]
        read = ids if trace.reads is None else ids[trace.reads[span]]
        hits += int(resident[read].sum())
        reads += len(read)
        admit, evict = tier.step(ids)
        resident[evict], resident[admit] = False, True
        if trace.writes is not None:
            dirty[ids[trace.writes[span]]] = True
            gone = np.concatenate([evict, ids[~resident[ids]]])
            gone = np.unique(gone[dirty[gone]])
            written += len(gone)
            dirty[gone] = False
    return Traffic(hits, reads - hits, written + int(dirty.sum()), trace.row_bytes)
