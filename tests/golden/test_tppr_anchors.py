"""T-PPR ranks a public stream as an independent count of it does: lists, keys, ties and state are right."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from stepwell.evaluate import evaluation_for, p3, split_for
from stepwell.kernels.tppr import Lists, advance
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


@pytest.mark.parametrize(
    ("alpha", "beta", "mean", "largest", "kept", "theorem"),
    [
        (0.1, 0.9, 0.094, 0.299, 0.31, 0.940),
        (0.1, 0.5, 0.077, 0.269, 0.46, 0.352),
        (0.3, 0.5, 0.028, 0.069, 0.75, 0.109),
        (0.1, 0.95, 0.143, 0.430, 0.32, 2.0),
    ],
)
def test_certificates_of_the_final_lists_are_as_tight_as_known(wikipedia, alpha, beta, mean, largest, kept, theorem):
    lists = Lists.empty(wikipedia.num_nodes, 20)
    advance(lists, np.stack([wikipedia.src, wikipedia.dst], 1), 0, alpha, beta)
    active = lists.length > 0
    listed = np.where(np.arange(20) < lists.length[:, None], lists.weight, 0.0).sum(1)
    assert lists.bound[active].mean() == pytest.approx(mean, abs=5e-3)
    assert lists.bound.max() == pytest.approx(largest, abs=5e-3)
    assert (listed[active] / lists.mass[active]).mean() == pytest.approx(kept, abs=0.01)
    assert lists.threshold[0] / (alpha * (1 - beta)) == pytest.approx(theorem, rel=0.02)
