"""The best that any policy can do on a trace, by a linear programme: the oracle of placement and reuse."""

from __future__ import annotations

import numpy as np

from stepwell.buffer import Trace
from stepwell.core.batch import Ids


def most_saved(trace: Trace, capacity: int, profit: Ids | None = None) -> float:
    """Return the most that kept intervals can save, as the optimum of a linear programme.

    A unit of flow through the batches is a place of the tier: it lies idle or holds one interval. Without rewritten
    rows the programme is a flow, so its optimum is attained by a plan. With them (`trace.writes`) a chain of intervals
    between two writes of a row saves one more if all of it is kept, which a plan may miss: then it is an upper bound.

    Args:
        trace: The trace.
        capacity: Rows of the tier.
        profit: What each access's interval saves, int64 `[A]`; one by default.

    Cost:
        Needs SciPy; seconds for 1e5 intervals.
    """
    from scipy.optimize import linprog
    from scipy.sparse import csr_array

    num_batches = len(trace)
    places = np.flatnonzero(trace.next_use < num_batches)
    if not len(places) or not capacity:
        return 0.0
    start = np.repeat(np.arange(num_batches), np.diff(trace.indptr))[places]
    worth = np.ones(len(places)) if profit is None else profit[places].astype(np.float64)
    end, column = trace.next_use[places], np.arange(len(places))
    chains = [] if trace.writes is None else _chains(trace, places)
    size = len(places) + num_batches - 1 + len(chains)
    idle = len(places) + np.arange(num_batches - 1)
    # Flow through batch t: what ends or lay idle before it equals what begins or lies idle after it.
    rows = np.concatenate([start, end, np.arange(num_batches - 1), np.arange(1, num_batches)])
    columns = np.concatenate([column, column, idle, idle])
    signs = np.concatenate([np.ones(len(places)), -np.ones(len(places)), np.ones(len(idle)), -np.ones(len(idle))])
    source = np.zeros(num_batches)
    source[0], source[-1] = capacity, -capacity
    members = np.array([(chain, place) for chain, group in enumerate(chains) for place in group], np.int64)
    bound, most = None, None
    if len(members):
        line = np.arange(len(members))
        whole = len(places) + num_batches - 1 + members[:, 0]
        sides = np.concatenate([np.ones(len(line)), -np.ones(len(line))])
        cells = (np.concatenate([line, line]), np.concatenate([whole, members[:, 1]]))
        bound, most = csr_array((sides, cells), shape=(len(members), size)), np.zeros(len(members))
    gain = np.concatenate([worth, np.zeros(num_batches - 1), np.ones(len(chains))])
    limits = np.ones((size, 2)) * (0, 1)
    limits[idle, 1] = capacity
    flow = csr_array((signs, (rows, columns)), shape=(num_batches, size))
    solved = linprog(-gain, A_ub=bound, b_ub=most, A_eq=flow, b_eq=source, bounds=limits, method="highs")
    assert solved.status == 0, solved.message
    return float(-solved.fun)


def _chains(trace: Trace, places: Ids) -> list[list[int]]:
    """Return the intervals (by number) between each two successive writes of a row."""
    assert trace.writes is not None
    number = {int(place): i for i, place in enumerate(places)}
    chains: list[list[int]] = []
    running: dict[int, list[int]] = {}
    for place, (row, writes) in enumerate(zip(trace.ids.tolist(), trace.writes.tolist(), strict=True)):
        if writes:
            if running.get(row):
                chains.append(running[row])
            running[row] = []
        if place in number and row in running:
            running[row].append(number[place])
        else:
            running.pop(row, None)
    return chains
