"""Where a stage runs follows from the state it declares."""

import threading
import time
from dataclasses import dataclass, field

import numpy as np
import pytest

from stepwell.access import FixedBatches, Pipeline, Recent, UniformNegatives
from stepwell.core import Cost
from stepwell.core.errors import CheckpointError, InvalidValueError, PlanError
from stepwell.core.state import StateReader, StateWriter


@dataclass(frozen=True)
class Part:
    """A stage for tests: notes its batches and threads, and gives the numbers of the batches it saw before."""

    needs: frozenset = frozenset()
    gives: frozenset = frozenset()
    reads: frozenset = frozenset()
    writes: frozenset = frozenset()
    accuracy: str = "same"
    slow: bool = False
    fail_at: int = -1
    seen: list = field(default_factory=list, compare=False, repr=False)
    threads: list = field(default_factory=list, compare=False, repr=False)

    def __call__(self, batch):
        if self.slow:
            time.sleep(0.01 * ((batch.slice.index * 7) % 3))
        if batch.slice.index == self.fail_at:
            raise ValueError("the stage broke here")
        before = np.array(self.seen, np.int64)
        self.seen.append(batch.slice.index)
        self.threads.append(threading.current_thread().name)
        return batch.give(**dict.fromkeys(self.gives, before))

    def cost(self, stats, machine):
        return Cost(rows=stats.num_rows, seconds=1.0)


@dataclass(frozen=True)
class Planner(Part):
    """Sums what it will see, and counts down as it sees it."""

    calls: list = field(default_factory=list, compare=False, repr=False)

    def foresee(self, epoch, upstream, start=0):
        self.seen.clear()
        self.calls.append((epoch, start, [batch.slice.index for batch in upstream()]))


@dataclass(frozen=True)
class Kept(Part):
    """A stage whose state is saved."""

    def save(self, writer):
        writer.value("seen", list(self.seen))

    def load(self, reader):
        self.seen[:] = reader.value("seen")


def part(kind=Part, needs="", gives="", reads="", writes="", **options):
    names = [frozenset(text.split()) for text in (needs, gives, reads, writes)]
    return kind(*names, **options)


@pytest.mark.parametrize("prefetch", [0, 1, 4])
def test_a_stage_with_state_of_stages_runs_ahead_in_order_behind_slow_pure_ones(log, prefetch):
    pure, tier = part(gives="a", slow=True), part(needs="a", gives="b", reads="tier", writes="tier")
    after = part(needs="b", gives="c")
    batches = list(Pipeline(log, FixedBatches(4), stages=[after, tier, pure], prefetch=prefetch))
    assert tier.seen == after.seen == list(range(10))
    assert [batch.b.tolist() for batch in batches] == [list(range(i)) for i in range(10)]
    ahead = {"stepwell-ahead-lane_0"} if prefetch else {threading.current_thread().name}
    assert set(tier.threads) == set(after.threads) == ahead


def test_a_stage_that_reads_the_models_state_waits_and_so_does_all_that_hangs_on_it(log):
    model, field_of = part(gives="a", reads="memory"), part(needs="a", gives="b")
    shares = part(gives="c", reads="tier", writes="tier")
    model_too = part(gives="d", reads="tier memory")
    free = part(gives="e", reads="other", writes="other")
    stages = [model, field_of, shares, model_too, free]
    walk = iter(Pipeline(log, FixedBatches(4), stages=stages, prefetch=3))
    next(walk)
    time.sleep(0.1)
    for stage in (model, field_of, shares, model_too):
        assert stage.seen == [0]
        assert set(stage.threads) == {threading.current_thread().name}
    assert len(free.seen) > 1
    walk.close()


def test_a_stage_that_is_saved_is_saved_as_of_the_last_batch_handed_out(log):
    def make():
        return Pipeline(log, FixedBatches(4), stages=[part(Kept, gives="a", reads="x", writes="x")], prefetch=3)

    whole = [batch.a.tolist() for batch in make()]
    first = make()
    walk = iter(first)
    next(walk), next(walk)
    time.sleep(0.05)
    writer = StateWriter()
    first.save(writer)
    walk.close()
    second = make()
    second.load(StateReader(writer.tensors, writer.values))
    assert [batch.a.tolist() for batch in second] == whole[2:]


def test_stale_stages_run_so_many_batches_early_and_say_so(log):
    memory = part(gives="a", reads="memory")
    pipeline = Pipeline(log, FixedBatches(4), stages=[memory], staleness=2)
    assert "bounded: up to 2 batches old" in str(pipeline)
    ages = [len(memory.seen) - batch.slice.index for batch in pipeline]
    assert ages == [3] * 8 + [2, 1]
    assert memory.seen == list(range(10))
    assert "bounded" not in str(Pipeline(log, stages=[memory]))
    with pytest.raises(InvalidValueError, match="`staleness` must be at least 0"):
        Pipeline(log, staleness=-1)


def test_two_epochs_under_way_at_once_keep_their_own_early_batches(log):
    pipeline = Pipeline(log, FixedBatches(4), stages=[part(gives="a", reads="memory")], staleness=2)
    pairs = [(one.slice, two.slice) for one, two in zip(pipeline.epoch(0), pipeline.epoch(1), strict=True)]
    assert [(one.epoch, one.index, two.epoch, two.index) for one, two in pairs] == [(0, i, 1, i) for i in range(10)]


@pytest.mark.parametrize("stage", [part(gives="a"), part(gives="a", reads="t", writes="t"), part(Kept, gives="a")])
def test_staleness_without_a_stage_that_reads_the_models_state_is_refused(log, stage):
    with pytest.raises(PlanError, match=r"staleness=2 lets stages that read the model's state run early, but none of"):
        Pipeline(log, stages=[stage], staleness=2)


def test_only_stages_that_read_the_models_state_or_hang_on_one_are_said_to_be_stale(log):
    stages = [part(gives="a", reads="memory"), part(needs="a", gives="b"), part(Kept, gives="c")]
    tree = str(Pipeline(log, stages=stages, staleness=1))
    assert tree.count("bounded: up to 1 batches old") == 2


def saved_after(pipeline, count):
    """Return what was handed out of `count` batches, and the pipeline's state then."""
    walk = iter(pipeline)
    seen = [next(walk).a.tolist() for _ in range(count)]
    writer = StateWriter()
    pipeline.save(writer.child("p"))
    walk.close()
    return seen, writer.reader().child("p")


@pytest.mark.parametrize("count", [1, 4, 8, 9, 10])
@pytest.mark.parametrize("prefetch", [0, 3])
@pytest.mark.parametrize("options", [{"reads": "memory"}, {"kind": Kept, "reads": "memory x", "writes": "x"}])
def test_a_resumed_epoch_hands_out_what_stale_stages_had_read_before_the_save(log, options, prefetch, count):
    def make():
        stage = part(gives="a", **options)
        return Pipeline(log, FixedBatches(4), stages=[stage], prefetch=prefetch, staleness=2), stage

    whole = [batch.a.tolist() for batch in make()[0]]
    before, state = saved_after(make()[0], count)
    again, stage = make()
    if not isinstance(stage, Kept):  # its state is the model's, and so is not the pipeline's to restore
        stage.seen.extend(range(min(10, count + 2)))
    again.load(state)
    twice = StateWriter()
    again.save(twice)  # before a batch is asked for: nothing may be lost
    again.load(twice.reader())
    after = [batch.a.tolist() for batch in again]
    assert before + after == whole
    assert stage.seen == list(range(10))


def test_another_epoch_than_the_saved_one_begins_with_fresh_values(log):
    _, state = saved_after(Pipeline(log, FixedBatches(4), stages=[part(gives="a", reads="memory")], staleness=2), 3)
    stage = part(gives="a", reads="memory")
    again = Pipeline(log, FixedBatches(4), stages=[stage], staleness=2)
    again.load(state)
    assert len(list(again.epoch(1))) == 10
    assert stage.seen == list(range(10))


def test_a_stale_stage_that_plans_is_told_the_first_batch_that_it_will_see(log):
    def make():
        plan = part(Planner, gives="a", reads="memory tier", writes="tier")
        return Pipeline(log, FixedBatches(4), stages=[plan], staleness=2), plan

    _, state = saved_after(make()[0], 3)
    again, plan = make()
    again.load(state)
    assert len(list(again)) == 7
    assert plan.calls == [(0, 5, list(range(10)))] and plan.seen == list(range(5, 10))


def test_stale_values_that_no_checkpoint_can_hold_are_refused_when_one_is_made(log):
    @dataclass(frozen=True)
    class Texts(Part):
        def __call__(self, batch):
            return batch.give(a="text")

    with pytest.raises(CheckpointError, match=r"early gave the field 'a', a str. .* or use staleness=0"):
        pipeline = Pipeline(log, FixedBatches(4), stages=[part(Texts, gives="a", reads="memory")], staleness=2)
        walk = iter(pipeline)
        next(walk)
        pipeline.save(StateWriter())


def test_a_checkpoint_of_another_staleness_is_refused(log):
    stages = [part(gives="a", reads="memory")]
    _, state = saved_after(Pipeline(log, FixedBatches(4), stages=stages, staleness=2), 3)
    with pytest.raises(CheckpointError, match="gave other batches"):
        Pipeline(log, FixedBatches(4), stages=stages, staleness=1).load(state)


@pytest.mark.parametrize("prefetch", [0, 3])
def test_a_planning_stage_sees_the_whole_epoch_before_its_first_batch(log, prefetch):
    sampled, unneeded = part(needs="time", gives="a"), part(needs="time", gives="b")
    plan = part(Planner, needs="a", gives="c", reads="tier", writes="tier")
    pipeline = Pipeline(log, FixedBatches(4), stages=[plan, sampled, unneeded], prefetch=prefetch)
    walk = pipeline.epoch(3, start=2)
    assert plan.calls == []
    batches = list(walk)
    assert plan.calls == [(3, 2, list(range(10)))]
    assert [batch.slice.index for batch in batches] == list(range(2, 10))
    assert (len(sampled.seen), len(unneeded.seen)) == (18, 8)
    assert pipeline.measured["Part"].calls == 8
    assert pipeline.measured["Plan Planner"].seconds > 0
    rows = {node.name: node for _, node in pipeline.plan.rows()}
    assert rows["Plan Planner"].measured.calls == 1
    assert rows["Plan Planner"].predicted.seconds > 1
    assert [node.name for _, node in pipeline.plan.rows()][-1] == "Read"


def test_planning_stages_that_feed_others_begin_anew(log):
    first = part(Planner, gives="a", reads="x", writes="x")
    second = part(Planner, needs="a", gives="b", reads="y", writes="y")
    third = part(Planner, needs="b", gives="c", reads="z", writes="z")
    pipeline = Pipeline(log, FixedBatches(4), stages=[first, second, third])
    batches = list(pipeline.epoch(0, start=1))
    for name in "abc":
        assert [batch[name].tolist() for batch in batches] == [list(range(1, 1 + i)) for i in range(9)]
    assert first.calls[-1] == second.calls[-1] == third.calls[-1] == (0, 1, list(range(10)))
    assert [call[1] for call in second.calls] == [0, 1]


def test_a_stage_cannot_plan_from_what_the_model_decides(log):
    for feeder in (part(gives="a", reads="memory"), part(gives="a", reads="x", writes="x")):
        plan = part(Planner, needs="a", gives="b", reads="tier", writes="tier")
        with pytest.raises(PlanError, match="Planner plans an epoch before it begins, but Part"):
            Pipeline(log, stages=[feeder, plan])


def test_a_stage_without_state_plans_nothing(log):
    idle = part(Planner, gives="a")
    list(Pipeline(log, stages=[idle]))
    assert idle.calls == []


@pytest.mark.parametrize("where", ["pure", "tier"])
def test_behind_an_error_no_stage_with_state_is_called(log, where):
    pure, tier = (
        part(gives="a", fail_at=2 if where == "pure" else -1),
        part(needs="a", gives="b", reads="t", writes="t", fail_at=2 if where == "tier" else -1),
    )
    walk = iter(Pipeline(log, FixedBatches(4), stages=[pure, tier], prefetch=4))
    next(walk), next(walk)
    with pytest.raises(ValueError, match="the stage broke here"):
        next(walk)
    assert tier.seen == [0, 1]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("stepwell-ahead")]


def test_a_planner_may_leave_its_batches_early(log):
    @dataclass(frozen=True)
    class Peek(Part):
        def foresee(self, epoch, upstream, start=0):
            next(upstream())

    peek = part(Peek, needs="candidate", gives="b", reads="t", writes="t")
    pipeline = Pipeline(log, FixedBatches(4), negatives=UniformNegatives(), sampler=Recent(2), stages=[peek])
    assert [len(batch) for batch in pipeline] == [4] * 10
