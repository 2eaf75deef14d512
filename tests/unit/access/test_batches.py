import pytest

from stepwell.access import FixedBatches, TimeBatches
from stepwell.core.errors import InvalidValueError, PlanError
from stepwell.storage import EventLog


def _cuts(batches, log, epoch=0, shard=(0, 1)):
    return [(cut.index, cut.begin, cut.end) for cut in batches.cuts(log, epoch, shard)]


def test_fixed_batches_are_consecutive_and_the_last_is_smaller(log):
    assert _cuts(FixedBatches(15), log) == [(0, 0, 15), (1, 15, 30), (2, 30, 40)]
    assert _cuts(FixedBatches(40), log) == [(0, 0, 40)]
    assert _cuts(FixedBatches(100), log) == [(0, 0, 40)]


def test_an_empty_log_has_no_batches(log):
    for batches in (FixedBatches(5), FixedBatches(6, chunks=3), TimeBatches(3)):
        assert _cuts(batches, log[:0]) == []


def test_chunks_move_the_borders_between_epochs_by_whole_chunks(log):
    batches = FixedBatches(12, chunks=4)
    firsts = {_cuts(batches, log, epoch)[0][2] for epoch in range(30)}
    assert firsts == {3, 6, 9, 12}
    assert _cuts(batches, log, 3) == _cuts(FixedBatches(12, chunks=4), log, 3)
    assert _cuts(batches, log, 0)[-1][2] == 40
    others = [_cuts(FixedBatches(12, chunks=4, seed=1), log, epoch) for epoch in range(8)]
    assert others != [_cuts(batches, log, epoch) for epoch in range(8)]


def test_shards_deal_whole_batches_by_their_global_number(log):
    assert _cuts(FixedBatches(10), log, shard=(1, 2)) == [(1, 10, 20), (3, 30, 40)]
    with pytest.raises(InvalidValueError, match="shard"):
        _cuts(FixedBatches(10), log, shard=(2, 2))


def test_time_batches_hold_one_window_each_and_skip_empty_ones():
    log = EventLog.from_arrays(src=[0] * 6, dst=[1] * 6, time=[-5, -4, -1, 4, 4, 100])
    assert _cuts(TimeBatches(5), log) == [(0, 0, 3), (1, 3, 5), (2, 5, 6)]
    assert _cuts(TimeBatches(1), log) == [(0, 0, 1), (1, 1, 2), (2, 2, 3), (3, 3, 5), (4, 5, 6)]
    assert _cuts(TimeBatches(1000), log) == [(0, 0, 6)]
    assert _cuts(TimeBatches(5), log[1:]) == [(0, 0, 2), (1, 2, 4), (2, 4, 5)]


def test_bad_settings_name_what_is_allowed(log):
    with pytest.raises(InvalidValueError, match="`size` must be at least 1, got 0"):
        FixedBatches(0)
    with pytest.raises(InvalidValueError, match="a divisor of size=10"):
        FixedBatches(10, chunks=3)
    with pytest.raises(InvalidValueError, match="`width`"):
        TimeBatches(0)
    with pytest.raises(PlanError, match="FixedBatches"):
        next(TimeBatches(3).cuts([1, 2], 0))
