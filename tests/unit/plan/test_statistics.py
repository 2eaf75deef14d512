"""What a log is like, counted."""

from __future__ import annotations

from stepwell.plan import describe, duplicates
from stepwell.storage import EventLog


def test_a_known_log_has_the_statistics_counted_by_hand() -> None:
    log = EventLog.from_arrays(src=[0, 0, 1, 0], dst=[2, 2, 2, 3], time=[1, 2, 3, 4])
    stats = describe(log)
    # Node 0: events 0, 1, 3; node 2: events 0, 1, 2; nodes 1 and 3: one each.
    assert stats.update_distance == (1.5 + 1.0) / 2
    assert stats.degrees[-1] == 3 and stats.top_share == 3 / 8
    assert describe(log) is stats and describe(log[:2]) is not stats


def test_what_is_distinct_is_counted_in_real_batches(log: EventLog) -> None:
    one, large = duplicates(log, 50, 2, k=3), duplicates(log, 500, 2, k=3)
    assert all(0 < share <= 1 for share in (*one.kept, *large.kept))
    assert large.kept[1] < one.kept[1]
    assert one.queries[0] == 150 and "distinct" in str(one)


def test_queries_without_deduplication_are_those_of_the_plain_recursion() -> None:
    log = EventLog.from_arrays(src=[0, 0, 0, 0], dst=[1, 1, 1, 1], time=[1, 2, 3, 4])
    found = duplicates(log[3:], 1, 2, k=2, places=1)
    # Source, destination and one negative (node 1 again) ask at time 4; each has two neighbours, and itself.
    assert found.queries == (3.0, 9.0)
