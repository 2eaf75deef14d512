"""A small log for the unit tests."""

import numpy as np
import pytest

from stepwell.storage import EventLog


@pytest.fixture
def log():
    """Return 40 events of 3 sources and 4 destinations with ties, features of events and nodes, and labels."""
    random = np.random.default_rng(0)
    return EventLog.from_arrays(
        src=random.integers(0, 3, 40),
        dst=random.integers(3, 7, 40),
        time=np.sort(random.integers(0, 25, 40)),
        features=random.standard_normal((40, 5)),
        node_features=random.standard_normal((7, 2)),
        label=random.integers(0, 2, 40),
    )
