"""Every registered policy keeps the rules; a new one is tested by being registered."""

import numpy as np
import pytest

from stepwell.buffer import Policy, Trace, policies
from stepwell.core.errors import InvalidValueError
from stepwell.testing import check_policy


@pytest.mark.parametrize("name", policies)
def test_a_policy_moves_only_what_it_may_and_never_holds_too_many(name):
    check_policy(policies[name])


@pytest.mark.parametrize("name", policies)
def test_a_policy_is_frozen_hashable_printable_and_takes_its_budget_first(name):
    policy = policies[name]("2GiB")
    assert isinstance(policy, Policy)
    assert policy.memory == "2GiB"
    assert hash(policy) == hash(policies[name]("2GiB"))
    assert "2GiB" in str(policy)
    with pytest.raises(AttributeError):
        policy.memory = 3


@pytest.mark.parametrize("name", policies)
def test_a_policy_refuses_a_negative_capacity_and_says_if_it_needs_a_trace(name):
    trace = Trace.of([np.arange(3)], 3)
    with pytest.raises(InvalidValueError, match="`capacity` must be at least 0, got -1"):
        policies[name]().begin(3, -1, trace)
    if policies[name]().foresight:
        with pytest.raises(InvalidValueError, match="`trace` must be the trace of the epoch"):
            policies[name]().begin(3, 1)
    else:
        assert policies[name]().begin(3, 1).step(np.arange(1)).admit.tolist() == [0]


@pytest.mark.parametrize("name", policies)
def test_a_policy_with_room_for_all_misses_each_row_at_most_once(name):
    from stepwell.buffer.simulate import simulate

    rng = np.random.default_rng(0)
    trace = Trace.of([rng.permutation(40)[:10] for _ in range(30)], 40)
    assert simulate(policies[name](), trace, 40).misses == len(np.unique(trace.ids))
