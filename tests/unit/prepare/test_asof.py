"""What an as-of join may see, and what it refuses."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pyarrow as pa
import pytest

from stepwell.core.errors import DataError, InvalidValueError, UnknownNameError
from stepwell.prepare.asof import AsOf, join_asof

QUERIES = pa.table({"user": ["ann", "ann", "ann", "bob"], "time": [15, 25, 40, 40], "_row": [0, 1, 2, 3]})
SCORES = pa.table({"user": ["ann", "ann"], "time": [10, 20], "known": [10, 30], "score": [1.0, 2.0], "_row": [7, 8]})


def test_a_late_correction_is_seen_only_after_its_arrival() -> None:
    found = join_asof(QUERIES, SCORES, AsOf("user", "time", "known")).read_all().sort_by("_row")
    assert found["score"].to_pylist() == [1.0, 1.0, 2.0, None]
    assert found["_row_right"].to_pylist() == [7, 7, 8, None]


def test_without_known_at_rows_are_known_when_they_happen() -> None:
    found = join_asof(QUERIES, SCORES, AsOf("user", "time")).read_all().sort_by("_row")
    assert found["score"].to_pylist() == [1.0, 2.0, 2.0, None]


def test_a_correction_of_an_old_row_does_not_hide_a_newer_one() -> None:
    scores = pa.table({"user": ["ann"] * 3, "time": [10, 20, 10], "known": [10, 20, 30], "score": [1.0, 2.0, 9.0]})
    found = join_asof(QUERIES, scores, AsOf("user", "time", "known")).read_all().sort_by("_row")
    assert found["score"].to_pylist() == [1.0, 2.0, 2.0, None]


def test_an_answer_older_than_the_tolerance_is_none() -> None:
    days = [datetime(2026, 1, day) for day in (2, 9)]
    left = pa.table({"user": [1, 1], "time": days, "_row": [0, 1]})
    right = pa.table({"user": [1], "time": [datetime(2026, 1, 1)], "score": [5]})
    found = join_asof(left, right, AsOf("user", "time", tolerance=3 * 86_400, columns=["score"])).read_all()
    assert found.sort_by("_row")["score"].to_pylist() == [5, None]
    assert found.schema.names == ["user", "time", "_row", "score"]


def test_the_answer_streams_within_a_budget_below_its_size() -> None:
    draw = np.random.default_rng(0)
    left = pa.table({"key": draw.integers(0, 900, 400_000), "time": draw.integers(0, 10**6, 400_000)})
    wide = {f"x{i}": draw.random(400_000) for i in range(12)}
    right = pa.table({"key": draw.integers(0, 900, 400_000), "time": draw.integers(0, 10**6, 400_000), **wide})
    reader = join_asof(left, right, AsOf("key", "time"), budget="96MiB")
    assert left.nbytes + right.nbytes > 48 << 20
    assert sum(batch.num_rows for batch in reader) == 400_000


@pytest.mark.parametrize(
    ("on", "error"),
    [
        (AsOf("nobody", "time"), UnknownNameError),
        (AsOf("user", "time", "nothing"), UnknownNameError),
        (AsOf("user", "time", right_time="user"), DataError),
        (AsOf("user", "time", columns=["nothing"]), UnknownNameError),
    ],
)
def test_columns_that_do_not_fit_are_refused(on, error) -> None:
    with pytest.raises(error):
        join_asof(QUERIES, SCORES, on)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(InvalidValueError, match="by"):
        AsOf([], "time")
    with pytest.raises(InvalidValueError, match="tolerance"):
        AsOf("user", "time", tolerance=-1)
