"""T-PPR ranks a public stream as an independent count of it does: lists, keys, ties and state are right."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from stepwell.evaluate import evaluation_for, p3, split_for
from stepwell.nn.tppr_ranker import TPPRRanker
from stepwell.storage import EventLog

_FILE = Path(os.environ.get("STEPWELL_DATA", "")) / "jodie-wikipedia" / "interactions.parquet"

pytestmark = pytest.mark.skipif(
    not (os.environ.get("STEPWELL_DATA") and _FILE.exists()),
    reason="needs STEPWELL_DATA with jodie-wikipedia/interactions.parquet",
)


@pytest.fixture(scope="module")
def wikipedia() -> EventLog:
    table = pq.read_table(_FILE)
    return EventLog.from_arrays(*(table[name].to_numpy() for name in ("user", "item", "ts")))


@pytest.mark.parametrize(
    ("beta", "state", "validation", "test"),
    [(0.5, "frozen", 0.741, 0.717), (0.9, "frozen", 0.744, 0.726), (0.5, "stream", 0.828, 0.807)],
)
def test_a_walk_without_parameters_reaches_the_known_reciprocal_rank(wikipedia, beta, state, validation, test):
    protocol = p3(state=state)
    split = split_for(wikipedia, protocol)
    ranker = TPPRRanker(20, 0.1, beta)
    for batch in evaluation_for(protocol.on("train"), split, streams=True).batches:
        ranker.observe(batch)
    found = [evaluation_for(protocol.on(part), split, streams=True)(ranker) for part in ("validation", "test")]
    assert found[0]["mrr"].value == pytest.approx(validation, abs=1e-3)
    assert found[1]["mrr"].value == pytest.approx(test, abs=1e-3)
