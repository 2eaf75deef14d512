"""Parameter-free rules on a public stream give the published numbers: split, candidates, ties and state are right."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from stepwell.evaluate import evaluation_for, p3, split_for
from stepwell.nn import EdgeBank, MostRecent
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
    ("make", "state", "validation", "test"),
    [
        (EdgeBank, "frozen", 0.5274, 0.4947),
        (EdgeBank, "stream", 0.561, 0.525),
        (MostRecent, "frozen", 0.753, 0.728),
        (MostRecent, "stream", 0.839, 0.817),
    ],
    ids=["edgebank frozen", "edgebank streaming", "most recent frozen", "most recent streaming"],
)
def test_rules_without_parameters_reach_the_published_reciprocal_rank(wikipedia, make, state, validation, test):
    protocol = p3(state=state)
    split = split_for(wikipedia, protocol)
    model = make()
    for batch in evaluation_for(protocol.on("train"), split, streams=True).batches:
        model.observe(batch)
    found = [evaluation_for(protocol.on(part), split, streams=True)(model) for part in ("validation", "test")]
    assert [len(report.predictions) for report in found] == [23_621, 23_621]
    assert found[0]["mrr"].value == pytest.approx(validation, abs=1e-3)
    assert found[1]["mrr"].value == pytest.approx(test, abs=1e-3)
