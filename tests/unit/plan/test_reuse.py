"""Reuse of embeddings is planned like any other place: where it is allowed and possible, with a counted hit rate."""

from __future__ import annotations

import pytest

from stepwell.access import FixedBatches, Pipeline, Recent, UniformNegatives
from stepwell.buffer.reuse import EmbeddingReuse
from stepwell.core import Machine, PlanNode
from stepwell.core.errors import InvalidValueError
from stepwell.core.shapes import Batcher
from stepwell.nn import TGN, TGNSettings
from stepwell.plan import Setting, plan
from stepwell.plan.reuse import foresee, served
from stepwell.storage import EventLog

SETTING = Setting(hops=2, k=5, batch_size=50, hop_time="root")
STORE = EmbeddingReuse(rows=8)


@pytest.fixture
def deep(log: EventLog) -> TGN:
    return TGN(log.num_nodes, 8, 0, TGNSettings(16, 16, 16, k=5, hops=2))


def reusing(view: EventLog, batches: Batcher) -> Pipeline:
    options = {"negatives": UniformNegatives(), "sampler": Recent(5), "hops": 2, "hop_time": "root", "prefetch": 0}
    return Pipeline(view, batches, reuse=STORE, **options)  # type: ignore[arg-type]


def node(tree: PlanNode, name: str) -> PlanNode:
    return next(found for _, found in tree.rows() if found.name == name)


def test_reuse_is_considered_where_bounded_values_are_allowed(log: EventLog, deep: TGN, here: Machine) -> None:
    found = plan(log, deep, setting=SETTING, machine=here, accuracy="bounded", probe=False)
    assert {one.names[2] for one in found.alternatives} == {"none", "mrd"}
    choice = next(choice for choice in found.choices if choice.place == "reuse")
    assert {choice.name, choice.next_best} == {"none", "mrd"}


@pytest.mark.parametrize("probing", [True, False])
def test_exact_training_never_reuses(log: EventLog, deep: TGN, here: Machine, probing: bool) -> None:
    found = plan(log, deep, setting=SETTING, machine=here, accuracy="exact", probe=probing)
    assert {one.names[2] for one in found.alternatives} == {"none"}
    assert "reuse" in str(found) and "the only one that keeps exact" in str(found)


def test_what_reads_the_future_needs_changed_values(log: EventLog, deep: TGN, here: Machine) -> None:
    leaky = EmbeddingReuse(rows=8, causal=False)
    found = plan(log, deep, setting=SETTING, machine=here, probe=False, reuse=leaky)
    assert next(choice for choice in found.choices if choice.place == "reuse").accuracy == "changed"


@pytest.mark.parametrize(("model", "hops"), [("tgn", 1), ("graphmixer", None), ("apan", None)])
def test_reuse_is_no_option_of_a_model_that_keeps_nothing(
    log: EventLog, here: Machine, model: str, hops: int | None
) -> None:
    found = plan(log, model, hops=hops, machine=here, accuracy="changed", probe=False)
    assert {one.names[2] for one in found.alternatives} == {"none"}
    with pytest.raises(InvalidValueError, match="two hops"):
        plan(log, model, hops=hops, machine=here, probe=False, reuse="mrd")


def test_pinned_reuse_stays_under_any_accuracy(log: EventLog, deep: TGN, here: Machine) -> None:
    found = plan(log, deep, setting=SETTING, machine=here, accuracy="exact", probe=False, reuse=STORE)
    assert "ReusedNeighbors" in str(found) and "rows=8" in str(found.pipeline())
    assert found.what_if(reuse="lru").names["reuse"] == "lru"
    assert found.what_if(reuse="none").names["reuse"] == "none"
    with pytest.raises(InvalidValueError, match="reuse"):
        found.what_if(reuse="mdr")


def test_the_hit_rate_of_a_short_epoch_is_the_one_that_it_has(log: EventLog) -> None:
    pipeline = reusing(log, FixedBatches(50))
    for _ in pipeline:
        pass
    found = foresee(reusing, log, FixedBatches(50))
    assert 0 < found.hit_rate < 1 and found.hit_rate == pytest.approx(served(pipeline).hit_rate)


def test_the_hit_rate_of_a_longer_epoch_is_that_of_its_middle(log: EventLog) -> None:
    batcher = FixedBatches(20)
    pipeline = reusing(log, batcher)
    for _ in pipeline:
        pass
    assert foresee(reusing, log, batcher).hit_rate == pytest.approx(served(pipeline).hit_rate, abs=0.15)


def test_an_analysed_plan_shows_the_hit_rate_beside_the_predicted_one(log: EventLog, deep: TGN, here: Machine) -> None:
    done = plan(log, deep, setting=SETTING, machine=here, reuse=STORE, prefetch=0, batches="fixed").analyze()
    stage = node(done.tree, "ReusedNeighbors")
    assert stage.measured is not None and stage.measured.hit_rate is not None
    assert stage.predicted.hit_rate == pytest.approx(stage.measured.hit_rate, abs=1e-9)
    assert [found.name for _, found in done.tree.rows() if found.measured is None] == []
    assert node(done.tree, "Plan ReusedNeighbors").predicted.seconds


def test_an_analysed_plan_says_how_stale_what_it_reused_was(log: EventLog, deep: TGN, here: Machine) -> None:
    asked = {"setting": SETTING, "machine": here, "prefetch": 0, "batches": FixedBatches(20), "probe": False}
    done = plan(log, deep, reuse=STORE, **asked).analyze()  # type: ignore[arg-type]
    stage = node(done.tree, "ReusedNeighbors")
    assert [found.name for found in stage.children][:2] == ["Staleness, layer 1", "Staleness, output"]
    assert "bound of Theorem 5" in str(done) and "in one batch of 25" in str(done)
    assert "Staleness" not in str(plan(log, deep, **asked).analyze())  # type: ignore[arg-type]


def test_combinations_that_were_not_probed_are_estimated_with_reuse(log: EventLog, deep: TGN, here: Machine) -> None:
    found = plan(log, deep, setting=SETTING, machine=here, accuracy="changed")
    assert len(found.alternatives) == len({one.names for one in found.alternatives})
    assert all(one.seconds > 0 for one in found.alternatives)
    assert {one.names[:3:2] for one in found.alternatives} >= {("adaptive", "mrd"), ("fixed", "none")}
