"""The suites pass what keeps the rules, and catch each way of breaking one."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import find

from stepwell.core import Batch, Draw, Neighborhood, Slice
from stepwell.kernels import recent_neighbors
from stepwell.testing import assert_same_bits, check_batches, check_sampler, check_stateful, event_logs


@dataclass
class Newest:
    """The newest `k` events; `fault` breaks one rule."""

    k: int = 3
    fault: str = ""
    calls: int = 0

    def __call__(self, index, nodes, times, before, draw, rows):
        self.calls += 1
        seen = before + 1 if self.fault == "future" else before
        flat = (index.indptr, index.neighbor, index.event, index.time)
        node, event, dt, mask = recent_neighbors(*flat, nodes, times, seen, self.k)
        if self.fault == "order":
            for row, count in enumerate(mask.sum(1)):
                for array in (node, event, dt):
                    array[row, :count] = array[row, :count][::-1].copy()
        if (self.fault == "batch" and len(nodes) < 5) or (self.fault == "state" and self.calls > 1):
            node, event, dt, mask = np.full_like(node, -1), np.full_like(event, -1), np.zeros_like(dt), mask & False
        if self.fault == "twice" and self.k > 1:
            for array in (node, event, dt):
                array[:, 1][mask[:, 1]] = array[:, 0][mask[:, 1]]
        if self.fault == "padding":
            node[~mask] = 0
        return Neighborhood(node, event, dt, mask)


def test_a_sampler_that_keeps_the_rules_passes():
    check_sampler(Newest)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("future", "hidden from"),
        ("order", "newest to oldest"),
        ("batch", "alone"),
        ("state", "the same call again"),
        ("twice", "twice"),
        ("padding", "padded places"),
    ],
)
def test_a_sampler_that_breaks_a_rule_is_caught(fault, message):
    with pytest.raises(AssertionError, match=message):
        check_sampler(lambda: Newest(fault=fault))


@pytest.mark.parametrize(
    "breaks",
    [
        lambda log: (np.diff(log.time) == 0).any(),
        lambda log: (log.src == log.dst).any(),
        lambda log: len(log.time) == 0,
        lambda log: len(set(zip(*(column.tolist() for column in log), strict=True))) < len(log.time),
    ],
    ids=["ties", "self-loops", "empty", "duplicates"],
)
def test_event_logs_hold_what_breaks_samplers(breaks):
    log = find(event_logs(), breaks)

    assert (np.diff(log.time) >= 0).all()
    assert {column.dtype for column in log} == {np.dtype(np.int64)}


class Counter:
    """Adds up what it is given; `forgets` leaves a part out of its state."""

    def __init__(self, forgets=""):
        self.total, self.count, self.forgets = torch.zeros(1), 0, forgets

    def save(self, writer):
        if self.forgets != "total":
            writer.tensor("total", self.total)
        writer.value("count", self.count)

    def load(self, reader):
        if self.forgets != "total":
            self.total = reader.tensor("total")
        if self.forgets != "count":
            self.count = int(reader.value("count"))


def add(counter, step):
    counter.total = counter.total * 1.1 + step
    counter.count += 1
    return counter.total, counter.count


def test_a_state_that_is_whole_passes():
    check_stateful(Counter, add)


@pytest.mark.parametrize("forgets", ["total", "count"])
def test_a_state_with_a_part_left_out_is_caught(forgets):
    with pytest.raises(AssertionError, match="resumed after"):
        check_stateful(lambda: Counter(forgets), add)


@dataclass
class Rows:
    """A pipeline of five batches; `fault` breaks one rule."""

    prefetch: int
    shard: tuple[int, int]
    fault: str = ""

    def epoch(self, epoch, start=0):
        rank, world = self.shard
        rng = np.random.default_rng(0)
        for index in range(rank, 5, world):
            if index < start and self.fault != "resume":
                continue
            value = int(Draw(epoch, "rows").integers(np.array([index]), 1, 1000)[0, 0])
            if self.fault == "draw":
                value = int(rng.integers(1000))
            yield Batch(
                Slice(epoch, index, index, index + 1),
                x=np.array([value + (self.prefetch if self.fault == "prefetch" else 0)]),
            )
            if self.fault == "shard" and world > 1:
                return


def test_a_pipeline_that_keeps_the_rules_passes():
    check_batches(Rows)


@pytest.mark.parametrize("fault", ["prefetch", "resume", "shard", "draw"])
def test_a_pipeline_that_breaks_a_rule_is_caught(fault):
    with pytest.raises(AssertionError):
        check_batches(lambda *, prefetch, shard: Rows(prefetch, shard, fault))


def test_the_same_bits_means_types_shapes_and_nan_too():
    hood = Neighborhood(*(np.zeros(2, np.int64) for _ in range(3)), np.ones(2, bool), np.array([np.nan, 1]))

    assert_same_bits((hood, {"a": torch.ones(1)}, float("nan")), (hood, {"a": torch.ones(1)}, float("nan")))
    with pytest.raises(AssertionError, match=r"value.dt\[1\]: 3 is not 0"):
        assert_same_bits(replace(hood, dt=np.array([0, 3])), hood)
    with pytest.raises(AssertionError, match="dtype int32 is not int64"):
        assert_same_bits(np.zeros(1, np.int32), np.zeros(1, np.int64))
    with pytest.raises(AssertionError, match=r"shape \(1,\) is not \(2,\)"):
        assert_same_bits(torch.zeros(1), torch.zeros(2))
    with pytest.raises(AssertionError, match="list is not tuple"):
        assert_same_bits([1], (1,))
