"""Protocols and scores: a number keeps the conditions it was found under."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stepwell.core.errors import InvalidValueError, ProtocolError
from stepwell.evaluate import Protocol, Score, p1, p2, p3


def test_a_protocol_prints_everything_in_one_line():
    line = str(replace(p1("test", events="inductive"), data="wiki@3"))
    assert "\n" not in line
    for part in ("P1 on wiki@3", "test, inductive events", "0.7/0.85", "10% of nodes withheld (seed 2020)"):
        assert part in line
    for part in ("1 uniform negatives (seed 3)", "frozen per 200 events from the start of the part", "pooled"):
        assert part in line
    assert "all destinations without other true ones" in str(p3())
    assert "up to the previous event" in str(p3(state="stream"))


def test_the_usual_seeds_of_the_field_are_kept():
    seeds = [p1(part, events=events).seed for part in ("validation", "test") for events in ("all", "inductive")]
    assert seeds == [0, 1, 2, 3]
    assert p1("validation").on("test") == p1("test")


def test_scores_of_one_protocol_compare():
    a, b = Score("ap", 0.9, p1(), 10), Score("ap", 0.8, p1(), 10)
    assert a > b and b < a and a >= b and b <= a and a != b and a == Score("ap", 0.9, p1(), 10)
    assert a - b == pytest.approx(0.1)
    assert a > 0.85 and a == 0.9 and float(a) == 0.9
    assert "0.9000" in str(a) and "P1" in str(a)
    assert len({a, Score("ap", 0.9, p1(), 10)}) == 1


@pytest.mark.parametrize(
    "other",
    [
        p1("validation"),
        p1(events="inductive"),
        p2(),
        p2(negatives="inductive"),
        p3(),
        p1(seed=7),
        p1(batch_size=100),
        replace(p1(), pooling="batches"),
        replace(p1(), data="reddit@0"),
    ],
    ids=str,
)
def test_scores_of_different_protocols_refuse_comparison(other):
    a, b = Score("ap", 0.9, p1(), 10), Score("ap", 0.9, other, 10)
    for compare in (
        lambda: a < b,
        lambda: a > b,
        lambda: a <= b,
        lambda: a >= b,
        lambda: a == b,
        lambda: a != b,
        lambda: a - b,
    ):
        with pytest.raises(ProtocolError, match="do not compare"):
            compare()


def test_different_metrics_refuse_comparison():
    with pytest.raises(ProtocolError, match="metric: 'ap', 'auc'"):
        _ = Score("ap", 0.9, p1()) > Score("auc", 0.8, p1())


def test_a_score_is_no_string():
    assert Score("ap", 0.9, p1()) != "0.9"


@pytest.mark.parametrize("change", [{"batch_size": 0}, {"per_positive": 0}, {"withheld": 1.0}])
def test_settings_out_of_range_are_refused(change):
    with pytest.raises(InvalidValueError):
        replace(Protocol("P1", ("ap",)), **change)
