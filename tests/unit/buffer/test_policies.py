"""Online policies on hand-made epochs, and traffic counted by hand."""

import numpy as np
import pytest

from stepwell.buffer import LFU, LRU, SIEVE, Belady, StaticHot, Trace, TwoQ, policies
from stepwell.buffer.mrd import reuse_trace
from stepwell.buffer.simulate import simulate
from stepwell.buffer.split import split_budget, split_by_volume
from stepwell.core.errors import InvalidValueError


def follow(policy, *batches, capacity=2, num_rows=8, trace=None):
    """Return the residents after each batch."""
    tier, resident, found = policy.begin(num_rows, capacity, trace), set(), []
    for ids in batches:
        admit, evict = tier.step(np.array(ids))
        resident = (resident - set(evict.tolist())) | set(admit.tolist())
        found.append(resident)
    return found


def test_lru_evicts_what_was_touched_least_recently_and_spares_the_batch_itself():
    assert follow(LRU(), [0], [1], [0], [2]) == [{0}, {0, 1}, {0, 1}, {0, 2}]
    assert follow(LRU(), [0, 1], [2, 3, 4]) == [{0, 1}, {2, 3}]
    assert follow(LRU(), [0, 1], [1, 2, 3]) == [{0, 1}, {1, 2}]


def test_sieve_spares_a_row_that_was_touched_since_the_hand_passed():
    assert follow(SIEVE(), [0], [1], [0], [2], [3]) == [{0}, {0, 1}, {0, 1}, {0, 2}, {2, 3}]


def test_2q_keeps_a_row_that_comes_back_after_leaving_the_first_queue():
    policy = TwoQ(first=0.0, remembered=2.0)
    found = follow(policy, [0], [1], [2], [0], [3], [4], [5])
    assert all(0 in resident for resident in found[3:])
    assert [len(resident) for resident in found] == [1, 2, 2, 2, 2, 2, 2]
    with pytest.raises(InvalidValueError, match="`first` must be between 0 and 1"):
        TwoQ(first=2.0)
    with pytest.raises(InvalidValueError, match="`remembered` must be at least 0"):
        TwoQ(remembered=-1.0)


def test_lfu_keeps_what_was_touched_most_often_also_before_it_was_resident():
    assert follow(LFU(), [0], [0], [1], [2], [2], capacity=1) == [{0}, {0}, {0}, {0}, {2}]


def test_static_hot_keeps_the_most_touched_rows_from_their_first_use():
    batches = ([0, 1], [1, 2], [2, 1], [3])
    trace = Trace.of([np.array(ids) for ids in batches], 8)
    assert follow(StaticHot(), *batches, trace=trace) == [{1}, {1, 2}, {1, 2}, {1, 2}]


def test_traffic_counts_rows_fetched_and_written_back_once():
    batches = [np.array([0, 1]), np.array([0, 2]), np.array([0]), np.array([1])]
    writes = np.array([True, False, True, False, False, True])
    ids, indptr = np.concatenate(batches), np.array([0, 2, 4, 5, 6])
    trace = Trace(ids, indptr, 3, 10, writes=writes)
    none, one = simulate(LRU(), trace, 0), simulate(Belady(), trace, 1)
    assert (none.hits, none.misses, none.written, none.moved_bytes) == (0, 6, 3, 90)
    assert (one.hits, one.misses, one.written) == (2, 4, 2)  # row 0 stays for both, and is written once
    assert one.hit_rate == pytest.approx(1 / 3)
    assert (one.fetched_bytes, one.written_bytes) == (40, 20)


class Fifo:
    """First in, first out: a peer that is not worth a place in the registry."""

    memory, foresight = "1GiB", False

    def begin(self, num_rows, capacity, trace=None):
        return _Turn(capacity, None)


class Chance(Fifo):
    """Any rows at all."""

    def begin(self, num_rows, capacity, trace=None):
        return _Turn(capacity, np.random.default_rng(0))


class _Turn:
    def __init__(self, capacity, rng):
        self.capacity, self.rng, self.rows = capacity, rng, []

    def step(self, ids):
        fresh = [row for row in ids.tolist() if row not in self.rows]
        rows = self.rows + fresh
        kept = rows[max(0, len(rows) - self.capacity) :] if self.capacity else []
        if self.rng is not None:
            kept = self.rng.permutation(rows)[: self.capacity].tolist()
        admit, evict = [r for r in kept if r in fresh], [r for r in self.rows if r not in kept]
        self.rows = kept
        return np.array(admit, np.int64), np.array(evict, np.int64)


@pytest.mark.parametrize("seed", range(3))
def test_minimum_reuse_distance_beats_every_other_policy_at_every_capacity(seed):
    rng = np.random.default_rng(seed)
    batches = [[np.unique(rng.zipf(1.3, 12) % 40) for _ in range(60)] for _ in range(2)]
    trace = reuse_trace(*(Trace.of(side, 40) for side in batches))
    others = [policies[name]() for name in policies] + [Fifo(), Chance()]
    last = 0
    for capacity in range(0, 42, 3):
        hits = simulate(Belady(), trace, capacity).hits
        assert all(simulate(other, trace, capacity).hits <= hits for other in others)
        assert hits >= last
        last = hits
    firsts = np.unique(trace.ids, return_index=True)[1]
    assert simulate(Belady(), trace, 40).misses == trace.reads[firsts].sum()  # only what nobody ever made or needed


def test_a_budget_that_holds_everything_is_split_by_need():
    traces = {"a": Trace.of([np.arange(3)], 3, 10), "b": Trace.of([np.arange(2)], 2, 100)}
    assert split_budget(traces, 1000) == {"a": 30, "b": 200}
    assert split_by_volume(traces, 1000) == {"a": 30, "b": 200}
    for budget, parts in ((-1, 10), (5, 0)):
        with pytest.raises(InvalidValueError):
            split_budget(traces, budget, parts)


def test_the_published_split_follows_the_volume_before_deduplication():
    ids = np.arange(10)
    a = Trace(ids, np.array([0, 10]), 100, 10, count=np.full(10, 3))
    b = Trace(ids, np.array([0, 10]), 100, 10, count=np.full(10, 1))
    assert split_by_volume({"a": a, "b": b}, 400) == {"a": 300, "b": 100}
    assert split_by_volume({"a": a, "b": b}, 1600) == {"a": 1000, "b": 600}
