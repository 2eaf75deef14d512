"""Small event logs for the contracts."""

import numpy as np
import pytest

from stepwell.storage import EventLog


@pytest.fixture
def event_log():
    """Return `make(num_events, num_nodes, seed)`: a random log with ties, self-loops and features."""

    def make(num_events: int = 60, num_nodes: int = 7, seed: int = 0) -> EventLog:
        random = np.random.default_rng(seed)
        return EventLog.from_arrays(
            src=random.integers(0, num_nodes, num_events),
            dst=random.integers(0, num_nodes, num_events),
            time=np.sort(random.integers(0, num_events // 2, num_events)),
            features=random.standard_normal((num_events, 3)),
            node_features=random.standard_normal((num_nodes, 2)),
            num_nodes=num_nodes,
        )

    return make
