"""Rules of every policy, executable: who comes was touched, who goes was there, and the tier never holds too many."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.buffer import Belady, Policy, Trace
from stepwell.buffer.simulate import simulate

NUM_ROWS = 12
_epochs = st.lists(st.lists(st.integers(0, NUM_ROWS - 1), unique=True, max_size=8), max_size=10)


def check_policy(make: Callable[[], Policy], max_examples: int = 60) -> None:
    """Check the rules of a policy on generated epochs.

    *Moves*: a batch admits only rows that it touched and that were not resident, and evicts only residents; each row
    once. *Capacity*: never more residents than rows of the tier, none for capacity 0. *Hint*: both hold too when the
    batches differ from the trace, or go on after its end. *Same*: two runs move alike. *Optimum*: it never hits more
    often than Belady's rule.

    Args:
        make: Makes a policy.
        max_examples: Generated epochs.
    """

    @settings(max_examples=max_examples, deadline=None, database=None)
    @given(planned=_epochs, real=st.none() | _epochs, capacity=st.integers(0, NUM_ROWS + 3))
    def keeps_the_rules(planned: list[list[int]], real: list[list[int]] | None, capacity: int) -> None:
        plan = _trace(planned)
        trace = plan if real is None else _trace(real)
        _check_moves(make(), plan, trace, capacity)
        if not make().foresight:
            _check_moves(make(), None, trace, capacity)
        best = simulate(Belady(), trace, capacity)
        assert simulate(make(), trace, capacity, plan).hits <= best.hits, "more hits than the optimum"

    keeps_the_rules()


def _trace(epoch: list[list[int]]) -> Trace:
    return Trace.of([np.array(batch, np.int64) for batch in epoch], NUM_ROWS)


def _check_moves(policy: Policy, plan: Trace | None, trace: Trace, capacity: int) -> None:
    tiers = [policy.begin(NUM_ROWS, capacity, plan) for _ in range(2)]
    resident: set[int] = set()
    for batch in range(len(trace)):
        ids = trace.batch(batch)
        (admit, evict), again = (tier.step(ids.copy()) for tier in tiers)
        assert np.array_equal(admit, again.admit), "two runs admit other rows"
        assert np.array_equal(evict, again.evict), "two runs evict other rows"
        assert admit.dtype == evict.dtype == np.int64
        enters, leaves = set(admit.tolist()), set(evict.tolist())
        assert len(enters) == len(admit), "a row is admitted twice"
        assert len(leaves) == len(evict), "a row is evicted twice"
        assert enters <= set(ids.tolist()) - resident, "a row enters that the batch did not touch, or that is resident"
        assert leaves <= resident, "a row leaves that is not resident"
        resident = (resident - leaves) | enters
        assert len(resident) <= capacity, "more residents than the capacity"
