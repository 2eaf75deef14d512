"""Which computed embeddings stay for reuse: minimum reuse distance (MRD), Orca's optimal replacement.

A batch *needs* the embeddings of some nodes and *makes* those of its targets anew. The copy of a node that stands in
the cache after batch i is worth keeping until the next batch that needs it, unless an earlier batch makes a newer one.
That is Belady's rule on a trace whose accesses are needs and targets together, and whose next use is none where the
node comes next as a target alone. Needs of a batch come before its refreshes, as causal sharing wants it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numba import njit

from stepwell.buffer.belady import soonest
from stepwell.buffer.planned import Planned
from stepwell.buffer.policy import Moves
from stepwell.buffer.trace import Trace
from stepwell.core.errors import InvalidValueError


def reuse_trace(targets: Trace, needs: Trace) -> Trace:
    """Return one trace over which Belady's rule is MRD, and any other policy is comparable with it.

    Its batches touch needs first, then the targets that are not needed; `reads` is true for the needs.

    Args:
        targets: The distinct nodes whose embedding each batch makes anew.
        needs: The distinct nodes whose older embedding each batch needs (its out-of-batch neighbours). A node that is
            needed and made in one batch is needed first.

    Raises:
        InvalidValueError: If the two differ in their number of batches.

    Cost:
        O(A + num_rows) for A accesses of both.
    """
    if len(targets) != len(needs):
        raise InvalidValueError("needs", len(needs), f"a trace of {len(targets)} batches, as the targets are")
    num_rows = max(targets.num_rows, needs.num_rows)
    ids, indptr, reads = _union(targets.ids, targets.indptr, needs.ids, needs.indptr, num_rows)
    return Trace(ids, indptr, num_rows, needs.row_bytes, reads=reads)


def mrd_plan(targets: Trace, needs: Trace, capacity: int) -> Iterator[Moves]:
    """Yield who enters and who leaves a cache of `capacity` embeddings after each batch, with the fewest misses.

    A node that stays while its batch makes it anew is neither admitted nor evicted: its row is overwritten.

    Guarantee: no plan that admits only what a batch made or needed finds more of the needs in the cache.

    Cost:
        O(A log capacity) for A needs and targets; several million a second.

    References:
        Li et al., "Orca: Scalable Temporal Graph Neural Network Training with Theoretical Guarantees", SIGMOD 2023,
        section 4. Differs: rows without further use leave at once, and with causal sharing a node may be needed and
        made in one batch.
    """
    trace = reuse_trace(targets, needs)
    tier = Planned(trace, soonest(trace, capacity))
    for batch in range(len(trace)):
        yield tier.step(trace.batch(batch))


@njit(cache=True, nogil=True)
def _union(
    targets: np.ndarray, target_ptr: np.ndarray, needs: np.ndarray, need_ptr: np.ndarray, num_rows: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    num_batches = len(need_ptr) - 1
    ids = np.empty(len(targets) + len(needs), np.int64)
    reads = np.zeros(len(targets) + len(needs), np.bool_)
    indptr = np.zeros(num_batches + 1, np.int64)
    needed_in = np.full(num_rows, -1, np.int64)
    size = 0
    for batch in range(num_batches):
        for row in needs[need_ptr[batch] : need_ptr[batch + 1]]:
            needed_in[row] = batch
            ids[size], reads[size] = row, True
            size += 1
        for row in targets[target_ptr[batch] : target_ptr[batch + 1]]:
            if needed_in[row] != batch:
                ids[size] = row
                size += 1
        indptr[batch + 1] = size
    return ids[:size].copy(), indptr, reads[:size].copy()
