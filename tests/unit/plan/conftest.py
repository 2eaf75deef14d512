"""A small stream and a small model; profiles go to a folder of the session."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stepwell.core import Machine
from stepwell.datasets.synthetic import Habits, habits
from stepwell.nn import TGN, TGNSettings
from stepwell.storage import EventLog


@pytest.fixture(scope="session")
def log() -> EventLog:
    table = habits(Habits(users=60, items=30, events=3_000, days=12, bursts=4, features=0))
    src, dst, time = (table[name].to_numpy() for name in ("user", "item", "time"))
    features = np.random.default_rng(0).standard_normal((len(src), 8), dtype=np.float32)
    return EventLog.from_arrays(src, dst + 60, time, features=features, num_nodes=90)


@pytest.fixture
def tgn(log: EventLog) -> TGN:
    return TGN(log.num_nodes, 8, 0, TGNSettings(16, 16, 16, k=5))


@pytest.fixture
def here() -> Machine:
    return Machine(threads=1)


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("STEPWELL_HOME", str(folder))
    return folder
