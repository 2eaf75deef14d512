import os
import pickle
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from stepwell.access import AdaptiveBatches, FixedBatches, Pipeline, batchers
from stepwell.access.adaptive import loss, split
from stepwell.core.errors import InvalidValueError, PlanError
from stepwell.evaluate import evaluation_for, p1, p2, p3, split_for
from stepwell.storage import EventLog

DATA = os.environ.get("STEPWELL_DATA", "")
TABLE = {  # size: bound, fixed batches, adaptive batches, on the first 70 % of the events
    "jodie-wikipedia": {200: (308, 552, 468), 600: (976, 184, 167), 1000: (1635, 111, 104), 2000: (3357, 56, 54)},
    "collegemsg": {200: (345, 210, 177), 600: (1074, 70, 64), 1000: (1798, 42, 40), 4000: (7554, 11, 11)},
}


def events(src, dst):
    return EventLog.from_arrays(src=src, dst=dst, time=np.arange(len(src)))


@pytest.fixture
def four():
    return events([0, 1, 3, 0], [1, 2, 4, 1])


def test_a_batch_loses_two_updates_an_event_less_one_a_node(four):
    assert [loss(four.src[:end], four.dst[:end]) for end in range(1, 5)] == [0, 1, 1, 3]


@pytest.mark.parametrize(("bound", "borders"), [(0, [0, 1, 3, 4]), (1, [0, 3, 4]), (3, [0, 4]), (100, [0, 4])])
def test_batches_grow_until_the_bound(four, bound, borders):
    cuts = list(AdaptiveBatches(max_loss=bound).cuts(four, epoch=7))
    assert [(cut.begin, cut.end) for cut in cuts] == list(pairwise(borders))
    assert [(cut.epoch, cut.index) for cut in cuts] == [(7, i) for i in range(len(cuts))]
    assert AdaptiveBatches(max_loss=bound).mean_size(four) == 4 / len(cuts)


def test_one_event_may_lose_more_than_the_bound():
    assert split(np.array([0, 0, 1]), np.array([0, 0, 2]), 0, 3).tolist() == [0, 1, 2, 3]
    assert split(np.zeros(0, np.int64), np.zeros(0, np.int64), 0, 3).tolist() == [0]
    assert list(AdaptiveBatches(max_loss=0).cuts(events([], []), 0)) == []


def test_each_source_has_its_own_bound_and_cuts(four):
    batches = AdaptiveBatches(like=2)
    assert batches.bound(four) == 1
    assert batches.bound(four[:2]) == 1
    assert batches.bound(four[1:]) == 0
    assert [batches.bound(four), batches.bound(four[2:])] == [1, 0]
    assert pickle.loads(pickle.dumps(batches)) == batches
    assert str(batches) == "AdaptiveBatches(max_loss=None, like=2)"


def test_shards_share_out_the_batches_of_one_process(log):
    batches = AdaptiveBatches(max_loss=3)
    whole = list(batches.cuts(log, 0))
    shares = [list(batches.cuts(log, 0, (rank, 3))) for rank in range(3)]
    assert sorted((cut for share in shares for cut in share), key=lambda cut: cut.index) == whole
    assert [cut.index for cut in shares[1]] == [cut.index for cut in whole][1::3]


def test_the_plan_says_that_the_training_is_another_one(log):
    assert batchers["adaptive"] is AdaptiveBatches
    assert "AdaptiveBatches(max_loss=3, like=None); values changed" in str(Pipeline(log, AdaptiveBatches(max_loss=3)))


def test_bad_settings_name_what_is_allowed():
    for given in ({}, {"max_loss": 1, "like": 1}):
        with pytest.raises(InvalidValueError, match="one of the two"):
            AdaptiveBatches(**given)
    with pytest.raises(InvalidValueError, match="`max_loss` must be at least 0"):
        AdaptiveBatches(max_loss=-1)
    with pytest.raises(InvalidValueError, match="`like` must be at least 1"):
        AdaptiveBatches(like=0)
    with pytest.raises(PlanError, match="FixedBatches"):
        next(AdaptiveBatches(like=2).cuts([1, 2, 3], 0))


@pytest.mark.parametrize("make", [p1, p2, p3])
@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_evaluation_keeps_batches_of_the_protocols_size(log, make, part):
    protocol = replace(make(), batch_size=2)
    pipeline = evaluation_for(protocol.on(part), split_for(log, protocol)).batches
    assert isinstance(pipeline, Pipeline)
    sizes = [len(batch) for batch in pipeline]
    assert len(sizes) > 2
    assert set(sizes[1:-1]) == {2}
    assert not isinstance(pipeline.batches, AdaptiveBatches)


@pytest.mark.skipif(not Path(DATA, "collegemsg").exists(), reason="needs STEPWELL_DATA with the public streams")
@pytest.mark.parametrize("name", TABLE)
def test_public_streams_are_cut_into_the_known_numbers_of_batches(name):
    table = pq.read_table(Path(DATA, name, "interactions.parquet"))
    src, dst, time = (table[column].to_numpy() for column in table.column_names[:3])
    order = np.argsort(time, kind="stable")
    log = EventLog.from_arrays(src[order], dst[order], time[order])
    train = log[: int(0.7 * len(log))]
    for size, known in TABLE[name].items():
        adaptive = AdaptiveBatches(like=size)
        counts = [len(list(batches.cuts(train, 0))) for batches in (FixedBatches(size), adaptive)]
        assert (adaptive.bound(train), *counts) == known
