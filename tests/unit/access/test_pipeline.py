import threading
import time
import traceback
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from stepwell.access import FixedBatches, Pipeline, Recent, UniformNegatives
from stepwell.access.meter import measure
from stepwell.access.order import order_stages
from stepwell.access.transfer import to_tensors
from stepwell.core import Batch, Cost, Machine, Slice, Statistics
from stepwell.core.errors import CheckpointError, InvalidValueError, PlanError
from stepwell.core.plan import Planned
from stepwell.core.shapes import Stage, Stateful
from stepwell.core.state import StateReader, StateWriter


@dataclass(frozen=True)
class Add:
    """A stage for tests: adds one to what it needs, and notes the thread it ran on."""

    needs: frozenset = frozenset()
    gives: frozenset = frozenset()
    reads: frozenset = frozenset()
    writes: frozenset = frozenset()
    accuracy: str = "same"
    fail_at: int = -1
    threads: list = field(default_factory=list, compare=False, repr=False)

    def __call__(self, batch):
        self.threads.append(threading.current_thread().name)
        if batch.slice.index == self.fail_at:
            raise ValueError("the stage broke here")
        value = sum(batch.array(name) for name in sorted(self.needs)) + 1
        return batch.give(**dict.fromkeys(self.gives, value))

    def cost(self, stats, machine):
        return Cost(rows=stats.num_rows)


def stage(needs="", gives="", **options):
    return Add(frozenset(needs.split()), frozenset(gives.split()), **options)


def test_stages_are_ordered_by_what_they_need_whatever_their_listing(log):
    first, second, third = stage("time", "a"), stage("a", "b"), stage("a b", "c")
    for listed in ([third, second, first], [second, third, first]):
        pipeline = Pipeline(log, stages=listed)
        assert list(pipeline.stages) == [first, second, third]
    batch = next(iter(pipeline))
    assert torch.equal(batch.c, 2 * batch.time + 4)


def test_a_stage_that_changes_a_field_stands_between_its_giver_and_those_that_need_it():
    giver, change, again, reader = stage("", "a"), stage("a", "a"), stage("a", "a d"), stage("a", "b")
    assert order_stages([reader, change, again, giver], []) == (giver, change, again, reader)


def test_stages_without_state_come_before_those_with_it_where_they_may():
    stateful, pure = stage("", "a", reads=frozenset({"memory"})), stage("", "b")
    assert order_stages([stateful, pure], []) == (pure, stateful)


def test_a_gap_is_rejected_with_stage_field_and_giver(log):
    with pytest.raises(
        PlanError, match=r"Add needs the field 'levels', which nothing gives.*Neighbors\(log, sampler\)"
    ):
        Pipeline(log, stages=[stage("levels", "a")])
    with pytest.raises(PlanError, match="Did you mean 'event'"):
        Pipeline(log, stages=[stage("evnt", "a")])


def test_two_givers_of_a_field_are_rejected(log):
    with pytest.raises(PlanError, match="Both Add and Add give the field 'a'"):
        Pipeline(log, stages=[stage("", "a"), stage("time", "a")])
    with pytest.raises(PlanError, match="Both EventLog and Add give the field 'time'"):
        Pipeline(log, stages=[stage("", "time")])


def test_stages_in_a_circle_are_rejected(log):
    with pytest.raises(PlanError, match="in a circle: Add, Add"):
        Pipeline(log, stages=[stage("a", "b"), stage("b", "a")])


def test_an_explicit_stage_takes_the_place_of_the_built_one(log):
    own = stage("dst", "candidate")
    pipeline = Pipeline(log, negatives=UniformNegatives(), stages=[own])
    assert pipeline.stages == (own,)
    change = stage("candidate", "candidate")
    assert len(Pipeline(log, negatives=UniformNegatives(), stages=[change]).stages) == 2


def test_stages_without_state_run_ahead_and_those_with_state_in_the_callers_thread(log):
    pure, stateful = stage("time", "a"), stage("a", "b", reads=frozenset({"memory"}))
    batches = list(Pipeline(log, FixedBatches(10), stages=[stateful, pure], prefetch=2))
    assert all(name.startswith("stepwell-ahead") for name in pure.threads)
    assert stateful.threads == [threading.current_thread().name] * 4
    assert isinstance(batches[0].b, torch.Tensor)
    idle = stage("time", "a")
    list(Pipeline(log, FixedBatches(10), stages=[idle], prefetch=0))
    assert set(idle.threads) == {threading.current_thread().name}


def _ahead():
    return [thread for thread in threading.enumerate() if thread.name.startswith("stepwell-ahead")]


def test_leaving_a_loop_early_leaves_no_thread(log):
    for batch in Pipeline(log, FixedBatches(5), stages=[stage("time", "a")], prefetch=3):
        assert len(batch) == 5
        break
    assert _ahead() == []


@pytest.mark.parametrize("prefetch", [0, 3])
def test_an_error_comes_where_its_batch_would_with_the_line_that_raised_it(log, prefetch):
    broken = stage("time", "a", fail_at=2)
    walk = iter(Pipeline(log, FixedBatches(10), stages=[broken], prefetch=prefetch))
    next(walk), next(walk)
    with pytest.raises(ValueError, match="the stage broke here") as caught:
        next(walk)
    assert any(frame.name == "__call__" for frame in traceback.extract_tb(caught.value.__traceback__))
    assert _ahead() == []


def test_no_more_batches_are_made_ahead_than_asked_for(log):
    counted = stage("time", "a")
    walk = iter(Pipeline(log, FixedBatches(1), stages=[counted], prefetch=3))
    next(walk)
    time.sleep(0.05)
    assert len(counted.threads) <= 4
    walk.close()


def test_arrays_become_tensors_without_a_copy_and_other_values_stay(log):
    array, frozen = np.arange(3), np.arange(3)
    frozen.flags.writeable = False
    names = np.array(["a", "b"])
    fields = {"a": array, "b": frozen, "c": (array, 2.5), "d": {"x": array}, "names": names, "text": "t"}
    batch = to_tensors(Batch(Slice(0, 0, 0, 3), **fields), torch.device("cpu"))
    assert batch.a.data_ptr() == array.ctypes.data
    assert torch.equal(batch.b, torch.arange(3))
    assert isinstance(batch.c[0], torch.Tensor)
    assert batch.c[1] == 2.5
    assert isinstance(batch.d["x"], torch.Tensor)
    assert batch.names is names
    assert batch.text == "t"


def test_the_last_step_takes_the_device_that_was_asked_for(log):
    batch = next(iter(Pipeline(log, FixedBatches(5), sampler=Recent(2), device="meta")))
    assert batch.src.device.type == "meta"
    assert batch.levels[0].hood.node.device.type == "meta"


def test_rows_and_bytes_are_counted_through_nested_fields():
    assert measure((np.zeros(3, np.int64), {"a": np.zeros((5, 2), np.int8)})) == (5, 34)
    assert measure(torch.zeros(4)) == (4, 16)
    assert measure(np.array(1.0)) == (0, 8)
    assert measure("text") == (0, 0)


def test_the_length_counts_this_ranks_batches(log):
    assert len(Pipeline(log, FixedBatches(15))) == 3
    assert len(Pipeline(log, FixedBatches(15), shard=(1, 2))) == 1
    assert len(Pipeline(log[:0], FixedBatches(15))) == 0
    assert list(Pipeline(log[:0], FixedBatches(15), sampler=Recent(2))) == []


def test_a_pipeline_is_planned_and_stateful_and_prints_itself(log):
    pipeline = Pipeline(log, FixedBatches(15), sampler=Recent(2), stages=[stage("time", "a", accuracy="bounded")])
    assert isinstance(pipeline, Planned)
    assert isinstance(pipeline, Stateful)
    assert isinstance(pipeline.stages[0], Stage)
    assert "values bounded" in str(pipeline)
    assert "Recent(k=2)" in str(pipeline)
    assert "FixedBatches" in repr(pipeline)
    assert "no prefetch" in str(Pipeline(log, prefetch=0))


def test_two_stages_of_one_kind_have_their_own_lines(log):
    pipeline = Pipeline(log, stages=[stage("time", "a"), stage("time", "b")])
    list(pipeline)
    assert [node.name for _, node in pipeline.plan.rows()] == ["Transfer", "Add (2)", "Add", "Read"]
    assert pipeline.measured["Add"].calls == pipeline.measured["Add (2)"].calls == 1


def test_the_measured_column_is_that_of_the_latest_epoch(log):
    pipeline = Pipeline(log, FixedBatches(10))
    list(pipeline.epoch(0))
    list(pipeline.epoch(1, start=3))
    assert pipeline.measured["Read"].calls == 1
    assert pipeline.measured["Read"].rows == 10


def test_bad_settings_name_what_is_allowed(log):
    with pytest.raises(InvalidValueError, match="`prefetch` must be at least 0"):
        Pipeline(log, prefetch=-1)
    with pytest.raises(InvalidValueError, match="`shard`"):
        Pipeline(log, shard=(3, 2))
    with pytest.raises(InvalidValueError, match="`start`"):
        Pipeline(log).epoch(0, start=-1)


class Numbers:
    """A source that is no event log."""

    def __len__(self):
        return 10

    def read(self, cut):
        return Batch(cut, x=np.arange(cut.begin, cut.end))

    def statistics(self):
        return Statistics(num_rows=10, row_bytes=8)


def test_any_source_runs_through_the_pipeline_with_its_own_stages():
    pipeline = Pipeline(Numbers(), FixedBatches(4), stages=[stage("x", "y")])
    assert [batch.y.tolist() for batch in pipeline] == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]
    with pytest.raises(PlanError, match="need an event log"):
        Pipeline(Numbers(), sampler=Recent(2))
    assert pipeline.predict(Machine(gather_bytes_per_s=1.0)).rows()[-1][1].predicted.seconds > 80


def test_a_position_of_other_batches_is_refused(log):
    writer = StateWriter()
    Pipeline(log, FixedBatches(10)).save(writer)
    reader = StateReader(writer.tensors, writer.values)
    with pytest.raises(CheckpointError, match="gave other batches"):
        Pipeline(log, FixedBatches(20)).load(reader)
    with pytest.raises(CheckpointError, match="gave other batches"):
        Pipeline(log, FixedBatches(10), seed=1).load(reader)
    torn = StateReader({}, {**writer.values, "epoch": "x"})
    with pytest.raises(CheckpointError, match="no pair of integers"):
        Pipeline(log, FixedBatches(10)).load(torn)
    Pipeline(log, FixedBatches(10), prefetch=0).load(reader)
