"""Gathering with a placement: the same batches, from files too, within the budget."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stepwell.access import FixedBatches, Pipeline, Recent
from stepwell.access.gather import Gather
from stepwell.buffer import LRU, Belady, DensityGreedy, Interval
from stepwell.buffer.policy import Policy, policies
from stepwell.storage import EventLog


def _log(tmp_path: Path) -> tuple[EventLog, EventLog]:
    rng = np.random.default_rng(0)
    feature = rng.standard_normal((600, 24)).astype(np.float32)
    node = rng.standard_normal((40, 8)).astype(np.float32)
    src, dst = rng.integers(0, 40, (2, 600))
    log = EventLog.from_arrays(src=src, dst=dst, time=np.arange(600), features=feature, node_features=node)
    np.save(tmp_path / "feature.npy", log.event_feature)
    mapped = np.load(tmp_path / "feature.npy", mmap_mode="r")
    return log, EventLog(replace(log.snapshot, event_feature=mapped), log.begin, log.end)


@pytest.mark.parametrize("policy", [LRU("10KiB"), Belady("10KiB"), Interval("10KiB"), DensityGreedy("1B"), LRU("1GiB")])
@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_placement_changes_no_batch(tmp_path: Path, policy: Policy, prefetch: int) -> None:
    log, mapped = _log(tmp_path)
    plain = Pipeline(log, FixedBatches(50), sampler=Recent(5))
    placed = Pipeline(mapped, FixedBatches(50), sampler=Recent(5), placement=policy, prefetch=prefetch)
    for epoch in range(2):
        pairs = list(zip(plain.epoch(epoch), placed.epoch(epoch), strict=True))
        assert len(pairs) == 12
        for expected, found in pairs:
            for name in ("event_feature", "node_feature"):
                np.testing.assert_array_equal(np.asarray(found[name]), np.asarray(expected[name]))
    gather = next(stage for stage in placed.stages if isinstance(stage, Gather))
    assert sum(count.hits + count.misses for count in gather.counts.values()) > 0
    if policy.memory == "10KiB":
        assert sum(count.size_bytes for count in gather.counts.values()) <= 10 << 10
        assert sum(count.hits for count in gather.counts.values()) > 0


@pytest.mark.parametrize("policy", policies)
def test_a_placement_of_a_log_without_features_places_nothing_and_changes_no_batch(policy: str) -> None:
    log = EventLog.from_arrays(src=[0, 1, 0, 1], dst=[2, 3, 3, 2], time=[1, 2, 3, 4])
    plain = Pipeline(log, FixedBatches(2), sampler=Recent(2))
    placed = Pipeline(log, FixedBatches(2), sampler=Recent(2), placement=policies[policy](memory=12))
    pairs = list(zip(plain, placed, strict=True))
    assert all(np.array_equal(a.array("nodes"), b.array("nodes")) and list(a) == list(b) for a, b in pairs)


def test_without_a_placement_the_stage_has_no_state(tmp_path: Path) -> None:
    log, _ = _log(tmp_path)
    stage = Gather(log)
    assert not stage.reads | stage.writes
    assert not stage.counts
    assert Gather(log, LRU()).writes == {"placement"}


def test_a_part_of_a_map_is_not_taken_for_the_whole_file(tmp_path: Path) -> None:
    log, mapped = _log(tmp_path)
    part = EventLog(replace(mapped.snapshot, event_feature=mapped.event_feature[::-1]), 0, 600)
    plain = EventLog(replace(log.snapshot, event_feature=log.event_feature[::-1]), 0, 600)
    pairs = zip(
        Pipeline(plain, FixedBatches(50), sampler=Recent(5)),
        Pipeline(part, FixedBatches(50), sampler=Recent(5), placement=LRU("1KiB")),
        strict=True,
    )
    for expected, found in pairs:
        np.testing.assert_array_equal(np.asarray(found["event_feature"]), np.asarray(expected["event_feature"]))
