"""Keep the rows that the epoch touches most, all epoch long."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stepwell.buffer.planned import Bits, Planned, check_plan
from stepwell.buffer.policy import Replacement, policies
from stepwell.buffer.trace import Trace


@policies.register("static_hot")
@dataclass(frozen=True, slots=True)
class StaticHot:
    """Keep the rows that most batches touch, from the first touch to the end of the epoch.

    Ties go to the smaller id. Rows enter at their first use, so that filling the tier costs no extra read.

    Args:
        memory: Bytes over all families.

    Cost:
        Planning is O(A + num_rows log num_rows) for A accesses.

    References:
        Yang et al., "GNNLab: a factored system for sample-based GNN training over GPUs", EuroSys 2022.
    """

    memory: int | str = "1GiB"

    @property
    def foresight(self) -> bool:
        """It needs the trace."""
        return True

    def begin(self, num_rows: int, capacity: int, trace: Trace | None = None) -> Replacement:
        """Count the epoch's accesses and return the empty tier."""
        trace = check_plan("StaticHot", capacity, trace)
        return Planned(trace, hottest(trace, capacity))


def hottest(trace: Trace, capacity: int) -> Bits:
    """Return, for each access, whether its row is among the `capacity` most touched."""
    touched = np.bincount(trace.ids, minlength=trace.num_rows)
    hot = np.zeros(trace.num_rows, np.bool_)
    hot[np.argsort(-touched, kind="stable")[:capacity]] = True
    return hot[trace.ids]
