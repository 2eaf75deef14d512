"""Rules made executable: generators of event logs and conformance suites for samplers, policies, states and pipelines.

Whoever writes a plug calls the suite of its kind in one test:

    def test_my_sampler_keeps_the_rules():
        check_sampler(lambda: MySampler(k=3))
"""

from stepwell.testing.batches import check_batches
from stepwell.testing.compare import assert_same_bits
from stepwell.testing.policies import check_policy
from stepwell.testing.samplers import check_sampler
from stepwell.testing.state import check_stateful
from stepwell.testing.strategies import EventArrays, event_logs

__all__ = [
    "EventArrays",
    "assert_same_bits",
    "check_batches",
    "check_policy",
    "check_sampler",
    "check_stateful",
    "event_logs",
]
