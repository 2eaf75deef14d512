"""What a pipeline promises: the same batches for any prefetch, resume point, shard and, for negatives, batch size."""

import numpy as np
import pytest

from stepwell.access import (
    AllDestinations,
    FileNegatives,
    FixedBatches,
    HistoricalNegatives,
    InductiveNegatives,
    Pipeline,
    Recent,
    TimeBatches,
    Uniform,
    UniformNegatives,
    samplers,
)
from stepwell.core.state import read_state, write_state
from stepwell.testing import assert_same_bits, check_batches, check_stateful

BATCHERS = (FixedBatches(13), FixedBatches(12, chunks=4), TimeBatches(4))


@pytest.mark.parametrize("batches", BATCHERS, ids=str)
def test_batches_depend_on_settings_and_epoch_alone(event_log, batches):
    log = event_log()[5:]

    def make(*, prefetch, shard):
        negatives, sampler = UniformNegatives(2), Uniform(3)
        return Pipeline(log, batches, negatives=negatives, sampler=sampler, hops=2, prefetch=prefetch, shard=shard)

    check_batches(make)


@pytest.mark.parametrize("name", samplers)
@pytest.mark.parametrize("prefetch", [2, 4])
def test_prefetch_changes_no_bit(event_log, name, prefetch):
    log = event_log()

    def run(depth):
        options = {"negatives": UniformNegatives(), "sampler": samplers[name](k=3), "hops": 2, "seed": 3}
        return list(Pipeline(log, FixedBatches(7), prefetch=depth, **options).epoch(1))

    assert_same_bits(run(prefetch), run(0), f"prefetch {prefetch}")


@pytest.mark.parametrize("batches", BATCHERS, ids=str)
def test_every_event_comes_once_and_in_order(event_log, batches):
    log = event_log()[3:50]
    for epoch in range(3):
        events = np.concatenate([batch.array("event") for batch in Pipeline(log, batches).epoch(epoch)])
        assert np.array_equal(events, np.arange(3, 50))


def _negatives(log, folder):
    train, _, test = log.split()
    fixed = folder / "negatives.npz"
    others = np.random.default_rng(0).integers(0, log.num_nodes, (len(log), 3))
    np.savez(fixed, src=log.src, dst=log.dst, time=log.time, negative=others)
    return (
        UniformNegatives(2),
        UniformNegatives(2, exclude_positive=True),
        HistoricalNegatives(train, per_event=2),
        InductiveNegatives(train, test, per_event=2),
        AllDestinations(),
        FileNegatives(fixed),
    )


@pytest.mark.parametrize("kind", range(6))
def test_negatives_do_not_depend_on_the_batch_size_and_differ_by_seed_and_epoch_only_if_drawn(
    event_log, tmp_path, kind
):
    log = event_log(num_events=90, num_nodes=30)
    negatives = _negatives(log, tmp_path)[kind]

    def run(size, seed=0, epoch=0):
        pipeline = Pipeline(log, FixedBatches(size), negatives=negatives, seed=seed)
        return np.concatenate([batch.array("candidate") for batch in pipeline.epoch(epoch)])

    whole = run(90)
    assert np.array_equal(whole[:, 0], log.dst)
    assert np.array_equal(whole, run(7))
    drawn = kind < 4
    assert np.array_equal(whole, run(90, seed=1)) != drawn
    assert np.array_equal(whole, run(90, epoch=1)) != drawn


class _Walk:
    """A pipeline with the iterator that a loop would hold."""

    def __init__(self, log):
        self.pipeline = Pipeline(log, FixedBatches(10), negatives=UniformNegatives(), sampler=Uniform(2))
        self.batches = iter(self.pipeline)
        self.save = self.pipeline.save

    def load(self, reader):
        self.pipeline.load(reader)
        self.batches = iter(self.pipeline)

    def step(self, _):
        return next(self.batches)


def test_a_pipeline_resumes_in_the_middle_of_an_epoch(event_log):
    log = event_log()
    check_stateful(lambda: _Walk(log), _Walk.step)


def test_a_loaded_position_counts_once_and_only_in_its_epoch(event_log, tmp_path):
    log = event_log()
    first = Pipeline(log, FixedBatches(10))
    walk = first.epoch(2)
    next(walk), next(walk)
    write_state(tmp_path / "state", first.save)
    walk.close()
    second = Pipeline(log, FixedBatches(10))
    second.load(read_state(tmp_path / "state"))
    assert [batch.slice.index for batch in second.epoch(2)] == [2, 3, 4, 5]
    assert len(list(second.epoch(2))) == 6
    second.load(read_state(tmp_path / "state"))
    assert len(list(second.epoch(3))) == 6
    assert len(list(second.epoch(2))) == 6


def test_the_plan_shows_measured_beside_predicted_after_a_run(event_log):
    log = event_log()
    pipeline = Pipeline(log, FixedBatches(10), negatives=UniformNegatives(), sampler=Recent(3))
    before = str(pipeline)
    assert "predicted" in before
    assert "measured" not in before
    for _ in pipeline:
        pass
    names = [node.name for _, node in pipeline.plan.rows()]
    assert names == ["Transfer", "Gather", "Neighbors", "Candidates", "Read"]
    for _, node in pipeline.plan.rows():
        assert node.predicted.calls == node.measured.calls == 6
        assert node.measured.seconds > 0
        assert node.measured.size_bytes > 0
        assert node.predicted.seconds > 0
    assert "measured" in str(pipeline)
    read = pipeline.plan.rows()[-1][1]
    assert read.measured.rows == read.predicted.rows == 60
