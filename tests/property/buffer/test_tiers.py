"""Whatever policy, budget and order of eviction: a store in tiers gives the rows as they were last written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.buffer import LRU, SIEVE, Belady, Interval, StaticHot, Trace
from stepwell.buffer.policy import Moves
from stepwell.buffer.tiers import Tier, TieredStore
from stepwell.core.batch import Ids
from stepwell.storage.row_reads import DiskRows


class Whim:
    """Admits and evicts at random, within the rules of `Replacement`."""

    def __init__(self, capacity: int, seed: int) -> None:
        self.capacity, self.held, self.rng = capacity, set[int](), np.random.default_rng(seed)

    def step(self, ids: Ids) -> Moves:
        missed = [int(i) for i in ids if int(i) not in self.held]
        evict = [row for row in sorted(self.held) if self.rng.random() < 0.4]
        room = self.capacity - len(self.held) + len(evict)
        admit = self.rng.permutation(missed)[: self.rng.integers(0, room + 1)].astype(np.int64)
        self.held = (self.held - set(evict)) | {int(i) for i in admit}
        return Moves(admit, np.array(evict, np.int64))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    num_rows=st.integers(1, 30),
    capacities=st.lists(st.integers(0, 40), min_size=0, max_size=3),
    shape=st.sampled_from([(), (3,), (2, 2), (0,)]),
    device=st.booleans(),
)
def test_tiers_never_change_a_value(
    seed: int, num_rows: int, capacities: list[int], shape: tuple[int, ...], *, device: bool
) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal((num_rows, *shape)).astype(np.float32)
    backing = truth.copy()
    tiers = [
        Tier(size, Whim(min(size, num_rows), seed + i), "cpu" if device and i == 0 else None)
        for i, size in enumerate(capacities)
    ]
    store = TieredStore(backing, tiers)
    for turn in range(12):
        ids = rng.permutation(num_rows)[: rng.integers(0, num_rows + 1)]
        if turn % 4 == 3:
            ids = rng.integers(0, num_rows, 7)
        found = store.gather(ids)
        assert isinstance(found, torch.Tensor) == (device and bool(capacities))
        np.testing.assert_array_equal(np.asarray(found), truth[ids])
        found[:] = -1  # a result is no part of a tier
        written = rng.integers(0, num_rows, rng.integers(0, 6))
        values = rng.standard_normal((len(written), *shape)).astype(np.float32)
        store.write(written, values)
        for row, value in zip(written, values, strict=True):
            truth[row] = value
        assert all(count.rows <= size for count, size in zip(store.counts, capacities, strict=True))
        if turn == 6:
            store.flush()
            np.testing.assert_array_equal(backing, truth)
        if turn == 8:
            store.begin(
                [Tier(s, Whim(min(s, num_rows), turn), t.device) for s, t in zip(capacities, tiers, strict=True)]
            )
    store.flush()
    np.testing.assert_array_equal(backing, truth)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), capacity=st.integers(0, 50), over=st.integers(0, 20))
def test_every_policy_gives_the_same_rows_and_hits_what_it_keeps(seed: int, capacity: int, over: int) -> None:
    rng = np.random.default_rng(seed)
    table = rng.standard_normal((40, 4))
    batches = [np.unique(rng.integers(0, 40, 15)) for _ in range(10)]
    trace = Trace.of(batches, 40, 32)
    for policy in (LRU(), SIEVE(), Belady(), Interval(), StaticHot()):
        upper = Tier(over, policy.begin(40, over, trace), "cpu")
        store = TieredStore(table, [upper, Tier(capacity, policy.begin(40, capacity, trace))])
        for ids in batches:
            np.testing.assert_array_equal(np.asarray(store.gather(ids)), table[ids])
        first, second = store.counts
        assert first.hits + first.misses == len(trace.ids)
        assert second.hits + second.misses == first.misses


def test_a_store_over_a_file_writes_back_what_leaves(tmp_path: Path) -> None:
    truth = np.arange(60, dtype=np.float32).reshape(20, 3)
    np.save(tmp_path / "rows.npy", truth)
    disk = DiskRows.of_npy(tmp_path / "rows.npy", writable=True)
    store = TieredStore(disk, [Tier(1, LRU().begin(20, 1))])
    rng = np.random.default_rng(3)
    for _ in range(30):
        ids = rng.permutation(20)[:4]
        np.testing.assert_array_equal(store.rows(ids), truth[ids])
        truth[ids] += 1
        store.write(ids, truth[ids])
    assert store.counts[0].written_back > 0
    store.flush()
    np.testing.assert_array_equal(np.load(tmp_path / "rows.npy"), truth)
